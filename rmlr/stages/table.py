"""One of the paper's tables, ours beside theirs: the one place where fractions become points."""

import csv
import json
import statistics
from pathlib import Path

from rmlr.evaluation.hicodet import full_of
from rmlr.run import run
from rmlr.settings import TableNode, TableRow

Metrics = dict[str, float | None]

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
HICODET = ("hicodet_default", "hicodet_known_object")
RARE, NONRARE = 138, 462  # classes of the release, on which the paper's figures are
PRINTED = 0.02  # points: what rounding three printed means can make of their identity
MARK = "†"


def table(*, settings: Path, runs: Path, paper: Path, out: Path) -> None:
    """Put the metrics of all runs beside the paper's numbers, in points, row by row.

    Ours is the mean over the seeds with the sample's deviation (empty for one seed); a number that nobody printed or
    measured is an empty cell. Controls, which the paper does not have, stand under its rows. A printed Full of HICO-DET
    that its own Rare and Non-rare do not give is marked; a measured one is an error.

    Args:
        settings: this table's settings file: which run feeds which row.
        runs: folder whose GROUP/NAME/SEED/evaluate/metrics.json were made by `evaluate`.
        paper: the paper's table (CSV); its first column names the rows.
        out: folder to write; gets NAME.csv and NAME.md, where NAME is that of the folder, and metrics.json (fractions).
    """
    chosen = TableNode.load(settings)
    files = {row.row: _files(runs, row, chosen.seeds) for row in chosen.table.rows}
    inputs = [paper, *(file for of_row in files.values() for file in of_row)]
    with run("table", chosen, settings=settings, out=out, inputs=inputs) as record:
        columns, printed = read_paper(paper)
        ours = {row: [read_metrics(file) for file in of_row] for row, of_row in files.items()}
        rows = beside(columns, printed, ours, chosen, paper)
        with (record.folder / f"{out.name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (record.folder / f"{out.name}.md").write_text(markdown(columns, rows, chosen))
        means = {
            row.run: {name: statistics.fmean(values) for name in METRICS if (values := _known(ours[row.row], name))}
            for row in chosen.table.rows
        }
        (record.folder / "metrics.json").write_text(json.dumps(means, indent=2) + "\n")


def _files(runs: Path, row: TableRow, seeds: list[int]) -> list[Path]:
    return [runs / row.run / str(seed) / "evaluate" / "metrics.json" for seed in seeds]


def _known(metrics: list[Metrics], name: str) -> list[float]:
    return [value for seed in metrics if (value := seed.get(name)) is not None]


def read_metrics(path: Path) -> Metrics:
    """What `evaluate` measured of one run and seed, as fractions; None where there was nothing to average."""
    try:
        metrics: Metrics = json.loads(path.read_text())
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


def read_paper(path: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Columns of one of the paper's tables, and its rows by name."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        rows = {row[columns[0]]: row for row in reader} if columns else {}
    if not rows:
        raise ValueError(f"{path}: expected a header and the rows of a table of the paper, found none")
    for name, row in rows.items():
        if None in row or None in row.values():
            raise ValueError(f"{path}: row '{name}' has not the {len(columns)} cells of the header. Is it cut off?")
    return columns, rows


def contradiction(row: dict[str, str], setting: str) -> float | None:
    """Full as it follows from a printed row's Rare and Non-rare, where the row prints another; in points."""
    printed = [row.get(f"{setting}_{part}", "") for part in ("full", "rare", "nonrare")]
    if not all(printed):
        return None
    full, rare, nonrare = map(float, printed)
    expected = full_of(rare, nonrare, RARE, NONRARE)
    return expected if abs(full - expected) > PRINTED else None


def beside(
    columns: list[str],
    printed: dict[str, dict[str, str]],
    ours: dict[str, list[Metrics]],
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
            points = [100 * fraction for fraction in _known(ours[row.row], metric)]
            printed_points = theirs.get(metric, "")
            cells[f"paper_{metric}"] = printed_points
            cells[metric] = f"{statistics.fmean(points):.2f}" if points else ""
            cells[f"{metric}_deviation"] = f"{statistics.stdev(points):.2f}" if len(points) > 1 else ""
            comparable = points and printed_points
            difference = statistics.fmean(points) - float(printed_points) if comparable else 0.0
            cells[f"{metric}_difference"] = f"{difference:+.2f}" if comparable else ""
            if metric.removesuffix("_full") in HICODET:
                expected = contradiction(theirs, metric.removesuffix("_full"))
                cells[f"paper_{metric}_by_identity"] = "" if expected is None else f"{expected:.2f}"
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
            mark = f" {MARK}" if row.get(f"paper_{metric}_by_identity") else ""
            line += [row[f"paper_{metric}"] + mark, ours, row[f"{metric}_difference"]]
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
    notes = [
        f"{row[columns[0]]}, {METRICS[metric]}: {expected}"
        for row in rows
        for metric in metrics
        if (expected := row.get(f"paper_{metric}_by_identity"))
    ]
    if notes:
        rule = (
            f"{MARK} is not ({RARE} Rare + {NONRARE} Non-rare) / {RARE + NONRARE} of the same printed row, which gives"
        )
        parts.append(f"{rule}: {'; '.join(notes)}.")
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
