"""The paper's tables: their rows as printed, what was measured of each row, and marks where a number needs a note.

This is the one place where fractions become points.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, FiniteFloat, RootModel

from rmlr.hoi import full_of
from rmlr.report.frames import read_cells
from rmlr.study.files import read_json
from rmlr.study.nodes import MeasuredRow, Source, TableNode
from rmlr.study.section import Section


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the paper that is measured."""

    group: str  # what the heads of several columns share
    name: str
    measures: Literal["vcoco", "hicodet", "cost"]  # by which source of a row
    unit: float  # of the table, in that of what is measured
    is_zero_shot: bool = False  # of the seen or the unseen classes of a zero-shot split

    @property
    def head(self) -> str:
        """As a reader knows it."""
        return f"{self.group} {self.name}".strip()


POINT = 0.01
METRICS = {
    "vcoco_ap_role_1": Metric("AP_role", "scenario 1", "vcoco", POINT),
    "vcoco_ap_role_2": Metric("AP_role", "scenario 2", "vcoco", POINT),
    "hicodet_default_full": Metric("Default", "Full", "hicodet", POINT),
    "hicodet_default_rare": Metric("Default", "Rare", "hicodet", POINT),
    "hicodet_default_nonrare": Metric("Default", "Non-rare", "hicodet", POINT),
    "hicodet_default_seen": Metric("Default", "Seen", "hicodet", POINT, is_zero_shot=True),
    "hicodet_default_unseen": Metric("Default", "Unseen", "hicodet", POINT, is_zero_shot=True),
    "hicodet_known_object_full": Metric("Known Object", "Full", "hicodet", POINT),
    "hicodet_known_object_rare": Metric("Known Object", "Rare", "hicodet", POINT),
    "hicodet_known_object_nonrare": Metric("Known Object", "Non-rare", "hicodet", POINT),
    "hicodet_known_object_seen": Metric("Known Object", "Seen", "hicodet", POINT, is_zero_shot=True),
    "hicodet_known_object_unseen": Metric("Known Object", "Unseen", "hicodet", POINT, is_zero_shot=True),
    "macs_g": Metric("", "MACs, G", "cost", 1.0),
    "params_m": Metric("", "Parameters, M", "cost", 1.0),
    "fps": Metric("", "Photos a second", "cost", 1.0),
}
HICODET = ("hicodet_default", "hicodet_known_object")
RARE, NONRARE = 138, 462  # classes of the release, on which the paper's figures are
PRINTED = 0.02  # points: by how much three rounded means can break their identity
IDENTITY, LEAK = "†", "‡"


class Note(Section):
    """Something that a reader of the paper's numbers must know, and where it stands."""

    table: str
    row: dict[str, str]  # cells, as printed, of the rows that it is about
    columns: list[str]  # whose cells are marked; empty: the row's name
    note: str


class Notes(Section):
    """`paper/notes.yaml`."""

    notes: list[Note]


@dataclass
class Row:
    """One row of the paper, or a control, and what was measured of it."""

    names: dict[str, str]  # columns that are no metrics
    printed: dict[str, str]  # metrics, as printed
    is_control: bool
    label: str  # distinguishes it from the table's other rows
    sources: list[Source] = field(default_factory=list)
    ours: dict[str, list[float]] = field(default_factory=dict)  # of each seed, in the table's unit
    marks: dict[str, list[str]] = field(default_factory=dict)  # of the paper's cells, by column
    our_marks: dict[str, str] = field(default_factory=dict)  # of ours, by metric
    notes: list[str] = field(default_factory=list)

    def theirs(self, column: str) -> str:
        """A cell of the paper, with its marks."""
        cell = (self.names | self.printed)[column]
        return " ".join([cell, *self.marks.get(column, [])]).strip()

    def detector(self) -> str:
        """On which detector ours stands; nothing where there is none."""
        return each_once(self.sources, "detector")

    def mean(self, metric: str) -> str:
        """Ours; empty where nothing was measured."""
        values = self.ours.get(metric)
        return f"{statistics.fmean(values):.2f}" if values else ""

    def deviation(self, metric: str) -> str:
        """The sample's (n - 1); empty for one seed."""
        values = self.ours.get(metric, [])
        return f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""

    def difference(self, metric: str) -> str:
        """Ours less theirs."""
        values, printed = self.ours.get(metric), self.printed[metric]
        return f"{statistics.fmean(values) - float(printed):+.2f}" if values and printed else ""

    def measured(self, metric: str) -> str:
        """Ours as people read it."""
        parts = [self.mean(metric), f"± {deviation}" if (deviation := self.deviation(metric)) else ""]
        return " ".join(part for part in [*parts, self.our_marks.get(metric, "")] if part)


def each_once(sources: Sequence[Source], name: str) -> str:
    """What a row's, or a table's, sources have there, each once."""
    return ", ".join(dict.fromkeys(value for source in sources if (value := getattr(source, name))))


