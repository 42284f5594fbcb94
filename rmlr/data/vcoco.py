"""V-COCO: official rows joined with COCO's instances by annotation id, or the pairs of fredzzhang/vcoco.

Foreign numberings (COCO's category and annotation ids, `role_object_id`) stay in this file.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel

from rmlr.data.images import read_size
from rmlr.data.records import Corpus
from rmlr.hoi import NO_BOX, Annotation, Vocabulary
from rmlr.study.files import Int64, PositiveInt, RelativeName, read_json

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
PERSON = "person"  # COCO's name of it
MAX_JOIN_GAP = 0.01  # pixels between a pair's side and COCO's: both files have two decimals

Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
_STRICT = ConfigDict(strict=True)


# ---- the files, as they are


@pydantic.dataclasses.dataclass(config=_STRICT, slots=True)  # not a BaseModel: COCO has 900,000 of them
class _CocoAnnotation:
    id: int
    image_id: int
    category_id: int
    bbox: Box  # x, y, width, height
    area: FiniteFloat
    iscrowd: Literal[0, 1]
    ignore: int = 0


@pydantic.dataclasses.dataclass(config=_STRICT, slots=True)
class _CocoImage:
    id: Int64
    file_name: RelativeName
    height: PositiveInt
    width: PositiveInt


class _CocoCategory(BaseModel):
    model_config = _STRICT

    id: int
    name: str


class _CocoFile(BaseModel):
    """instances_*.json"""

    model_config = _STRICT

    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory]


class _Action(BaseModel):
    """One action of vcoco_*.json: parallel lists over all listed persons."""

    model_config = _STRICT

    action_name: str
    role_name: list[str] = Field(min_length=1)  # "agent" first
    image_id: list[int]
    ann_id: list[int]
    label: list[Literal[0, 1]]
    role_object_id: list[int]  # role-major: all agents, then all objects of the first role, ...; 0: no such object


class _ActionsFile(RootModel[list[_Action]]):
    """vcoco_*.json"""


class _PairsImage(BaseModel):
    model_config = _STRICT

    boxes_h: list[Box]
    boxes_o: list[Box]
    actions: list[int]
    objects: list[int]
    file_name: RelativeName


class _PairsFile(BaseModel):
    """instances_vcoco_*.json"""

    model_config = _STRICT

    annotations: list[_PairsImage]
    images: list[Int64]
    classes: list[str]
    objects: list[str]  # the first is the background


# ---- COCO's instances


@dataclass(frozen=True)
class Coco:
    """COCO's instances of the images that a V-COCO-format dataset names."""

    objects: tuple[str, ...]  # by ascending category id
    images: dict[int, _CocoImage]
    instances: dict[int, list[_CocoAnnotation]]  # by image, in file order, without those that are no ground truth
    place: dict[int, tuple[int, int]]  # annotation id -> image id, index among its instances or NO_BOX
    label_of: dict[int, int]  # category id -> index into `objects`
    dropped: dict[int, int]  # by image: annotations that are no ground truth

    @property
    def person(self) -> int:
        """Which of `objects` is the person."""
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
    """The boxes of one image, before it is said what its people do."""

    image: _CocoImage
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
        """Which of the boxes this one is, to the two decimals that the files have."""
        is_same = (np.abs(self.boxes - np.array(box)) < MAX_JOIN_GAP).all(-1) & (self.labels == label)
        return int(is_same.argmax()) if is_same.any() else None


