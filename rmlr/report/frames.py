"""Tables of cells as CSV: read so that a row that is cut off is an error, written as Python's `csv` writes."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rmlr.study.files import read_text


def read_cells(path: Path, advice: str, delimiter: str = ",") -> pd.DataFrame:
    """A table whose cells are text, as they stand there; ValueError where it has no row, or not all cells of one.

    By `csv`, since pandas takes a row that is cut off for one with empty cells.
    """
    try:
        lines = io.StringIO(read_text(path, advice), newline="")
        head, *rows = [row for row in csv.reader(lines, delimiter=delimiter) if row] or [[]]
    except csv.Error as error:
        raise ValueError(f"{path}: is no table of cells ({error}). {advice}") from error
    if not rows:
        raise ValueError(f"{path}: expected a header and rows beneath it, found no row. {advice}")
    for row in rows:
        if len(row) != len(head):
            raise ValueError(
                f"{path}: row '{row[0]}' has {len(row)} cells, the header {len(head)}. Is it cut off? {advice}"
            )
    return pd.DataFrame(rows, columns=head, dtype=str)


def write_cells(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """The rows under their columns, or under `columns` where there may be no row; a NaN is `nan`."""
    table = pd.DataFrame(rows, columns=None if columns is None else list(columns), dtype=object)
    table.to_csv(path, index=False, lineterminator="\n", na_rep="nan")
