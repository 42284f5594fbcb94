"""`make pull`: fetch the results of this commit from DVC's remote, verify them, and mark them as current for Snakemake.

Every object is hashed after it was fetched, whatever the kind of remote. One whose MD5 is not the one that `dvc.lock`
gives is removed from DVC's cache. A milestone is checked out only if all its objects are there. It is marked as current
only if its inputs, parameters, code and outputs, and those of all milestones before it, match `dvc.lock`.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx
from dvc.exceptions import DvcException
from dvc.fs.callbacks import TqdmCallback
from dvc.repo import Repo, lock_repo
from dvc_data.hashfile.tree import Tree

from rmlr.study.content import CHUNK, Known

MOST = 20  # errors that are listed


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

    absent: set[str] = field(default_factory=set)  # outputs that are not in the remote
    absent_below: list[str] = field(default_factory=list)  # files that are not, of folders whose lists are
    failed: dict[str, str] = field(default_factory=dict)  # damaged, or not transferred; what is wrong


class Objects:
    """The objects of DVC's cache, each hashed before it counts as there."""

    def __init__(self, repo: Repo) -> None:
        self._repo, self._cache = repo, repo.cache.local
        self._known = Known(Path(repo.tmp_dir or ".", "rmlr-verified.json"), md5_of)  # what was hashed by this program

    def bring(self, outs: Mapping[str, str]) -> Brought:
        """Fetch what the cache does not have of outputs, given as path: object name. A folder's name ends in `.dir`."""
        found = Brought()
        found.absent.update(self._fetch(outs, found.failed))
        folders = [(path, oid) for path, oid in outs.items() if oid.endswith(".dir") and self._is_there(oid)]
        below = {path: oid for folder in folders for path, oid in self._below(*folder)}
        found.absent_below += self._fetch(below, found.failed)
        self._known.save()
        return found

    def _below(self, folder: str, oid: str) -> list[tuple[str, str]]:
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

    def _fetch(self, wanted: Mapping[str, str], failed: dict[str, str]) -> list[str]:
        """Fetch objects by path of a result. Adds to `failed`, and returns the paths that are not in the remote."""
        spoilt = {oid for oid in set(wanted.values()) if self._damage(oid)}
        for path, oid in wanted.items():
            if oid in spoilt and Path(path).is_file():
                Path(path).touch()  # it may have come from that object: DVC hashes it again
        lacking = {path: oid for path, oid in wanted.items() if not self._is_there(oid)}
        if not lacking:
            return []
        remote, errors = self._repo.cloud.get_remote_odb(command="pull"), dict[str, BaseException]()
        names = list(dict.fromkeys(lacking.values()))
        paths = [remote.oid_to_path(name) for name in names]
        try:
            with TqdmCallback(desc="fetching", unit="file") as progress:
                self._cache.add(paths, remote.fs, names, callback=progress, on_error=errors.__setitem__)
        except Exception as error:  # each kind of remote has classes of its own
            name = self._repo.config["core"]["remote"]
            raise DvcException(
                f"remote '{name}': {type(error).__name__}: {error}. `dvc remote list` shows it"
            ) from error
        damage = {name: self._damage(name) for name in names}
        absent = []
        for path, name in lacking.items():
            error, where = errors.get(name), f"object {remote.fs.unstrip_protocol(remote.oid_to_path(name))}"
            if isinstance(error, FileNotFoundError):
                absent.append(path)
            elif error is not None:
                failed[path] = f"{where} was not transferred: {error or type(error).__name__}"
            elif damage[name] is not None:
                failed[path] = f"{where} is damaged: its MD5 is {damage[name]}"
        return absent


@dataclass
class Pulled:
    """What a pull ended with."""

    targets: list[str]  # Snakemake's, of the milestones that are current
    messages: list[str]
    errors: list[str]


def pull(repo: Repo, targets: Sequence[str]) -> Pulled:
    """Fetch, verify and check out milestones and all that they were made from; without targets all milestones."""
    chosen = {stage for target in targets or [None] for stage in repo.stage.collect(target, with_deps=True)}
    stages = [stage for stage in repo.index.stages if stage in chosen]
    made = [stage for stage in stages if all(out.hash_info for out in stage.outs)]
    outs = {
        stage: {
            os.path.relpath(out.fs_path): out.hash_info.value if out.hash_info else None
            for out in stage.outs
            if out.use_cache
        }
        for stage in stages
    }
    found = Objects(repo).bring({path: oid for stage in made for path, oid in outs[stage].items() if oid})
    wrong = dict(found.failed)
    wrong |= dict.fromkeys(found.absent_below, "is not in the remote, though the list of its folder is")
    broken = [stage for stage in made if any(_touches(path, outs[stage]) for path in wrong)]
    absent = [stage for stage in made if found.absent & outs[stage].keys() and stage not in broken]
    here = [stage for stage in made if stage not in [*absent, *broken]]

    names = [stage.addressing for stage in here]
    if names:
        repo.checkout(targets=names)
    status: dict[str, Any] = repo.status(targets=names) if names else {}
    sound = {stage for stage in here if stage.addressing not in status}
    current = [stage for stage in here if stage in sound and networkx.descendants(repo.index.graph, stage) <= sound]
    lacking = [path for stage in stages if stage not in here for path in outs[stage]]
    differing = {stage: _differences(status.get(stage.addressing, []), lacking) for stage in here}
    groups = {
        "not made at this commit": [stage for stage in stages if stage not in made],
        "not in the remote": absent,
        "here, but not all that it was made from": [one for one in here if one not in current and not differing[one]],
    }
    messages = [
        f"{stage.addressing}: does not match dvc.lock: {', '.join(paths)}"
        for stage, paths in differing.items()
        if paths
    ]
    messages += [f"{what}: {', '.join(stage.addressing for stage in group)}" for what, group in groups.items() if group]
    messages.append(f"{len(current)} of {len(stages)} milestones are here and current")
    marked = [target for stage in current if stage.cmd for target in str(stage.cmd).removeprefix("snakemake ").split()]
    return Pulled(marked, messages, [f"{path}: {why}" for path, why in wrong.items()])


def _touches(path: str, places: Iterable[str]) -> bool:
    """Whether a path lies below one of the places, or above."""
    return any(Path(path).is_relative_to(place) or Path(place).is_relative_to(path) for place in places)


def _differences(status: Sequence[Any], lacking: Sequence[str]) -> list[str]:
    """What differs by DVC's status of one stage: paths, or DVC's words; without inputs that are not here at all."""
    found = []
    for entry in status:
        found += [path for paths in entry.values() for path in paths] if isinstance(entry, dict) else [str(entry)]
    return [path for path in found if not _touches(path, lacking)]


def main() -> None:
    """Pull the milestones that the arguments name, and mark those that match."""
    try:
        with Repo() as repo, lock_repo(repo):
            pulled = pull(repo, sys.argv[1:])
    except DvcException as error:
        sys.exit(f"make pull: {error}")
    if pulled.targets:
        command = ["snakemake", "--touch", "--quiet", "all", "--", *pulled.targets]
        marked = subprocess.run(command, capture_output=True, text=True)
        if marked.returncode:
            pulled.errors.append(f"Snakemake could not mark them as current:\n{marked.stdout}{marked.stderr}")
    sys.stdout.write("".join(f"{message}\n" for message in pulled.messages))
    sys.stdout.flush()
    if pulled.errors:
        more = [f"and {len(pulled.errors) - MOST} more"] if len(pulled.errors) > MOST else []
        sys.exit("\n".join(f"make pull: {error}" for error in [*pulled.errors[:MOST], *more]))


if __name__ == "__main__":
    main()
