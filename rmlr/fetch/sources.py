"""Where real data and weights come from, which of it a profile needs, and what of it is there.

The table is sources.yaml beside this file. What was fetched leaves a receipt, RAW/receipts/NAME.ok: one line of JSON.
Checksums that nobody published are kept as first seen in RAW/checksums.json, which belongs under version control.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from filelock import FileLock
from pydantic import Field, model_validator

from rmlr.study.files import write_whole
from rmlr.study.plan import Study
from rmlr.study.section import DatasetName, PositiveInt, Section

TABLE = Path(__file__).with_name("sources.yaml")
UNPUBLISHED = "unpublished"


class Gift(Section):
    """What becomes of a file, or of a part of an archive: a file below RAW, or a folder of `files` files."""

    to: str
    member: str | None = None  # path in the archive
    files: PositiveInt | None = None  # null: it is a file


class Item(Section):
    """One file to get."""

    file: str  # its name, as people have it
    urls: Annotated[list[str], Field(min_length=1)]
    bytes: PositiveInt | None = None
    about: PositiveInt | None = None
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{8}|[0-9a-f]{64}|unpublished)$")]
    git_blob: Annotated[str | None, Field(pattern=r"^[0-9a-f]{40}$")] = None
    unpack: Literal["zip", "tar.gz"] | None = None
    gives: Annotated[list[Gift], Field(min_length=1)]

    @model_validator(mode="after")
    def _parts_fit(self) -> "Item":
        if self.bytes is None and self.about is None:
            raise ValueError(f"{self.file}: give `bytes`, or `about` so many, for planning")
        if self.unpack is None and (len(self.gives) > 1 or self.gives[0].member or self.gives[0].files):
            raise ValueError(f"{self.file}: a file that is not unpacked gives one file, and has no members")
        if self.unpack is not None and not all(gift.member for gift in self.gives):
            raise ValueError(f"{self.file}: each of `gives` needs its `member` of the archive")
        for path in (self.file, *(gift.to for gift in self.gives)):
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise ValueError(f"{path}: paths stay below the folder of raw data")
        return self

    @property
    def size(self) -> int:
        """Bytes, for planning."""
        return self.bytes or self.about or 0

    @property
    def is_known(self) -> bool:
        """Whether a published checksum tells the right file from any other."""
        return len(self.sha256) == 64 or self.git_blob is not None


class Hub(Section):
    """A folder of the Hugging Face hub."""

    repository: str
    revision: str  # as params.yaml names it
    commit: Annotated[str | None, Field(pattern=r"^[0-9a-f]{40}$")] = None  # null: the first one seen counts ever after
    about: PositiveInt


class Source(Section):
    """One entry of the table: files that belong together, or a folder of the hub."""

    what: str
    licence: str
    serves: list[DatasetName]
    evidence: Literal["read", "computed", "memory"]
    note: str | None = None
    items: list[Item] = Field(default_factory=list)
    hub: Hub | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Source":
        if bool(self.items) == (self.hub is not None):
            raise ValueError("give either `items` or `hub`")
        return self

    @property
    def gifts(self) -> list[Gift]:
        return [gift for item in self.items for gift in item.gives]

    @property
    def size(self) -> int:
        """Bytes to download, for planning."""
        return self.hub.about if self.hub else sum(item.size for item in self.items)

    @property
    def has_photos(self) -> bool:
        return any(gift.to.startswith("images/") for gift in self.gifts)

    @property
    def has_annotations(self) -> bool:
        return bool(self.serves) and any(not gift.to.startswith("images/") for gift in self.gifts)

    @property
    def digest(self) -> str:
        """Of what decides which bytes are right, not of words and mirrors: if it changed, it is fetched again."""
        facts = self.model_dump(mode="json", exclude={"what", "licence", "serves", "evidence", "note"})
        for part in [*facts["items"], *filter(None, [facts["hub"]])]:
            part.pop("urls", None)
            del part["about"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Sources(Section):
    """The table, whole."""

    sources: dict[str, Source]

    @model_validator(mode="after")
    def _no_two_make_one_file(self) -> "Sources":
        makers: dict[str, str] = {}
        for name, source in self.sources.items():
            if not all(part.isalnum() for part in name.split("-")):
                raise ValueError(f"{name}: a source's name has letters, digits and hyphens")
            for gift in source.gifts:
                if makers.setdefault(gift.to, name) != name:
                    raise ValueError(f"{gift.to}: comes from {makers[gift.to]} and from {name}")
        return self


def load_sources(path: Path | None) -> dict[str, Source]:
    """The table of a file, or the one that comes with the package."""
    path = path or TABLE
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: the table of sources cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    return Sources.check({"sources": content}, str(path)).sources


# ---- who needs what


def needed(sources: Mapping[str, Source], study: Study, profile: str, raw: Path) -> dict[str, list[str]]:
    """Names of the sources that a profile's study reads, with what for; in the order of the table.

    A profile of real data needs those that serve its data sets. Weights are needed by whom params.yaml names them for:
    a hub id with its revision, or a path.
    """
    if profile not in study.profiles:
        raise ValueError(f"params.yaml has no profile '{profile}'. There are: {', '.join(study.profiles)}")
    chosen, why = study.profiles[profile], defaultdict(list)
    datasets = [] if chosen.world else list(chosen.train)
    named = named_weights(study, profile)
    for name, source in sources.items():
        why[name] += [f"data set {dataset}" for dataset in source.serves if dataset in datasets]
        why[name] += [reason for (weights, revision), reason in named.items() if gives(source, weights, revision, raw)]
    return {name: reasons for name, reasons in why.items() if reasons}


def named_weights(study: Study, profile: str) -> dict[tuple[str, str | None], str]:
    """The weights that a profile's runs stand on, as params.yaml names them, with their revision: and what for."""
    chosen = study.profiles[profile]
    named: dict[tuple[str, str | None], str] = {}
    for name, run in study.runs_in(profile).items():
        key = chosen.backbones[run.backbone].detector(run.dataset)
        detector, encoder = chosen.detectors[key], chosen.encoders[run.encoder]
        if detector.weights:
            named[detector.weights, detector.revision] = f"detector {key}"
        named[encoder.model, encoder.revision] = f"text encoder {run.encoder}"
        if chosen.pose and chosen.pose.weights and study.variants[run.variant].pose:
            named[chosen.pose.weights, None] = f"pose cue of {name}"
    return named


