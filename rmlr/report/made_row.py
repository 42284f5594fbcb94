"""A measured row of a table that was made: found by its name or a run, its numbers compared with metrics.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from rmlr.report.frames import read_cells
from rmlr.report.paper import METRICS, Row, fill
from rmlr.study.nodes import MeasuredRow, Source, TableNode


@dataclass(frozen=True)
class MadeRow:
    """The cells of a row, and those of its sources that are asked for."""

    label: str
    line: Mapping[str, str]
    sources: Sequence[Source]

    @property
    def names(self) -> dict[str, str]:
        """The cells before the metrics, which name the row."""
        columns = takewhile(lambda column: column.removeprefix("paper_") not in METRICS, self.line)
        return {column: self.line[column] for column in columns}

    def metrics(self, source: Source) -> list[str]:
        """The columns in which a source measured a number."""
        return [name for name in METRICS if self.line.get(name) and METRICS[name].measures == source.measures]

    def at(self, column: str) -> "MadeRow":
        """Only the source of a column, with its number there. ValueError if there is none."""
        sources = [source for source in self.sources if column in self.metrics(source)]
        if not sources:
            known = ", ".join(name for source in self.sources for name in self.metrics(source))
            raise ValueError(f"--column {column}: row '{self.label}' has no measured number there. It has: {known}")
        return MadeRow(self.label, self.names | {column: self.line[column]}, sources)

    def present(self, source: Source, files: Sequence[Path]) -> Row:
        """The numbers that the metrics.json of a source give now. ValueError if one is absent or damaged."""
        row = Row(self.names, dict.fromkeys(self.metrics(source), ""), False, self.label, [source])
        fill([row], {source.run: files})
        return row


def read_lines(cells: Path) -> list[dict[str, str]]:
    """The rows of a table's CSV file, the paper's among them."""
    advice = "Expected a table that `rmlr table` wrote, such as results/table2.csv"
    table = read_cells(cells, advice)
    if missing := [column for column in ("runs", "profile") if column not in table]:
        raise ValueError(f"{cells}: has no column '{missing[0]}'. {advice}")
    return table.to_dict("records")


def find_row(cells: Path, node: TableNode, name: str) -> MadeRow:
    """The row of a table's CSV file that has a name, or a run of this name; of several runs, only these.

    Full names count before the last part of a run's name, and before one of several cells that name a row. ValueError
    unless exactly one row fits; it lists the rows.
    """
    lines = read_lines(cells)
    rows = [_made(cells, lines, row) for row in (*node.rows, *node.controls)]
    found = _fitting(rows, name, is_whole=True) or _fitting(rows, name, is_whole=False)
    if len(found) == 1:
        return found[0]
    known = "".join(f"\n  {row.label}: {', '.join(source.run for source in row.sources)}" for row in found or rows)
    if found:
        raise ValueError(f"--row {name}: {len(found)} rows fit. Give one of these names or runs:{known}")
    if any(name in line.values() for line in lines if not line["runs"]):
        raise ValueError(f"--row {name}: only the paper's numbers, nothing was measured. Measured rows:{known}")
    raise ValueError(f"--row {name}: {cells} has no such row or run. Measured rows:{known}")


def _fitting(rows: Sequence[MadeRow], name: str, *, is_whole: bool) -> list[MadeRow]:
    found = []
    for row in rows:
        sources = [one for one in row.sources if name == (one.run if is_whole else one.run.rpartition("/")[2])]
        if sources or name in ([row.label] if is_whole else row.names.values()):
            found.append(MadeRow(row.label, row.line, sources or row.sources))
    return found


def _made(cells: Path, lines: Sequence[Mapping[str, str]], row: MeasuredRow) -> MadeRow:
    runs, label = " ".join(source.run for source in row.sources), ", ".join(filter(None, row.row.values()))
    for line in lines:
        if line["runs"] == runs and row.row.items() <= line.items():
            return MadeRow(label, line, row.sources)
    raise ValueError(f"{cells}: has no row '{label}' with runs {runs}, which the table's settings name. Make it again")