def read_coco(folder: Path, wanted: Container[int]) -> Coco:
    """The images of `wanted` that COCO's train2014 and val2014 instances hold. Either file may be absent, not both.

    As the official tool does, annotations with `ignore` 1 or without area are left out (evaluation specification, 1.2).
    Takes memory of about ten times the file.
    """
    paths = [folder / f"instances_{name}2014.json" for name in ("train", "val")]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise ValueError(f"{folder}: neither instances_train2014.json nor instances_val2014.json. Put COCO's there")
    categories: list[tuple[int, str]] = []
    images: dict[int, _CocoImage] = {}
    instances: dict[int, list[_CocoAnnotation]] = {}
    place: dict[int, tuple[int, int]] = {}
    dropped: dict[int, int] = defaultdict(int)
    for path in paths:
        content = read_json(path, _CocoFile)
        found = sorted((category.id, category.name) for category in content.categories)
        if categories and found != categories:
            raise ValueError(f"{path}: categories differ from those of {paths[0]}. Are both of one release?")
        for twice in (Counter(number for number, _ in found), Counter(name for _, name in found)):
            if (most := twice.most_common(1)) and most[0][1] > 1:
                raise ValueError(
                    f"{path}: category {most[0][0]!r} stands twice under categories. Give each one id and name"
                )
        categories, category_ids, known = found, {number for number, _ in found}, set()
        for image in content.images:
            if image.id in known or image.id in images:
                raise ValueError(f"{path}: image id {image.id} stands twice. Is the file damaged?")
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
                raise ValueError(f"{path}: annotation id {item.id} stands twice. Is the file damaged?")
            of_image = instances[item.image_id]
            if item.ignore == 1 or item.area <= 0:
                place[item.id] = (item.image_id, NO_BOX)
                dropped[item.image_id] += 1
            else:
                place[item.id] = (item.image_id, len(of_image))
                of_image.append(item)
    objects = tuple(name for _, name in categories)
    if PERSON not in objects:
        raise ValueError(f"{paths[0]}: no category is named '{PERSON}': {', '.join(objects)}")
    label_of = {number: label for label, (number, _) in enumerate(categories)}
    return Coco(objects, images, instances, place, label_of, dropped)


class _AllBut:
    """Every image but these; it remembers which of them it was asked about."""

    def __init__(self, excluded: Set[int]):
        self._excluded, self.met = excluded, set[int]()

    def __contains__(self, image_id: object) -> bool:
        if image_id not in self._excluded:
            return True
        self.met.add(int(str(image_id)))
        return False


def read_coco_without(folder: Path, excluded: Set[int], objects: Sequence[str]) -> list[Annotation]:
    """Every image of COCO's train2014 and val2014 but the `excluded` ones, with all its boxes, for a detector to learn.

    `objects` are the classes that it shall know. ValueError where a file is absent, where the classes are others, and
    where an excluded image is none of COCO's: then nothing says that another number is not the same photo.
    """
    for name in ("train", "val"):
        if not (path := folder / f"instances_{name}2014.json").exists():
            raise ValueError(f"{path}: does not exist. All of COCO 2014 is asked for: put both of its files there")
    wanted = _AllBut(excluded)
    coco = read_coco(folder, wanted)
    if tuple(objects) != coco.objects:
        raise ValueError(f"{folder}: COCO's classes are {list(coco.objects)}, expected V-COCO's: {list(objects)}")
    if unknown := sorted(excluded - wanted.met):
        raise ValueError(
            f"{folder}: {len(unknown)} of the {len(excluded)} images to leave out are none of COCO's, such as "
            f"{unknown[:5]}. Are V-COCO and COCO of one release?"
        )
    images = [coco.ground_truth(image_id).annotation((), (), ()) for image_id in sorted(coco.images)]
    assert excluded.isdisjoint(image.image_id for image in images)
    return images


# ---- V-COCO's two forms


