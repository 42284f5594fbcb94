"""Our records on disk: vocabulary.json and one {split}.json per split, validated whenever they are read.

If the release has image-level labels (HICO-DET's anno.mat), also image_objects.json.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Int
from pydantic import BaseModel, ConfigDict, Field, RootModel

from rmlr.hoi import NO_BOX, Annotation, Dataset, Vocabulary
from rmlr.study.files import SHORT, Box, Int64, Natural, RelativeName, Side, read_json, write_whole


@dataclass(frozen=True, slots=True)
class Corpus:
    """One dataset, as read by its reader."""

    vocabulary: Vocabulary
    splits: dict[str, list[Annotation]]  # train, val, test
    notes: dict[str, int]  # counts of what the reader left out or found missing
    image_objects: dict[str, Bool[np.ndarray, "b o"]] | None = None  # by split: image-level labels of objects


def with_hois_of(vocabulary: Vocabulary, learnt: Sequence[Annotation]) -> Vocabulary:
    """The vocabulary with the HOIs that these images show; HICO-DET's HOIs are a fixed list, which is kept."""
    if vocabulary.dataset == "hicodet":
        return vocabulary
    hois = {
        (verb, int(image.labels[thing]))
        for image in learnt
        for _, verb, thing in image.interactions.tolist()
        if thing != NO_BOX and verb < len(vocabulary.verbs)
    }
    return replace(vocabulary, hois=tuple(sorted(hois)))


