"""Metrics of all runs to one of the paper's tables, ours beside theirs."""

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
    """Put what was measured beside the paper's numbers, row by row: for programs, for reading, and for LaTeX.

    All rows of the paper are there, as printed; those with a source are measured, the others reported. Ours is the mean
    over the seeds with the sample's deviation (empty for one seed), in points; a number that nobody printed or measured
    is an empty cell. Controls, which the paper does not have, stand under its rows. Where the paper contradicts itself
    there is a mark, its numbers as they are: a Full of HICO-DET that its own Rare and Non-rare do not give is found
    here (a measured one is an error), the rest is in the notes.

    A table of your own has no paper: its rows are those of the settings, its columns the cells that name them and the
    metrics of the data sets that its runs are on.

    Args:
        settings: this table's settings file: which runs feed which row.
        runs: folder whose GROUP/NAME/SEED/evaluate/metrics.json were made by `evaluate`.
        paper: the paper's table (CSV); left out for a table of your own.
        notes: what is said of its numbers (YAML).
        cost: folder made by `cost`, for a table that it feeds.
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
