"""Atomic output folders: a result is written into a hidden folder, which is renamed when it is complete."""

import errno
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rmlr.study.files import FULL, disk_full
from rmlr.study.made import (
    ABOUT,
    MADE,
    Made,
    is_finished,
    listed,
    made_by,
    names_below,
    of_older_version,
    read_about,
    stage_of,
)
from rmlr.study.output import SIBLINGS, beside, claim_new, must_be_ours

log = logging.getLogger(__name__)

FULL_IN_WORDS = (os.strerror(errno.ENOSPC), "failed writing file", "unexpected pos")  # safetensors; torch.save


@contextmanager
def only_writer(place: Path) -> Iterator[None]:
    """Hold the folder's lock. Waits for another process that writes it, such as one whose scheduler was killed."""
    lock = FileLock(beside(place, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is writing it; waiting until it has finished", place)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def begin(place: Path, maker: str) -> Path:
    """An empty hidden folder next to `place` to write into. Call it under the lock, after `claim`."""
    recover(place, maker)
    _list_older(place, maker)
    folder = beside(place, "part")
    folder.mkdir()
    Made(folder, maker).mark()
    return folder


def finish(folder: Path, maker: str) -> None:
    """List all files that were written in a folder from `begin`. After this call, a stage writes only `run.json`."""
    Made(folder, maker).add(name for name in names_below(folder) if name != MADE)


def publish(folder: Path, place: Path, maker: str) -> None:
    """Replace an older folder by a finished one. At any moment, the place holds a complete folder or nothing.

    ValueError, without any change, if files that are not on the older one's list have been added to it.
    """
    if place.is_dir() and any(place.iterdir()):
        if foreign := made_by(place, maker).foreign():
            raise ValueError(
                f"{place}: {listed(foreign)} was put there in the meantime. Move it away and repeat the "
                f"command: the result is kept in {folder}"
            )
        place.rename(beside(place, "old"))
    elif place.is_dir():
        place.rmdir()
    folder.rename(place)
    _remove(beside(place, "old"), maker)


def set_aside(place: Path) -> None:
    """The reverse of `publish`: a finished folder gets its hidden name again, until `recover`. Under the lock."""
    place.rename(beside(place, "part"))


def discard(folder: Path) -> None:
    """Remove a folder from `begin`."""
    shutil.rmtree(folder, ignore_errors=True)


def recover(place: Path, maker: str) -> None:
    """Clean up after a killed process: complete or undo an exchange of folders; remove an unfinished folder."""
    part, old = beside(place, "part"), beside(place, "old")
    if old.is_dir() and not place.exists() and not is_finished(part):
        old.rename(place)
    if is_finished(part) and (not is_finished(place) or _written(part) > _written(place)):
        publish(part, place, maker)
    for leftover in (part, old):
        if not _remove(leftover, maker, begun=leftover == part):
            raise ValueError(f"{leftover}: holds what `rmlr {maker}` did not make. Move it away")


def settle(place: Path) -> None:
    """Before planning: clean up after a killed process, and write the list for a folder of an older version.

    Nothing is changed if a process is writing the folder, or if its content is not a stage's.
    """
    if is_finished(place) and not read_about(place):
        log.warning("%s: is damaged. Remove %s to make it again", place / ABOUT, place)
    places = [*(beside(place, what) for what in ("part", "old")), place]
    if (place / MADE).exists() and not any(one.exists() for one in places[:-1]):
        return
    stage = next((stage for one in places if (stage := stage_of(one))), None)
    if stage is None:
        return
    try:
        for what in SIBLINGS:
            must_be_ours(beside(place, what), what, stage)
        with FileLock(beside(place, "lock"), timeout=0):
            recover(place, stage)
            _list_older(place, stage)
    except (ValueError, OSError):
        return  # in use, or not ours; the process that writes it will report this


def _written(folder: Path) -> float:
    return (folder / ABOUT).stat().st_mtime


def _list_older(place: Path, maker: str) -> None:
    """Write the list for a folder of an older version."""
    if place.is_dir() and not Made.read(place, maker).is_marked:
        made = of_older_version(place, maker)
        if made is not None:
            names = [name for name in made.sizes if name != ABOUT]
            made.add(names)


def _remove(folder: Path, maker: str, *, begun: bool = False) -> bool:
    """Remove the listed files of a hidden sibling, and the folder itself. False if other files are left, which are
    kept.

    A folder from `begin` (`begun`) has no list yet, and is removed as a whole.
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
    if left := [name for name in names_below(folder) if name != MADE]:
        log.warning("%s: is kept, since it holds files that `rmlr %s` did not make: %s", folder, maker, listed(left))
        return False
    (folder / MADE).unlink(missing_ok=True)
    folder.rmdir()
    return True


@contextmanager
def new_folder(out: Path, maker: str, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yields a path to write a folder to. It is renamed to `out`, which must not exist, at the end."""
    place = claim_new(out, maker, inputs)
    place.parent.mkdir(parents=True, exist_ok=True)
    with naming(out), only_writer(place):
        folder = begin(place, maker)
        try:
            yield folder / place.name
            claim_new(out, maker)
            (folder / place.name).rename(place)
        finally:
            discard(folder)


@contextmanager
def naming(out: Path) -> Iterator[None]:
    """Add `out` to errors of a full or failing disk that do not name it, or that come from a library."""
    try:
        yield
    except ValueError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
            raise disk_full(error.__cause__, out) from error
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or any(words in str(error) for words in FULL_IN_WORDS):
            full = error if isinstance(error, OSError) else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise disk_full(full, out) from error
        named = isinstance(error, OSError) and error.filename is not None
        if number is not None and not named and not isinstance(error, ConnectionError | TimeoutError):
            raise OSError(number, os.strerror(number), str(out)) from error
        raise
