"""The settings files of rules: with an old modification time if the node is current, otherwise new, so that the rule
runs.

All other inputs of a current node are `ancient` for Snakemake: the times of checkouts, copies and archives have no
effect.
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
    """Whether this process may write: it then holds the project's lock until it ends."""
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
    """Write an input file of a rule: with an old time if its output is `made`, otherwise new, so that the rule runs."""
    if not path.exists() or path.read_text() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    os.utime(path, (LONG_AGO, LONG_AGO) if made else None)


def inputs(graph: Graph, stale: Container[str]) -> Callable[[str], Input]:
    """Input functions of rules for nodes given as a pattern; times count only for `stale` nodes."""

    def of_pattern(pattern: str) -> Input:
        def of(wildcards: Any) -> Sequence[Any]:
            node = pattern.format(**dict(wildcards.items()))
            paths = graph.inputs_of(node)
            return paths if node in stale else [ancient(path) for path in paths]

        return of

    return of_pattern


def write_wanted(graph: Graph) -> dict[str, str]:
    """Write the settings of every node, and the marker files of sources and copies.

    Returns the nodes and copies that are not current, with the reason.
    """
    for node in graph.nodes:
        settle(Path(graph.folder(node)))  # left by a killed call, or made by an older version
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
    """Write the wanted sources; returns the receipts of a node that belong to another entry of the table of sources."""
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
