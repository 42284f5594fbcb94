"""`make pull`: fetch the results of this commit from DVC's remote, verify them, and mark them as current for Snakemake.

Every object is hashed after it was fetched, whatever the kind of remote. One whose MD5 is not the one that `dvc.lock`
gives is removed from DVC's cache. A milestone is checked out only if all its objects are there. It is marked as current
only if its inputs, parameters, code and outputs, and those of all milestones before it, match `dvc.lock`.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx
from dvc.exceptions import DvcException
from dvc.fs.callbacks import TqdmCallback
from dvc.repo import Repo, lock_repo
from dvc_data.hashfile.tree import Tree

from rmlr.study.content import CHUNK, Known


def md5_of(path: Path) -> str:
    """The MD5 of a file's bytes, by which DVC names it."""
    found = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            found.update(part)
    return found.hexdigest()


@dataclass
class Brought:
    """What a pull found, by path of a result."""

    absent: set[str] = field(default_factory=set)  # not in the remote
    failed: dict[str, str] = field(default_factory=dict)  # damaged, or not transferred; what is wrong


class Objects:
    """The objects of DVC's cache, each hashed before it counts as there."""

    def __init__(self, repo: Repo) -> None:
        self._repo, self._cache = repo, repo.cache.local
        self._known = Known(Path(repo.tmp_dir or ".", "rmlr-verified.json"), md5_of)  # what was hashed by this program

    def bring(self, outs: Mapping[str, str]) -> Brought:
        """Fetch what the cache does not have of outputs, given as path: object name. A folder's name ends in `.dir`."""
        found = Brought()
        self._fetch(outs, found)
        folders = {path: oid for path, oid in outs.items() if oid.endswith(".dir") and self._is_there(oid)}
        self._fetch({path: oid for folder in folders for path, oid in self.below(folder, folders[folder])}, found)
        self._known.save()
        return found

    def below(self, folder: str, oid: str) -> list[tuple[str, str]]:
        """Path and object name of each file of a folder whose list is in the cache."""
        tree = Tree.load(self._cache, self._cache.get(oid).hash_info)
        return [("/".join([folder, *key]), one.value) for key, _, one in tree if one is not None and one.value]

    def _is_there(self, oid: str) -> bool:
        return self._path(oid).exists()

    def _path(self, oid: str) -> Path:
        return Path(self._cache.oid_to_path(oid))

    def _damage(self, oid: str) -> str | None:
        """The MD5 of an object that is not what its name says; it is then removed from the cache."""
        path = self._path(oid)
        if not path.exists() or (found := self._known(path)) == oid.removesuffix(".dir"):
            return None
        path.unlink()
        return found

    def _fetch(self, wanted: Mapping[str, str], found: Brought) -> None:
        for path, oid in wanted.items():
            if self._damage(oid) and Path(path).is_file():
                Path(path).touch()  # it may have come from that object: DVC hashes it again
        lacking = {oid: path for path, oid in wanted.items() if not self._is_there(oid)}
        if not lacking:
            return
        remote, errors = self._repo.cloud.get_remote_odb(), dict[str, BaseException]()
        with TqdmCallback(desc="fetching", unit="file") as progress:
            paths = [remote.oid_to_path(oid) for oid in lacking]
            self._cache.add(paths, remote.fs, list(lacking), callback=progress, on_error=errors.__setitem__)
        for path, oid in wanted.items():
            if oid not in lacking:
                continue
            error, where = errors.get(oid), f"object {oid} of {remote.fs.unstrip_protocol(remote.path)}"
            if isinstance(error, FileNotFoundError):
                found.absent.add(path)
            elif error is not None:
                found.failed[path] = f"{where} was not transferred: {error or type(error).__name__}"
            elif (other := self._damage(oid)) is not None or not self._is_there(oid):
                found.failed[path] = f"{where} is damaged" + (f": its MD5 is {other}" if other else "")


def pull(repo: Repo, targets: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Fetch, verify and check out milestones and all before them; without targets all milestones.

    Returns the Snakemake targets of those that are current, messages on the others, and errors.
    """
    chosen = {stage for target in targets or [None] for stage in repo.stage.collect(target, with_deps=True)}
    stages = [stage for stage in repo.index.stages if stage in chosen and stage.cmd]
    outs = {
        stage: {os.path.relpath(out.fs_path): out.hash_info.value for out in stage.outs if out.use_cache}
        for stage in stages
    }
    made = [stage for stage in stages if all(outs[stage].values()) and not _is_unlocked(stage)]
    objects = Objects(repo)
    found = objects.bring({path: oid for stage in made for path, oid in outs[stage].items() if oid})
    absent = {stage for stage in made if outs[stage].keys() & found.absent}
    lost = {
        path: "is not in the remote, though its folder is" for path in sorted(found.absent) if not _is_of(path, outs)
    }
    errors = [f"{path}: {why}" for path, why in (found.failed | lost).items()]
    broken = {stage for stage in made if any(_is_below(path, outs[stage]) for path in found.failed | lost)}
    here = [stage for stage in made if stage not in absent | broken]
    if here:
        repo.checkout(targets=[stage.addressing for stage in here])
    status: dict[str, Any] = repo.status(targets=[stage.addressing for stage in here]) if here else {}
    graph = repo.index.graph
    sound = {stage for stage in here if stage.addressing not in status}
    current = [stage for stage in here if stage in sound and networkx.descendants(graph, stage) <= sound]
    messages = []
    if missing := [stage.addressing for stage in stages if stage not in made]:
        messages.append(f"not made at this commit: {', '.join(missing)}")
    if absent:
        messages.append(f"not in the remote: {', '.join(stage.addressing for stage in made if stage in absent)}")
    messages += [f"{stage.addressing} does not match dvc.lock: {_differences(status[stage.addressing])}"
                 for stage in here if stage not in sound]  # fmt: skip
    if above := [stage.addressing for stage in here if stage in sound and stage not in current]:
        messages.append(f"here, but made from what is not current: {', '.join(above)}")
    messages.append(f"{len(current)} of {len(stages)} milestones are here and current")
    return (
        [target for stage in current for target in str(stage.cmd).removeprefix("snakemake ").split()],
        messages,
        errors,
    )


def _is_unlocked(stage: Any) -> bool:
    return not all(out.hash_info for out in stage.outs)


def _is_of(path: str, outs: Mapping[Any, Mapping[str, str | None]]) -> bool:
    return any(path in paths for paths in outs.values())


def _is_below(path: str, places: Mapping[str, Any]) -> bool:
    return any(Path(path).is_relative_to(place) for place in places)


def _differences(status: Sequence[Any]) -> str:
    """What DVC's status says of one stage: the paths that differ."""
    paths = [path for entry in status if isinstance(entry, dict) for changed in entry.values() for path in changed]
    return ", ".join(paths) or ", ".join(map(str, status))


def main() -> None:
    """Pull the milestones that the arguments name, and mark those that match."""
    try:
        with Repo() as repo, lock_repo(repo):
            targets, messages, errors = pull(repo, sys.argv[1:])
    except DvcException as error:
        sys.exit(f"make pull: {error}")
    if targets:
        marked = subprocess.run(
            ["snakemake", "--touch", "--quiet", "all", "--", *targets], capture_output=True, text=True
        )
        if marked.returncode:
            errors.append(f"Snakemake could not mark them:\n{marked.stdout}{marked.stderr}")
    for message in messages:
        print(message)  # noqa: T201
    if errors:
        sys.exit("".join(f"make pull: {error}\n" for error in errors).rstrip())


if __name__ == "__main__":
    main()
