"""Fetches sources from the network or from the user's files: verified, unpacked, and recorded by a receipt."""

import errno
import json
import logging
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from rmlr.fetch.archives import unpack
from rmlr.fetch.download import MegabytesOf, Patience, download, mismatch, sha256
from rmlr.fetch.hub import check_snapshot, download_hub, hub_folder, name_commit
from rmlr.fetch.place import Place, measure
from rmlr.fetch.sources import Gift, Hub, Item, Source
from rmlr.study.files import RelativeName, read_json, read_text, write_whole

log = logging.getLogger(__name__)


class _Plan(BaseModel):
    """FILE.plan.json: files that are unpacked and counted, and only have to be renamed."""

    entry: str  # the table's entry when the plan was made
    about: dict[str, Any]  # for the receipt
    renames: list[tuple[RelativeName, RelativeName]]  # path in the work folder, target below RAW


class Fetcher:
    """Fetches sources into the folder of raw data."""

    def __init__(self, place: Place, have: Sequence[Path], patience: Patience, keep: bool) -> None:
        for folder in have:
            if not folder.is_dir():
                raise ValueError(f"--have {folder}: is not a folder")
        self.place, self.patience, self.keep = place, patience, keep
        self.have = [*have, place.archives]

    def fetch(self, name: str, source: Source) -> None:
        """Fetch one source, unless it exists; one process at a time."""
        work = self.place.work(name)
        work.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work.with_name(f"{name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("%s: another process is fetching it; waiting until it has finished", name)
            lock.acquire()
        try:
            trouble = self.place.trouble(name, source)
            if trouble is None:
                log.info("%s: exists", name)
                return
            kept = self.place.kept(name)
            if self.place.trouble(name, source, kept=True) is None:
                write_whole(self.place.receipt(name), read_text(kept))
                log.info("%s: exists, only its receipt was missing", name)
                return
            self.place.receipt(name).unlink(missing_ok=True)
            self._links_must_lead_somewhere(source)
            self._must_not_be_of_another_entry(name, source)
            log.info("%s: %s; fetching it", name, trouble)
            how = self._hub(name, source.hub) if source.hub else self._items(name, source)
            commit = how[0].get("commit") or ""
            paths = [self._snapshot(source.hub, commit)] if source.hub else self._paths(source)
            made = {str(path.relative_to(self.place.raw)): list(measure(path)) for path in paths}
            about = {"name": name, "source": source.digest, "time": _now(), "made": made, "how": how}
            for path in (kept, self.place.receipt(name)):
                write_whole(path, json.dumps(about) + "\n")
            shutil.rmtree(work, ignore_errors=True)
            total = sum(size for _, size in made.values())
            log.info("%s: done, %d files, %.2f GB", name, sum(n for n, _ in made.values()), total / 1e9)
        finally:
            lock.release()

    def _must_not_be_of_another_entry(self, name: str, source: Source) -> None:
        """ValueError if files here were unpacked from a different entry of the table, which counting cannot detect."""
        kept = self.place.kept(name)
        try:
            receipt = self.place.read_receipt(name, kept=True)
        except ValueError as error:
            raise ValueError(f"{error}. Remove it and give the same command again") from error
        unpacked = [gift.to for item in source.items if item.unpack for gift in item.gives]
        there = [self.place.raw / path for path in unpacked if (self.place.raw / path).exists()]
        if receipt is not None and receipt.source != source.digest and there:
            raise ValueError(
                f"{there[0]}: was fetched on {receipt.time} by an older entry of the table. Move it "
                f"away and give the same command again; or, if it matches the present entry, remove {kept}"
            )

    def _links_must_lead_somewhere(self, source: Source) -> None:
        """ValueError for a link of the user whose target does not exist, such as a disk that is not mounted."""
        for path in self._paths(source):
            for place in (path, *path.parents[: len(path.relative_to(self.place.raw).parts)]):
                if place.is_symlink() and not place.exists():
                    raise ValueError(
                        f"{place}: is a link to {place.readlink()}, which is missing. Mount that disk, or remove the "
                        "link, and give the same command again"
                    )

    def _paths(self, source: Source) -> list[Path]:
        return [self.place.raw / gift.to for gift in source.gifts]

    # ---- files and archives

    def _items(self, name: str, source: Source) -> list[dict[str, Any]]:
        work, size = self.place.work(name), 0
        for item in source.items:
            if self._is_placed(item) or self._find_tree(item) is not None or (work / f"{item.file}.plan.json").exists():
                continue
            have = max(_length(work / item.file), _length(work / f"{item.file}.part"))
            size += max(0, item.size - have) if self._find(item) is None else 0
            size += item.size if item.unpack else 0
        self._room(name, size)
        return [self._item(name, item) for item in source.items]

    def _item(self, name: str, item: Item) -> dict[str, Any]:
        """Fetch one file and move its contents to their targets; returns its entry in the receipt.

        The order is essential: verify, unpack into a temporary folder, count, write the plan of renames, rename. After
        a kill there is either only a part, or a plan of renames to complete.
        """
        work = self.place.work(name)
        plan, entry = work / f"{item.file}.plan.json", item.model_dump_json(exclude={"urls", "about"})
        content = _read_plan(plan)
        if content is None or content.entry != entry:  # of another entry, so of other files
            if self._is_placed(item):
                return self._adopt(item)
            if (tree := self._find_tree(item)) is not None:
                return self._link(item, tree)
            archive = self._find(item)
            url = str(archive) if archive else download(item, work / item.file, self.patience, self._seen(name, item))
            path = archive or work / item.file
            if archive is not None and (problem := mismatch(path, item)):
                raise ValueError(f"{path}: {problem}")
            found = item.sha256 if len(item.sha256) == 64 else sha256(path)
            if (seen := self._seen(name, item)) not in (None, found):
                raise ValueError(
                    f"{path}: has SHA-256 {found}, but first had {seen} ({self.place.raw / 'checksums.json'}). "
                    "Did the publisher replace the file, or did somebody else? Check before you remove that entry"
                )
            staged = self._stage(item, path, work / f"{item.file}.unpacked")
            if not item.is_known:
                facts = {"sha256": found, "bytes": _length(path), "seen": _now(), "from": url}
                self.place.remember(f"{name}/{item.file}", facts)
            about = {"file": item.file, "from": url, "bytes": _length(path), "sha256": found}
            content = _Plan(entry=entry, about=about, renames=staged)
            write_whole(plan, content.model_dump_json())
        for here, there in content.renames:
            source, target = work / here, self.place.raw / there
            if source.exists() or source.is_symlink():  # otherwise it was renamed before
                target.parent.mkdir(parents=True, exist_ok=True)
                _move(source, target)
        if self.keep and item.unpack and (work / item.file).exists():
            self.place.archives.mkdir(parents=True, exist_ok=True)
            (work / item.file).replace(self.place.archives / item.file)
        return content.about

    def _seen(self, name: str, item: Item) -> str | None:
        return None if item.is_known else self.place.first_seen().get(f"{name}/{item.file}", {}).get("sha256")

    def _stage(self, item: Item, path: Path, staging: Path) -> list[tuple[str, str]]:
        """Unpack and count an item in the work folder; returns the renames to do."""
        if item.unpack is None and path.parent == staging.parent:
            return [(path.name, item.gives[0].to)]
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        there = [gift for gift in item.gives if (self.place.raw / gift.to).exists()]
        for gift in there:
            self._must_be_right(item, gift)
        gifts = [gift for gift in item.gives if gift not in there]
        places = {gift.to: staging / str(number) for number, gift in enumerate(gifts)}
        if item.unpack is None:
            places[item.gives[0].to].symlink_to(path.resolve())
        else:
            said = MegabytesOf(f"unpacking {item.file}", item.size, 0)
            try:
                wanted = {gift.member: places[gift.to] for gift in gifts if gift.member}
                unpack(path, item.unpack, wanted, lambda size: self._room(item.file, size), said)
                for gift in gifts:
                    check_gift(places[gift.to], gift, f"{path}: {gift.member}")
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return [(str(places[gift.to].relative_to(staging.parent)), gift.to) for gift in gifts]

    # ---- files of the user

    def _is_placed(self, item: Item) -> bool:
        return all((self.place.raw / gift.to).exists() for gift in item.gives)

    def _adopt(self, item: Item) -> dict[str, Any]:
        """Use files that are already at their target, if they are the right ones."""
        for gift in item.gives:
            self._must_be_right(item, gift)
        kind = "checked" if item.unpack is None and item.is_known else "counted"
        return {"file": item.file, "from": f"found in place, {kind}", "bytes": None, "sha256": None}

    def _must_be_right(self, item: Item, gift: Gift) -> None:
        path = self.place.raw / gift.to
        try:
            check_gift(path, gift, str(path))
            if item.unpack is None and (problem := mismatch(path, item)):
                raise ValueError(f"{path}: {problem}")
        except ValueError as error:
            raise ValueError(f"{error}. Complete it, or move it away and give the same command again") from error

    def _find(self, item: Item) -> Path | None:
        """The file itself, in one of the user's folders."""
        return next((folder / item.file for folder in self.have if (folder / item.file).is_file()), None)

    def _find_tree(self, item: Item) -> dict[str, Path] | None:
        """The unpacked contents of an archive in one of the user's folders, named as in the archive or as here."""
        if item.unpack is None:
            return None
        for folder in self.have:
            found = {}
            for gift in item.gives:
                for path in (folder / (gift.member or ""), folder / gift.to):
                    if path.exists():
                        found.setdefault(gift.to, path)
            if len(found) == len(item.gives):
                return found
        return None

    def _link(self, item: Item, tree: dict[str, Path]) -> dict[str, Any]:
        for gift in item.gives:
            check_gift(tree[gift.to], gift, str(tree[gift.to]))
        for gift in item.gives:
            target = self.place.raw / gift.to
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(tree[gift.to].resolve())
        places = ", ".join(str(path) for path in tree.values())
        return {"file": item.file, "from": f"linked, counted: {places}", "bytes": None, "sha256": None}

    # ---- the hub

    def _hub(self, name: str, hub: Hub) -> list[dict[str, Any]]:
        seen = self.place.first_seen().get(name, {}).get("commit")
        cache = self.place.hub
        if (mine := self._find_hub(hub)) is not None:
            commit = check_snapshot(mine, hub, seen)
            target = hub_folder(cache, hub)
            if mine.resolve() != target.resolve():
                self._link_snapshot(mine / "snapshots" / commit, self._snapshot(hub, commit))
            name_commit(cache, hub, commit)
            url = str(mine)
        else:
            commit = download_hub(hub, cache, self.patience, seen, lambda size: self._room(name, size))
            url = f"hub:{hub.repository}"
        if hub.commit is None:
            self.place.remember(name, {"commit": commit, "seen": _now(), "from": url})
        return [{"from": url, "commit": commit}]

    def _link_snapshot(self, source: Path, target: Path) -> None:
        """Use a snapshot of the user's cache, by a link, so that neither cache is changed."""
        if target.is_symlink():
            target.unlink()
        elif target.exists():
            raise ValueError(
                f"{target}: exists already, from an unfinished fetch or from you. Move it away, and give the same "
                f"command again to use {source} instead"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())

    def _snapshot(self, hub: Hub, commit: str) -> Path:
        return hub_folder(self.place.hub, hub) / "snapshots" / commit

    def _find_hub(self, hub: Hub) -> Path | None:
        return next((path for folder in self.have if (path := hub_folder(folder, hub)).is_dir()), None)

    # ---- room

    def _room(self, what: str, size: int) -> None:
        """ValueError if the disk cannot take `size` more bytes."""
        self.place.raw.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.place.raw).free
        if size > free:
            raise ValueError(
                f"{what}: needs {size / 1e9:.2f} GB of {self.place.raw}, for downloads and unpacked files; "
                f"{free / 1e9:.2f} GB are free. Make room, or let {self.place.raw} be a link to a larger disk"
            )


