"""One of the paper's tables, ours beside theirs: the one place where fractions become points."""

import csv
import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rmlr.evaluation.hicodet import full_of
from rmlr.report.pages import Sheet, Text, html_page
from rmlr.study.nodes import MeasuredRow, Source, TableNode
from rmlr.study.run import run
from rmlr.study.section import Section


@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the paper that is measured."""

    group: str  # what heads of several columns share
    name: str
    measures: Literal["vcoco", "hicodet", "cost"]  # by which source of a row
    unit: float  # of the table, in that of what is measured

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
    "hicodet_known_object_full": Metric("Known Object", "Full", "hicodet", POINT),
    "hicodet_known_object_rare": Metric("Known Object", "Rare", "hicodet", POINT),
    "hicodet_known_object_nonrare": Metric("Known Object", "Non-rare", "hicodet", POINT),
    "macs_g": Metric("", "MACs, G", "cost", 1.0),
    "params_m": Metric("", "Parameters, M", "cost", 1.0),
    "fps": Metric("", "Photos a second", "cost", 1.0),
}
HICODET = ("hicodet_default", "hicodet_known_object")
RARE, NONRARE = 138, 462  # classes of the release, on which the paper's figures are
PRINTED = 0.02  # points: what rounding three printed means can make of their identity
IDENTITY, LEAK = "†", "‡"
SIDE_BY_SIDE = 3  # metrics, at most, whose paper, ours and difference stand in one line


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
    label: str  # tells it from the table's other rows
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
        return _all(self.sources, "detector")

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


def table(*, settings: Path, runs: Path, paper: Path, notes: Path, out: Path, cost: Path | None = None) -> None:
    """Put what was measured beside the paper's numbers, row by row: for programs, for reading, and for LaTeX.

    All rows of the paper are there, as printed; those with a source are measured, the others reported. Ours is the mean
    over the seeds with the sample's deviation (empty for one seed), in points; a number that nobody printed or measured
    is an empty cell. Controls, which the paper does not have, stand under its rows. Where the paper contradicts itself
    there is a mark, its numbers as they are: a Full of HICO-DET that its own Rare and Non-rare do not give is found
    here (a measured one is an error), the rest is in the notes.

    Args:
        settings: this table's settings file: which runs feed which row.
        runs: folder whose GROUP/NAME/SEED/evaluate/metrics.json were made by `evaluate`.
        paper: the paper's table (CSV).
        notes: what is said of its numbers (YAML).
        cost: folder made by `cost`, for a table that it feeds.
        out: folder to write; gets NAME.csv, NAME.md, NAME.html and NAME.tex (needs booktabs), where NAME is that of the
            folder, and metrics.json (fractions), the same in metrics/, one file for each run.
    """
    chosen = TableNode.load(settings)
    sources = {source.run: source for row in [*chosen.rows, *chosen.controls] for source in row.sources}
    files = {name: _files(source, runs, cost, chosen.seeds) for name, source in sources.items()}
    inputs = [paper, notes, *(file for of_source in files.values() for file in of_source)]
    with run("table", chosen, settings=settings, out=out, inputs=inputs) as record:
        rows, about = read_rows(paper, chosen), ""
        for row in rows:
            for source in row.sources:
                found = [read_metrics(file) for file in files[source.run]]
                if source.measures == "cost":
                    found, about = _costs_of(row, found[0], files[source.run][0])
                _measure(row, source, found)
        footnotes = [*_own_marks(rows), *_notes(rows, Notes.load(notes), paper)]
        with (record.folder / f"{out.name}.csv").open("w", newline="") as file:
            lines = [as_csv(row, chosen) for row in rows]
            writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
        page = Page(chosen.title, _introduction(rows, chosen, about), Grid.of(rows), footnotes)
        (record.folder / f"{out.name}.md").write_text(markdown(page))
        (record.folder / f"{out.name}.tex").write_text(latex(page, out.name))
        (record.folder / f"{out.name}.html").write_text(web_page(page, out.name))
        means = {
            name: {metric: METRICS[metric].unit * statistics.fmean(values) for metric, values in ours.items()}
            for name, ours in _by_source(rows)
        }
        (record.folder / "metrics.json").write_text(json.dumps(means, indent=2) + "\n")
        for name, of_run in means.items():  # the same, a file a run, as `dvc metrics` shows them best
            file = record.folder / "metrics" / f"{name.replace(' ', '_')}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(of_run, indent=2) + "\n")


# ---- what was measured


def _files(source: Source, runs: Path, cost: Path | None, seeds: list[int]) -> list[Path]:
    if source.measures != "cost":
        return [runs / source.run / str(seed) / "evaluate" / "metrics.json" for seed in seeds]
    if cost is None:
        raise ValueError("a row of the table is fed by `cost`: give --cost the folder that `rmlr cost` made")
    return [cost / "metrics.json"]


def read_metrics(path: Path) -> dict:
    """What was measured, as fractions of one run and seed; None where there was nothing to average."""
    try:
        metrics = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}). Remove its folder and evaluate again") from error
    for setting in HICODET:
        full, rare, nonrare = (metrics.get(f"{setting}_{part}") for part in ("full", "rare", "nonrare"))
        if full is not None and rare is not None and nonrare is not None:
            classes, rare_classes = (int(metrics[name] or 0) for name in ("hicodet_classes", "hicodet_rare_classes"))
            expected = full_of(rare, nonrare, rare_classes, classes - rare_classes)
            if abs(full - expected) > 1e-6:
                raise ValueError(
                    f"{path}: {setting}_full is {full}, but Rare and Non-rare give {expected:.6f}. Was it edited? "
                    "Remove its folder and evaluate again"
                )
    return metrics


def _costs_of(row: Row, measured: dict, path: Path) -> tuple[list[dict], str]:
    """What `cost` measured of a row, and how."""
    name = " ".join(row.names.values())
    if name not in measured["rows"]:
        raise ValueError(f"{path}: there is no row '{name}'. Rows: {', '.join(measured['rows'])}. Measure again")
    return [measured["rows"][name]], measured["about"]


def _measure(row: Row, source: Source, found: list[dict]) -> None:
    for name in row.printed:
        metric = METRICS[name]
        values = [value / metric.unit for seed in found if (value := seed.get(name)) is not None]
        if metric.measures == source.measures and values:
            row.ours[name] = values


def _by_source(rows: list[Row]) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """What each run measured of the table, by the run's name; costs by the row's."""
    for row in rows:
        for source in row.sources:
            ours = {name: values for name, values in row.ours.items() if METRICS[name].measures == source.measures}
            yield row.label if source.measures == "cost" else source.run, ours


# ---- the paper's rows


def read_paper(path: Path) -> list[dict[str, str]]:
    """The rows of one of the paper's tables, as printed."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: expected a header and the rows of a table of the paper, found none")
    for row in rows:
        if None in row or None in row.values():
            name = next(iter(row.values()))
            raise ValueError(f"{path}: row '{name}' has not the {len(rows[0])} cells of the header. Is it cut off?")
    return rows


