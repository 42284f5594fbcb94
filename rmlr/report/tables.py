"""A table as files: CSV for programs, Markdown and HTML for reading, LaTeX for a paper."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmlr.report.frames import write_cells
from rmlr.report.pages import Sheet, Text, aligned, html_page
from rmlr.report.paper import HICODET, IDENTITY, LEAK, METRICS, Row, contradiction, each_once, means
from rmlr.study.nodes import TableNode

NO_ROW = Row({"row": ""}, {}, is_control=False, label="")  # of a table of one's own that a profile makes nothing of
SIDE_BY_SIDE = 3  # metrics, at most, whose paper, ours and difference stand in one line


@dataclass(frozen=True)
class Table:
    """A table of the paper, ours beside theirs; or one of a user's own, with nothing beside it."""

    name: str
    chosen: TableNode
    rows: Sequence[Row]
    footnotes: Sequence[str]
    about_costs: str  # how they were measured; empty where there are none
    is_own: bool  # not in the paper

    def write(self, folder: Path) -> None:
        """NAME.csv, NAME.md, NAME.tex and NAME.html; metrics.json (fractions), the same in metrics/, a file a run."""
        lines = [as_csv(row, self.chosen, is_own=self.is_own) for row in self.rows]
        columns = list(as_csv(NO_ROW, self.chosen, is_own=self.is_own)) if not lines else None
        write_cells(folder / f"{self.name}.csv", lines, columns)
        page = Page.of(self)
        for kind, text in (("md", markdown(page)), ("tex", latex(page)), ("html", web_page(page))):
            (folder / f"{self.name}.{kind}").write_text(text)
        found = means(self.rows)
        (folder / "metrics.json").write_text(json.dumps(found, indent=2) + "\n")
        (folder / "metrics").mkdir()
        for run, of_run in found.items():  # as `dvc metrics` shows them best
            file = folder / "metrics" / f"{run.replace(' ', '_')}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(of_run, indent=2) + "\n")


# ---- for programs


def as_csv(row: Row, chosen: TableNode, *, is_own: bool = False) -> dict[str, str]:
    """A row with every number in a cell of its own."""
    cells = dict(row.names)
    for metric in row.printed:
        ours = {metric: row.mean(metric), f"{metric}_deviation": row.deviation(metric)}
        if is_own:
            cells |= ours
            continue
        cells |= {f"paper_{metric}": row.printed[metric], **ours, f"{metric}_difference": row.difference(metric)}
        if metric.removesuffix("_full") in HICODET:
            expected = contradiction(row.printed, metric.removesuffix("_full"))
            cells[f"paper_{metric}_by_identity"] = "" if expected is None else f"{expected:.2f}"
    is_run = any(source.measures != "cost" for source in row.sources)
    return cells | {
        "source": "measured" if row.sources else "" if is_own else "reported",
        "runs": " ".join(source.run for source in row.sources),
        "seeds": " ".join(map(str, chosen.seeds)) if is_run else "",
        "data": ("drawn world" if chosen.drawn else "real") if is_run else "noise" if row.sources else "",
        "detector": each_once(row.sources, "detector"),
        "text_encoder_used": each_once(row.sources, "encoder"),
        "profile": chosen.profile if row.sources else "",
        "notes": "; ".join(row.notes),
    }


# ---- for reading


