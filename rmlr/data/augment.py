"""Random augmentation of photos for training: flip, colour jitter, resize and crop, as in UPT and DETR.

The parameters are drawn before a pixel is read, only from seed, view and image id. So they do not depend on the order,
process or thread in which photos are loaded, and boxes can be transformed without the photo.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageEnhance

from rmlr.data.images import ImageBatch, load_annotated, pad, read_annotated, resized_size, size_within
from rmlr.hoi import NO_BOX, Annotation
from rmlr.study.settings import Augment, FixedSize, PictureSize

MOST_PIXELS = 2**26  # limit for photos that are enlarged before cropping: a strip of 1 x 5000 would take gigabytes
CACHED_SEED = 0  # of cached views, which all runs share
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True, slots=True)
class Plan:
    """The augmentation of one photo, in this order. Sizes are height and width."""

    stored: tuple[int, int]
    is_flipped: bool
    colours: tuple[tuple[int, float], ...]  # (of `ENHANCERS`, factor), in the order they are applied
    before_crop: tuple[int, int] | None  # None: not cropped
    crop: tuple[int, int, int, int]  # left, top, right, bottom; of a photo that is not cropped its own edges
    size: tuple[int, int]  # in the end: nothing is resized after

    def photo(self, photo: Image.Image) -> Image.Image:
        """The augmented photo."""
        if self.is_flipped:
            photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for index, factor in self.colours:
            photo = ENHANCERS[index](photo).enhance(factor)
        if self.before_crop is not None:
            photo = _resized(photo, self.before_crop).crop(self.crop)
        return _resized(photo, self.size)

    def boxes(self, boxes: Float[np.ndarray, "k 4"]) -> tuple[Float[np.ndarray, "k 4"], Bool[np.ndarray, " k"]]:
        """Boxes of the stored photo in pixels of the view, and which of them are not empty after the crop.

        Boxes are clipped by a crop only.
        """
        moved = boxes.astype(np.float64)
        height, width = self.stored
        if self.is_flipped:
            moved = np.stack([width - moved[:, 2], moved[:, 1], width - moved[:, 0], moved[:, 3]], axis=1)
        is_left = np.ones(len(boxes), dtype=bool)
        left, top, right, bottom = self.crop
        if self.before_crop is not None:
            moved *= [self.before_crop[1] / width, self.before_crop[0] / height] * 2
            moved = (moved - [left, top, left, top]).clip(0, [right - left, bottom - top] * 2)
            is_left = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        moved *= [self.size[1] / (right - left), self.size[0] / (bottom - top)] * 2
        return moved, is_left

    def annotation(self, annotation: Annotation) -> Annotation:
        """The annotation of the view: its size, boxes in its pixels, and the remaining interactions.

        A box keeps its index, also when it is empty. An interaction is dropped with either of its boxes, and a person's
        actions with the person.

        Differs: UPT intends the same, but its code compares the human's lower edges with the object's upper ones
        (detr/datasets/transforms.py of its fork), and so drops pairs at random places and keeps empty humans.
        """
        boxes, is_left = self.boxes(annotation.boxes)
        human, _, object_ = annotation.interactions.T
        has_both = is_left[human] & (is_left[object_] | (object_ == NO_BOX)) if len(human) else slice(0)
        return replace(
            annotation,
            height=self.size[0],
            width=self.size[1],
            boxes=boxes,
            interactions=annotation.interactions[has_both],
            is_listed=annotation.is_listed & is_left,
            actions=annotation.actions[is_left[annotation.actions[:, 0]]],
        )


def draw_plan(
    height: int, width: int, image_id: int, rule: Augment, *, seed: int, view: int, image: PictureSize | None = None
) -> Plan:
    """What happens to a photo of this size in a view, or epoch. A detector's fixed size takes the place of `rule`'s.

    Differs: UPT draws from one stream, in the order of loading. A side smaller than the smallest crop (there is none at
    UPT's sizes) is taken whole, and so is a strip that would be enlarged beyond `MOST_PIXELS`.
    """
    random = np.random.default_rng([seed, view, image_id % 2**64])
    is_flipped = random.random() < rule.flip
    factors = random.uniform(max(0.0, 1 - rule.jitter), 1 + rule.jitter, len(ENHANCERS)).tolist()
    colours = tuple((int(index), factors[index]) for index in random.permutation(len(ENHANCERS)))
    before, region = None, (0, 0, width, height)
    if random.random() < rule.crop:
        enlarged = resized_size(height, width, int(random.choice(rule.crop_from)), None)
        before = enlarged if enlarged[0] * enlarged[1] <= MOST_PIXELS else None
    if before is not None:
        low, high = rule.crop_smallest, rule.crop_largest
        tall, wide = (int(random.integers(min(low, side), min(side, high) + 1)) for side in before)
        top, left = int(random.integers(before[0] - tall + 1)), int(random.integers(before[1] - wide + 1))
        region = (left, top, left + wide, top + tall)
    size = resized_size(region[3] - region[1], region[2] - region[0], int(random.choice(rule.shortest)), rule.longest)
    if isinstance(image, FixedSize):
        size = image.height, image.width
    return Plan((height, width), is_flipped, colours if rule.jitter else (), before, region, size)


def draw_plans(
    annotations: Sequence[Annotation], rule: Augment, *, seed: int, view: int, image: PictureSize | None = None
) -> list[Plan]:
    """The augmentation of each of these photos."""
    return [
        draw_plan(item.height, item.width, item.image_id, rule, seed=seed, view=view, image=image)
        for item in annotations
    ]


def load_augmented(
    annotations: Sequence[Annotation],
    folder: Path,
    rule: Augment,
    *,
    seed: int,
    view: int,
    image: PictureSize | None = None,
) -> tuple[ImageBatch, list[Annotation]]:
    """One view of the photos of these records, padded, and its annotations (`Plan.annotation`)."""
    plans = draw_plans(annotations, rule, seed=seed, view=view, image=image)
    photos = [plan.photo(read_annotated(item, folder)) for plan, item in zip(plans, annotations, strict=True)]
    batch = pad(photos, [(photo.height, photo.width) for photo in photos])
    return batch, [plan.annotation(item) for plan, item in zip(plans, annotations, strict=True)]


def load_view(
    annotations: Sequence[Annotation], folder: Path, image: PictureSize, rule: Augment | None, view: int
) -> ImageBatch:
    """A cached view of the photos of these records, padded; the first is the original photo."""
    if rule is None or view == 0:
        return load_annotated(annotations, folder, image)
    return load_augmented(annotations, folder, rule, seed=CACHED_SEED, view=view, image=image)[0]


def view_sizes(
    annotations: Sequence[Annotation], image: PictureSize, rule: Augment | None, view: int
) -> list[tuple[int, int]]:
    """Height and width of each photo in a cached view, as input of the detector."""
    if rule is None or view == 0:
        return [size_within(item.height, item.width, image) for item in annotations]
    return [plan.size for plan in draw_plans(annotations, rule, seed=CACHED_SEED, view=view, image=image)]


def annotated_views(
    annotations: Sequence[Annotation], image: PictureSize, rule: Augment | None, view: int
) -> list[Annotation]:
    """The annotations of a cached view; the first is the original photo."""
    if rule is None or view == 0:
        return list(annotations)
    plans = draw_plans(annotations, rule, seed=CACHED_SEED, view=view, image=image)
    return [plan.annotation(item) for plan, item in zip(plans, annotations, strict=True)]


def _resized(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    if (photo.height, photo.width) == size:
        return photo
    return photo.resize((size[1], size[0]), Image.Resampling.BILINEAR)
