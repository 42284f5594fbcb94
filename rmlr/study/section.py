"""The base class of all sections of the settings: a typed part of a YAML file, with errors that name the key."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rmlr.study.files import describe_faults, read_text
from rmlr.study.plain_yaml import parse

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text, several times as fast, where libyaml is there
MOST = 2**53  # integers up to here are exact in every program that reads a settings file


def must_name(name: str) -> str:
    """The name itself, if it is valid as a folder, a file, a rule and a part of a command; ValueError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(
            "a name has 1 to 100 letters, digits, '_', '-' and '.', and begins with a letter or digit: it becomes "
            "folders, files and rules"
        )
    return name


def _must_name_parts(name: str) -> str:
    for part in name.split("/"):
        must_name(part)
    return name


def _from_coarse_to_fine(strides: list[int]) -> list[int]:
    if len(set(strides)) < len(strides):
        raise ValueError(f"each stride is one map, but {strides} has one twice")
    return sorted(strides, reverse=True)


Name = Annotated[str, AfterValidator(must_name)]
PathName = Annotated[str, AfterValidator(_must_name_parts)]  # parts are names; of a detector: folders below each other
PositiveInt = Annotated[int, Field(gt=0, le=MOST)]
Depth = Annotated[int, Field(gt=0, le=1000)]  # layers; with a slip of the pen, a network would be built for hours
NaturalInt = Annotated[int, Field(ge=0, le=MOST)]
NumFolds = Annotated[int, Field(ge=0, le=1000)]  # 0: none
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # valid for every random number generator
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Of the detector's maps that are used; null: the coarsest alone. IRE reads all of them, all else the coarsest.
Strides = Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(_from_coarse_to_fine)] | None

Split = Literal["train", "val", "trainval", "test"]  # trainval: train, then val
DatasetName = Literal["vcoco", "hicodet"]
ZeroShot = Literal["rare_first", "non_rare_first", "unseen_object", "unseen_verb"]  # splits of HICO-DET's classes


S = TypeVar("S", bound="Section")  # not Self: beartype's import hook does not understand it


class Section(BaseModel):
    """A part of the settings; a misspelt key or a wrong type is an error that names the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def load(cls: type[S], path: Path) -> S:
        """Read a YAML file; ValueError names the file, the key, what was expected and what was found."""
        text = read_text(path, "Does the path lead to a settings file?")
        return cls.check(parse(text, str(path)), str(path))

    @classmethod
    def check(cls: type[S], content: Any, where: str) -> S:
        """Validate parsed content; ValueError says `where`, and for each key what was expected and what was found."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            lines = [f"\n  {fault}" for fault in describe_faults(error)]
            raise ValueError(f"{where}: {len(lines)} setting(s) do not fit:{''.join(lines)}") from error

    def dump(self) -> str:
        """The section as YAML, which `load` reads back to an equal section.

        Fields at their default are left out, so a new field with a default does not change the identity of a result.
        """
        return yaml.dump(self.model_dump(mode="json", exclude_defaults=True), Dumper=DUMPER, sort_keys=False)