class _Vocabulary(BaseModel):
    """vocabulary.json."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dataset: Dataset
    objects: Annotated[tuple[str, ...], Field(min_length=1)]
    person: Natural
    verbs: tuple[str, ...]
    hois: tuple[tuple[Natural, Natural], ...]
    unscored_verbs: tuple[str, ...]
    actions: tuple[str, ...]
    rare: tuple[Natural, ...]


class _Image(BaseModel):
    """One image of {split}.json; a column is a list with one entry per box, interaction or action."""

    model_config = ConfigDict(strict=True, extra="forbid")

    image_id: Int64
    file_name: RelativeName
    height: Side
    width: Side
    boxes: list[Box]
    labels: list[Int64]
    interactions: list[tuple[Int64, Int64, Int64]]
    is_crowd: list[bool]
    is_listed: list[bool]
    actions: list[tuple[Int64, Int64]]


class _Images(RootModel[list[_Image]]):
    """{split}.json."""


class _ImageObjects(RootModel[dict[str, dict[int, list[Natural]]]]):
    """image_objects.json: by split and image id, the objects of the image-level labels."""

    model_config = ConfigDict(strict=True)


def save_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write vocabulary.json."""
    write_whole(path, json.dumps(asdict(vocabulary), indent=1) + "\n")


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a prepared dataset."""
    path = folder / "vocabulary.json"
    vocabulary = Vocabulary(**dict(read_json(path, _Vocabulary)))
    try:
        check_vocabulary(path, vocabulary)
    except ValueError as error:
        raise ValueError(f"{error}. Prepare it again") from error
    return vocabulary


def save_annotations(path: Path, annotations: Sequence[Annotation]) -> None:
    """Write the records of one split, one image per line."""
    columns = ("boxes", "labels", "interactions", "is_crowd", "is_listed", "actions")
    lines = []
    for annotation in annotations:
        row = {name: getattr(annotation, name) for name in Annotation.__slots__}
        lines.append(json.dumps(row | {name: row[name].tolist() for name in columns}))
    write_whole(path, "[\n" + ",\n".join(lines) + "\n]\n")


def load_annotations(folder: Path, split: str) -> list[Annotation]:
    """The records of a split of a prepared dataset; `trainval` is train, then val.

    Raises ValueError if a record does not fit the vocabulary, naming file and image.
    """
    if split == "trainval":
        return load_annotations(folder, "train") + load_annotations(folder, "val")
    vocabulary, path = load_vocabulary(folder), folder / f"{split}.json"
    images = read_json(path, _Images).root
    for image in images:
        if not len(image.boxes) == len(image.labels) == len(image.is_crowd) == len(image.is_listed):
            raise ValueError(
                f"{path}: image {image.image_id}: {len(image.boxes)} boxes, {len(image.labels)} labels, "
                f"{len(image.is_crowd)} is_crowd and {len(image.is_listed)} is_listed. Prepare it again"
            )
    annotations = [
        Annotation(
            image_id=image.image_id,
            file_name=image.file_name,
            height=image.height,
            width=image.width,
            boxes=np.array(image.boxes, dtype=np.float64).reshape(-1, 4),
            labels=np.array(image.labels, dtype=np.int64),
            interactions=np.array(image.interactions, dtype=np.int64).reshape(-1, 3),
            is_crowd=np.array(image.is_crowd, dtype=bool),
            is_listed=np.array(image.is_listed, dtype=bool),
            actions=np.array(image.actions, dtype=np.int64).reshape(-1, 2),
        )
        for image in images
    ]
    check_annotations(path, annotations, vocabulary)
    return annotations


def save_image_objects(
    path: Path, splits: Mapping[str, Sequence[Annotation]], tables: Mapping[str, Bool[np.ndarray, "b o"]]
) -> None:
    """Write image_objects.json, one split per line; a row of a table is an image of the split."""
    lines = []
    for split, annotations in splits.items():
        rows = zip(annotations, tables[split], strict=True)
        objects = {annotation.image_id: np.flatnonzero(row).tolist() for annotation, row in rows}
        lines.append(f"{json.dumps(split)}: {json.dumps(objects)}")
    write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load_image_objects(folder: Path, split: str) -> dict[int, list[int]] | None:
    """The objects of the image-level labels of a split, by image id; `trainval` is train and val.

    None if the prepared release has no image-level labels.
    """
    path = folder / "image_objects.json"
    if not path.exists():
        return None
    num_objects = len(load_vocabulary(folder).objects)
    splits, found = read_json(path, _ImageObjects).root, {}
    for name in ("train", "val") if split == "trainval" else (split,):
        if name not in splits:
            raise ValueError(f"{path}: has no split '{name}', but {', '.join(splits) or 'none'}. Prepare it again")
        found |= splits[name]
    for image_id, objects in found.items():
        if objects and max(objects) >= num_objects:
            raise ValueError(
                f"{path}: image {image_id} has object {max(objects)}, expected 0 to {num_objects - 1}. Prepare it again"
            )
    return found


def check_vocabulary(source: Path, vocabulary: Vocabulary) -> None:
    """ValueError unless names are unique in their lists, and all indices are in range."""
    verbs = vocabulary.verbs + vocabulary.unscored_verbs
    for what, names in (("object", vocabulary.objects), ("verb", verbs), ("action", vocabulary.actions)):
        if len(set(names)) < len(names):
            raise ValueError(
                f"{source}: {what} '{Counter(names).most_common(1)[0][0]}' is listed twice, expected different names"
            )
        if unnamed := [number for number, name in enumerate(names) if not name.strip()]:
            raise ValueError(f"{source}: {what} {unnamed[0]} (from 0) has no name")
    if vocabulary.person >= len(vocabulary.objects):
        last = len(vocabulary.objects) - 1
        raise ValueError(f"{source}: person is object {vocabulary.person}, expected 0 to {last}")
    for index, (verb, object_) in enumerate(vocabulary.hois):
        if verb >= len(vocabulary.verbs) or object_ >= len(vocabulary.objects):
            sizes = f"{len(vocabulary.verbs)} verbs and {len(vocabulary.objects)} objects"
            raise ValueError(f"{source}: hois.{index} is verb {verb}, object {object_}, but there are {sizes}")
    if len(set(vocabulary.hois)) < len(vocabulary.hois):
        raise ValueError(f"{source}: the same (verb, object) is listed twice in hois")
    if vocabulary.rare and max(vocabulary.rare) >= len(vocabulary.hois):
        raise ValueError(f"{source}: rare has HOI {max(vocabulary.rare)}, expected 0 to {len(vocabulary.hois) - 1}")
    if len(set(vocabulary.rare)) < len(vocabulary.rare):
        raise ValueError(f"{source}: HOI {Counter(vocabulary.rare).most_common(1)[0][0]} is listed twice in rare")


def differences(found: Sequence, expected: Sequence) -> str:
    """The differences of a list from the expected one, in words; empty if it is equal."""
    faults = [f"{len(found)} entries, expected {len(expected)}"] if len(found) != len(expected) else []
    pairs = enumerate(zip(found, expected, strict=False), start=1)
    if (first := next((number for number, (one, other) in pairs if one != other), None)) is not None:
        faults.append(f"entry {first} is {SHORT.repr(found[first - 1])}, expected {SHORT.repr(expected[first - 1])}")
    return ", ".join(faults)


def check_annotations(source: Path | str, annotations: Sequence[Annotation], vocabulary: Vocabulary) -> None:
    """ValueError unless images are unique, indices are in range, and boxes have their corners in order."""
    if not annotations:
        return
    image_id, times = Counter(annotation.image_id for annotation in annotations).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{source}: image {image_id} is listed {times} times. Keep one of its records")
    boxes, labels, interactions, is_listed, actions = (
        np.concatenate([getattr(annotation, name) for annotation in annotations])
        for name in ("boxes", "labels", "interactions", "is_listed", "actions")
    )
    first_box = np.cumsum([0] + [len(annotation.boxes) for annotation in annotations])
    of_box, of_interaction, of_action = (
        np.repeat(np.arange(len(annotations)), [len(getattr(annotation, name)) for annotation in annotations])
        for name in ("boxes", "interactions", "actions")
    )

    def refuse(is_bad: Bool[np.ndarray, " x"], image_of: Int[np.ndarray, " x"], rows: np.ndarray, what: str) -> None:
        if is_bad.any():
            row = int(is_bad.argmax())
            image = annotations[image_of[row]]
            raise ValueError(f"{source}: image {image.image_id}: {rows[row].tolist()} {what}")

    def is_person(image_of: Int[np.ndarray, " x"], box: Int[np.ndarray, " x"]) -> Bool[np.ndarray, " x"]:
        count = np.diff(first_box)[image_of]
        is_box = (box >= 0) & (box < count)
        label = np.full(len(box), -1)
        label[is_box] = labels[(first_box[image_of] + box)[is_box]]
        return label == vocabulary.person

    is_endless = ~np.isfinite(boxes).min(axis=1, initial=True)
    refuse(is_endless, of_box, boxes, "is not a valid box: expected four finite numbers")
    is_inverted = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    refuse(is_inverted, of_box, boxes, "is not a valid box: expected x1 <= x2 and y1 <= y2")
    num_objects = len(vocabulary.objects)
    refuse((labels < 0) | (labels >= num_objects), of_box, labels, f"is not a label: expected 0 to {num_objects - 1}")
    refuse(is_listed & (labels != vocabulary.person), of_box, labels, "is the label of a listed box, expected a person")

    human, verb, object_ = interactions.T
    what = "is an interaction (human box, verb, object box) whose"
    refuse(~is_person(of_interaction, human), of_interaction, interactions, f"{what} human box is not a person")
    num_verbs = len(vocabulary.verbs) + len(vocabulary.unscored_verbs)
    refuse((verb < 0) | (verb >= num_verbs), of_interaction, interactions, f"{what} verb is not 0 to {num_verbs - 1}")
    is_bad = (object_ < NO_BOX) | (object_ >= np.diff(first_box)[of_interaction])
    refuse(is_bad, of_interaction, interactions, f"{what} object box is neither a box here nor {NO_BOX}")

    human, action = actions.T
    what = "is an action (human box, action) whose"
    refuse(~is_person(of_action, human), of_action, actions, f"{what} human box is not a person")
    num_actions = len(vocabulary.actions)
    is_bad = (action < 0) | (action >= num_actions)
    refuse(is_bad, of_action, actions, f"{what} action is not one of {num_actions}")


def count_annotations(annotations: Sequence[Annotation], vocabulary: Vocabulary) -> dict[str, int]:
    """The size of a split, in numbers for the log."""
    num_verbs = len(vocabulary.verbs)
    rows = [annotation.interactions for annotation in annotations]
    is_scored = [row[:, 1] < num_verbs for row in rows]
    is_pair = [scored & (row[:, 2] != NO_BOX) for scored, row in zip(is_scored, rows, strict=True)]
    scored, pairs = sum(int(row.sum()) for row in is_scored), sum(int(row.sum()) for row in is_pair)
    persons = [annotation.labels == vocabulary.person for annotation in annotations]
    return {
        "images": len(annotations),
        "images_with_pair": sum(bool(row.any()) for row in is_pair),
        "boxes": sum(len(annotation.boxes) for annotation in annotations),
        "persons": sum(int(is_person.sum()) for is_person in persons),
        "unlisted_persons": sum(
            int((is_person & ~annotation.is_listed).sum())
            for is_person, annotation in zip(persons, annotations, strict=True)
        ),
        "interactions": scored,
        "interactions_without_box": scored - pairs,
        "unscored_interactions": sum(len(row) for row in rows) - scored,
        "actions": sum(len(annotation.actions) for annotation in annotations),
    }