def check_gift(path: Path, gift: Gift, where: str) -> None:
    """ValueError if unpacked or found files are not as many as expected, or one is empty."""
    if not path.exists():
        raise ValueError(f"{where}: is missing")
    if gift.files is None:
        if not path.is_file() or not path.stat().st_size:
            raise ValueError(f"{where}: expected a file that is not empty")
        return
    if not path.is_dir():
        raise ValueError(f"{where}: expected a folder of {gift.files} files")
    files = [file for file in path.iterdir() if not file.name.startswith(".")]
    if len(files) != gift.files:
        raise ValueError(f"{where}: {gift.files} files expected, {len(files)} found")
    if empty := next((file for file in files if not file.stat().st_size), None):
        raise ValueError(f"{where}: {empty.name} is empty")


def _move(source: Path, target: Path) -> None:
    """Rename; if a link leads to another disk, copy to a temporary name next to the target and rename there."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = target.with_name(f".{target.name}.part")
        if source.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(source, aside)
        else:
            shutil.copy2(source, aside, follow_symlinks=False)
        aside.rename(target)
        shutil.rmtree(source) if source.is_dir() else source.unlink()


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_plan(path: Path) -> _Plan | None:
    """The remaining renames of an interrupted fetch; None if there are none."""
    if not path.exists():
        return None
    try:
        return read_json(path, _Plan)
    except ValueError as error:
        raise ValueError(f"{error}. Remove the folder {path.parent} and give the same command again") from error
