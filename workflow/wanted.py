"""The settings files that rules read: each dated long ago where its node is current, else now, so that its rule runs.

All other inputs of a current node are `ancient` to Snakemake: times of checkouts, copies and archives decide nothing.
"""

import fcntl
import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from graph import Graph, Input
from snakemake.io import ancient

from rmlr.fetch.place import Place
from rmlr.study.content import Known
from rmlr.study.current import Results
from rmlr.study.folder import settle

LONG_AGO = 946684800  # 1 January 2000: older than whatever a stage writes
_held = []  # open files, whose locks end with the process


def only_one(path: Path) -> bool:
    """Whether this process may write: it holds the project's lock until it dies, however it dies."""
    path.parent.mkdir(exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    file.truncate(0)
    file.write(f"{os.getpid()}")
    file.flush()
    _held.append(file)
    return True


def want(path: Path, content: str, *, made: bool) -> None:
    """Write an input file of a rule: old where `made`, what the rule made, came of it; else new, so the rule runs."""
    if not path.exists() or path.read_text() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    os.utime(path, (LONG_AGO, LONG_AGO) if made else None)


def inputs(graph: Graph, stale: Container[str]) -> Callable[[str], Input]:
    """What rules take for the inputs of nodes, given as a pattern; times count for those that are `stale` alone."""

    def of_pattern(pattern: str) -> Input:
        def of(wildcards: Any) -> Sequence[Any]:
            node = pattern.format(**dict(wildcards.items()))
            paths = graph.inputs_of(node)
            return paths if node in stale else [ancient(path) for path in paths]

        return of

    return of_pattern


def write_wanted(graph: Graph) -> dict[str, str]:
    """Write the settings of every node, and what tells Snakemake which sources and copies are current.

    Gives the nodes and copies that are not current, and why.
    """
    for node in graph.nodes:
        settle(Path(graph.folder(node)))  # what an earlier call, killed, left beside it, or an older version made
    known = Known(Path(".snakemake/rmlr-contents.json"))
    late = _write_sources(graph)
    refetched = {node: f"{receipts[0]} is of another source" for node in graph.nodes if (receipts := late(node))}
    before = {node: graph.before(node) for node in graph.nodes}
    results = Results(Path(graph.results), known)
    stale = results.stale(graph.nodes, before.__getitem__, graph.readable(), refetched)
    for node, section in graph.nodes.items():
        want(Path(graph.settings(node)), section.dump(), made=node not in stale)
    for name in [*graph.tables, "statement"]:
        copies = graph.copies(name)
        is_same = all(_same(Path(one), Path(copy)) for one, copy in zip(graph.made(name), copies, strict=True))
        if not is_same or stale.keys() & {name, f"tables/{name}"}:
            stale[graph.marker(name)] = "not copied"
        want(Path(graph.marker(name)), "".join(f"{file}\n" for file in copies), made=graph.marker(name) not in stale)
    known.save()
    return stale


def _write_sources(graph: Graph) -> Callable[[str], list[str]]:
    """Say which sources are wanted; gives which receipts of a node are of another entry of the table of sources."""
    others = set()
    for name, source in graph.sources.items():
        place, path = Place(Path(graph.raw)), f"{graph.raw}/receipts/{name}.ok"
        current = place.has_receipt(name, source)
        want(Path(graph.fetch_settings(name)), f"{source.digest}\n", made=current)
        if Path(path).exists() and not current:
            others.add(path)
    return lambda node: [path for path in graph.outside(node) if path in others] if others else []


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()
