"""Repositories of the Hugging Face hub, at one commit, every file verified, in a cache of the hub's own layout."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmlr.fetch.download import LONGEST_WAIT, MegabytesOf, Patience, git_blob, sha256
from rmlr.fetch.sources import Hub
from rmlr.study.files import FULL, disk_full, read_text, write_whole

SUPERSEDED = (".h5", ".msgpack", ".ot", ".onnx", ".tflite", ".mlmodel")  # weights of other frameworks
PICKLES = (".bin", ".pth", ".pt")  # left out if the same weights exist as safetensors


def hub_files(siblings: list[Any]) -> list[Any]:
    """The files of a hub repository that transformers reads with torch."""
    top = [file for file in siblings if "/" not in file.rfilename and not file.rfilename.startswith(".")]
    top = [file for file in top if not file.rfilename.endswith((*SUPERSEDED, ".md"))]
    if any(file.rfilename.endswith(".safetensors") for file in top):
        top = [file for file in top if not file.rfilename.endswith(PICKLES)]
    return top


def download_hub(hub: Hub, cache: Path, patience: Patience, seen: str | None, room: Callable[[int], None]) -> str:
    """Download a hub repository into a cache of the hub's own layout, every file verified; returns its commit.

    The commit is that of the table, or the one `seen` by an earlier fetch, or the one that the revision points to now.
    """
    try:
        from huggingface_hub import HfApi, errors, hf_hub_download
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise ValueError("the hub needs huggingface_hub: pip install 'rmlr[fetch]'") from error
    disable_progress_bars()
    wanted = hub.commit or seen
    where = f"{hub.repository} at {wanted or hub.revision}"

    def patiently(what: Callable[[], Any]) -> Any:
        problem: Exception | None = None
        for attempt in range(patience.attempts):
            try:
                return what()
            except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
                raise ValueError(f"the hub has no {where}: {_first_line(error)}") from error
            except Exception as error:  # the client's HTTP package has its own errors
                if isinstance(error, OSError) and error.errno in FULL:
                    raise disk_full(error, cache) from error
                problem = error
            time.sleep(min(patience.pause * 2**attempt, LONGEST_WAIT) if attempt + 1 < patience.attempts else 0)
        raise ValueError(f"{where}: given up after {patience.attempts} attempts: {_first_line(problem)}") from problem

    api = HfApi()
    info = patiently(
        lambda: api.model_info(
            hub.repository, revision=wanted or hub.revision, files_metadata=True, timeout=patience.timeout
        )
    )
    files = hub_files(info.siblings or [])
    if not files or not info.sha:
        raise ValueError(f"{where}: the hub lists no files")
    if wanted and info.sha != wanted:
        raise ValueError(f"{where}: the hub answers with commit {info.sha}")
    room(sum(file.size or 0 for file in files))
    said, done = MegabytesOf(hub.repository, sum(file.size or 0 for file in files), 0), 0
    for file in files:
        for again in (False, True):
            given = {"revision": info.sha, "cache_dir": cache, "force_download": again}
            path = Path(patiently(lambda file=file, given=given: hf_hub_download(
                hub.repository, file.rfilename, etag_timeout=patience.timeout, **given)))  # fmt: skip
            expected = file.lfs.sha256 if file.lfs else file.blob_id
            found = sha256(path) if file.lfs else git_blob(path)
            if found == expected:
                break
        else:
            path.resolve().unlink()
            raise ValueError(f"{where}: {file.rfilename} has checksum {found}, the hub's list says {expected}")
        done += file.size or 0
        said(done)
    name_commit(cache, hub, info.sha)
    return info.sha


def hub_folder(cache: Path, hub: Hub) -> Path:
    """The path of a repository in the hub's cache."""
    return cache / f"models--{hub.repository.replace('/', '--')}"


def name_commit(cache: Path, hub: Hub, commit: str) -> None:
    """Map a revision to a commit in this cache."""
    path = hub_folder(cache, hub) / "refs" / hub.revision
    if not path.is_file() or read_text(path).strip() != commit:
        write_whole(path, commit)


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_snapshot(folder: Path, hub: Hub, seen: str | None) -> str:
    """The commit of a repository in a hub cache, after verification: each file is named by its checksum."""
    reference = folder / "refs" / hub.revision
    wanted = hub.commit or seen
    commit = wanted or (read_text(reference).strip() if reference.is_file() else None)
    if commit is not None and not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ValueError(f"{reference}: expected a commit, 40 hexadecimal digits, got {commit[:60]!r}")
    if commit is None or not (folder / "snapshots" / commit).is_dir():
        raise ValueError(f"{folder}: has no snapshot of {hub.repository} at {wanted or hub.revision}")
    snapshot = folder / "snapshots" / commit
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    if not files or len(files) < len([path for path in snapshot.rglob("*") if path.is_symlink()]):
        raise ValueError(f"{snapshot}: is empty, or its links are broken")
    for path in files:
        blob = path.resolve()
        named_by = {64: sha256, 40: git_blob}.get(len(blob.name))
        if named_by is not None and named_by(blob) != blob.name:
            raise ValueError(f"{path}: does not have the checksum in its name in the cache. Download it again")
    return commit
