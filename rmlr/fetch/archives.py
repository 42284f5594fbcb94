"""Safe unpacking of untrusted archives: only wanted members, only plain files, never outside of the target folder."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

CHUNK = 1 << 20
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError)

Opener = Callable[[], Any]  # opens a binary file


def unpack(
    archive: Path,
    kind: Literal["zip", "tar.gz"],
    wanted: Mapping[str, Path],
    room: Callable[[int], None],
    said: Callable[[int], None],
) -> None:
    """Write members of an archive to new paths: `wanted` maps a file or folder of the archive to its target.

    Every member is checked, wanted or not. ValueError for an absolute path or one outside the folder, a link or a
    device, duplicate names, or a damaged archive. `room` is called with the bytes to be written, if the archive states
    them in advance; `said` with the bytes written so far. After an error, the caller removes what was written.
    """
    done = 0
    try:
        members = _zip_members(archive, wanted, room) if kind == "zip" else _tar_members(archive)
        for name, opener in members:
            target = _place(name, wanted)
            if target is None:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with opener() as source, target.open("xb") as file:
                    while chunk := source.read(CHUNK):
                        file.write(chunk)
                        done += len(chunk)
                        said(done)
            except FileExistsError as error:
                raise ValueError(f"{archive}: has two members '{name}'") from error
    except DAMAGE as error:
        raise ValueError(f"{archive}: damaged, or no {kind} archive ({error}). Get it again") from error
    except OSError as error:
        if error.errno is None:  # from gzip, not from the disk
            raise ValueError(f"{archive}: damaged, or no {kind} archive ({error}). Get it again") from error
        raise


def _zip_members(
    archive: Path, wanted: Mapping[str, Path], room: Callable[[int], None]
) -> Iterator[tuple[str, Opener]]:
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
        for info in infos:
            mode = info.external_attr >> 16
            kind = "link or device" if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) else None
            _must_be_safe(archive, info.orig_filename, kind)
        files = [info for info in infos if not info.is_dir()]
        room(sum(info.file_size for info in files if _place(info.filename, wanted)))
        for info in files:
            yield info.filename, partial(opened.open, info)


def _tar_members(archive: Path) -> Iterator[tuple[str, Opener]]:
    with tarfile.open(archive, "r|gz") as opened:
        for member in opened:
            plain = member.isreg() or member.isdir()
            _must_be_safe(archive, member.name, None if plain else "link or device")
            if member.isreg():
                yield member.name, partial(opened.extractfile, member)


def _must_be_safe(archive: Path, name: str, kind: str | None) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or (path.parts and path.parts[0].endswith(":")):
        raise ValueError(f"{archive}: member '{name}' is outside of its folder. It is not the expected archive")
    if kind is not None:
        raise ValueError(f"{archive}: member '{name}' is a {kind}, expected files and folders. It is not unpacked")


def _place(name: str, wanted: Mapping[str, Path]) -> Path | None:
    """The target of a member; None if it is not wanted."""
    path = PurePosixPath(name)
    for member, target in wanted.items():
        if path == PurePosixPath(member):
            return target
        if path.is_relative_to(member):
            return target / path.relative_to(member)
    return None
