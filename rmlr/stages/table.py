"""One of the paper's tables from the metrics of all runs, with our numbers next to the paper's."""

from pathlib import Path

from rmlr.report.paper import Notes, fill, metric_files, noted, own_marks, read_rows
from rmlr.report.tables import Table
from rmlr.study.nodes import TableNode
from rmlr.study.run import run


def table(
    *,
    settings: Path,
    runs: Path,
    out: Path,
    paper: Path | None = None,
    notes: Path | None = None,
    cost: Path | None = None,
) -> None:
    """Put our measurements next to the paper's numbers, row by row, as CSV, Markdown, HTML and LaTeX.

    All rows of the paper are included, as printed; rows with a source are measured, the others reported only. Our
    values are means over the seeds with the sample standard deviation (empty for one seed), in points; a number that
    was neither printed nor measured is an empty cell. Controls, which the paper does not have, follow its rows.
    Contradictions in the paper are marked, with its numbers unchanged: a Full of HICO-DET that contradicts its own Rare
    and Non-rare is found here (a measured one is an error), others are in the notes.

    A custom table has no paper: its rows are those of the settings, its columns the cells that name them and the
    metrics of the data sets of its runs.

    Args:
        settings: this table's settings file: which runs supply which row.
        runs: folder whose GROUP/NAME/SEED/evaluate/metrics.json were made by `evaluate`.
        paper: the paper's table (CSV); left out for a custom table.
        notes: notes on its numbers (YAML).
        cost: folder made by `cost`, for a table that uses it.
        out: folder to write; gets NAME.csv, NAME.md, NAME.html and NAME.tex (needs booktabs), where NAME is that of the
            folder, and metrics.json (fractions), the same in metrics/, one file for each run.
    """
    chosen = TableNode.load(settings)
    if paper is None and notes is not None:
        raise ValueError(f"--notes {notes}: notes are on numbers of the paper. Give --paper as well, or leave both out")
    sources = {source.run: source for row in [*chosen.rows, *chosen.controls] for source in row.sources}
    files = {name: metric_files(source, runs, cost, chosen.seeds) for name, source in sources.items()}
    inputs = [path for path in (paper, notes) if path] + [file for of_source in files.values() for file in of_source]
    with run("table", chosen, settings=settings, out=out, inputs=inputs) as record:
        rows = read_rows(paper, chosen)
        about_costs = fill(rows, files)
        footnotes = [*own_marks(rows), *(noted(rows, Notes.load(notes), paper) if paper and notes else ())]
        Table(out.name, chosen, rows, footnotes, about_costs, is_own=paper is None).write(record.folder)