@dataclass(frozen=True)
class Grid:
    """A table as people read it: heads of two levels, lines, and controls apart."""

    head: list[tuple[str, str]]  # what several columns share, or nothing; and the column's own
    is_name: list[bool]  # columns to the left
    lines: list[list[str]]
    controls: list[list[str]]

    @classmethod
    def of(cls, rows: Sequence[Row], *, is_own: bool) -> "Grid":
        """Few metrics: paper, ours and difference side by side; many: one below the other. One's own: ours alone."""
        first_row = rows[0] if rows else NO_ROW
        names, metrics = list(first_row.names), list(first_row.printed)
        switches = {name for name in names if all(row.names[name] in ("0", "1", "") for row in rows)}
        # Where ours stands on another detector than the row's name says, the row says on which.
        stands_in = any(row.detector() not in ("", row.names.get("backbone", row.detector())) for row in rows)
        is_mixed = any(not row.sources for row in rows) and not is_own
        is_wide = len(metrics) > SIDE_BY_SIDE and not is_own
        head = [("", _head(name, name in switches)) for name in names]
        is_name = [name not in switches and not _are_numbers(row.names[name] for row in rows) for name in names]
        more = ["Source"] * (is_wide or is_mixed) + ["Our detector"] * (stands_in and not is_wide)
        head += [("", name) for name in more]
        if is_wide or is_own:
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
            beside = ["measured" if row.sources else "reported"] * is_mixed + [detector] * stands_in
            if is_own:
                yield [*first, *beside, *(row.measured(name) for name in metrics)]
                return
            if not is_wide:
                parts = [(row.theirs(name), row.measured(name), row.difference(name)) for name in metrics]
                yield [*first, *beside, *(part for of_metric in parts for part in of_metric)]
                return
            if not row.is_control:
                kind = "paper" if row.sources else "reported"
                yield [*first, kind, *(row.theirs(name) for name in metrics)]
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
    """A table with its title, an introduction and footnotes."""

    name: str
    title: str
    introduction: str
    grid: Grid
    footnotes: Sequence[str]
    about_controls: str

    @classmethod
    def of(cls, table: Table) -> "Page":
        """The table as people read it."""
        return cls(
            table.name,
            table.chosen.title,
            _introduction(table),
            Grid.of(table.rows, is_own=table.is_own),
            table.footnotes,
            "Controls" if table.is_own else "Controls, not in the paper",
        )


def _introduction(table: Table) -> str:
    chosen, sources = table.chosen, [source for row in table.rows for source in row.sources]
    if not sources:
        return " ".join(["Nothing of this table was measured.", *filter(None, [chosen.note])])
    parts = [table.about_costs] if table.about_costs else []
    if any(source.measures != "cost" for source in sources):
        seeds = len(chosen.seeds)
        spread = f"mean ± the sample's deviation over {seeds} seeds" if seeds > 1 else "one seed"
        if chosen.folds:
            spread += f", each trained once for each of {chosen.folds} folds and scored once over the photos of all"
        where = "the drawn world, which is not the paper's data: compare the order of the rows, not the numbers"
        frozen = [("Detector", each_once(sources, "detector")), ("Text encoder", each_once(sources, "encoder"))]
        parts += [
            f"In points; {'' if table.is_own else 'ours: '}{spread}; profile `{chosen.profile}`: "
            f"{where if chosen.drawn else 'real data'}.",
            *(f"{part}{'' if table.is_own else ' of ours'}: {name}." for part, name in frozen if name),
        ]
    return " ".join([*parts, *filter(None, [chosen.note])])


def markdown(page: Page) -> str:
    """For reading: mean and deviation in one cell, controls in a table of their own."""
    grid = page.grid
    forms = {"paper": "{0}, paper", "ours": "ours", "difference": "difference"}
    head = [forms.get(own, "{0} {1}").format(group, own).strip() for group, own in grid.head]
    parts = [f"**{page.title}**", page.introduction, aligned([head, *grid.lines], grid.is_name), *page.footnotes]
    if grid.controls:
        parts += [f"{page.about_controls}:", aligned([head, *grid.controls], grid.is_name)]
    return "\n\n".join(parts) + "\n"


def web_page(page: Page) -> str:
    """For a browser, and Snakemake's report."""
    grid = page.grid
    table = Sheet(grid.head, grid.is_name, grid.lines, grid.controls, page.about_controls)
    number = page.name.removeprefix("table")
    title = f"Table {number}. {page.title}" if number.isdigit() else page.title
    notes = [Text(note, is_note=True) for note in page.footnotes]
    return html_page(title, [Text(page.introduction), table, *notes])


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


def latex(page: Page) -> str:
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
            rf"\label{{tab:{page.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            *inner,
            r"\end{tabular}",
            r"\par\raggedright",
            *notes,
            r"\end{table*}",
            "",
        ]
    )
