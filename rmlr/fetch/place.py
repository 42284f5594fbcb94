"""The folder of raw data: which sources are there, by their receipts, and which checksums were seen first.

What was fetched leaves a receipt, RAW/receipts/NAME.ok: one line of JSON. Checksums that nobody published are kept as
first seen in RAW/checksums.json, which belongs under version control.
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
    """NAME.ok, as far as it is read again."""

    source: str  # digest of the table's entry
    time: str
    made: dict[RelativeName, tuple[Natural, Natural]]  # below RAW: number of files, bytes


class _Seen(BaseModel):
    """What was seen of a file, or of a folder of the hub, that has no published checksum."""

    model_config = ConfigDict(extra="allow")

    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = None
    commit: Annotated[str | None, Field(pattern=r"^[0-9a-f]{40}$")] = None


class _FirstSeen(RootModel[dict[str, _Seen]]):
    """checksums.json"""


@dataclass(frozen=True)
class Place:
    """The folder of raw data, and what is kept there about where it came from."""

    raw: Path

    @property
    def hub(self) -> Path:
        """A cache of the hub's own layout: jobs find it by HF_HUB_CACHE."""
        return self.raw / "hub"

    @property
    def archives(self) -> Path:
        """Where a user may put archives by hand, and where `--keep` leaves them."""
        return self.raw / "archives"

    def work(self, name: str) -> Path:
        """Where a source's downloads and half-unpacked folders are."""
        return self.raw / ".fetch" / name

    def receipt(self, name: str) -> Path:
        """Says that a source was fetched, and how."""
        return self.raw / "receipts" / f"{name}.ok"

    def kept(self, name: str) -> Path:
        """A copy of the receipt. Who reruns a rule removes its output first, and what it said would be lost."""
        return self.raw / ".fetch" / f"{name}.ok"

    def read_receipt(self, name: str, *, kept: bool = False) -> Receipt | None:
        """What the last fetch left, or the copy that it `kept`; None where there is none. ValueError: it is damaged."""
        path = self.kept(name) if kept else self.receipt(name)
        return read_json(path, Receipt) if path.exists() else None

    def has_receipt(self, name: str, source: Source) -> bool:
        """Whether a source's receipt is of the entry that the table has today; what is there is not looked at."""
        try:
            receipt = self.read_receipt(name)
        except ValueError:
            return False
        return receipt is not None and receipt.source == source.digest

    def trouble(self, name: str, source: Source, *, kept: bool = False) -> str | None:
        """Why a source does not count as fetched; None if it does: its receipt is of this entry and all is there."""
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
            grew = path.startswith("hub/") and found[0] >= files and found[1] >= size  # its client keeps more there
            if found != (files, size) and not grew:
                return f"{self.raw / path} has changed: {files} files of {size} bytes were made, {found} are there"
        return None

    def first_seen(self) -> dict[str, dict[str, Any]]:
        """The checksums and commits that count because nobody published any."""
        path = self.raw / "checksums.json"
        if not path.exists():
            return {}
        try:
            content = read_json(path, _FirstSeen)
        except ValueError as error:
            raise ValueError(f"{error}. Take the file from version control") from error
        return content.model_dump(exclude_unset=True)

    def remember(self, key: str, seen: dict[str, Any]) -> None:
        """Keep what was seen, unless something was seen before."""
        path = self.raw / "checksums.json"
        (self.raw / ".fetch").mkdir(parents=True, exist_ok=True)
        with FileLock(self.raw / ".fetch" / "checksums.lock"):
            known = self.first_seen()
            if key not in known:
                write_whole(path, json.dumps(dict(sorted({**known, key: seen}.items())), indent=1) + "\n")


def by_hand(name: str, source: Source, place: Place) -> str:
    """What to put where, if the net does not give it."""
    again = f"`rmlr fetch {name}" + (f" --raw {place.raw}" if place.raw != DEFAULT else "")
    if source.hub:
        hub = source.hub
        return (
            f"  By hand: where there is a network, `hf download {hub.repository} --revision "
            f"{hub.commit or hub.revision} --cache-dir FOLDER`; bring FOLDER here, "
            f"then {again} --have FOLDER`"
        )
    files = ", ".join(item.file for item in source.items)
    return f"  By hand: put {files} into {place.archives}, then {again}`"


def measure(path: Path) -> tuple[int, int]:
    """Files and bytes of a file, or of a folder with all below it but what is hidden. OSError if it is not there."""
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
