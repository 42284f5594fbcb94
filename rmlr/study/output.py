"""Where a stage or a command writes: whose the place may be, how a result appears whole, and what may be removed.

Each folder of ours holds a hidden file, `.rmlr-made`: who made what in it, one JSON object a line. Only what is listed
there, with its size, is ever replaced or removed. All else is the user's. The file outlives Snakemake, which removes
the outputs that a rule names before the rule runs and leaves the others.

Beside a folder NAME lie, hidden and ours: `.NAME.part`, which is being made, `.NAME.old`, which is being replaced,
`.NAME.resume`, what an interrupted stage resumes from, `.NAME.lock`, held by who writes, and `.NAME.mlflow`.
"""

import json
import logging
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

MADE = ".rmlr-made"
ABOUT = "run.json"  # the last file that a stage writes: with it a folder is finished
SIBLINGS = ("part", "old", "resume", "lock", "mlflow")
RESUMED = ("*.pt", "*.pt.part", "identity.txt", "shard-*.safetensors", ".shard-*.part")  # in `.NAME.resume`
KINDS = (  # of what is no folder
    (stat.S_ISREG, "a file"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
NAMED = 3  # of many files
OLDER_SLACK = 1.0  # seconds: file systems round times


# ---- what was made by whom


@dataclass
class Made:
    """What `maker` (a stage or a command) has made in a folder, as the folder's own list says.

    A command that writes into a folder of the user's calls `refuse` with all names that it will write, before any
    work, and `put` for each file.
    """

    folder: Path
    maker: str
    sizes: dict[str, set[int]] = field(default_factory=dict)  # by path below the folder; bytes
    is_marked: bool = False  # whether the list names the maker

    @classmethod
    def read(cls, folder: Path, maker: str) -> "Made":
        """The list of a folder, empty where there is none. ValueError where a file of its name is not ours."""
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
        """Say in the list that the maker is at work here."""
        self._append([{"by": self.maker}])

    def add(self, names: Iterable[str]) -> None:
        """Put files of the folder on the list."""
        entries = [{"by": self.maker, "file": name, "bytes": (self.folder / name).lstat().st_size} for name in names]
        self._append(entries)

    def put(self, aside: Path, name: str) -> None:
        """Rename a finished file `aside` to `name` in the folder; before that it is on the list, whatever happens."""
        self._append([{"by": self.maker, "file": name, "bytes": aside.stat().st_size}])
        aside.replace(self.folder / name)

    def has(self, name: str) -> bool:
        """Whether the file that lies there is the one on the list."""
        try:
            found = (self.folder / name).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size in self.sizes.get(name, ())

    def refuse(self, names: Iterable[str]) -> None:
        """ValueError if a file that is there under one of these names is not the maker's."""
        there = sorted({name for name in names if os.path.lexists(self.folder / name) and not self.has(name)})
        if there:
            raise ValueError(
                f"{self.folder}: has {_listed(there)} already, not made by `rmlr {self.maker}` or changed since, and "
                "would lose it. Name another folder, or move the file(s) away"
            )

    def foreign(self) -> list[str]:
        """All that lies in the folder and is not on the list; empty folders are nobody's."""
        own = {MADE, ABOUT} if self.is_marked else {MADE}
        return [name for name in _names(self.folder) if name not in own and not self.has(name)]

    def _append(self, entries: list[dict[str, str | int]]) -> None:
        with (self.folder / MADE).open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # a line that a kill cut off
            file.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())
        self.is_marked = True
        for entry in entries:
            if "file" in entry:
                self.sizes.setdefault(str(entry["file"]), set()).add(int(entry["bytes"]))


def _names(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative to it; links count as files, whatever they lead to."""
    found = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [str((Path(root) / name).relative_to(folder)) for name in [*files, *links]]
    return sorted(found)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more


def read_about(folder: Path) -> dict[str, Any]:
    """What `run.json` of a folder says; empty where it is absent or damaged."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        datetime.fromisoformat(about["began"])
        return about if isinstance(about["stage"], str) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _stage_of(folder: Path) -> str | None:
    return read_about(folder).get("stage")


def _of_older_version(folder: Path, maker: str) -> Made | None:
    """The list of a folder that a version without lists made: the files written between its stage's start and end.

    None where `run.json` does not say that the stage made the folder. A file that was written at another time is left
    to the user.
    """
    if _stage_of(folder) != maker:
        return None
    began = datetime.fromisoformat(read_about(folder)["began"]).timestamp() - OLDER_SLACK
    ended = (folder / ABOUT).stat().st_mtime + OLDER_SLACK
    made = Made(folder, maker, is_marked=True)
    for name in _names(folder):
        found = (folder / name).lstat()
        if stat.S_ISREG(found.st_mode) and began <= found.st_mtime <= ended:
            made.sizes[name] = {found.st_size}
    return made


def made_by(folder: Path, maker: str) -> Made:
    """What a stage made in a folder, by its list, or for older versions by `run.json` and the times of the files."""
    made = Made.read(folder, maker)
    if not made.is_marked and (older := _of_older_version(folder, maker)) is not None:
        return older
    return made


# ---- before any work


def claim(out: Path, maker: str, inputs: Iterable[Path] = ()) -> Path:
    """The folder that `out` means, links followed, if `maker` may make or replace it. Nothing is changed.

    ValueError names `out` where it is no folder, holds anything that `maker` did not make, is or holds an input, is
    where the user stands, or cannot be written.
    """
    place = _place(out)
    if os.path.ismount(place):
        raise ValueError(f"{out}: is where a file system begins, and cannot be renamed. Name a folder in it")
    if Path.cwd().is_relative_to(place):
        raise ValueError(f"{out}: is or holds the current folder, and would be replaced. Name another folder")
    _must_be_writable(out, place)
    _must_hold_no_input(out, place, inputs)
    for what in SIBLINGS:
        _must_be_ours(beside(place, what), what, maker)
    if place.is_dir():
        made = made_by(place, maker)
        foreign = made.foreign()
        if foreign and not made.is_marked:
            damaged = ABOUT in foreign and _stage_of(place) is None
            why = f"{ABOUT} in it cannot be read" if damaged else f"`rmlr {maker}` did not make it"
            raise ValueError(
                f"{out}: would be replaced, but is not empty ({_listed(foreign)}), and {why}. Name a folder that is "
                "new or empty, or move this one away"
            )
        if foreign:
            raise ValueError(
                f"{out}: holds what `rmlr {maker}` did not make, or what was changed since, and would be replaced: "
                f"{_listed(foreign)}. Move it away, or name another folder"
            )
    return place


def claim_new(out: Path, maker: str, inputs: Iterable[Path] = ()) -> Path:
    """As `claim`, for a folder that must not exist."""
    if os.path.lexists(out):
        raise ValueError(f"{out}: exists already. Name a folder that does not, or remove it")
    return claim(out, maker, inputs)


def claim_shared(out: Path, maker: str, inputs: Iterable[Path] = ()) -> Made:
    """What `maker` made in a folder that may be the user's, in which it replaces only that. Nothing is changed.

    ValueError where `out` is no folder, cannot be written, or is one of `inputs`.
    """
    place = _place(out)
    _must_be_writable(out, place, itself=True)
    for path in inputs:
        if path.exists() and place.exists() and path.samefile(place):
            raise ValueError(f"{out}: is an input. Name another folder")
    return Made.read(place, maker)


def claim_file(out: Path, maker: str, inputs: Iterable[Path] = ()) -> None:
    """ValueError if `out` cannot be written as a JSON file of `maker`, or is a file that an earlier call did not make.

    Ours are those with the key `made_by`: `rmlr MAKER`.
    """
    if out.is_dir():
        raise ValueError(f"{out}: is a folder, and a file is to be written. Name a file")
    if not os.path.lexists(out):
        return _must_be_writable(out, out.absolute())
    for path in inputs:
        if path.exists() and out.exists() and path.samefile(out):
            raise ValueError(f"{out}: is an input. Name another file")
    if out.is_symlink() or not out.is_file() or not _says_made_by(out, maker):
        raise ValueError(f"{out}: exists, and was not made by `rmlr {maker}`. Name another file, or move it away")
    return _must_be_writable(out, out.absolute())


def signed(maker: str) -> dict[str, str]:
    """What `claim_file` looks for in a file."""
    return {"made_by": f"rmlr {maker}"}


def _says_made_by(path: Path, maker: str) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and signed(maker).items() <= content.items()


def _place(out: Path) -> Path:
    """Where a folder is, or would be, links followed."""
    try:
        found = out.stat()
    except FileNotFoundError:
        if out.is_symlink():
            raise ValueError(f"{out}: is a link that leads nowhere. Name a folder, or remove it") from None
        found = None
    except NotADirectoryError as error:
        raise ValueError(f"{out}: lies below a file. Name a folder below a folder") from error
    except OSError as error:  # too long a name, a circle of links
        raise ValueError(f"{out}: cannot be a folder ({error.strerror}). Name another") from error
    if found is not None and not stat.S_ISDIR(found.st_mode):
        kind = next((kind for is_one, kind in KINDS if is_one(found.st_mode)), "no folder")
        raise ValueError(f"{out}: is {kind}, and a folder is to be written. Name a folder")
    return out.resolve()


def _must_be_writable(out: Path, place: Path, *, itself: bool = False) -> None:
    """ValueError unless `place` and its siblings can be made or replaced; or, if `itself` is meant, written into."""
    above = next(folder for folder in place.parents if os.path.lexists(folder))
    if not above.is_dir():
        raise ValueError(f"{out}: {above} is no folder. Name a folder below one")
    folders = [place] if itself and place.is_dir() else [above, place] if place.is_dir() else [above]
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"{out}: {folder} cannot be written. Name a folder below one that can")
    try:
        beside(place, "resume").lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ValueError(f"{out}: cannot be made ({error.strerror}). Give a shorter name") from error


def _must_hold_no_input(out: Path, place: Path, inputs: Iterable[Path]) -> None:
    """ValueError if `place` is an input or lies above one, as it is named or where links lead to."""
    if not place.exists():
        return
    own = place.stat()
    for path in inputs:
        named = Path(os.path.abspath(path))  # noqa: PTH100 (links are not followed)
        for start in (named, path.resolve()):
            for folder in (start, *start.parents):
                try:
                    found = folder.stat()
                except OSError:
                    continue
                if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                    raise ValueError(f"{out}: is or holds the input {path}, and would be replaced. Name another folder")


def _must_be_ours(path: Path, what: str, maker: str) -> None:
    """ValueError if a hidden sibling is something else than what `maker` leaves under its name."""
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        ours = False
    elif what == "lock":
        ours = path.is_file() and path.stat().st_size == 0
    elif what == "mlflow":
        ours = path.is_file() and b'{"identity"'.startswith(path.read_bytes()[:11])
    elif what == "resume":
        ours = path.is_dir() and all(any(Path(name).match(one) for one in RESUMED) for name in _names(path))
    else:
        ours = path.is_dir() and (not _names(path) or made_by(path, maker).is_marked)
    if not ours:
        raise ValueError(
            f"{path}: is in the way: `rmlr {maker}` would use this name, but did not make it, or an older version "
            "did. Move it away"
        )


# ---- at work


def beside(place: Path, what: str) -> Path:
    """The hidden sibling of a folder, `what` of SIBLINGS."""
    return place.parent / f".{place.name}.{what}"


@contextmanager
def only_writer(place: Path) -> Iterator[None]:
    """Hold the folder's lock; wait for another process that writes it, such as one whose scheduler was killed."""
    lock = FileLock(beside(place, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is making it; waiting for its end", place)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def begin(place: Path, maker: str) -> Path:
    """An empty hidden folder beside `place` to write into. Call it under the lock, after `claim`."""
    recover(place, maker)
    _list_older(place, maker)
    folder = beside(place, "part")
    folder.mkdir()
    Made(folder, maker).mark()
    return folder


def finish(folder: Path, maker: str) -> None:
    """List all that was made in a folder from `begin`. What a stage writes after it, is `run.json`."""
    Made(folder, maker).add(name for name in _names(folder) if name != MADE)


def publish(folder: Path, place: Path, maker: str) -> None:
    """Put a finished folder in the place of an older one; at every moment what stands there is whole, or nothing.

    ValueError, and nothing changed, if something foreign has come into the older one.
    """
    if place.is_dir() and any(place.iterdir()):
        if foreign := made_by(place, maker).foreign():
            raise ValueError(
                f"{place}: {_listed(foreign)} was put there in the meantime. Move it away and give the same command "
                f"again: the result waits in {folder}"
            )
        place.rename(beside(place, "old"))
    elif place.is_dir():
        place.rmdir()
    folder.rename(place)
    _remove(beside(place, "old"), maker)


def discard(folder: Path) -> None:
    """Remove a folder from `begin`."""
    shutil.rmtree(folder, ignore_errors=True)


def recover(place: Path, maker: str) -> None:
    """End what a kill cut short: an exchange of folders is completed, or undone; a folder that was begun is removed."""
    part, old = beside(place, "part"), beside(place, "old")
    if old.is_dir() and not place.exists() and not is_finished(part):
        old.rename(place)
    if is_finished(part) and (not is_finished(place) or _written(part) > _written(place)):
        publish(part, place, maker)
    for leftover in (part, old):
        if not _remove(leftover, maker, begun=leftover == part):
            raise ValueError(f"{leftover}: holds what `rmlr {maker}` did not make. Move it away")


def settle(place: Path) -> None:
    """Before a plan is made: end what a kill cut short, and give what an older version made its list.

    Nothing happens where a process is at work, or where what lies there is not a stage's.
    """
    stage = next((stage for what in ("part", "old") if (stage := _stage_of(beside(place, what)))), _stage_of(place))
    if stage is None:
        return
    is_whole = not any(beside(place, what).exists() for what in ("part", "old"))
    if is_whole and (place / MADE).exists():
        return
    try:
        for what in SIBLINGS:
            _must_be_ours(beside(place, what), what, stage)
        with FileLock(beside(place, "lock"), timeout=0):
            recover(place, stage)
            _list_older(place, stage)
    except (ValueError, OSError):
        return  # in use, or not ours; whoever writes it will say so


def is_finished(folder: Path) -> bool:
    """Whether a stage has written its last file here."""
    return (folder / ABOUT).is_file()


def _written(folder: Path) -> float:
    return (folder / ABOUT).stat().st_mtime


def _list_older(place: Path, maker: str) -> None:
    """Give a folder of an older version its list."""
    if place.is_dir() and not Made.read(place, maker).is_marked:
        made = _of_older_version(place, maker)
        if made is not None:
            names = [name for name in made.sizes if name != ABOUT]
            made.add(names)


def _remove(folder: Path, maker: str, *, begun: bool = False) -> bool:
    """Remove what was made in a hidden sibling, and it; False if something else is left, with which it stays.

    What was `begun` has no list yet, and is removed as a whole.
    """
    if not folder.is_dir():
        return True
    made = made_by(folder, maker)
    if begun and made.is_marked:
        shutil.rmtree(folder)
        return True
    for name in (name for name in made.sizes if name not in (MADE, ABOUT) and made.has(name)):
        (folder / name).unlink()
    if made.is_marked:
        (folder / ABOUT).unlink(missing_ok=True)
    for root, _, _ in os.walk(folder, topdown=False):
        if root != str(folder) and not any(Path(root).iterdir()):
            Path(root).rmdir()
    if left := [name for name in _names(folder) if name != MADE]:
        log.warning("%s: is kept, for it holds what `rmlr %s` did not make: %s", folder, maker, _listed(left))
        return False
    (folder / MADE).unlink(missing_ok=True)
    folder.rmdir()
    return True


@contextmanager
def new_folder(out: Path, maker: str, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Gives a path to write a folder to. It becomes `out`, which must not exist, when all is done."""
    place = claim_new(out, maker, inputs)
    place.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(place):
        folder = begin(place, maker)
        try:
            yield folder / place.name
            claim_new(out, maker)
            (folder / place.name).rename(place)
        finally:
            discard(folder)
