"""COCO's instances: the boxes of an image and their classes. Category and annotation ids are converted here.

`rmlr.data.vcoco` joins them with annotations of actions; a detector is trained on them alone.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, FiniteFloat

from rmlr.data.records import differences
from rmlr.hoi import NO_BOX, Annotation
from rmlr.study.files import Box, Int64, Name, RelativeName, Side, read_json

PERSON = "person"  # COCO's name
MAX_JOIN_GAP = 0.01  # pixels between a pair's side and COCO's: both files have two decimals

_STRICT = ConfigDict(strict=True)


@pydantic.dataclasses.dataclass(config=_STRICT, slots=True)  # not a BaseModel: COCO has 900,000 of them
class _Instance:
    id: int
    image_id: int
    category_id: int
    bbox: Box  # x, y, width, height
    area: FiniteFloat
    iscrowd: Literal[0, 1]
    ignore: int = 0


@pydantic.dataclasses.dataclass(config=_STRICT, slots=True)
class CocoImage:
    id: Int64
    file_name: RelativeName
    height: Side
    width: Side


class _Category(BaseModel):
    model_config = _STRICT

    id: int
    name: Name


class _File(BaseModel):
    """instances_*.json"""

    model_config = _STRICT

    images: list[CocoImage]
    annotations: list[_Instance]
    categories: list[_Category]


@dataclass(frozen=True)
class Coco:
    """COCO's instances of the images that a V-COCO-format dataset names."""

    objects: tuple[str, ...]  # by ascending category id
    images: dict[int, CocoImage]
    instances: dict[int, list[_Instance]]  # by image, in file order, without those that are not ground truth
    place: dict[int, tuple[int, int]]  # annotation id -> image id, index among its instances or NO_BOX
    label_of: dict[int, int]  # category id -> index into `objects`
    dropped: dict[int, int]  # by image: annotations that are not ground truth

    @property
    def person(self) -> int:
        """The index of the person in `objects`."""
        return self.objects.index(PERSON)

    def ground_truth(self, image_id: int) -> "GroundTruth":
        """All instances of one image."""
        instances = self.instances[image_id]
        bbox = np.array([instance.bbox for instance in instances], dtype=np.float64).reshape(-1, 4)
        return GroundTruth(
            image=self.images[image_id],
            boxes=np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1),
            labels=np.array([self.label_of[instance.category_id] for instance in instances], dtype=np.int64),
            is_crowd=np.array([instance.iscrowd for instance in instances], dtype=bool),
        )


@dataclass(frozen=True)
class GroundTruth:
    """The boxes of one image, without actions."""

    image: CocoImage
    boxes: Float[np.ndarray, "k 4"]
    labels: Int[np.ndarray, " k"]
    is_crowd: Bool[np.ndarray, " k"]

    def annotation(self, listed: Iterable[int], interactions: Sequence, actions: Sequence) -> Annotation:
        """The record of the image; `listed` are the boxes of persons whose actions were annotated."""
        return Annotation(
            image_id=self.image.id,
            file_name=self.image.file_name,
            height=self.image.height,
            width=self.image.width,
            boxes=self.boxes,
            labels=self.labels,
            interactions=np.array(interactions, dtype=np.int64).reshape(-1, 3),
            is_crowd=self.is_crowd,
            is_listed=np.isin(np.arange(len(self.boxes)), list(listed)),
            actions=np.array(actions, dtype=np.int64).reshape(-1, 2),
        )

    def find(self, box: Box, label: int) -> int | None:
        """The index of this box, compared to the two decimals of the files."""
        is_same = (np.abs(self.boxes - np.array(box)) < MAX_JOIN_GAP).all(-1) & (self.labels == label)
        return int(is_same.argmax()) if is_same.any() else None