def read_rows(paper: Path, chosen: TableNode) -> list[Row]:
    """All rows of the table: the paper's in its order, with what feeds them, and then the controls."""
    printed = read_paper(paper)
    names = [column for column in printed[0] if column not in METRICS]
    if not names:
        raise ValueError(f"{paper}: expected a column that names the rows; there are only {', '.join(printed[0])}")

    def row_of(cells: Mapping[str, str], label: str, *, is_control: bool) -> Row:
        found = {column: cells.get(column, "") for column in printed[0]}
        metrics = {column: cell for column, cell in found.items() if column in METRICS}
        return Row({name: found[name] for name in names}, metrics, is_control, label)

    rows = [row_of(cells, _label(cells, printed, names), is_control=False) for cells in printed]
    for measured in chosen.rows:
        fitting = [row for row in rows if _fits(measured.row, row, paper)]
        if len(fitting) != 1:
            known = ", ".join(row.label for row in rows)
            raise ValueError(
                f"{paper}: {len(fitting) or 'no'} rows are {_told(measured)}, which params.yaml names; "
                f"expected one. Rows: {known}"
            )
        fitting[0].sources += measured.sources
    for control in chosen.controls:
        row = row_of(control.row, ", ".join(control.row.values()), is_control=True)
        row.sources += control.sources
        rows.append(row)
    return rows


def _told(row: MeasuredRow) -> str:
    return ", ".join(f"{column} '{cell}'" for column, cell in row.row.items())


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


# ---- footnotes


def contradiction(row: Mapping[str, str], setting: str) -> float | None:
    """Full as it follows from a printed row's Rare and Non-rare, where the row prints another; in points."""
    printed = [row.get(f"{setting}_{part}", "") for part in ("full", "rare", "nonrare")]
    if not all(printed):
        return None
    full, rare, nonrare = map(float, printed)
    expected = full_of(rare, nonrare, RARE, NONRARE)
    return expected if abs(full - expected) > PRINTED else None


def _own_marks(rows: list[Row]) -> Iterator[str]:
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


def _notes(rows: list[Row], notes: Notes, paper: Path) -> Iterator[str]:
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


# ---- for programs


