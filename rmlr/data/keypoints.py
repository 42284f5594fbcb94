"""People and their joints, in the format of COCO's person_keypoints_*.json, and crops around them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydantic
from jaxtyping import Bool, Float
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from rmlr.data.coco import CocoImage
from rmlr.data.images import ImageBatch, pad, read_sized
from rmlr.study.files import Box, Pixel, read_json

SIDES = ("left_", "right_")
_STRICT = ConfigDict(strict=True)


@pydantic.dataclasses.dataclass(config=_STRICT, slots=True)
class _Annotation:
    image_id: int
    category_id: int
    bbox: Box  # x, y, width, height
    iscrowd: int
    num_keypoints: int
    keypoints: list[Pixel]  # x, y, and 0: not annotated, 1: hidden, 2: visible; for each joint


class _Category(BaseModel):
    model_config = _STRICT

    id: int
    name: str
    keypoints: list[str] = Field(min_length=1)


class _File(BaseModel):
    """person_keypoints_*.json"""

    model_config = _STRICT

    images: list[CocoImage]
    annotations: list[_Annotation]
    categories: list[_Category] = Field(min_length=1, max_length=1)  # people


@dataclass(frozen=True, slots=True)
class Posed:
    """A person whose joints are known."""

    file_name: str
    height: int  # of the photo
    width: int
    box: Float[np.ndarray, "4"]  # xyxy
    joints: Float[np.ndarray, "j 2"]  # x and y, pixels; undefined if unknown
    is_known: Bool[np.ndarray, " j"]


def load_people(path: Path) -> tuple[tuple[str, ...], list[Posed]]:
    """The joints' names, and all people with a known joint and a box, in file order, without crowds."""
    content = read_json(path, _File)
    names, images = tuple(content.categories[0].keypoints), {image.id: image for image in content.images}
    if len(images) < len(content.images):
        image_id = Counter(image.id for image in content.images).most_common(1)[0][0]
        raise ValueError(f"{path}: image id {image_id} is listed twice. Keep one of its entries")
    people = []
    for number, one in enumerate(content.annotations):
        if one.image_id not in images:
            raise ValueError(f"{path}: annotations[{number}] is of image {one.image_id}, which `images` does not list")
        if len(one.keypoints) != 3 * len(names):
            raise ValueError(
                f"{path}: annotations[{number}].keypoints: expected 3 numbers for each of {len(names)} joints, got "
                f"{len(one.keypoints)} numbers"
            )
        points, (x, y, width, height) = np.asarray(one.keypoints).reshape(-1, 3), one.bbox
        if one.iscrowd or not points[:, 2].any() or min(width, height) <= 0:
            continue
        image = images[one.image_id]
        people.append(
            Posed(
                file_name=image.file_name,
                height=image.height,
                width=image.width,
                box=np.array([x, y, x + width, y + height]),
                joints=points[:, :2],
                is_known=points[:, 2] > 0,
            )
        )
    return names, people


def mirrored(names: Sequence[str]) -> list[int]:
    """For each joint, its counterpart in a flipped photo: that of left_wrist is right_wrist."""

    def twin(name: str) -> str:
        side = next((side for side in SIDES if name.startswith(side)), "")
        other = SIDES[1 - SIDES.index(side)] if side else ""
        return other + name.removeprefix(side)

    return [names.index(twin(name)) if twin(name) in names else at for at, name in enumerate(names)]


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of a photo, which may extend beyond its edges, and its size as input."""

    left: float
    top: float
    side: float
    is_flipped: bool = False

    @classmethod
    def around(cls, person: Posed, margin: float, shift: tuple[float, float] = (0.0, 0.0), zoom: float = 1.0) -> "Crop":
        """A square whose side is `margin` x `zoom` of the person's longer side; its middle shifted, in sides."""
        x1, y1, x2, y2 = map(float, person.box)
        side = margin * zoom * max(x2 - x1, y2 - y1)
        return cls((x1 + x2 - side) / 2 + shift[0] * side, (y1 + y2 - side) / 2 + shift[1] * side, side)

    def show(self, photo: Image.Image, pixels: int) -> Image.Image:
        """`pixels` x `pixels` of it, black beyond the photo's edges."""
        left, right = self.left, self.left + self.side
        corners = (right, self.top, left, self.top + self.side) if self.is_flipped else (
            left, self.top, right, self.top + self.side)  # fmt: skip
        return photo.transform((pixels, pixels), Image.Transform.EXTENT, corners, Image.Resampling.BILINEAR)

    def place(self, points: Float[np.ndarray, "j 2"]) -> Float[np.ndarray, "j 2"]:
        """Points of the photo relative to the crop: 0 to 1 inside."""
        inside = (points - [self.left, self.top]) / self.side
        return np.stack([1 - inside[:, 0], inside[:, 1]], axis=1) if self.is_flipped else inside

    def lift(self, inside: Float[np.ndarray, "j 2"]) -> Float[np.ndarray, "j 2"]:
        """The inverse of `place`."""
        x = 1 - inside[:, 0] if self.is_flipped else inside[:, 0]
        return np.stack([x, inside[:, 1]], axis=1) * self.side + [self.left, self.top]


def load_crops(people: Sequence[Posed], crops: Sequence[Crop], folder: Path, pixels: int) -> ImageBatch:
    """A crop around each of these people; ValueError where a photo has not the size that the annotations say."""
    shown = []
    for person, crop in zip(people, crops, strict=True):
        photo = read_sized(folder / person.file_name, person.height, person.width, "the photo")
        shown.append(crop.show(photo, pixels))
    return pad(shown, [(photo.height, photo.width) for photo in shown])
