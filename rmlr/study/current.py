"""Which results are current: made with the present settings, from inputs whose content has not changed since.

Only content is compared, not time, so this also works for clones, copies, archives and other machines.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmlr.study.content import digest, sha256_of
from rmlr.study.section import Section

SETTINGS, ABOUT = "settings.yaml", "run.json"
CODE = "code"  # the digest of a node's code, in its settings


def is_same(section: Section, path: Path) -> bool:
    """Whether a settings file equals `section`; a field at its default may be present or not."""
    try:
        if path.read_text() == section.dump():
            return True
        return type(section).load(path) == section
    except (OSError, ValueError):
        return False


def differences(made: Section, wanted: Section) -> list[str]:
    """The differences between two settings of one node, except digests of code: `key: made -> wanted`."""
    one, other = _numbers(made), _numbers(wanted)
    return [f"{key}: {one.get(key)} -> {other.get(key)}" for key in {**one, **other} if one.get(key) != other.get(key)]


def code_of(section: Section) -> str:
    """The digest of a node's code, from its settings."""
    return str(section.model_dump(mode="json")[CODE])


def _numbers(section: Section) -> dict[str, Any]:
    return {key: leaf for key, leaf in _flat(section.model_dump(mode="json")) if key.rpartition(".")[2] != CODE}


def _flat(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a node by its dotted path."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if not below:
        yield above, tree
        return
    for key, part in below:
        yield from _flat(part, f"{above}.{key}" if above else str(key))


def recorded_inputs(folder: Path) -> dict[str, str] | None:
    """The digest of each input that a finished folder was made from, by path; None if it was not recorded."""
    try:
        inputs = json.loads((folder / ABOUT).read_text())["inputs"]
        return {path: found["sha256"] for path, found in inputs.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class Results:
    """The folders of a study's nodes, compared with their present settings."""

    def __init__(self, root: Path, read: Callable[[Path], str] = sha256_of) -> None:
        self._root, self._read = root, read
        self._digests: dict[str, str | None] = {}
        self._judged: dict[str, str | None] = {}  # why a node is not current, or None, in an order of making

    def digest(self, path: str) -> str | None:
        """The digest of the present content of a path; None if it does not exist."""
        if path not in self._digests:
            at = Path(path)
            self._digests[path] = digest(at, self._read)["sha256"] if at.exists() else None
        return self._digests[path]

    def why_not(self, node: str, section: Section, before: Sequence[str], outside: Sequence[str]) -> str | None:
        """Why a node's folder is not current; None if it is.

        `before` are the nodes that it depends on; all its other inputs are below the paths `outside`. If one of those
        is missing, it counts as unchanged: results may be kept without the data that they were made from.
        """
        folder = self._root / node
        recorded = recorded_inputs(folder)
        if recorded is None:
            return "not made"
        if not is_same(section, folder / SETTINGS):
            return "other settings"
        wanted = [str(self._root / name) for name in before]
        for path, made_from in recorded.items():
            is_result = Path(path).is_relative_to(self._root)
            if is_result and not any(_within(path, place) or _within(place, path) for place in wanted):
                return f"made from {path}"
            if not is_result and not any(_within(path, place) for place in outside):
                return f"made from {path}"
            found = self.digest(path)
            if found != made_from and (is_result or found is not None):
                return f"{path} has changed"
        return None

    def stale(
        self,
        nodes: Mapping[str, Section],
        before: Callable[[str], Sequence[str]],
        outside: Sequence[str],
        known: Mapping[str, str],
    ) -> dict[str, str]:
        """The nodes that are not current, and why: those of `known`, those that are found, and all that depend on them.

        The order is one in which they can be made. Each node is judged once: what `nodes` depend on is among them, or
        among those of an earlier call.
        """
        waiting = [node for node in nodes if node not in self._judged]
        while waiting:
            ready = [node for node in waiting if set(before(node)) <= self._judged.keys()]
            if not ready:
                raise ValueError(f"these nodes depend on each other: {', '.join(waiting)}")
            for node in ready:
                why = known.get(node) or self.why_not(node, nodes[node], before(node), outside)
                above = next((name for name in before(node) if self._judged[name]), None)
                self._judged[node] = why or (f"{above} is not current" if above else None)
            waiting = [node for node in waiting if node not in self._judged]
        return {node: why for node, why in self._judged.items() if why and node in nodes}


def _within(path: str, place: str) -> bool:
    return Path(path).is_relative_to(place)