def as_csv(row: Row, chosen: TableNode) -> dict[str, str]:
    """A row with every number in a cell of its own."""
    cells = dict(row.names)
    for metric in row.printed:
        cells[f"paper_{metric}"] = row.printed[metric]
        cells[metric] = row.mean(metric)
        cells[f"{metric}_deviation"] = row.deviation(metric)
        cells[f"{metric}_difference"] = row.difference(metric)
        if metric.removesuffix("_full") in HICODET:
            expected = contradiction(row.printed, metric.removesuffix("_full"))
            cells[f"paper_{metric}_by_identity"] = "" if expected is None else f"{expected:.2f}"
    is_run = any(source.measures != "cost" for source in row.sources)
    return cells | {
        "source": "measured" if row.sources else "reported",
        "runs": " ".join(source.run for source in row.sources),
        "seeds": " ".join(map(str, chosen.seeds)) if is_run else "",
        "data": ("drawn world" if chosen.drawn else "real") if is_run else "noise" if row.sources else "",
        "detector": _all(row.sources, "detector"),
        "text_encoder_used": _all(row.sources, "encoder"),
        "profile": chosen.profile if row.sources else "",
        "notes": "; ".join(row.notes),
    }


def _all(sources: list[Source], name: str) -> str:
    """What a row's, or a table's, sources have there, each once."""
    return ", ".join(dict.fromkeys(value for source in sources if (value := getattr(source, name))))


# ---- for reading


@dataclass(frozen=True)
class Grid:
    """A table as people read it: heads of two levels, lines, and controls apart."""

    head: list[tuple[str, str]]  # what several columns share, or nothing; and the column's own
    is_name: list[bool]  # columns to the left
    lines: list[list[str]]
    controls: list[list[str]]

    @classmethod
    def of(cls, rows: list[Row]) -> "Grid":
        """Few metrics: paper, ours and difference side by side; many: one below the other."""
        names, metrics = list(rows[0].names), list(rows[0].printed)
        switches = {name for name in names if all(row.names[name] in ("0", "1", "") for row in rows)}
        # Where ours stands on another detector than the row's name says, the row says on which.
        stands_in = any(row.detector() not in ("", row.names.get("backbone", row.detector())) for row in rows)
        is_mixed = any(not row.sources for row in rows)
        is_wide = len(metrics) > SIDE_BY_SIDE
        head = [("", _head(name, name in switches)) for name in names]
        is_name = [name not in switches and not _are_numbers(row.names[name] for row in rows) for name in names]
        more = ["Source"] * (is_wide or is_mixed) + ["Our detector"] * (stands_in and not is_wide)
        head += [("", name) for name in more]
        if is_wide:
            head += [(METRICS[metric].group, METRICS[metric].name) for metric in metrics]
        else:
            head += [(METRICS[metric].head, part) for metric in metrics for part in ("paper", "ours", "difference")]

        def lines(row: Row) -> Iterator[list[str]]:
            cells = [row.theirs(name) for name in names]
            first = [
                {"1": "x", "0": ""}.get(cell, cell) if name in switches else cell
                for name, cell in zip(names, cells, strict=True)
            ]
            detector = row.detector()
            if not is_wide:
                source = ["measured" if row.sources else "reported"] * is_mixed + [detector] * stands_in
                parts = [(row.theirs(name), row.measured(name), row.difference(name)) for name in metrics]
                yield [*first, *source, *(part for of_metric in parts for part in of_metric)]
                return
            if not row.is_control:
                said = "paper" if row.sources else "reported"
                yield [*first, said, *(row.theirs(name) for name in metrics)]
                first = [""] * len(names)
            if row.sources:
                ours = f"ours: {detector}" if stands_in and detector else "ours"
                yield [*first, ours, *(row.measured(name) for name in metrics)]
            if row.sources and not row.is_control:
                yield [*first, "difference", *(row.difference(name) for name in metrics)]

        return cls(
            head,
            [*is_name, *([True] * len(more)), *([False] * (len(head) - len(is_name) - len(more)))],
            [line for row in rows if not row.is_control for line in lines(row)],
            [line for row in rows if row.is_control for line in lines(row)],
        )


HEADS = {  # of columns whose names in the paper's files do not speak for themselves
    "lambda_hoi": "HOI",
    "lambda_s_m": "IRM, sentences",
    "lambda_w_m": "IRM, words",
    "lambda_s_a": "IRE, sentences",
    "lambda_w_a": "IRE, words",
    "irm_layers": "Layers of IRM",
    "cml_sa_layers": "Layers of CML-SA",
}


def _head(name: str, is_switch: bool) -> str:
    return name.upper().replace("_", "-") if is_switch else HEADS.get(name, name.replace("_", " ").capitalize())


def _are_numbers(cells: Iterator[str]) -> bool:
    return all(re.fullmatch(r"[\d.]*", cell) for cell in cells)


