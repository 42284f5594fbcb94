"""The settings files of rules: with an old modification time if the node is current, otherwise new, so that the rule
runs.

All other inputs of a current node are `ancient` for Snakemake: the times of checkouts, copies and archives have no
effect.
"""

import atexit
import fcntl
import os
from collections.abc import Sequence
from functools import cache
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


class Wanted:
    """The settings files of a study, brought up to date when Snakemake asks for the inputs of a job.

    So a call reads and dates what its targets depend on, and nothing else of the study. Without `may_write`, all is
    taken as it is.
    """

    def __init__(self, graph: Graph, *, may_write: bool) -> None:
        self._graph, self._may_write = graph, may_write
        self._known = Known(Path(".snakemake/rmlr-contents.json"))
        self._results = Results(Path(graph.results), self._known)
        self._stale: dict[str, str] = {}  # nodes that are not current, of those in `_judged`; why
        self._judged: set[str] = set()
        self._outside = graph.readable()
        self._before = cache(graph.before)
        self._others = self._write_sources() if may_write else set[str]()
        if may_write:  # Snakemake looks once at which files a folder has, so all are there from the start
            for node, section in graph.nodes.items():
                if not Path(graph.settings(node)).exists():
                    want(Path(graph.settings(node)), section.dump(), made=False)
            for name in [*graph.tables, "statement"]:
                if not Path(graph.marker(name)).exists():
                    want(Path(graph.marker(name)), _lines(graph.copies(name)), made=False)
            atexit.register(self.save)

    def inputs(self, pattern: str) -> Input:
        """The input function of a rule for nodes given as a pattern; times count only where a node is not current."""

        def of(wildcards: Any) -> Sequence[Any]:
            node = pattern.format(**dict(wildcards.items()))
            paths = self._graph.inputs_of(node)
            return paths if self.is_stale(node) else [ancient(path) for path in paths]

        return of

    def copied(self, name: str) -> Input:
        """The input function of the rule that copies a table, or the statement."""

        def of(_: Any) -> Sequence[Any]:
            made, copies = self._graph.made(name), self._graph.copies(name)
            if not self._may_write:
                return [ancient(path) for path in made]
            is_same = all(_same(Path(one), Path(copy)) for one, copy in zip(made, copies, strict=True))
            is_copied = not self.is_stale(name if name == "statement" else f"tables/{name}") and is_same
            want(Path(self._graph.marker(name)), _lines(copies), made=is_copied)
            return [ancient(path) for path in made] if is_copied else made

        return of

    def is_stale(self, node: str) -> bool:
        """Whether a node is not current. Its settings, and those of all that it depends on, are then written."""
        if self._may_write and node not in self._judged:
            self._judge(node)
        return node in self._stale

    def save(self) -> None:
        """Save the digests of files that were read, for the next call."""
        self._known.save()

    def _judge(self, node: str) -> None:
        graph, new, waiting = self._graph, {node: None}, [node]
        for name in waiting:
            fresh = [one for one in self._before(name) if one not in self._judged and one not in new]
            new |= dict.fromkeys(fresh)
            waiting += fresh
        for name in new:
            settle(Path(graph.folder(name)))  # left by a killed call, or made by an older version
        refetched = {}
        if self._others:
            late = {name: [path for path in graph.outside(name) if path in self._others] for name in new}
            refetched = {name: f"{paths[0]} is of another source" for name, paths in late.items() if paths}
        sections = {name: graph.nodes[name] for name in new}
        self._stale |= self._results.stale(sections, self._before, self._outside, refetched)
        self._judged.update(new)
        for name, section in sections.items():
            want(Path(graph.settings(name)), section.dump(), made=name not in self._stale)

    def _write_sources(self) -> set[str]:
        """Write the wanted sources; returns the receipts that belong to another entry of the table of sources."""
        graph, others = self._graph, set[str]()
        for name, source in graph.sources.items():
            place, path = Place(Path(graph.raw)), f"{graph.raw}/receipts/{name}.ok"
            current = place.has_receipt(name, source)
            want(Path(graph.fetch_settings(name)), f"{source.digest}\n", made=current)
            if Path(path).exists() and not current:
                others.add(path)
        return others


def _lines(paths: Sequence[str]) -> str:
    return "".join(f"{path}\n" for path in paths)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()
