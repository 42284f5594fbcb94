"""The sources of real data and weights (the table, sources.yaml in this folder), and those that a profile needs."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from rmlr.study.files import RelativeName, read_text
from rmlr.study.plan import Study
from rmlr.study.section import DatasetName, PositiveInt, Section

TABLE = Path(__file__).with_name("sources.yaml")
UNPUBLISHED = "unpublished"
DEFAULT = Path("data/raw")  # the folder of weights in params.yaml
WORDS = {"what", "licence", "serves", "release", "photos", "evidence", "note"}  # of a source: no bytes hang on them


class Gift(Section):
    """The target of a file, or of a part of an archive: a file below RAW, or a folder of `files` files."""

    to: RelativeName
    member: RelativeName | None = None  # path in the archive
    files: PositiveInt | None = None  # null: it is a file


class Item(Section):
    """One file to get."""

    file: RelativeName  # its published name
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
        return self

    @property
    def size(self) -> int:
        """Bytes, for planning."""
        return self.bytes or self.about or 0

    @property
    def is_known(self) -> bool:
        """Whether a published checksum identifies the file."""
        return len(self.sha256) == 64 or self.git_blob is not None


class Hub(Section):
    """A repository of the Hugging Face hub."""

    repository: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    revision: RelativeName  # as params.yaml names it
    commit: Annotated[str | None, Field(pattern=r"^[0-9a-f]{40}$")] = None  # null: that of the first fetch
    about: PositiveInt


class Source(Section):
    """One entry of the table: files that belong together, or a hub repository."""

    what: str
    licence: str
    serves: list[DatasetName]
    release: str | None = None  # the published release that it belongs to; null: any
    photos: str | None = None  # the part of the data set's images whose photos it has; null: all of them, or no photos
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
        """A digest of the fields that determine the bytes, without texts and mirrors: a change means a new fetch."""
        facts = self.model_dump(mode="json", exclude=WORDS)
        for part in [*facts["items"], *filter(None, [facts["hub"]])]:
            part.pop("urls", None)
            del part["about"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Sources(Section):
    """The whole table."""

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
    """The table from a file, by default the package's own."""
    path = path or TABLE
    text = read_text(path, "Is that the table of sources?")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    return Sources.check({"sources": content}, str(path)).sources


# ---- the needs of a profile


def needed(sources: Mapping[str, Source], study: Study, profile: str, raw: Path) -> dict[str, list[str]]:
    """Names of the sources that a profile's study needs, with the reason; in the order of the table.

    A profile of real data needs those that serve its data sets, in the release that it names, and of photos those of
    the images that it takes: own data need no published release. Weights are needed by whom params.yaml names them for:
    a hub id with its revision, or a path.
    """
    if profile not in study.profiles:
        raise ValueError(f"params.yaml has no profile '{profile}'. There are: {', '.join(study.profiles)}")
    chosen, why = study.profiles[profile], defaultdict(list)
    releases = {} if chosen.world else {name: getattr(chosen, name).release for name in chosen.train}
    parts = {"vcoco": chosen.vcoco.photos}
    named = named_weights(study, profile)
    for name, source in sources.items():
        served = [dataset for dataset in source.serves if dataset in releases]
        of_release = [it for it in served if source.release in (None, releases[it])]
        why[name] += [f"data set {it}" for it in of_release if not source.has_photos or source.photos == parts.get(it)]
        why[name] += [reason for (weights, revision), reason in named.items() if gives(source, weights, revision, raw)]
    return {name: reasons for name, reasons in why.items() if reasons}


def wanted(sources: Mapping[str, Source], study: Study, profile: str, raw: Path) -> tuple[Path, dict[str, list[str]]]:
    """The folder to fetch into, and the sources that a profile needs (`needed`).

    The folder is `raw`. But if all data are the user's own, `raw` is the user's folder, and weights go to `DEFAULT`,
    the folder in params.yaml.
    """
    found = needed(sources, study, profile, raw)
    own = own_datasets(sources, study, profile)
    if not own or len(own) < len(study.profiles[profile].train):
        return raw, found
    return DEFAULT, needed(sources, study, profile, DEFAULT)


def own_datasets(sources: Mapping[str, Source], study: Study, profile: str) -> list[str]:
    """The data sets of a profile that the user provides: of release `own`, and without a source."""
    chosen = study.profiles[profile]
    served = {name for source in sources.values() if source.release is None for name in source.serves}
    own = [name for name in chosen.train if getattr(chosen, name).release == "own" and name not in served]
    return [] if chosen.world else own


def named_weights(study: Study, profile: str) -> dict[tuple[str, str | None], str]:
    """The weights that a profile's runs need, as named in params.yaml, with their revision, and the reason."""
    chosen = study.profiles[profile]
    named: dict[tuple[str, str | None], str] = {}
    for name, run in study.runs_in(profile).items():
        key = chosen.backbones[run.backbone].detector(run.dataset)
        detector, encoder = chosen.detectors[key], chosen.encoders[run.encoder]
        if detector.weights and not detector.python:
            named[detector.weights, detector.revision] = f"detector {key}"
        named[encoder.weights, encoder.revision] = f"text encoder {run.encoder}"
        if chosen.pose and chosen.pose.weights and study.variants[run.variant].pose:
            named[chosen.pose.weights, None] = f"pose cue of {name}"
    return named


def is_file(weights: str, revision: str | None) -> bool:
    """Whether params.yaml names weights by the path of a file, and not by a hub id or a package."""
    return revision is None and Path(weights).suffix in (".pth", ".pt", ".safetensors")


def check_weights(weights: str, revision: str | None) -> None:
    """ValueError if weights that params.yaml names by a path do not exist; it names their source."""
    if not is_file(weights, revision) or Path(weights).exists():
        return
    names = (name for name, source in load_sources(None).items() if gives(source, weights, revision, DEFAULT))
    name = next(names, None)
    brings = f"`rmlr fetch {name}` fetches it" if name else "Put that file there, or name another one"
    raise ValueError(f"{weights}: does not exist, and params.yaml names it as weights. {brings}")


def gives(source: Source, weights: str, revision: str | None, raw: Path) -> bool:
    """Whether a source has the weights that params.yaml names."""
    if source.hub:
        return (source.hub.repository, source.hub.revision) == (weights, revision)
    return any(Path(weights) == raw / gift.to for gift in source.gifts)
