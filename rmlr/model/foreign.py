"""A detector of your own: a Python class that params.yaml names by its import path (docs/detectors.md).

    class Mine:
        names = ("person", "bicycle")   # classes, in the order of its labels
        token_dim = 64                  # size of the vector of each box
        channels = 256                  # of its map
        stride = 32                     # pixels of the picture for each cell of the map
        image = FixedSize(height=512, width=512)   # or ImageSize(shortest=800, longest=1333)

        def __init__(self, weights: Path | None): ...
        def detect(self, pixels): ...   # b 3 height width, in [0, 1] -> Seen

Its output is checked at every call: invalid output is one ValueError that names the class and the field.
"""

import importlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, Field
from torch import Tensor

from rmlr.model.adapter import Adapter, Found, Picture
from rmlr.study.content import files_of
from rmlr.study.files import read_json
from rmlr.study.settings import FixedSize, ImageSize, MapName, PictureSize
from rmlr.study.source import class_file

FORM = "python"  # `model_type` of its config.json
SOURCE, WEIGHTS = "detector.py", "weights"  # in the folder of a detector: a copy of the class' file, and its weights
ATTRIBUTES = {"names": "a sequence of names", "image": "an ImageSize or a FixedSize of rmlr.study.settings"}
ATTRIBUTES |= dict.fromkeys(("token_dim", "channels", "stride"), "a whole number of at least 1")
OUTSIDE = 1.0  # pixels that a box may extend beyond its picture, for rounding


@dataclass(frozen=True, slots=True)
class Seen:
    """The output of `detect` for pictures of one size: equally many boxes for each; unused boxes have score 0."""

    boxes: Float[Tensor, "b q 4"]  # xyxy, in pixels of the input picture
    scores: Float[Tensor, "b q"]  # in [0, 1]
    labels: Int[Tensor, "b q"]  # class of each box, as in `names`
    tokens: Float[Tensor, "b q d"]  # a vector for each box
    maps: Float[Tensor, "b c h w"]  # height and width / stride, rounded up or down


class _Config(BaseModel):
    """config.json of a saved detector of this kind."""

    python: str = Field(alias="class", pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)+$")  # import path


@contextmanager
def _of_the_user(where: str, what: str) -> Iterator[None]:
    """Around code of the user's, which may raise anything: one ValueError that says `where` and what failed."""
    try:
        yield
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{where}: {what} ({said}). RMLR_DEBUG=1 shows where in the code") from error


class Foreign:
    """An instance of a user's class, found by its import path, with the given weights."""

    def __init__(self, python: str, weights: Path | None) -> None:
        """ValueError if the class is not found, does not have the form above, or its weights do not exist."""
        self.python, self.weights = python, weights
        if weights is not None and not weights.exists():
            raise ValueError(f"{weights}: does not exist, but is named as the weights of {python}. Put them there")
        module, _, name = python.rpartition(".")
        self.source = class_file(python)
        with _of_the_user(str(self.source), "cannot be imported"):
            form = getattr(importlib.import_module(module), name, None)
        if not isinstance(form, type):
            raise ValueError(f"{self.source}: has no class '{name}', which {python} names")
        with _of_the_user(python, f"cannot be made with weights {weights}"):
            self.made: Any = form(weights)
        for attribute, expected in ATTRIBUTES.items():
            if not _fits(value := getattr(self.made, attribute, None), attribute):
                raise ValueError(f"{python}: its attribute `{attribute}` must be {expected}, got {value!r}")
        if not callable(getattr(self.made, "detect", None)):
            raise ValueError(f"{python}: has no method `detect(pixels)`")

    @classmethod
    def load(cls, folder: Path) -> "Foreign":
        """From the folder that `save` wrote. The class is imported by its path, never run from the folder."""
        python = read_json(folder / "config.json", _Config, "Make the detector again").python
        weights = sorted((folder / WEIGHTS).iterdir()) if (folder / WEIGHTS).is_dir() else []
        found = cls(python, weights[0] if weights else None)
        if not (folder / SOURCE).is_file():
            raise ValueError(f"{folder / SOURCE}: does not exist. Make the detector again")
        if found.source.read_bytes() != (folder / SOURCE).read_bytes():
            raise ValueError(
                f"{found.source}: differs from its copy {folder / SOURCE}: {python} has changed since. Make the "
                "detector again, or restore that file"
            )
        return found

    def save(self, folder: Path) -> None:
        """Copy the class' file and its weights, and name the class in config.json."""
        shutil.copyfile(self.source, folder / SOURCE)
        if self.weights is not None:
            for file in files_of(self.weights) if self.weights.is_dir() else [self.weights]:
                target = folder / WEIGHTS / file.relative_to(self.weights.parent)
                target.parent.mkdir(parents=True, exist_ok=True)  # not a copy of a folder, which may be read-only
                shutil.copyfile(file, target)
        (folder / "config.json").write_text(json.dumps({"model_type": FORM, "class": self.python}) + "\n")


