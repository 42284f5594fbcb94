"""Which results are current: made with the settings that are wanted now, from inputs that hold what they held then.

Content decides, not the clock, so this is true of clones, copies, archives and other machines alike.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rmlr.study.content import digest, sha256_of
from rmlr.study.section import Section

SETTINGS, ABOUT = "settings.yaml", "run.json"


def is_same(section: Section, path: Path) -> bool:
    """Whether a settings file says what `section` says; a field at its default may be there or not."""
    try:
        if path.read_text() == section.dump():
            return True
        return type(section).load(path) == section
    except (OSError, ValueError):
        return False


def recorded_inputs(folder: Path) -> dict[str, str] | None:
    """The digest of each input that a finished folder was made from, by path; None where none is recorded."""
    try:
        inputs = json.loads((folder / ABOUT).read_text())["inputs"]
        return {path: found["sha256"] for path, found in inputs.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class Results:
    """The folders of a study's nodes, compared with what is wanted of them."""

    def __init__(self, root: Path, read: Callable[[Path], str] = sha256_of) -> None:
        self._root, self._read = root, read
        self._digests: dict[str, str | None] = {}

    def digest(self, path: str) -> str | None:
        """Of what is at a path now; None where there is nothing."""
        if path not in self._digests:
            at = Path(path)
            self._digests[path] = digest(at, self._read)["sha256"] if at.exists() else None
        return self._digests[path]

    def why_not(self, node: str, section: Section, before: Sequence[str], outside: Sequence[str]) -> str | None:
        """Why a node's folder is not current; None where it is.

        `before` are the nodes that it stands on, `outside` the paths below which all its other inputs are. Of those,
        what is not there is taken for unchanged: results may be kept where the data they were made from are not.
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
        """The nodes that are not current, and why: those of `known`, those that are found, and all that stand on them.

        In an order in which they can be made.
        """
        found: dict[str, str] = {}
        waiting, done = list(nodes), set[str]()
        while waiting:
            ready = [node for node in waiting if set(before(node)) <= done]
            if not ready:
                raise ValueError(f"these nodes stand on each other: {', '.join(waiting)}")
            for node in ready:
                why = known.get(node) or self.why_not(node, nodes[node], before(node), outside)
                above = [name for name in before(node) if name in found]
                if why or above:
                    found[node] = why or f"{above[0]} is not current"
            done.update(ready)
            waiting = [node for node in waiting if node not in done]
        return found


def _within(path: str, place: str) -> bool:
    return Path(path).is_relative_to(place)