def gives(source: Source, weights: str, revision: str | None, raw: Path) -> bool:
    """Whether a source gives what params.yaml names as weights."""
    if source.hub:
        return (source.hub.repository, source.hub.revision) == (weights, revision)
    return any(Path(weights) == raw / gift.to for gift in source.gifts)


# ---- what is there


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
        return self.raw / "receipts" / f"{name}.ok"

    def kept(self, name: str) -> Path:
        """A copy of the receipt. Who reruns a rule removes its output first, and what it said would be lost."""
        return self.raw / ".fetch" / f"{name}.ok"

    def read_receipt(self, name: str, *, kept: bool = False) -> dict[str, Any] | None:
        """What the last fetch left, or the copy that it `kept`; None where there is none that can be read."""
        try:
            content = json.loads((self.kept(name) if kept else self.receipt(name)).read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and {"source", "made"} <= content.keys() else None

    def trouble(self, name: str, source: Source, *, kept: bool = False) -> str | None:
        """Why a source does not count as fetched; None if it does: its receipt is of this entry and all is there."""
        receipt = self.read_receipt(name, kept=kept)
        if receipt is None:
            return "not fetched"
        if receipt["source"] != source.digest:
            return "fetched by another entry of the table"
        for path, (files, size) in receipt["made"].items():
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
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error}). Take it from version control") from error

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
    again = f"`rmlr fetch {name}" + (f" --raw {place.raw}" if place.raw != Path("data/raw") else "")
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