def read_coco(folder: Path, wanted: Container[int]) -> Coco:
    """The images of `wanted` in COCO's train2014 and val2014 instances. Either file may be missing, but not both.

    As the official tool does, annotations with `ignore` 1 or without area are left out (evaluation specification, 1.2).
    Needs about ten times the memory of the file.
    """
    paths = [folder / f"instances_{name}2014.json" for name in ("train", "val")]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise ValueError(f"{folder}: neither instances_train2014.json nor instances_val2014.json. Put COCO's there")
    categories: list[tuple[int, str]] = []
    images: dict[int, CocoImage] = {}
    instances: dict[int, list[_Instance]] = {}
    place: dict[int, tuple[int, int]] = {}
    dropped: dict[int, int] = defaultdict(int)
    for path in paths:
        content = read_json(path, _File)
        found = sorted((category.id, category.name) for category in content.categories)
        for twice in (Counter(number for number, _ in found), Counter(name for _, name in found)):
            if (most := twice.most_common(1)) and most[0][1] > 1:
                raise ValueError(
                    f"{path}: category {most[0][0]!r} is listed twice under categories. Give each one id and name"
                )
        if categories and (difference := differences(found, categories)):
            raise ValueError(
                f"{path}: categories differ from those of {paths[0]}: {difference}. Are both of one release?"
            )
        categories, category_ids, known = found, {number for number, _ in found}, set()
        for image in content.images:
            if image.id in known or image.id in images:
                raise ValueError(f"{path}: image id {image.id} is listed twice. Keep one of its entries")
            known.add(image.id)
            if image.id in wanted:
                images[image.id], instances[image.id] = image, []
        for item in content.annotations:
            if item.image_id not in known:
                raise ValueError(
                    f"{path}: annotation {item.id} is of image {item.image_id}, which is not in the file's image list. "
                    "Are images and annotations of one release?"
                )
            if item.category_id not in category_ids:
                raise ValueError(
                    f"{path}: annotation {item.id}: no category {item.category_id} in the file, which has "
                    f"{sorted(category_ids)}. Correct category_id, or add it under categories"
                )
            if item.image_id not in wanted:
                continue
            if item.id in place:
                raise ValueError(f"{path}: annotation id {item.id} is listed twice. Keep one of its entries")
            of_image = instances[item.image_id]
            if item.ignore == 1 or item.area <= 0:
                place[item.id] = (item.image_id, NO_BOX)
                dropped[item.image_id] += 1
            elif min(item.bbox[2:]) < 0:
                raise ValueError(
                    f"{path}: image {item.image_id}: bbox of annotation {item.id} is {list(item.bbox)} (x, y, width, "
                    "height), expected a width and a height of at least 0"
                )
            else:
                place[item.id] = (item.image_id, len(of_image))
                of_image.append(item)
    objects = tuple(name for _, name in categories)
    if PERSON not in objects:
        raise ValueError(f"{paths[0]}: no category is named '{PERSON}': {', '.join(objects)}")
    label_of = {number: label for label, (number, _) in enumerate(categories)}
    return Coco(objects, images, instances, place, label_of, dropped)


class _AllBut:
    """Every image except these; it records which of them were requested."""

    def __init__(self, excluded: Set[int]):
        self._excluded, self.met = excluded, set[int]()

    def __contains__(self, image_id: object) -> bool:
        if image_id not in self._excluded:
            return True
        self.met.add(int(str(image_id)))
        return False


def read_coco_without(folder: Path, excluded: Set[int], objects: Sequence[str]) -> list[Annotation]:
    """Every image of COCO's train2014 and val2014 except the `excluded` ones, with all boxes, to train a detector.

    `objects` are its classes. ValueError if a file is missing, if the classes differ, or if an excluded image is not in
    COCO: then the same photo might be included under another id.
    """
    for name in ("train", "val"):
        if not (path := folder / f"instances_{name}2014.json").exists():
            raise ValueError(f"{path}: does not exist. All of COCO 2014 is required: put both of its files there")
    wanted = _AllBut(excluded)
    coco = read_coco(folder, wanted)
    if tuple(objects) != coco.objects:
        raise ValueError(f"{folder}: COCO's classes are {list(coco.objects)}, expected V-COCO's: {list(objects)}")
    if unknown := sorted(excluded - wanted.met):
        raise ValueError(
            f"{folder}: {len(unknown)} of the {len(excluded)} images to leave out are not in COCO, such as "
            f"{unknown[:5]}. Are V-COCO and COCO of one release?"
        )
    images = [coco.ground_truth(image_id).annotation((), (), ()) for image_id in sorted(coco.images)]
    assert excluded.isdisjoint(image.image_id for image in images)
    return images