def read_vcoco(raw: Path, unscored_roles: Sequence[str]) -> Corpus:
    """The V-COCO-format dataset under `raw`: coco/, vcoco/, and images/ where sizes are known nowhere else.

    A split comes from vcoco/vcoco_{split}.json, else from vcoco/instances_vcoco_{split}.json (`read_pairs` says what
    that one lacks), for the images of vcoco/splits/vcoco_{split}.ids, in that order, which may be any.
    The HOIs are the (verb, object) combinations with a box in train and val.
    """
    folder = raw / "vcoco"
    ids = {split: read_ids(folder / "splits" / f"vcoco_{split}.ids") for split in SPLITS}
    official = {split: folder / f"vcoco_{split}.json" for split in SPLITS}
    rows = {split: read_json(path, _ActionsFile).root for split, path in official.items() if path.exists()}
    if not rows:
        raise ValueError(
            f"{folder}: none of vcoco_train.json, vcoco_val.json and vcoco_test.json, which name the actions"
        )
    coco = read_coco(raw / "coco", set(chain.from_iterable(ids.values())))
    first = next(iter(rows))
    vocabulary = _vocabulary(official[first], rows[first], coco.objects, unscored_roles)

    splits: dict[str, list[Annotation]] = {}
    notes: dict[str, int] = {}
    for split in SPLITS:
        if split in rows:
            if _roles(rows[split]) != _roles(rows[first]):
                raise ValueError(
                    f"{official[split]}: actions and roles differ from those of {official[first]}. "
                    "Are both of one release?"
                )
            splits[split] = _join(official[split], rows[split], ids[split], coco, vocabulary)
            notes[f"{split}_listed_persons"] = len(rows[split][0].ann_id)
            scored = [(action, role) for action in rows[split] for role in action.role_name[1:]]
            notes[f"{split}_positives"] = sum(
                sum(action.label) for action, role in scored if f"{action.action_name} {role}" in vocabulary.verbs
            )
            notes[f"{split}_dropped_persons"] = notes[f"{split}_listed_persons"] - sum(
                int(image.is_listed.sum()) for image in splits[split]
            )
        else:
            path = folder / f"instances_vcoco_{split}.json"
            if not path.exists():
                raise ValueError(f"{folder}: split '{split}' has neither {official[split].name} nor {path.name}")
            log.info("%s: from %s: pairs with a visible object only, so its AP_role is not official", split, path.name)
            splits[split] = read_pairs(path, ids[split], vocabulary, coco, raw / "images")
        notes[f"{split}_from_pairs"] = int(split not in rows)
        notes[f"{split}_dropped_boxes"] = sum(coco.dropped.get(image_id, 0) for image_id in ids[split])
    hois = {
        (int(verb), int(annotation.labels[object_]))
        for annotation in splits["train"] + splits["val"]
        for _, verb, object_ in annotation.interactions
        if object_ != NO_BOX and verb < len(vocabulary.verbs)
    }
    return Corpus(replace(vocabulary, hois=tuple(sorted(hois))), splits, notes)


def read_ids(path: Path) -> list[int]:
    """The image ids of a split, in file order; the official trainval list is not sorted."""
    try:
        lines = path.read_text().split()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Put V-COCO's data/splits there") from error
    for line, text in enumerate(lines, start=1):
        if not text.isdecimal():
            raise ValueError(f"{path}: entry {line}: expected an image id, got {text!r}")
    ids = [int(text) for text in lines]
    if len(set(ids)) < len(ids):
        twice = next(image_id for position, image_id in enumerate(ids) if image_id in ids[:position])
        raise ValueError(f"{path}: image {twice} is listed twice")
    return ids


def _roles(actions: list[_Action]) -> list[tuple[str, list[str]]]:
    return [(action.action_name, action.role_name) for action in actions]


def _vocabulary(
    path: Path, actions: list[_Action], objects: tuple[str, ...], unscored_roles: Sequence[str]
) -> Vocabulary:
    """The lists of an official file; an action-role is `<action> <role>`. Its HOIs are not known yet."""
    for name, roles in _roles(actions):
        if roles[0] != "agent" or len(set(roles)) < len(roles):
            raise ValueError(f"{path}: action '{name}': expected 'agent', then other roles, got {roles}")
    verbs = [f"{name} {role}" for name, roles in _roles(actions) for role in roles[1:]]
    unknown = [role for role in unscored_roles if role not in verbs]
    if unknown:
        raise ValueError(
            f"{path}: no action-role {unknown}, which the setting vcoco.unscored_roles leaves out of the score"
        )
    return Vocabulary(
        dataset="vcoco",
        objects=objects,
        person=objects.index(PERSON),
        verbs=tuple(verb for verb in verbs if verb not in unscored_roles),
        hois=(),
        unscored_verbs=tuple(verb for verb in verbs if verb in unscored_roles),
        actions=tuple(action.action_name for action in actions),
    )


