"""The list of files that stages wrote in a folder, so that no other file is ever replaced or removed.

The list is a hidden file, `.rmlr-made`: the stage, name and size of each file, one JSON object per line. A file that is
not on it, or has another size, belongs to the user. Snakemake does not remove the list: before a rule runs, it removes
only the outputs that the rule names.
"""

import json
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

MADE = ".rmlr-made"
ABOUT = "run.json"  # the last file that a stage writes: it marks a folder as finished
NAMED = 3  # of many files, in a message
OLDER_SLACK = 1.0  # seconds: file systems round times


@dataclass
class Made:
    """The files that `maker` (a stage or a command) wrote in a folder, according to the folder's list.

    A command that writes into the user's folder calls `refuse` with all names that it will write, before any work, and
    `put` for each file.
    """

    folder: Path
    maker: str
    sizes: dict[str, set[int]] = field(default_factory=dict)  # by path below the folder; bytes
    is_marked: bool = False  # whether the list names the maker

    @classmethod
    def read(cls, folder: Path, maker: str) -> "Made":
        """The list of a folder, empty if there is none. ValueError if a file of that name is not such a list."""
        made = cls(folder, maker)
        path = folder / MADE
        if not os.path.lexists(path):
            return made
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path}: is not the list that rmlr keeps under this name. Move it away")
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines):
            if not line:
                continue
            try:
                entry = json.loads(line)
                by, name, size = entry["by"], entry.get("file"), entry.get("bytes")
                hash((name, size))  # neither is a list
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                if number and line is lines[-1]:
                    continue  # cut off by a kill
                raise ValueError(f"{path}: is not the list that rmlr keeps under this name. Move it away") from error
            if by == maker:
                made.is_marked = True
                if name is not None:
                    made.sizes.setdefault(name, set()).add(size)
        return made

    def mark(self) -> None:
        """Record in the list that the maker writes here."""
        self._append([{"by": self.maker}])

    def add(self, names: Iterable[str]) -> None:
        """Add files of the folder to the list."""
        entries = [{"by": self.maker, "file": name, "bytes": (self.folder / name).lstat().st_size} for name in names]
        self._append(entries)

    def put(self, aside: Path, name: str) -> None:
        """Add a finished file `aside` to the list, then rename it to `name` in the folder."""
        self._append([{"by": self.maker, "file": name, "bytes": aside.stat().st_size}])
        aside.replace(self.folder / name)

    def has(self, name: str) -> bool:
        """Whether the file in the folder is the one on the list."""
        try:
            found = (self.folder / name).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size in self.sizes.get(name, ())

    def refuse(self, names: Iterable[str]) -> None:
        """ValueError if a file with one of these names exists that the maker did not write."""
        there = sorted({name for name in names if os.path.lexists(self.folder / name) and not self.has(name)})
        if there:
            raise ValueError(
                f"{self.folder}: has {listed(there)} already, not made by `rmlr {self.maker}` or changed since, and "
                "would lose it. Name another folder, or move the file(s) away"
            )

    def foreign(self) -> list[str]:
        """All files in the folder that are not on the list; empty folders do not count."""
        own = {MADE, ABOUT} if self.is_marked else {MADE}
        return [name for name in names_below(self.folder) if name not in own and not self.has(name)]

    def _append(self, entries: list[dict[str, str | int]]) -> None:
        with (self.folder / MADE).open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # a line that a kill cut off
            file.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())
        self.is_marked = True
        for entry in entries:
            if "file" in entry:
                self.sizes.setdefault(str(entry["file"]), set()).add(int(entry["bytes"]))


def names_below(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative to it; links count as files, whatever they point to."""
    found = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [str((Path(root) / name).relative_to(folder)) for name in [*files, *links]]
    return sorted(found)


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more


def read_about(folder: Path) -> dict[str, Any]:
    """The content of a folder's `run.json`; empty if it is absent or damaged."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        datetime.fromisoformat(about["began"])
        return about if isinstance(about["stage"], str) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def stage_of(folder: Path) -> str | None:
    return read_about(folder).get("stage")


def of_older_version(folder: Path, maker: str) -> Made | None:
    """The list for a folder of a version without lists: the files written between its stage's start and end.

    None if `run.json` does not say that the stage wrote the folder. A file that was written at another time counts as
    the user's.
    """
    if stage_of(folder) != maker:
        return None
    began = datetime.fromisoformat(read_about(folder)["began"]).timestamp() - OLDER_SLACK
    ended = (folder / ABOUT).stat().st_mtime + OLDER_SLACK
    made = Made(folder, maker, is_marked=True)
    for name in names_below(folder):
        found = (folder / name).lstat()
        if stat.S_ISREG(found.st_mode) and began <= found.st_mtime <= ended:
            made.sizes[name] = {found.st_size}
    return made


def made_by(folder: Path, maker: str) -> Made:
    """The files that a stage wrote in a folder, from its list, or for older versions from `run.json` and file times."""
    made = Made.read(folder, maker)
    if not made.is_marked and (older := of_older_version(folder, maker)) is not None:
        return older
    return made


def is_finished(folder: Path) -> bool:
    """Whether a stage has written its last file here."""
    return (folder / ABOUT).is_file()