def foreign_files(folder: Path) -> list[Path]:
    """The files of a saved detector of this kind, sorted by name."""
    return [folder / "config.json", folder / SOURCE, *files_of(folder / WEIGHTS)]


def _fits(value: Any, attribute: str) -> bool:
    if attribute == "names":
        return not isinstance(value, str) and bool(value) and all(isinstance(name, str) for name in value)
    if attribute == "image":
        return isinstance(value, ImageSize | FixedSize)
    return isinstance(value, int) and value >= 1


class ForeignAdapter(Adapter):
    """A detector of the user's own."""

    def __init__(self, foreign: Foreign, map: MapName, strides: Sequence[int] | None) -> None:
        super().__init__()
        made = foreign.made
        self.name = foreign.python
        self.names = list(made.names)
        size: PictureSize = made.image
        self.picture = Picture(size=size, mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
        self.token_dim, self.channels, self.strides = made.token_dim, (made.channels,), (made.stride,)
        if map != "backbone":
            raise ValueError(f"{self.name}: a detector of your own has one map, `map: backbone`; asked for is '{map}'")
        if strides is not None and tuple(strides) != self.strides:
            raise ValueError(
                f"{self.name}: its map has stride {made.stride}, but the settings ask for {list(strides)}. Set "
                "features.strides to null"
            )
        self.detector = made  # registered if it is a module: moved to a device, frozen

    def find(self, pixels: Float[Tensor, "b 3 height width"], is_padding: Bool[Tensor, "b height width"]) -> Found:
        with _of_the_user(self.name, "`detect` failed"):
            seen = self.detector.detect(pixels.clamp(0, 1))  # rounding may exceed the range
        height, width = pixels.shape[2:]
        self._check(seen, pixels)
        probabilities = seen.scores.new_zeros(*seen.scores.shape, len(self.names))
        probabilities.scatter_(2, seen.labels[..., None], seen.scores[..., None])
        return Found(
            probabilities=probabilities.masked_fill(seen.scores[..., None] == 0, -1.0),
            boxes=seen.boxes / seen.boxes.new_tensor([width, height, width, height]),
            tokens=seen.tokens,
            maps=(seen.maps,),
            is_padding=(torch.zeros(len(pixels), *seen.maps.shape[2:], dtype=torch.bool, device=pixels.device),),
        )

    def _check(self, seen: object, pixels: Tensor) -> None:
        """ValueError if a part of the output is invalid."""
        if not isinstance(seen, Seen):
            raise self._error(f"a {type(seen).__name__}", "an instance of rmlr.model.foreign.Seen")
        for name in Seen.__slots__:
            if not isinstance(value := getattr(seen, name), Tensor):
                raise self._error(f"`{name}` of type {type(value).__name__}", "a tensor")
        (images, _, height, width), number = pixels.shape, seen.scores.shape[-1]
        real, whole = torch.float32, torch.int64
        expected = {
            "boxes": (real, (images, number, 4)),
            "scores": (real, (images, number)),
            "labels": (whole, (images, number)),
            "tokens": (real, (images, number, self.token_dim)),
            "maps": (real, (images, *self.channels, *seen.maps.shape[2:])),
        }
        for name, (dtype, shape) in expected.items():
            tensor = getattr(seen, name)
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise self._error(f"`{name}` of {tensor.dtype} and shape {tuple(tensor.shape)}", f"{dtype} and {shape}")
            if not tensor.isfinite().all():
                raise self._error(f"`{name}` with a number that is not finite", "finite numbers")
        low, high = seen.boxes[..., :2], seen.boxes[..., 2:]
        edges = low.new_tensor([width, height]) + OUTSIDE
        if (low < -OUTSIDE).any() or (high > edges).any() or (high < low).any():
            raise self._error(
                f"boxes from {low.amin((0, 1)).tolist()} to {high.amax((0, 1)).tolist()}",
                f"x1, y1, x2, y2 in pixels of a picture of {height} x {width} (height, width). Clip them to it",
            )
        if (seen.scores < 0).any() or (seen.scores > 1).any():
            raise self._error(f"scores from {seen.scores.min():g} to {seen.scores.max():g}", "numbers in [0, 1]")
        if (seen.labels < 0).any() or (seen.labels >= len(self.names)).any():
            raise self._error(f"labels up to {seen.labels.max()}", f"0 to {len(self.names) - 1}, as in `names`")
        [stride] = self.strides
        for side, cells in ((height, seen.maps.shape[2]), (width, seen.maps.shape[3])):
            if cells not in (side // stride, -(-side // stride)):
                raise self._error(
                    f"a map of {tuple(seen.maps.shape[2:])} cells for {height} x {width} pixels",
                    f"cells of {stride} pixels, which is its attribute `stride`",
                )

    def _error(self, found: str, expected: str) -> ValueError:
        return ValueError(f"{self.name}: `detect` returned {found}. Expected: {expected}")
