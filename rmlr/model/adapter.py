"""The common interface of all kinds of detectors, `Adapter`, and its output, `Found`.

`rmlr.model.detr`, `families` and `foreign` each have an adapter; `rmlr.model.detector` uses any of them.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from rmlr.hoi.batch import DEVIATION, MEAN
from rmlr.study.section import Positive
from rmlr.study.settings import ImageSize, PictureSize

# Classes of COCO-trained detectors that COCO never annotated: their logits are left out of the arg max.
NEVER_ANNOTATED = "N/A, street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush"

# Of COCO's classes: names of PASCAL VOC, which checkpoints of RT-DETR and D-FINE have.
OTHER_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
PICTURE = "rmlr_picture"  # of a `transformers` configuration: a `Picture`, if the checkpoint has its own


class Picture(BaseModel):
    """The input format of a detector: its size, and mean and standard deviation of red, green and blue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: PictureSize = ImageSize(shortest=800, longest=1333)
    mean: tuple[float, float, float] = MEAN
    deviation: tuple[Positive, Positive, Positive] = DEVIATION


@dataclass(frozen=True, slots=True)
class Found:
    """A detector's output for each query of a batch of pictures, and the feature maps of the batch."""

    probabilities: Float[Tensor, "b q o"]  # of its own classes, in [0, 1]; -1 of a query that found nothing
    boxes: Float[Tensor, "b q 4"]  # xyxy, relative to the picture without padding, in [0, 1]
    tokens: Float[Tensor, "b q d"]
    maps: tuple[Float[Tensor, "b _ _ _"], ...]  # channels, rows, columns; from coarse to fine
    is_padding: tuple[Bool[Tensor, "b _ _"], ...]  # of each


class Adapter(nn.Module, ABC):
    """A detector of one kind as `rmlr.model.detector.FrozenDetector` uses it."""

    name: str  # in messages: where it came from
    names: list[str]  # of its classes
    picture: Picture
    token_dim: int
    channels: tuple[int, ...]  # of each map, from coarse to fine
    strides: tuple[int, ...]  # of each map: pixels of the resized picture for each cell
    takes_padding: bool = False  # whether one call takes pictures of several sizes, padded

    @abstractmethod
    def find(self, pixels: Float[Tensor, "b 3 height width"], is_padding: Bool[Tensor, "b height width"]) -> Found:
        """The output for these pictures, which are normalised as in `picture`."""

    def check_size(self, size: PictureSize) -> None:
        """ValueError if it does not accept pictures of this size, which has the form of `picture.size`."""

    def attention(
        self, pixels: Float[Tensor, "b 3 height width"], is_padding: Bool[Tensor, "b height width"]
    ) -> Float[Tensor, "b q h w"]:
        """The attention of each query over its map; sums to 1. ValueError if this kind of detector has none."""
        raise ValueError(
            f"{self.name}: this kind of detector has no attention maps of its queries, so nothing can be "
            "traced. Leave --trace out, or take a run on a DETR"
        )


def match_names(of: Sequence[str], to: Sequence[str]) -> list[int]:
    """For each class of a detector its index in `to`, -1 for one that was never annotated.

    Names are equal up to underscores, case and `OTHER_NAMES`. ValueError lists the names without a
    counterpart on either side.
    """

    def plain(name: str) -> str:
        name = name.replace("_", " ").lower()
        return OTHER_NAMES.get(name, name)

    index = {plain(name): position for position, name in enumerate(to)}
    count = Counter(map(plain, of))
    if twice := [name for name in of if count[plain(name)] > 1 and plain(name) in index]:
        raise ValueError(f"the detector's classes have '{twice[0]}' twice. Give each class another name")
    ignored = {plain(name) for name in NEVER_ANNOTATED.split(", ")}
    extra = [name for name in of if plain(name) not in index and plain(name) not in ignored]
    missing = [name for name in to if plain(name) not in {plain(other) for other in of}]
    if extra or missing:
        raise ValueError(
            f"the detector's classes are not the dataset's: it has {extra} in addition, and {missing} are missing. "
            "Was it trained on another world or dataset?"
        )
    return [index.get(plain(name), -1) for name in of]


def match_classes(detector: str, of: Sequence[str], to: Sequence[str]) -> list[int]:
    """`match_names`; ValueError names the detector."""
    try:
        return match_names(of, to)
    except ValueError as error:
        raise ValueError(f"{detector}: {error}") from error
