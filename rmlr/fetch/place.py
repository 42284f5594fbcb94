"""The folder of raw data: its sources, by their receipts, and the checksums of first fetches.

A fetched source has a receipt, RAW/receipts/NAME.ok: one line of JSON. Checksums that are not published are recorded at
the first fetch in RAW/checksums.json, which belongs under version control.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, RootModel

from rmlr.fetch.sources import DEFAULT, Source
from rmlr.study.files import Natural, RelativeName, read_json, write_whole


class Receipt(BaseModel):
    """NAME.ok, the fields that are read again."""

    source: str  # digest of the table's entry
    time: str
    made: dict[RelativeName, tuple[Natural, Natural]]  # below RAW: number of files, bytes


class _Seen(BaseModel):
    """The checksum or commit of the first fetch of a file, or hub repository, without a published one."""

    model_config = ConfigDict(extra="allow")

    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = None
    commit: Annotated[str | None, Field(pattern=r"^[0-9a-f]{40}$")] = None


class _FirstSeen(RootModel[dict[str, _Seen]]):
    """checksums.json"""


@dataclass(frozen=True)
class Place:
    """The folder of raw data, with the records of where the data came from."""

    raw: Path

    @property
    def hub(self) -> Path:
        """A cache of the hub's own layout: jobs find it by HF_HUB_CACHE."""
        return self.raw / "hub"

    @property
    def archives(self) -> Path:
        """The folder for archives that a user adds by hand, or that `--keep` keeps."""
        return self.raw / "archives"

    def work(self, name: str) -> Path:
        """The folder for a source's downloads and unfinished unpacking."""
        return self.raw / ".fetch" / name

    def receipt(self, name: str) -> Path:
        """The receipt of a source."""
        return self.raw / "receipts" / f"{name}.ok"

    def kept(self, name: str) -> Path:
        """A copy of the receipt, since Snakemake removes a rule's output before it reruns the rule."""
        return self.raw / ".fetch" / f"{name}.ok"

    def read_receipt(self, name: str, *, kept: bool = False) -> Receipt | None:
        """The receipt of the last fetch, or its copy `kept`; None if there is none. ValueError if it is damaged."""
        path = self.kept(name) if kept else self.receipt(name)
        return read_json(path, Receipt) if path.exists() else None

    def has_receipt(self, name: str, source: Source) -> bool:
        """Whether a source's receipt belongs to the table's present entry; the files are not checked."""
        try:
            receipt = self.read_receipt(name)
        except ValueError:
            return False
        return receipt is not None and receipt.source == source.digest

    def trouble(self, name: str, source: Source, *, kept: bool = False) -> str | None:
        """Why a source does not count as fetched; None if its receipt is of this entry and all files exist."""
        try:
            receipt = self.read_receipt(name, kept=kept)
        except ValueError as error:
            return f"its receipt is damaged: {error}"
        if receipt is None:
            return "not fetched"
        if receipt.source != source.digest:
            return "fetched by another entry of the table"
        for path, (files, size) in receipt.made.items():
            try:
                found = measure(self.raw / path)
            except OSError as error:
                return f"{self.raw / path} is gone ({error.strerror})"
            grew = path.startswith("hub/") and found[0] >= files and found[1] >= size  # its client adds files there
            if found != (files, size) and not grew:
                return f"{self.raw / path} has changed: {files} files of {size} bytes were written, {found} exist"
        return None

    def first_seen(self) -> dict[str, dict[str, Any]]:
        """The recorded checksums and commits, used where none are published."""
        path = self.raw / "checksums.json"
        if not path.exists():
            return {}
        try:
            content = read_json(path, _FirstSeen)
        except ValueError as error:
            raise ValueError(f"{error}. Take the file from version control") from error
        return content.model_dump(exclude_unset=True)

    def remember(self, key: str, seen: dict[str, Any]) -> None:
        """Record a checksum or commit, unless there is a record already."""
        path = self.raw / "checksums.json"
        (self.raw / ".fetch").mkdir(parents=True, exist_ok=True)
        with FileLock(self.raw / ".fetch" / "checksums.lock"):
            known = self.first_seen()
            if key not in known:
                write_whole(path, json.dumps(dict(sorted({**known, key: seen}.items())), indent=1) + "\n")


def by_hand(name: str, source: Source, place: Place) -> str:
    """Instructions for adding a source by hand, without the network."""
    again = f"`rmlr fetch {name}" + (f" --raw {place.raw}" if place.raw != DEFAULT else "")
    if source.hub:
        hub = source.hub
        return (
            f"  By hand: where there is a network, `hf download {hub.repository} --revision "
            f"{hub.commit or hub.revision} --cache-dir FOLDER`; copy FOLDER here, "
            f"then {again} --have FOLDER`"
        )
    files = ", ".join(item.file for item in source.items)
    return f"  By hand: put {files} into {place.archives}, then {again}`"


def measure(path: Path) -> tuple[int, int]:
    """Numbers of files and bytes of a file, or of a folder without hidden files. OSError if it does not exist."""
    if path.is_file():
        return 1, path.stat().st_size
    files, size = 0, 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            found = measure(Path(entry.path)) if entry.is_dir() else (1, entry.stat().st_size)
            files, size = files + found[0], size + found[1]
    return files, size
