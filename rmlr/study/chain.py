"""The chain of stages behind a result, as each folder's `run.json` records it, compared with the present state."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, Field

from rmlr.study.current import SETTINGS, Results, code_of, differences
from rmlr.study.files import read_json
from rmlr.study.made import ABOUT, is_finished
from rmlr.study.section import Section


class _Settings(BaseModel):
    code: str


class _Input(BaseModel):
    sha256: str


class _Commit(BaseModel):
    commit: str
    dirty: bool


class _Accepted(BaseModel):
    who: str
    when: str
    because: str
    to: str


class About(BaseModel):
    """The part of a folder's `run.json` that says how the folder was made."""

    stage: str
    seed: int | None
    began: datetime
    settings: _Settings
    inputs: dict[str, _Input]  # by path, relative to the folder in which the stage was called
    device: str
    threads: int
    host: dict[str, str | int | None]
    versions: dict[str, str]
    code: _Commit | None  # None: made outside of git
    accepted: list[_Accepted] = Field(default_factory=list)  # changes of code that alter nothing (`rmlr accept`)


@dataclass(frozen=True)
class Input:
    """An input of a step."""

    path: str
    sha256: str  # when the step was made
    changed: str  # how the present content differs; empty if it does not
    made_in: Path | None  # the folder of the stage that wrote it; None for a file that no stage writes


@dataclass(frozen=True)
class Step:
    """One stage of the chain. What differs now is a text, empty if nothing does."""

    folder: Path
    about: About
    other_code: str
    other_settings: str
    inputs: list[Input]


class Chain:
    """The steps behind the results of a profile.

    `root` is the profile's folder; `planned` are the nodes that `params.yaml` plans now (`identity.identified`).
    """

    def __init__(self, root: Path, planned: Mapping[str, Section]) -> None:
        self._root, self._planned, self._results = root.absolute(), planned, Results(root)

    def step(self, folder: Path) -> Step:
        """How a folder was made. ValueError if it is absent, or has no `run.json` that can be read."""
        if not folder.is_dir():
            raise ValueError(f"{folder}: is absent, so it is not known how it was made. Pull it, or make it again")
        about = read_json(
            folder / ABOUT, About, "It records how the folder was made: pull the folder, or make it again"
        )
        inputs = [
            Input(path, entry.sha256, self._changed(path, entry.sha256), self._made_in(path))
            for path, entry in about.inputs.items()
        ]
        return Step(folder, about, *self._differs(folder, about), inputs)

    def _differs(self, folder: Path, about: About) -> tuple[str, str]:
        """How the present code and the present settings differ."""
        planned = self._planned.get(self._node(folder))
        if planned is None:
            return "", "params.yaml does not plan this result now"
        made, now = about.accepted[-1].to if about.accepted else about.settings.code, code_of(planned)
        code = "" if made == now else f"the present code has another digest, {now}"
        try:
            found = differences(type(planned).load(folder / SETTINGS), planned)
        except ValueError:
            return code, "the present code cannot read these settings"
        return code, f"params.yaml now plans other settings: {'; '.join(found)}" if found else ""

    def _changed(self, path: str, recorded: str) -> str:
        now = self._results.digest(path)
        if now is None:
            return "is absent now"
        return "" if now == recorded else f"has changed since, now {now[:12]}"

    def _made_in(self, path: str) -> Path | None:
        """The nearest folder of a result that holds a path, also if the folder is absent or unfinished."""
        places = (Path(path), *Path(path).parents)
        return next((place for place in places if is_finished(place) or self._node(place) in self._planned), None)

    def _node(self, folder: Path) -> str:
        place = folder.absolute()
        return str(place.relative_to(self._root)) if place.is_relative_to(self._root) else ""