# ---- the rows


def read_paper(path: Path) -> list[dict[str, str]]:
    """The rows of one of the paper's tables, as printed."""
    return read_cells(path, "It is a table of the paper: get it again").to_dict("records")


def read_rows(paper: Path | None, chosen: TableNode) -> list[Row]:
    """All rows of the table: the paper's in its order, with what feeds them, and then the controls.

    Without a paper they are those of the settings, with every metric of the data sets that they are measured on.
    """
    if paper is None:
        return _own_rows(chosen)
    printed = read_paper(paper)
    names = [column for column in printed[0] if column not in METRICS]
    metrics = [column for column in printed[0] if column in METRICS]
    if not names:
        raise ValueError(f"{paper}: expected a column that names the rows; there are only {', '.join(printed[0])}")
    rows = [_row(cells, names, metrics, _label(cells, printed, names)) for cells in printed]
    for measured in chosen.rows:
        fitting = [row for row in rows if _fits(measured.row, row, paper)]
        if len(fitting) != 1:
            known = ", ".join(row.label for row in rows)
            raise ValueError(
                f"{paper}: {len(fitting) or 'no'} rows are {as_text(measured.row)}, which params.yaml names; "
                f"expected one. Rows: {known}"
            )
        fitting[0].sources += measured.sources
    return rows + [_of_settings(control, names, metrics, is_control=True) for control in chosen.controls]


def _own_rows(chosen: TableNode) -> list[Row]:
    """The rows of a table that the paper does not have."""
    every = [*chosen.rows, *chosen.controls]
    names = list(dict.fromkeys(column for row in every for column in row.row))
    if every and not names:
        raise ValueError(f"table '{chosen.title}': expected rows that are named by their cells, got {every[0].row}")
    if unnamed := [name for name in names if name in METRICS]:
        raise ValueError(f"table '{chosen.title}': column '{unnamed[0]}' is measured and cannot name a row")
    sources = [source for row in every for source in row.sources]
    measured, has_unseen = {source.measures for source in sources}, any(source.is_zero_shot for source in sources)
    metrics = [
        name
        for name, metric in METRICS.items()
        if metric.measures in measured and (has_unseen or not metric.is_zero_shot)
    ]
    return [
        *(_of_settings(row, names, metrics, is_control=False) for row in chosen.rows),
        *(_of_settings(row, names, metrics, is_control=True) for row in chosen.controls),
    ]


def _row(
    cells: Mapping[str, str], names: Sequence[str], metrics: Sequence[str], label: str, *, is_control: bool = False
) -> Row:
    named, printed = ({column: cells.get(column, "") for column in columns} for columns in (names, metrics))
    return Row(named, printed, is_control, label)


def _of_settings(measured: MeasuredRow, names: Sequence[str], metrics: Sequence[str], *, is_control: bool) -> Row:
    """A row that the paper does not have, with what feeds it."""
    row = _row(measured.row, names, metrics, ", ".join(measured.row.values()), is_control=is_control)
    row.sources += measured.sources
    return row


def as_text(cells: Mapping[str, str]) -> str:
    """The cells that name a row, for a message."""
    return ", ".join(f"{column} '{cell}'" for column, cell in cells.items())


def _fits(cells: Mapping[str, str], row: Row, where: Path) -> bool:
    if unknown := cells.keys() - row.names.keys():
        raise ValueError(f"{where}: there is no column '{min(unknown)}' that names rows, only {', '.join(row.names)}")
    return all(row.names[column] == cell for column, cell in cells.items())


