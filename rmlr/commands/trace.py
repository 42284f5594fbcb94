"""Follows a row of a table of results to everything that it was made from."""

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from rmlr.report.made_row import MadeRow, find_row, read_lines
from rmlr.report.paper import metric_files
from rmlr.study.chain import About, Chain, Step
from rmlr.study.current import SETTINGS
from rmlr.study.files import printable
from rmlr.study.identity import identified
from rmlr.study.nodes import Source, TableNode
from rmlr.study.plan import Study

SHORT = 12  # characters of a digest or a commit that are shown
REMARK = "  ! "


def trace(table: Path, /, *, row: str, column: str | None = None, params: Path = Path("params.yaml")) -> None:
    """Follow a row of a table of results to its runs, and to every stage that they were made by.

    Prints for each stage when it was made, the commit, the digest of its code, settings, seed, package versions and
    processor, and the digest of each input; below an input, the stage that made it. A `!` marks what was not committed,
    and what differs now: an input, the settings that params.yaml plans, the code, a number of metrics.json. All inputs
    are read in full. Call it in the checkout in which the table was made.

    Args:
        table: results/NAME.csv, or the table's folder, results/PROFILE/tables/NAME.
        row: the row's name in the table, such as RmLR, or a run that feeds it, such as shared/rmlr or rmlr.
        column: follow only the run of this column, such as vcoco_ap_role_1; by default those of all columns.
        params: the study's parameters.
    """
    cells, folder = _find_table(table)
    node = _settings(folder)
    made = find_row(cells, node, row)
    made = made if column is None else made.at(column)
    planned = identified(Study.load(params), node.profile, params.parent / "paper")
    chain = Chain(folder.absolute().parents[1], planned)
    step, own = chain.step(folder), folder / f"{folder.name}.csv"
    is_same = own.is_file() and own.read_bytes() == cells.read_bytes()
    lines = [_marked(f"{cells}, row {made.label}", "" if is_same else f"differs from {own}")]
    used = {item.path for item in step.inputs if item.made_in is None}  # the paper's files
    for source in made.sources:
        files = [_recorded(step, file) for file in metric_files(source, Path("runs"), Path("cost"), node.seeds)]
        lines += _numbers(made, source, files, node)
        used.update(files)
    lines += [f"{step.about.stage}: {folder}", *_of_step(step), *_of_inputs(chain, step, {folder}, used)]
    count = sum(line.count(REMARK) for line in lines)
    lines.append(f"{count} marked with '!'" if count else "inputs, settings, code and numbers are as they were")
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def _find_table(table: Path) -> tuple[Path, Path]:
    """The CSV file of a table, and the folder that the stage `table` made."""
    cells = table / f"{table.name}.csv" if table.is_dir() else table
    name, beside = cells.stem, cells.parent
    if beside.name == name:
        folder = beside
    elif (beside / "tables" / name).is_dir():  # a copy in results/PROFILE
        folder = beside / "tables" / name
    else:  # in results
        profile = next((line["profile"] for line in read_lines(cells) if line["profile"]), None)
        if profile is None:
            raise ValueError(f"{cells}: no row was measured, so there is nothing to follow")
        folder = beside / profile / "tables" / name
    if os.path.relpath(folder).startswith(os.pardir):  # paths in run.json are relative to the checkout
        raise ValueError(f"{table}: is outside of {Path.cwd()}. Call this in the checkout in which the table was made")
    if not folder.is_dir():
        raise ValueError(f"{folder}: does not exist; it records how {cells} was made. Pull it, or make the table again")
    return cells, folder


def _settings(folder: Path) -> TableNode:
    try:
        return TableNode.load(folder / SETTINGS)
    except ValueError as error:
        expected = "Expected a table that the present code made, results/PROFILE/tables/NAME. Make it again"
        raise ValueError(f"{error}\n{expected}") from error


def _recorded(step: Step, file: Path) -> str:
    """The path under which the table's run.json records a metrics file."""
    for item in step.inputs:
        if Path(item.path).parts[-len(file.parts) :] == file.parts:
            return item.path
    raise ValueError(f"{step.folder}: was not made from {file}, which its settings name. Make the table again")


# ---- lines of text


def _marked(text: str, *remarks: str) -> str:
    return text + "".join(f"{REMARK}{remark}" for remark in remarks if remark)


def _numbers(made: MadeRow, source: Source, files: list[str], node: TableNode) -> Iterator[str]:
    """The cells of a source, each with the numbers that its metrics.json have now."""
    try:
        present = made.present(source, [Path(file) for file in files])
    except ValueError as error:
        for name in made.metrics(source):
            yield _marked(f"  {name} {made.line[name]}: {source.run}", str(error))
        return
    for name in made.metrics(source):
        text, values = f"  {name} {made.line[name]}: {source.run}", present.ours.get(name, [])
        if source.measures != "cost" and len(values) == len(node.seeds):
            text += "".join(f", seed {seed} {value:.2f}" for seed, value in zip(node.seeds, values, strict=True))
        now = present.mean(name)
        yield _marked(text, "" if now == made.line[name] else f"metrics.json now gives {now or 'no number'}")


def _of_step(step: Step) -> Iterator[str]:
    """How a stage was called."""
    about = step.about
    commit = f"commit {about.code.commit[:SHORT]}" if about.code else "outside of git"
    code = f"code {about.settings.code}"
    for entry in about.accepted:
        code += f", accepted as {entry.to} by {entry.who} on {entry.when}: {entry.because}"
    dirty = "the checkout had uncommitted changes" if about.code and about.code.dirty else ""
    yield _marked(f"  made {about.began.isoformat()}, {commit}, {code}", dirty, step.other_code)
    seed = "" if about.seed is None else f", seed {about.seed}"
    yield _marked(f"  settings {step.folder / SETTINGS}{seed}", step.other_settings)
    yield f"  with {_machine(about)}"


def _machine(about: About) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    processor = [str(about.host[key]) for key in ("processor", "instructions") if about.host.get(key)]
    named = " ".join(processor) or about.host.get("machine", "unknown")
    return f"{packages}; device {about.device}, threads {about.threads}, processor {named}"


def _of_inputs(chain: Chain, step: Step, told: set[Path], only: Collection[str] | None = None) -> Iterator[str]:
    """The inputs of a step, each with the stage that made it, unless it is in `told`."""
    for item in step.inputs:
        if only is not None and item.path not in only:
            continue
        text, folder = f"{item.path} {item.sha256[:SHORT]}", item.made_in
        if folder is None or folder in told:
            yield _marked(f"  from {text}{', see above' if folder else ''}", item.changed)
            continue
        told.add(folder)
        try:
            maker = chain.step(folder)
        except ValueError as error:
            yield _marked(f"  from {text}", item.changed, str(error))
            continue
        yield _marked(f"  from {maker.about.stage}: {text}", item.changed)
        yield from (f"  {line}" for line in (*_of_step(maker), *_of_inputs(chain, maker, told)))
