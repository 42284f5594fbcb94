"""What every section of the settings is: a typed part of a YAML file, read with errors that name the key."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

PositiveInt = Annotated[int, Field(gt=0)]
NaturalInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

Split = Literal["train", "val", "trainval", "test"]  # trainval: train, then val
DatasetName = Literal["vcoco", "hicodet"]


S = TypeVar("S", bound="Section")  # not Self: beartype's import hook does not understand it


class Section(BaseModel):
    """A part of the settings; a misspelt key or a wrong type is an error that names the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def load(cls: type[S], path: Path) -> S:
        """Read a YAML file; ValueError names the file, the key, what was expected and what came."""
        try:
            text = path.read_text()
        except OSError as error:
            raise ValueError(f"{path}: settings cannot be read ({error.strerror}). Does the path exist?") from error
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML: {error}") from error
        return cls.check(content, str(path))

    @classmethod
    def check(cls: type[S], content: Any, where: str) -> S:
        """Type what was read; ValueError says `where`, and for each key what was expected and what came."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            lines = [
                f"  {'.'.join(map(str, item['loc'])) or '(top)'}: {item['msg']}"
                + ("" if item["type"] == "missing" else f", got {_shortened(item['input'])}")
                for item in error.errors()
            ]
            raise ValueError(f"{where}: {len(lines)} setting(s) do not fit:\n" + "\n".join(lines)) from error

    def dump(self) -> str:
        """As YAML, such that `load` gives the same again.

        What is at its default is left out: a new field with a default leaves the identity of a result as it was.
        """
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