@dataclass(frozen=True)
class Page:
    """A table with what is said of it."""

    title: str
    introduction: str
    grid: Grid
    footnotes: list[str]


def _introduction(rows: list[Row], chosen: TableNode, about: str) -> str:
    sources = [source for row in rows for source in row.sources]
    if not sources:
        return " ".join(["Nothing of this table was measured.", *filter(None, [chosen.note])])
    said = [about] if about else []
    if any(source.measures != "cost" for source in sources):
        seeds = len(chosen.seeds)
        spread = f"mean ± the sample's deviation over {seeds} seeds" if seeds > 1 else "one seed"
        where = "the drawn world, which is not the paper's data: compare the order of the rows, not the numbers"
        frozen = [("Detector", _all(sources, "detector")), ("Text encoder", _all(sources, "encoder"))]
        said += [
            f"In points; ours: {spread}; profile `{chosen.profile}`: {where if chosen.drawn else 'real data'}.",
            *(f"{part} of ours: {name}." for part, name in frozen if name),
        ]
    return " ".join([*said, *filter(None, [chosen.note])])


def markdown(page: Page) -> str:
    """For reading: mean and deviation in one cell, controls in a table of their own."""
    grid = page.grid
    said = {"paper": "{0}, paper", "ours": "ours", "difference": "difference"}
    head = [said.get(own, "{0} {1}").format(group, own).strip() for group, own in grid.head]
    parts = [f"**{page.title}**", page.introduction, aligned([head, *grid.lines], grid.is_name), *page.footnotes]
    if grid.controls:
        parts += ["Controls, not in the paper:", aligned([head, *grid.controls], grid.is_name)]
    return "\n\n".join(parts) + "\n"


def web_page(page: Page, name: str) -> str:
    """For a browser, and the report."""
    grid = page.grid
    table = Sheet(grid.head, grid.is_name, grid.lines, grid.controls, "Controls, not in the paper")
    number = name.removeprefix("table")
    title = f"Table {number}. {page.title}" if number.isdigit() else page.title
    notes = [Text(note, is_note=True) for note in page.footnotes]
    return html_page(title, [Text(page.introduction), table, *notes])


def aligned(lines: list[list[str]], is_name: list[bool]) -> str:
    """A Markdown table, head first: names to the left, the rest to the right."""
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(is_name))]
    ruler = ["-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, is_name, strict=True)]
    texts = [
        [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_name, strict=True)
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [texts[0], ruler, *texts[1:]])


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    IDENTITY: r"\textsuperscript{\dag}",
    LEAK: r"\textsuperscript{\ddag}",
}


def escaped(text: str) -> str:
    """Text as LaTeX prints it; marks are raised, a sign is as long as a plus."""
    said = "".join(LATEX.get(character, character) for character in text)
    said = re.sub(r" ?\[([a-z])\]", r"\\textsuperscript{\1}", re.sub(r"`([^`]*)`", r"\\texttt{\1}", said))
    said = said.replace(r" \textsuperscript", r"\textsuperscript")
    return re.sub(r"^([+-])(?=[\d.]+$)", r"$\1$", said)


WIDE = 12  # columns; more must stand closer to fit a page


def latex(page: Page, name: str) -> str:
    """For a paper: a float with booktabs' rules."""
    grid = page.grid
    groups, spans, rules = [group for group, _ in grid.head], [], []
    for column, group in enumerate(groups):
        if not group:
            spans.append("")
        elif column == 0 or groups[column - 1] != group:
            width = groups.count(group)
            spans.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(group)}}}")
            rules.append(rf"\cmidrule(lr){{{column + 1}-{column + width}}}")
    heads = [rf"{' & '.join(spans)} \\", " ".join(rules)] if any(groups) else []
    heads.append(rf"{' & '.join(escaped(own) for _, own in grid.head)} \\")

    def body(lines: list[list[str]]) -> list[str]:
        return [rf"{' & '.join(map(escaped, line))} \\" for line in lines]

    controls = [r"\midrule", *body(grid.controls)] if grid.controls else []
    columns = "".join("l" if left else "r" for left in grid.is_name)
    inner = [r"\toprule", *heads, r"\midrule", *body(grid.lines), *controls, r"\bottomrule"]
    notes = [rf"\par\smallskip {escaped(note)}" for note in [page.introduction, *page.footnotes]]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table*}[t]",
            rf"\centering\scriptsize\setlength{{\tabcolsep}}{{{1.5 if len(columns) > WIDE else 3}pt}}",
            rf"\caption{{{escaped(page.title)}}}",
            rf"\label{{tab:{name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            *inner,
            r"\end{tabular}",
            r"\par\raggedright",
            *notes,
            r"\end{table*}",
            "",
        ]
    )
