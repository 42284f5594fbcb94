"""One of the paper's tables, ours beside theirs: the one place where fractions become points."""

import csv
import json
import statistics
from pathlib import Path

from rmlr.run import run
from rmlr.settings import Table, TableNode

METRICS = {  # the paper's columns that are measured, and how a reader knows them
    "vcoco_ap_role_1": "AP_role scenario 1",
    "vcoco_ap_role_2": "AP_role scenario 2",
    "hicodet_default_full": "Default Full",
    "hicodet_default_rare": "Default Rare",
    "hicodet_default_nonrare": "Default Non-rare",
    "hicodet_known_object_full": "Known Object Full",
    "hicodet_known_object_rare": "Known Object Rare",
    "hicodet_known_object_nonrare": "Known Object Non-rare",
}


def table(*, settings: Path, runs: Path, paper: Path, out: Path) -> None:
    """Put the metrics of all runs beside the paper's numbers, in points, row by row.

    Ours is the mean over the seeds with the sample's deviation (empty for one seed); a number that nobody printed or
    measured is an empty cell. Controls, which the paper does not have, stand under its rows.

    Args:
        settings: this table's settings file: which run feeds which row.
        runs: folder whose GROUP/NAME/SEED/evaluate/metrics.json were made by `evaluate`.
        paper: the paper's table (CSV); its first column names the rows.
        out: folder to write; gets NAME.csv and NAME.md, where NAME is that of the folder.
    """
    chosen = TableNode.load(settings)
    files = [
        runs / row.run / str(seed) / "evaluate" / "metrics.json" for row in chosen.table.rows for seed in chosen.seeds
    ]
    with run("table", chosen, settings=settings, out=out, inputs=[paper, *files]) as record:
        columns, printed = read_paper(paper)
        rows = beside(columns, printed, measured(runs, chosen.table, chosen.seeds), chosen, paper)
        with (record.folder / f"{out.name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (record.folder / f"{out.name}.md").write_text(markdown(columns, rows, chosen))


def read_paper(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Columns of one of the paper's tables, and its rows by name."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        rows = {row[columns[0]]: row for row in reader} if columns else {}
    if not rows:
        raise ValueError(f"{path}: expected a header and the rows of a table of the paper, found none")
    return columns, rows


def measured(runs: Path, table: Table, seeds: list[int]) -> dict[str, list[dict[str, float | None]]]:
    """Metrics of each row's run, seed by seed, in points."""
    found: dict[str, list[dict[str, float | None]]] = {}
    for row in table.rows:
        found[row.row] = []
        for seed in seeds:
            path = runs / row.run / str(seed) / "evaluate" / "metrics.json"
            try:
                metrics = json.loads(path.read_text())
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}: not JSON ({error}). Remove its folder and evaluate that run again"
                ) from error
            found[row.row].append({key: None if value is None else 100 * value for key, value in metrics.items()})
    return found


def beside(
    columns: list[str],
    printed: dict[str, dict[str, str]],
    ours: dict[str, list[dict[str, float | None]]],
    chosen: TableNode,
    paper: Path,
) -> list[dict[str, str]]:
    """The table's rows as text: what the paper says of each, and what we measured."""
    metrics = [column for column in columns if column in METRICS]
    rows = []
    for row in sorted(chosen.table.rows, key=lambda row: row.control):  # stable: controls last
        if not row.control and row.row not in printed:
            raise ValueError(
                f"{paper}: there is no row '{row.row}', which params.yaml names. Rows: {', '.join(printed)}"
            )
        theirs = {} if row.control else printed[row.row]
        cells = {column: theirs.get(column, "") for column in columns if column not in metrics} | {columns[0]: row.row}
        for metric in metrics:
            values = [value for seed in ours[row.row] if (value := seed.get(metric)) is not None]
            reported, mean = theirs.get(metric, ""), statistics.fmean(values) if values else None
            cells[f"paper_{metric}"] = reported
            cells[metric] = "" if mean is None else f"{mean:.2f}"
            cells[f"{metric}_deviation"] = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells[f"{metric}_difference"] = f"{mean - float(reported):+.2f}" if mean is not None and reported else ""
        rows.append(cells | {"seeds": str(len(ours[row.row])), "profile": chosen.profile})
    return rows


def markdown(columns: list[str], rows: list[dict[str, str]], chosen: TableNode) -> str:
    """The same for reading: switches as crosses, mean and deviation in one cell, controls in a table of their own."""
    metrics = [column for column in columns if column in METRICS]
    names = [column for column in columns if column not in metrics]
    switches = {name for name in names if all(row[name] in ("0", "1", "") for row in rows)}
    head = [
        name.upper().replace("_", "-") if name in switches else name.replace("_", " ").capitalize() for name in names
    ]
    for metric in metrics:
        head += [f"{METRICS[metric]}, paper", "ours", "difference"]

    def cells(row: dict[str, str]) -> list[str]:
        line = [{"1": "x", "0": ""}.get(row[name], row[name]) if name in switches else row[name] for name in names]
        for metric in metrics:
            deviation = row[f"{metric}_deviation"]
            ours = row[metric] + (f" ± {deviation}" if deviation else "")
            line += [row[f"paper_{metric}"], ours, row[f"{metric}_difference"]]
        return line

    controls = {row.row for row in chosen.table.rows if row.control}
    theirs = [cells(row) for row in rows if row[columns[0]] not in controls]
    extra = [cells(row) for row in rows if row[columns[0]] in controls]
    seeds = len(chosen.seeds)
    spread = f"mean ± the sample's deviation over {seeds} seeds" if seeds > 1 else "one seed"
    where = "the drawn world, which is not the paper's data: compare the order of the rows, not the numbers"
    parts = [
        f"**{chosen.table.title}**",
        f"In points; ours: {spread}; profile `{chosen.profile}`: {where if chosen.drawn else 'real data'}.",
        aligned([head, *theirs]),
    ]
    if extra:
        parts += ["Controls, not in the paper:", aligned([head, *extra])]
    return "\n\n".join(parts) + "\n"


def aligned(lines: list[list[str]]) -> str:
    """A Markdown table, head first: names to the left, the rest to the right."""
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    texts = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [texts[0], ruler, *texts[1:]])
