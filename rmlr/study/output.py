"""Checks, before any work, whether an `out` may be written: files of the user are never replaced or removed.

`claim` is for a folder that a stage makes and replaces, `claim_new` for one that must not exist, `claim_shared` for one
that may be the user's, and `claim_file` for a file.

Hidden files and folders next to a folder NAME: `.NAME.part`, which is being written, `.NAME.old`, which is being
replaced, `.NAME.resume`, from which an interrupted stage resumes, `.NAME.lock`, held by the process that writes, and
`.NAME.mlflow`.
"""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from rmlr.study.made import ABOUT, Made, listed, made_by, names_below, stage_of

SIBLINGS = ("part", "old", "resume", "lock", "mlflow")
RESUMED = ("*.pt", "*.pt.part", "identity.txt", "shard-*.safetensors", ".shard-*.part")  # in `.NAME.resume`
KINDS = (  # of paths that are not folders
    (stat.S_ISREG, "a file"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def beside(place: Path, what: str) -> Path:
    """The hidden sibling of a folder, `what` of SIBLINGS."""
    return place.parent / f".{place.name}.{what}"


def claim(out: Path, maker: str, inputs: Iterable[Path] = ()) -> Path:
    """The folder of `out`, links resolved, if `maker` may create or replace it. Nothing is changed.

    ValueError names `out` if it is not a folder, contains files that `maker` did not write, is or contains an input or
    the current folder, or cannot be written.
    """
    place = _place(out)
    if os.path.ismount(place):
        raise ValueError(f"{out}: is the root of a file system, and cannot be renamed. Name a folder in it")
    if Path.cwd().is_relative_to(place):
        raise ValueError(f"{out}: is or contains the current folder, and would be replaced. Name another folder")
    _must_be_writable(out, place)
    _must_hold_no_input(out, place, inputs)
    for what in SIBLINGS:
        must_be_ours(beside(place, what), what, maker)
    if place.is_dir():
        made = made_by(place, maker)
        foreign = made.foreign()
        if foreign and not made.is_marked:
            damaged = ABOUT in foreign and stage_of(place) is None
            why = f"{ABOUT} in it cannot be read" if damaged else f"`rmlr {maker}` did not make it"
            raise ValueError(
                f"{out}: would be replaced, but is not empty ({listed(foreign)}), and {why}. Name a folder that is "
                "new or empty, or move this one away"
            )
        if foreign:
            raise ValueError(
                f"{out}: would be replaced, but has files that `rmlr {maker}` did not make, or that were changed: "
                f"{listed(foreign)}. Move it away, or name another folder"
            )
    return out if out.absolute() == place else place  # a message names the path as it was given


def claim_new(out: Path, maker: str, inputs: Iterable[Path] = ()) -> Path:
    """As `claim`, for a folder that must not exist."""
    if os.path.lexists(out):
        raise ValueError(f"{out}: exists already. Name a folder that does not, or remove it")
    return claim(out, maker, inputs)


def claim_shared(out: Path, maker: str, inputs: Iterable[Path] = ()) -> Made:
    """The list of `maker` in a folder that may be the user's; only listed files may be replaced. Nothing is changed.

    ValueError if `out` is not a folder, cannot be written, or is one of `inputs`.
    """
    place = _place(out)
    _must_be_writable(out, place, itself=True)
    for path in inputs:
        if path.exists() and place.exists() and path.samefile(place):
            raise ValueError(f"{out}: is an input. Name another folder")
    return Made.read(place, maker)


def claim_file(out: Path, maker: str, inputs: Iterable[Path] = ()) -> None:
    """ValueError if `out` cannot be written as a JSON file of `maker`, or is a file that no earlier call wrote.

    A file of an earlier call has the key `made_by`: `rmlr MAKER`.
    """
    if out.is_dir():
        raise ValueError(f"{out}: is a folder, expected a file. Name a file")
    if not os.path.lexists(out):
        return _must_be_writable(out, out.absolute())
    for path in inputs:
        if path.exists() and out.exists() and path.samefile(out):
            raise ValueError(f"{out}: is an input. Name another file")
    if out.is_symlink() or not out.is_file() or not _says_made_by(out, maker):
        raise ValueError(f"{out}: exists, and was not made by `rmlr {maker}`. Name another file, or move it away")
    return _must_be_writable(out, out.absolute())


def signed(maker: str) -> dict[str, str]:
    """The key by which `claim_file` recognises a file."""
    return {"made_by": f"rmlr {maker}"}


def _says_made_by(path: Path, maker: str) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and signed(maker).items() <= content.items()


def _place(out: Path) -> Path:
    """The path of a folder that exists or not, links resolved."""
    try:
        found = out.stat()
    except FileNotFoundError:
        if out.is_symlink():
            raise ValueError(f"{out}: is a broken link. Name a folder, or remove it") from None
        found = None
    except NotADirectoryError as error:
        raise ValueError(f"{out}: lies below a file. Name a folder below a folder") from error
    except OSError as error:  # the name is too long, or links form a cycle
        raise ValueError(f"{out}: cannot be a folder ({error.strerror}). Name another") from error
    if found is not None and not stat.S_ISDIR(found.st_mode):
        kind = next((kind for is_one, kind in KINDS if is_one(found.st_mode)), "no folder")
        raise ValueError(f"{out}: is {kind}, expected a folder. Name a folder")
    return out.resolve()


def _must_be_writable(out: Path, place: Path, *, itself: bool = False) -> None:
    """ValueError unless `place` and its siblings can be created or replaced; with `itself`, unless it is writable."""
    above = next(folder for folder in place.parents if os.path.lexists(folder))
    if not above.is_dir():
        raise ValueError(f"{out}: {above} is not a folder. Name a folder below one")
    folders = [place] if itself and place.is_dir() else [above, place] if place.is_dir() else [above]
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"{out}: {folder} is not writable. Name a folder below one that is")
    try:
        beside(place, "resume").lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ValueError(f"{out}: cannot be created ({error.strerror}). Give a shorter name") from error


def _must_hold_no_input(out: Path, place: Path, inputs: Iterable[Path]) -> None:
    """ValueError if `place` is an input or contains one, before or after links are resolved."""
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
                    raise ValueError(f"{out}: is or contains the input {path}, and would be replaced. Name another")


def must_be_ours(path: Path, what: str, maker: str) -> None:
    """ValueError if a hidden sibling is not what `maker` writes under that name."""
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        ours = False
    elif what == "lock":
        ours = path.is_file() and path.stat().st_size == 0
    elif what == "mlflow":
        ours = path.is_file() and b'{"identity"'.startswith(path.read_bytes()[:11])
    elif what == "resume":
        ours = path.is_dir() and all(any(Path(name).match(one) for one in RESUMED) for name in names_below(path))
    else:
        ours = path.is_dir() and (not names_below(path) or made_by(path, maker).is_marked)
    if not ours:
        raise ValueError(
            f"{path}: is in the way: `rmlr {maker}` would use this name, but did not make it, or an older version "
            "did. Move it away"
        )
