"""V-COCO: official rows joined with COCO's instances by annotation id, or the pairs of fredzzhang/vcoco.

Foreign numberings (`ann_id`, `role_object_id`) stay in this file and in `rmlr.data.coco`.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel

from rmlr.data.coco import PERSON, Coco, CocoImage, GroundTruth, read_coco
from rmlr.data.images import read_size
from rmlr.data.records import Corpus, check_vocabulary, differences, with_hois_of
from rmlr.hoi import NO_BOX, Annotation, Vocabulary
from rmlr.study.files import Box, Int64, Name, RelativeName, read_json, read_text

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
MAX_DIGITS = 18  # of an id that 64 bits hold

_STRICT = ConfigDict(strict=True)


# ---- the files


class _Action(BaseModel):
    """One action of vcoco_*.json: parallel lists over all listed persons."""

    model_config = _STRICT

    action_name: Name
    role_name: list[Name] = Field(min_length=1)  # "agent" first
    image_id: list[int]
    ann_id: list[int]
    label: list[Literal[0, 1]]
    role_object_id: list[int]  # role-major: all agents, then all objects of the first role, ...; 0: no such object


class _ActionsFile(RootModel[Annotated[list[_Action], Field(min_length=1)]]):
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


def read_vcoco(raw: Path, unscored_roles: Sequence[str]) -> Corpus:
    """The V-COCO-format dataset under `raw`: coco/, vcoco/, and images/ for sizes that are in no file.

    A split is read from vcoco/vcoco_{split}.json, or else from vcoco/instances_vcoco_{split}.json (`read_pairs` says
    what is missing in it), for the images of vcoco/splits/vcoco_{split}.ids, in that order, which may be any. The HOIs
    are the (verb, object) combinations with a box in train and val.

    Differs: UPT's combinations are also those of test, 236 instead of 218. A combination that is in test alone is
    therefore impossible for our runs, and possible for UPT's.
    """
    folder = raw / "vcoco"
    official = {split: folder / f"vcoco_{split}.json" for split in SPLITS}
    ids = {split: read_ids(_ids_file(path)) for split, path in official.items()}
    rows = {split: read_json(path, _ActionsFile).root for split, path in official.items() if path.exists()}
    if not rows:
        raise ValueError(
            f"{folder}: none of vcoco_train.json, vcoco_val.json and vcoco_test.json, which name the actions"
        )
    coco = read_coco(raw / "coco", set(chain.from_iterable(ids.values())))
    first = next(iter(rows))
    vocabularies = {split: _vocabulary(official[split], rows[split], coco.objects, unscored_roles) for split in rows}
    vocabulary = vocabularies[first]

    splits: dict[str, list[Annotation]] = {}
    notes: dict[str, int] = {}
    for split in SPLITS:
        if split in rows:
            if difference := differences(_roles(rows[split]), _roles(rows[first])):
                raise ValueError(
                    f"{official[split]}: actions and roles differ from those of {official[first]}: "
                    f"{difference}. Are both of one release?"
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
    return Corpus(with_hois_of(vocabulary, splits["train"] + splits["val"]), splits, notes)


def _ids_file(path: Path) -> Path:
    """The list of ids of the split whose annotations a file has."""
    return path.parent / "splits" / f"{path.stem.removeprefix('instances_')}.ids"


def read_ids(path: Path) -> list[int]:
    """The image ids of a split, in file order; the official trainval list is not sorted."""
    ids: dict[int, None] = {}  # in order
    for line, text in enumerate(read_text(path, "Put V-COCO's data/splits there").split(), start=1):
        if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
            what = f"an image id of at most {MAX_DIGITS} digits"
            raise ValueError(f"{path}: entry {line}: expected {what}, got {text[:60]!r}")
        if int(text) in ids:
            raise ValueError(f"{path}: image {int(text)} is listed twice. Keep one of them")
        ids[int(text)] = None
    return list(ids)


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
    vocabulary = Vocabulary(
        dataset="vcoco",
        objects=objects,
        person=objects.index(PERSON),
        verbs=tuple(verb for verb in verbs if verb not in unscored_roles),
        hois=(),
        unscored_verbs=tuple(verb for verb in verbs if verb in unscored_roles),
        actions=tuple(action.action_name for action in actions),
    )
    check_vocabulary(path, vocabulary)
    return vocabulary


def _join(path: Path, rows: list[_Action], ids: list[int], coco: Coco, vocabulary: Vocabulary) -> list[Annotation]:
    """The records of the official rows of one split.

    Interactions are in the order action, role, row. A positive counts for each role of its action, with or without an
    object box. The rows of a person that is not ground truth in COCO are dropped; such an object becomes NO_BOX, as in
    the official tool (where it is an assertion).
    """
    _check_rows(path, rows)
    people, images = rows[0].ann_id, rows[0].image_id
    for image_id in ids:
        if image_id not in coco.images:
            raise ValueError(
                f"{path}: image {image_id} of the split is in no COCO instances file. Are they of one release? "
                f"Else remove it from {_ids_file(path)}, or add it to coco/instances_*2014.json"
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
                f"{path}: person {annotation_id} is of image {image_id}, which is not among the {len(ids)} ids of "
                f"{_ids_file(path)}. Are both of one release?"
            )
        human = find(annotation_id, image_id, "a person")
        humans.append(human)
        if human == NO_BOX:
            continue
        category = coco.instances[image_id][human].category_id
        if coco.label_of[category] != vocabulary.person:
            raise ValueError(
                f"{path}: image {image_id}: person {annotation_id} has COCO's category {category}, not person"
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
        raise ValueError(f"{path}: action '{first.action_name}': a person (ann_id) is listed in two rows")
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

    It contains pairs with a visible object: positives without an object box, role-less actions and left-out roles are
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
            f"{path}: {len(content.images)} images, {len(ids)} in {_ids_file(path)}, {len(outside)} in one only, "
            f"such as {outside[:1]}. Are both of one release?"
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
                image=CocoImage(image_id, pairs.file_name, *read_size(photos / pairs.file_name)),
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