def _join(path: Path, rows: list[_Action], ids: list[int], coco: Coco, vocabulary: Vocabulary) -> list[Annotation]:
    """The records of the official rows of one split.

    Interactions stand in the order action, role, row. A positive counts for each role of its action, with or without an
    object box. A person that is no ground truth in COCO takes its rows along, an object leaves NO_BOX, as it would
    in the official tool (where the second is an assertion).
    """
    _check_rows(path, rows)
    people, images = rows[0].ann_id, rows[0].image_id
    for image_id in ids:
        if image_id not in coco.images:
            raise ValueError(
                f"{path}: image {image_id} of the split is in no COCO instances file. Are they of one release? "
                "Else take it from the split's list of ids, or add it to coco/instances_*2014.json"
            )

    def find(annotation_id: int, image_id: int, what: str) -> int:
        if annotation_id not in coco.place:
            raise ValueError(
                f"{path}: image {image_id}: {what} is annotation {annotation_id}, which COCO's instances of the "
                "split's images do not have. Are both of one release?"
            )
        found, position = coco.place[annotation_id]
        if found != image_id:
            raise ValueError(
                f"{path}: image {image_id}: {what} is annotation {annotation_id}, which is of image {found}"
            )
        return position

    listed: dict[int, list[int]] = {image_id: [] for image_id in ids}
    humans = []
    for image_id, annotation_id in zip(images, people, strict=True):
        if image_id not in listed:
            raise ValueError(
                f"{path}: person {annotation_id} is of image {image_id}, which is not in the split's list of ids. "
                "Are annotations and split of one release?"
            )
        human = find(annotation_id, image_id, "a person")
        humans.append(human)
        if human == NO_BOX:
            continue
        category = coco.instances[image_id][human].category_id
        if coco.label_of[category] != vocabulary.person:
            raise ValueError(
                f"{path}: image {image_id}: person {annotation_id} has COCO's category {category}, no person"
            )
        listed[image_id].append(human)

    interactions: dict[int, list[tuple[int, int, int]]] = {image_id: [] for image_id in ids}
    actions: dict[int, list[tuple[int, int]]] = {image_id: [] for image_id in ids}
    verb_of = {verb: index for index, verb in enumerate(vocabulary.verbs + vocabulary.unscored_verbs)}
    for index, action in enumerate(rows):
        positives = [row for row, label in enumerate(action.label) if label and humans[row] != NO_BOX]
        for row in positives:
            actions[images[row]].append((humans[row], index))
        for number, role in enumerate(action.role_name[1:], start=1):
            verb, objects = f"{action.action_name} {role}", action.role_object_id[number * len(people) :]
            for row in positives:
                what = f"'{verb}' of person {people[row]}"
                object_ = find(objects[row], images[row], what) if objects[row] else NO_BOX
                interactions[images[row]].append((humans[row], verb_of[verb], object_))
    return [
        coco.ground_truth(image_id).annotation(listed[image_id], interactions[image_id], actions[image_id])
        for image_id in ids
    ]


def _check_rows(path: Path, rows: list[_Action]) -> None:
    """All actions list the same persons once, in the same order, with as many labels and role objects as needed."""
    first = rows[0]
    if len(set(first.ann_id)) < len(first.ann_id):
        raise ValueError(f"{path}: action '{first.action_name}': a person (ann_id) stands in two rows")
    for action in rows:
        where, persons = f"{path}: action '{action.action_name}'", len(action.ann_id)
        for name, length, expected in (
            ("image_id", len(action.image_id), persons),
            ("label", len(action.label), persons),
            ("role_object_id", len(action.role_object_id), persons * len(action.role_name)),
        ):
            if length != expected:
                raise ValueError(f"{where}: {persons} ann_id, but {length} {name} where {expected} belong")
        if action.ann_id != first.ann_id or action.image_id != first.image_id:
            raise ValueError(f"{where}: lists other persons, or in another order, than '{first.action_name}'")
        if action.role_object_id[:persons] != action.ann_id:
            raise ValueError(f"{where}: the agents in role_object_id are not ann_id. Is it role-major?")