def _label(cells: Mapping[str, str], printed: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    """The row's first cell, and those by which it differs from others of that first cell."""
    first = names[0]
    alike = [other for other in printed if other[first] == cells[first]]
    differing = [name for name in names[1:] if len({other[name] for other in alike}) > 1]
    return " ".join(cells[name] for name in [first, *differing] if cells[name])


# ---- what was measured


def metric_files(source: Source, runs: Path, cost: Path | None, seeds: Sequence[int]) -> list[Path]:
    """The files that a source of rows is: one for each seed of a run, or the one that `cost` wrote."""
    if source.measures != "cost":
        return [runs / source.run / str(seed) / "evaluate" / "metrics.json" for seed in seeds]
    if cost is None:
        raise ValueError("a row of the table is fed by `cost`: give --cost the folder that `rmlr cost` made")
    return [cost / "metrics.json"]


def fill(rows: Sequence[Row], files: Mapping[str, Sequence[Path]]) -> str:
    """Put into each row what its sources measured; `files` of a source by its run. Gives how costs were measured."""
    about = ""
    for row in rows:
        for source in row.sources:
            if source.measures == "cost":
                found, about = _costs_of(row, files[source.run][0])
            else:
                found = [read_metrics(file) for file in files[source.run]]
            for name in row.printed:
                metric = METRICS[name]
                values = [value / metric.unit for seed in found if (value := seed.get(name)) is not None]
                if metric.measures == source.measures and values:
                    row.ours[name] = values
    return about


class _Metrics(RootModel[Annotated[dict[str, FiniteFloat | None], Field(min_length=1)]]):
    """`metrics.json` of `evaluate`: None where there was nothing to average."""


class _Costs(BaseModel):
    """`metrics.json` of `cost`."""

    about: str
    rows: dict[str, dict[str, FiniteFloat | None]]


def read_metrics(path: Path) -> dict[str, float | None]:
    """What was measured, as fractions of one run and seed; None where there was nothing to average."""
    metrics = read_json(path, _Metrics, "Evaluate again").root
    for setting in HICODET:
        full, rare, nonrare = (metrics.get(f"{setting}_{part}") for part in ("full", "rare", "nonrare"))
        if full is not None and rare is not None and nonrare is not None:
            classes, rare_classes = (int(metrics.get(f"hicodet_{of}classes") or 0) for of in ("", "rare_"))
            expected = full_of(rare, nonrare, rare_classes, classes - rare_classes) if classes else math.nan
            if not abs(full - expected) <= 1e-6:
                raise ValueError(
                    f"{path}: {setting}_full is {full}, but Rare and Non-rare give {expected:.6f}. Was it edited? "
                    "Remove its folder and evaluate again"
                )
    return metrics


def _costs_of(row: Row, path: Path) -> tuple[list[dict[str, float | None]], str]:
    """What `cost` measured of a row, and how."""
    name, measured = " ".join(row.names.values()), read_json(path, _Costs, "Measure again")
    if name not in measured.rows:
        raise ValueError(f"{path}: there is no row '{name}'. Rows: {', '.join(measured.rows)}. Measure again")
    return [measured.rows[name]], measured.about


def means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """What each run measured of the table, the mean over its seeds in the unit of metrics.json; costs by their row."""
    found = {}
    for row in rows:
        for source in row.sources:
            found[row.label if source.measures == "cost" else source.run] = {
                name: METRICS[name].unit * statistics.fmean(values)
                for name, values in row.ours.items()
                if METRICS[name].measures == source.measures
            }
    return found


# ---- footnotes


def contradiction(row: Mapping[str, str], setting: str) -> float | None:
    """Full as it follows from a printed row's Rare and Non-rare, where the row prints another; in points."""
    printed = [row.get(f"{setting}_{part}", "") for part in ("full", "rare", "nonrare")]
    if not all(printed):
        return None
    full, rare, nonrare = map(float, printed)
    expected = full_of(rare, nonrare, RARE, NONRARE)
    return expected if abs(full - expected) > PRINTED else None


def own_marks(rows: Sequence[Row]) -> Iterator[str]:
    """Mark what contradicts itself, and what was measured on photos that the detector knew; the footnotes of both."""
    found = []
    for row in rows:
        for setting in HICODET:
            if (expected := contradiction(row.printed, setting)) is not None:
                metric = f"{setting}_full"
                row.marks.setdefault(metric, []).append(IDENTITY)
                row.notes.append(f"{METRICS[metric].head} by Rare and Non-rare: {expected:.2f}")
                found.append(f"{row.label}, {METRICS[metric].head}: {expected:.2f}")
        for source in row.sources:
            if source.leaks:
                row.our_marks |= {name: LEAK for name in row.ours if METRICS[name].measures == source.measures}
                row.notes.append(f"{source.run}: its detector has learnt from the test photos")
    if found:
        rule = f"is not ({RARE} Rare + {NONRARE} Non-rare) / {RARE + NONRARE} of the same printed row, which gives"
        yield f"{IDENTITY} {rule}: {'; '.join(found)}."
    if any(row.our_marks for row in rows):
        yield (
            f"{LEAK} The detector's public weights have learnt from the photos of this test. The paper's had not, and "
            "were never published."
        )


def noted(rows: Sequence[Row], notes: Notes, paper: Path) -> Iterator[str]:
    """Mark the cells that the notes are about, and give the notes."""
    mine = [note for note in notes.notes if note.table == paper.stem]
    for number, note in enumerate(mine):
        fitting = [row for row in rows if not row.is_control and _fits(note.row, row, paper)]
        columns = note.columns or list(rows[0].names)[:1]
        if not fitting or any(column not in rows[0].names | rows[0].printed for column in columns):
            raise ValueError(f"{paper}: it has not the rows and columns that the note '{note.note}' is about")
        mark = f"[{chr(ord('a') + number)}]"
        for row in fitting:
            row.notes.append(note.note)
            for column in columns:
                row.marks.setdefault(column, []).append(mark)
        yield f"{mark} {note.note}"
