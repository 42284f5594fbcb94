"""Digests of file contents: results are compared by content, never by time."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURES = (".jpg", ".jpeg", ".png")  # identified by name and size: there are many, and no stage changes one
ABOUT = ("run.json", "settings.yaml")  # how and when a folder was made: not part of its content
CHUNK = 1 << 20  # bytes


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            found.update(part)
    return found.hexdigest()


class Known:
    """A cache of file digests by path, size and modification time; saved in a file between calls."""

    def __init__(self, path: Path, read: Callable[[Path], str] | None = None) -> None:
        """`path` is the file; `read` computes the digest of one file's bytes, by default their SHA-256."""
        self._path, self._read = path, read or sha256_of
        self._before: dict[str, list[Any]] = {}
        self._now: dict[str, list[Any]] = {}
        try:
            before = json.loads(path.read_text())
            self._before = before if isinstance(before, dict) else {}
        except (OSError, ValueError):
            pass  # a lost or damaged cache is rebuilt

    def __call__(self, path: Path) -> str:
        """The digest of a file's bytes."""
        found = path.stat()
        stamp = [found.st_size, found.st_mtime_ns, found.st_ino]
        name = str(path)
        kept = self._now.get(name) or self._before.get(name)
        digest = kept[3] if kept is not None and kept[:3] == stamp else self._read(path)
        self._now[name] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Save the digests of this call, and those of earlier calls whose files are still there."""
        if all(self._before.get(name) == found for name, found in self._now.items()):
            return
        earlier = {name: found for name, found in self._before.items() if Path(name).exists()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".{self._path.name}.part")
        aside.write_text(json.dumps(earlier | self._now))
        aside.replace(self._path)


def digest(path: Path, read: Callable[[Path], str] = sha256_of) -> dict[str, Any]:
    """The digest of a file or folder: names and bytes of all files, but for pictures only names and sizes.

    Left out are hidden files, and the files that say how and when a folder was made. `read` returns the digest of one
    file.
    """
    files = [path] if path.is_file() else files_of(path)
    whole, size = hashlib.sha256(), 0
    for file in files:
        length = file.stat().st_size
        size += length
        what = str(length) if file.suffix.lower() in PICTURES and file != path else read(file)
        whole.update(os.fsencode(file.relative_to(path.parent)) + f"\0{what}\n".encode())
    return {"files": len(files), "bytes": size, "sha256": whole.hexdigest()}


def files_of(folder: Path) -> list[Path]:
    """All files below a folder that belong to its content, sorted by name."""
    found, seen = [], set[str]()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]  # cycles of links
        seen.add(real)
        found += [Path(root, name) for name in names if not name.startswith(".") and name not in ABOUT]
    return sorted(file for file in found if file.is_file())
