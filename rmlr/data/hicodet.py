"""HICO-DET in the JSON form of fredzzhang/hicodet (instances_train2015.json, instances_test2015.json).

The official release's anno.mat, where it lies beside them, says besides which whole images hold an object.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, FiniteFloat

from rmlr.data.matlab import read_variables
from rmlr.data.records import Corpus, Natural, PositiveInt, read_json
from rmlr.hoi import Annotation, Vocabulary

PERSON = "person"  # the file's name of it: object 49 of 80 in the release

RELEASE = "hico_20160224_det"  # the official archive, which holds anno.mat

Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]  # x1, y1, x2, y2, 1-based, both corners inside
_STRICT = ConfigDict(strict=True)


class _Image(BaseModel):
    model_config = _STRICT

    boxes_h: list[Box]
    boxes_o: list[Box]
    hoi: list[Natural]
    object: list[Natural]
    verb: list[Natural]


class _File(BaseModel):
    """instances_*2015.json: parallel lists over the images, and the classes."""

    model_config = _STRICT

    annotation: list[_Image]
    filenames: list[str]
    size: list[tuple[PositiveInt, PositiveInt]]  # width, height
    objects: list[str]
    verbs: list[str]
    correspondence: list[tuple[Natural, Natural, Natural]]  # HOI, object, verb
    rare: list[Natural] | None = None  # the test file has it: fewer than 10 visible rows in train


def read_hicodet(raw: Path, val_images: int) -> Corpus:
    """The HICO-DET-format dataset under `raw`/hicodet; the last `val_images` images of train become val.

    With `image_objects` where anno.mat is there.
    """
    paths = {name: raw / "hicodet" / f"instances_{name}2015.json" for name in ("train", "test")}
    files = {name: read_file(path) for name, path in paths.items()}
    for key in ("objects", "verbs", "correspondence"):
        if getattr(files["train"], key) != getattr(files["test"], key):
            raise ValueError(f"{paths['test']}: {key} differs from that of {paths['train']}. Are both of one release?")
    vocabulary = read_classes(paths["test"], files["test"])
    train, train_dropped = read_rows(paths["train"], files["train"], vocabulary)
    test, test_dropped = read_rows(paths["test"], files["test"], vocabulary)
    if val_images >= len(train):
        raise ValueError(
            f"{paths['train']}: {len(train)} images, of which the setting hicodet.val_images takes {val_images} "
            "for val: none is left to train on"
        )
    border = len(train) - val_images
    splits = {"train": train[:border], "val": train[border:], "test": test}
    notes, image_objects = {"trainval_dropped_rows": train_dropped, "test_dropped_rows": test_dropped}, None
    anno = raw / "hicodet" / "anno.mat"
    if anno.exists():
        labelled = read_image_objects(anno, files, vocabulary)
        image_objects = {
            "train": labelled["train"][:border],
            "val": labelled["train"][border:],
            "test": labelled["test"],
        }
        notes["trainval_unlabelled_objects"] = len(unlabelled_objects(train, labelled["train"]))
        if missing := unlabelled_objects(test, labelled["test"]):
            image_id, object_ = missing[0]
            raise ValueError(
                f"{anno}: image {image_id} of test has a visible pair with '{vocabulary.objects[object_]}', but none "
                f"of that object's classes is labelled 1 ({len(missing)} such pairs); the official program stops "
                f"there, too. Take the anno.mat of {RELEASE}"
            )
    return Corpus(vocabulary, splits, notes, image_objects)


def read_file(path: Path) -> _File:
    """One of the two files, its parallel lists checked."""
    content = read_json(path, _File)
    lengths = {name: len(getattr(content, name)) for name in ("annotation", "filenames", "size")}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: lists over the images differ in length: {lengths}. Is the file damaged?")
    return content


def read_classes(path: Path, content: _File) -> Vocabulary:
    """The classes of a file, in its order."""
    if PERSON not in content.objects:
        raise ValueError(f"{path}: no object is named '{PERSON}'")
    if content.rare is None:
        raise ValueError(f"{path}: has no list 'rare'. Take the file of fredzzhang/hicodet that has one")
    hois = tuple((verb, object_) for _, object_, verb in content.correspondence)
    for index, (hoi, object_, verb) in enumerate(content.correspondence):
        if hoi != index or object_ >= len(content.objects) or verb >= len(content.verbs):
            raise ValueError(
                f"{path}: correspondence.{index} is (HOI, object, verb) {hoi, object_, verb}: expected HOI {index}, "
                f"an object below {len(content.objects)}, a verb below {len(content.verbs)}"
            )
    if len(set(hois)) < len(hois):
        raise ValueError(f"{path}: the same (object, verb) stands twice in correspondence")
    if content.rare and max(content.rare) >= len(hois):
        raise ValueError(f"{path}: rare names HOI {max(content.rare)} of {len(hois)}")
    return Vocabulary(
        dataset="hicodet",
        objects=tuple(content.objects),
        person=content.objects.index(PERSON),
        verbs=tuple(content.verbs),
        hois=hois,
        rare=tuple(content.rare),
    )


def read_rows(path: Path, content: _File, vocabulary: Vocabulary) -> tuple[list[Annotation], int]:
    """The records of a file's images, and how many rows were left out because a box of theirs has no pixel.

    All images count, those without a visible row as well (evaluation specification, 2.1). Each row has two boxes of its
    own; 1 is subtracted from x1 and y1 only, which makes edges of 1-based corners that lie inside the box.
    """
    annotations, dropped, names = [], 0, {}
    for name, (width, height), image in zip(content.filenames, content.size, content.annotation, strict=True):
        where, numbers = f"{path}: {name}", re.findall(r"\d+", name)
        if not numbers:
            raise ValueError(f"{where}: the file name holds no number to tell the image by")
        image_id = int(numbers[-1])
        if image_id in names:
            raise ValueError(f"{where}: has the same number as {names[image_id]}")
        names[image_id] = name
        rows = [len(getattr(image, key)) for key in ("boxes_h", "boxes_o", "hoi", "object", "verb")]
        if len(set(rows)) > 1:
            raise ValueError(f"{where}: boxes_h, boxes_o, hoi, object and verb have {rows} entries")
        for row, hoi in enumerate(image.hoi):
            if hoi >= len(vocabulary.hois) or vocabulary.hois[hoi] != (image.verb[row], image.object[row]):
                raise ValueError(
                    f"{where}: row {row} has HOI {hoi}, verb {image.verb[row]}, object {image.object[row]}, "
                    "which is not in correspondence. Are rows and classes of one release?"
                )
        boxes = np.array(list(chain.from_iterable(zip(image.boxes_h, image.boxes_o, strict=True))), dtype=np.float64)
        boxes = boxes.reshape(-1, 2, 2, 2)  # row, human and object, corner, x and y
        boxes[:, :, 0] -= 1
        is_whole = (boxes[:, :, 1] - boxes[:, :, 0]).min((1, 2)) > 0
        verbs, objects = (
            np.array(image.verb, dtype=np.int64)[is_whole],
            np.array(image.object, dtype=np.int64)[is_whole],
        )
        kept = len(verbs)
        dropped += len(is_whole) - kept
        human = 2 * np.arange(kept)
        annotations.append(
            Annotation(
                image_id=image_id,
                file_name=name,
                height=height,
                width=width,
                boxes=boxes[is_whole].reshape(-1, 4),
                labels=np.stack([np.full(kept, vocabulary.person), objects], axis=1).reshape(-1),
                interactions=np.stack([human, verbs, human + 1], axis=1),
                is_crowd=np.zeros(2 * kept, dtype=bool),
                is_listed=np.arange(2 * kept) % 2 == 0,
                actions=np.zeros((0, 2), dtype=np.int64),
            )
        )
    return annotations, dropped


def read_image_objects(
    path: Path, files: Mapping[str, _File], vocabulary: Vocabulary
) -> dict[str, Bool[np.ndarray, "b o"]]:
    """Which objects each image of train and test holds by anno.mat: a class of the object is labelled 1 there.

    The other labels (-1 no, 0 uncertain, NaN unknown) say that it does not. Raises one ValueError with all that does
    not fit the files beside it.
    """
    content = read_variables(path, ["list_action", *(f"{kind}_{name}" for kind in ("list", "anno") for name in files)])
    objects = [vocabulary.objects[object_] for _, object_ in vocabulary.hois]
    actions = content["list_action"]
    nouns = _texts(actions["nname"]) if "nname" in (actions.dtype.names or ()) else []
    faults = _differences("list_action.nname", [noun.replace(" ", "_") for noun in nouns], objects)
    for name, file in files.items():
        faults += _differences(f"list_{name}", _texts(content[f"list_{name}"]), file.filenames)
        labels, shape = content[f"anno_{name}"], (len(objects), len(file.filenames))
        if labels.shape != shape or labels.dtype.kind not in "iuf":
            faults.append(
                f"anno_{name} is {labels.dtype} of {labels.shape}, expected numbers of (classes, images) {shape}"
            )
    if faults:
        raise ValueError(
            f"{path}: does not fit instances_*2015.json beside it: {'; '.join(faults)}. Take the anno.mat of {RELEASE}"
        )
    is_of = np.equal.outer(objects, vocabulary.objects).astype(np.float32)  # h o; numbers, for the product's speed
    return {name: (content[f"anno_{name}"] == 1).T.astype(np.float32) @ is_of > 0 for name in files}


def unlabelled_objects(annotations: Sequence[Annotation], labelled: Bool[np.ndarray, "b o"]) -> list[tuple[int, int]]:
    """(image id, object) of every visible pair whose object its image is not labelled as holding."""
    return [
        (annotation.image_id, int(object_))
        for annotation, row in zip(annotations, labelled, strict=True)
        for object_ in annotation.labels[annotation.interactions[:, 2]]
        if not row[object_]
    ]


def _texts(cells: np.ndarray) -> list[str]:
    """The texts of a cell array, or of a field of a struct array."""
    return [str(cell.item()) if isinstance(cell, np.ndarray) and cell.size == 1 else "" for cell in cells.ravel()]


def _differences(name: str, found: list[str], expected: Sequence[str]) -> list[str]:
    """What a list of names has otherwise than expected, in words; nothing where it is the same."""
    faults = [f"{len(found)} entries, expected {len(expected)}"] if len(found) != len(expected) else []
    pairs = zip(found, expected, strict=False)
    first = next((number for number, (one, other) in enumerate(pairs, start=1) if one != other), None)
    if first is not None:
        faults.append(f"entry {first} is '{found[first - 1]}', expected '{expected[first - 1]}'")
    return [f"{name}: {', '.join(faults)}"] if faults else []