def read_pairs(path: Path, ids: list[int], vocabulary: Vocabulary, coco: Coco, photos: Path) -> list[Annotation]:
    """The records of instances_vcoco_{split}.json, the only public form of the test split that has boxes.

    It holds pairs with a visible object: positives without an object box, role-less actions and left-out roles are
    absent, so recall is over fewer positives than AP_role's. Every person of a pair counts as listed.
    Where COCO has the image, its instances are the boxes and each box of a pair is found among them;
    else the boxes of the pairs are all there is, and the size is that of the photo.
    """
    content = read_json(path, _PairsFile)
    if len(content.images) != len(content.annotations):
        raise ValueError(f"{path}: {len(content.images)} images, but {len(content.annotations)} annotations")
    if sorted(content.images) != sorted(ids):
        outside = sorted(set(content.images) ^ set(ids))
        raise ValueError(
            f"{path}: {len(content.images)} images, {len(ids)} in the split's list of ids, {len(outside)} in one only, "
            f"such as {outside[:1]}. Are annotations and split of one release?"
        )
    verbs = vocabulary.verbs + vocabulary.unscored_verbs
    for key, names, known in (
        ("classes", content.classes, verbs),
        ("objects", content.objects[1:], vocabulary.objects),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{path}: {key}: {unknown} unknown to V-COCO's rows or COCO's categories")
    verb_of = [verbs.index(name) for name in content.classes]
    action_of = [vocabulary.actions.index(name.rsplit(" ", 1)[0]) for name in content.classes]
    label_of = {number: vocabulary.objects.index(name) for number, name in enumerate(content.objects) if number}
    by_image = dict(zip(content.images, content.annotations, strict=True))

    def read(image_id: int) -> Annotation:
        pairs, where = by_image[image_id], f"{path}: image {image_id}"
        if not len(pairs.boxes_h) == len(pairs.boxes_o) == len(pairs.actions) == len(pairs.objects):
            raise ValueError(f"{where}: boxes_h, boxes_o, actions and objects differ in length")
        if any(not 0 <= action < len(verb_of) for action in pairs.actions):
            raise ValueError(f"{where}: actions {pairs.actions}: expected 0 to {len(verb_of) - 1}")
        if any(number not in label_of for number in pairs.objects):
            raise ValueError(f"{where}: objects {pairs.objects}: expected 1 to {len(label_of)}; 0 is the background")
        humans = [(box, vocabulary.person) for box in pairs.boxes_h]
        things = [(box, label_of[number]) for box, number in zip(pairs.boxes_o, pairs.objects, strict=True)]
        named = dict.fromkeys(chain(humans, things))
        if image_id in coco.images:
            truth = coco.ground_truth(image_id)
        else:
            truth = GroundTruth(
                image=_CocoImage(image_id, pairs.file_name, *read_size(photos / pairs.file_name)),
                boxes=np.array([box for box, _ in named], dtype=np.float64).reshape(-1, 4),
                labels=np.array([label for _, label in named], dtype=np.int64),
                is_crowd=np.zeros(len(named), dtype=bool),
            )
        place: dict[tuple[Box, int], int] = {}
        for box, label in named:
            if (found := truth.find(box, label)) is None:
                raise ValueError(
                    f"{where}: box {list(box)} of a {vocabulary.objects[label]} is not among COCO's {len(truth.boxes)} "
                    "instances of the image. Are both of one release?"
                )
            place[box, label] = found
        rows = list(zip(humans, pairs.actions, things, strict=True))
        return truth.annotation(
            listed={found for (_, label), found in place.items() if label == vocabulary.person},
            interactions=[(place[human], verb_of[action], place[thing]) for human, action, thing in rows],
            actions=list(dict.fromkeys((place[human], action_of[action]) for human, action, _ in rows)),
        )

    return [read(image_id) for image_id in ids]
