"""The settings of a text encoder: which network, how it is pooled, and what is said of each phrase."""

import re
import string
from typing import Literal

from pydantic import model_validator

from rmlr.study.section import Section

SHUFFLED = re.compile(r"shuffled:(?:(\d{1,9}):)?(.+)")


class Encoder(Section):
    """A frozen text encoder, or a control, and what is said of each phrase (docs/text.md)."""

    name: str  # as printed in tables
    model: str  # hub id, folder, `package:NAME`; controls: `random:DIM`, `shuffled:ENCODER`, `shuffled:SEED:ENCODER`
    revision: str | None  # of the hub id
    sha256: str | None  # of its weights file; checked when given
    pooling: Literal["cls", "mean", "eos", "own"]  # of a sentence encoded alone; cls: paper
    prompt: str | None = None  # template of a phrase's sentence, with {verb} and {object}; null: the phrase itself
    descriptions: str | None = None  # file with the sentences of each phrase; null: the phrase, or the template
    several: Literal["average", "each"] = "average"  # of several sentences of a phrase: one target, or each a target

    @property
    def weights(self) -> str:
        """The encoder itself, which `shuffled:` hands shuffled names."""
        match = SHUFFLED.fullmatch(self.model)
        return match[2] if match else self.model

    @property
    def shuffle_seed(self) -> int | None:
        """The seed of a `shuffled:` encoder's derangement, None for every other one."""
        match = SHUFFLED.fullmatch(self.model)
        return int(match[1] or 0) if match else None

    @model_validator(mode="after")
    def _sentences_have_one_origin(self) -> "Encoder":
        if self.model.startswith("shuffled:") and (self.shuffle_seed is None or self.weights.startswith("shuffled:")):
            raise ValueError(f"model {self.model!r}: expected shuffled:ENCODER or shuffled:SEED:ENCODER")
        if self.prompt is not None:
            must_be_template(self.prompt)
        if self.descriptions is not None and (self.prompt is not None or self.shuffle_seed is not None):
            raise ValueError("descriptions stand for whole sentences: they go with neither prompt nor shuffled:ENCODER")
        if self.several == "each" and self.descriptions is None:
            raise ValueError("several: each is for descriptions: give a file")
        return self


def must_be_template(prompt: str) -> None:
    """ValueError unless a text has {verb} and {object}, and no other placeholder."""
    try:
        parts = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise ValueError(f"prompt {prompt!r}: {error}. Write {{verb}} and {{object}}, and no other braces") from error
    fields = [field for _, field, _, _ in parts if field is not None]
    if sorted(fields) != ["object", "verb"] or any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError(f"prompt {prompt!r}: expected {{verb}} and {{object}}, once each, and no other braces")
