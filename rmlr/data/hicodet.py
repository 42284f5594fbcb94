"""HICO-DET, from the release's own anno_bbox.mat or the JSON form of fredzzhang/hicodet, which have the same content.

The release's anno.mat, if it exists, adds image-level labels of objects.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict

from rmlr.data.records import Corpus, check_vocabulary, differences
from rmlr.hoi import Annotation, Vocabulary
from rmlr.study.files import SHORT, Box, Name, Natural, RelativeName, Side, check_form, read_json
from rmlr.study.matlab import read_variables

log = logging.getLogger(__name__)

PERSON = "person"  # the file's name of it: object 49 of 80 in the release
MAX_DIGITS = 18  # of an id that 64 bits hold
FEW = 10  # a class with fewer visible rows in train is rare, as the official program counts
RELEASE = "hico_20160224_det"  # the official archive, which contains anno.mat and anno_bbox.mat

_STRICT = ConfigDict(strict=True)


class _Image(BaseModel):
    model_config = _STRICT

    boxes_h: list[Box]  # x1, y1, x2, y2, 1-based, both corners inside
    boxes_o: list[Box]
    hoi: list[Natural]
    object: list[Natural]
    verb: list[Natural]


class _File(BaseModel):
    """instances_*2015.json, or a split of anno_bbox.mat: parallel lists over the images, and the classes."""

    model_config = _STRICT

    annotation: list[_Image]
    filenames: list[RelativeName]
    size: list[tuple[Side, Side]]  # width, height
    objects: list[Name]
    verbs: list[Name]
    correspondence: list[tuple[Natural, Natural, Natural]]  # HOI, object, verb
    rare: list[Natural] | None = None  # the test file has it: fewer than 10 visible rows in train


def read_hicodet(raw: Path, val_images: int) -> Corpus:
    """The HICO-DET-format dataset under `raw`/hicodet; the last `val_images` images of train become val.

    A split is read from instances_{split}2015.json, or else from anno_bbox.mat. If both exist, they must agree, image
    by image, except for the order of an image's rows, which is irrelevant. `image_objects` is read if anno.mat exists.
    """
    folder, notes, places = raw / "hicodet", {}, {}
    matrices, files = folder / "anno_bbox.mat", {}
    boxes = read_boxes(matrices) if matrices.exists() else None
    for name in ("train", "test"):
        path = folder / f"instances_{name}2015.json"
        if path.exists():
            files[name], places[name] = read_file(path), path
            if boxes is not None:
                _compare(path, files[name], matrices, boxes[name][0])
        elif boxes is not None:
            files[name], places[name] = boxes[name][0], matrices
        else:
            raise ValueError(
                f"{folder}: split '{name}' has neither {path.name} nor {matrices.name}. Put there fredzzhang/hicodet's "
                f"JSON files, or the file of {RELEASE}; your own annotations in either form (docs/data.md)"
            )
        if boxes is not None:
            notes[f"{'trainval' if name == 'train' else name}_invisible_classes"] = boxes[name][1]
    for key in ("objects", "verbs", "correspondence"):
        if getattr(files["train"], key) != getattr(files["test"], key):
            raise ValueError(
                f"{places['test']}: {key} differs from that of {places['train']}. Are both of one release?"
            )
    rare = _rare(files["train"])
    if files["test"].rare is None:
        files["test"] = files["test"].model_copy(update={"rare": rare})
    vocabulary = read_classes(places["test"], files["test"])
    notes["rare_against_rows"] = len(set(rare) ^ set(vocabulary.rare))
    train, notes["trainval_dropped_rows"] = read_rows(places["train"], files["train"], vocabulary)
    test, notes["test_dropped_rows"] = read_rows(places["test"], files["test"], vocabulary)
    if val_images >= len(train):
        raise ValueError(
            f"{places['train']}: {len(train)} images, of which the setting hicodet.val_images takes {val_images} "
            "for val: none is left to train on"
        )
    border, image_objects = len(train) - val_images, None
    splits = {"train": train[:border], "val": train[border:], "test": test}
    anno = folder / "anno.mat"
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


# ---- the two forms


def read_file(path: Path) -> _File:
    """One of the two files, its parallel lists checked."""
    content = read_json(path, _File)
    lengths = {name: len(getattr(content, name)) for name in ("annotation", "filenames", "size")}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: lists over the images differ in length: {lengths}. Is the file damaged?")
    return content


def read_boxes(path: Path) -> dict[str, tuple[_File, int]]:
    """Train and test of anno_bbox.mat, in the JSON form, and the number of invisible classes.

    A class of an image is one entry of its `hoi`: boxes of people, boxes of objects, and `connection`, which lists the
    (person, object) of each row. An entry with `invis` 1 has no boxes; as in the JSON form, it is left out, and an
    image whose entries are all invisible is kept without rows. Objects and verbs are those of list_action, sorted.
    Takes two seconds for 10,000 images.
    """
    content = read_variables(path, ["list_action", "bbox_train", "bbox_test"])
    nouns, verb_names = (
        [name.replace(" ", "_") for name in _texts(_field(path, "list_action", content["list_action"], key))]
        for key in ("nname", "vname")
    )
    objects, verbs = sorted(set(nouns)), sorted(set(verb_names))
    classes = [(objects.index(noun), verbs.index(verb)) for noun, verb in zip(nouns, verb_names, strict=True)]
    files = {}
    for name in ("train", "test"):
        invisible, annotation, sizes = 0, [], []
        images = content[f"bbox_{name}"]
        names = _texts(_field(path, f"bbox_{name}", images, "filename"))
        columns = [_field(path, f"bbox_{name}", images, key).ravel() for key in ("size", "hoi")]
        for file_name, size, entries in zip(names, *columns, strict=True):
            where = f"{path}: {file_name}"
            found: dict[str, list] = {key: [] for key in ("boxes_h", "boxes_o", "hoi", "object", "verb")}
            for hoi, is_visible, rows in _entries(where, entries):
                if not 0 <= hoi < len(classes):
                    raise ValueError(f"{where}: hoi.id is {hoi + 1}, but list_action has classes 1 to {len(classes)}")
                invisible += not is_visible
                for human, thing in rows:
                    row = (human, thing, hoi, *classes[hoi])
                    for column, value in zip(found.values(), row, strict=True):
                        column.append(value)
            annotation.append(found)
            sizes.append(tuple(_whole(where, size, key) for key in ("width", "height")))
        fields = {"annotation": annotation, "filenames": names, "size": sizes, "objects": objects, "verbs": verbs}
        correspondence = [(hoi, *pair) for hoi, pair in enumerate(classes)]
        files[name] = (
            check_form(f"{path}: bbox_{name}", fields | {"correspondence": correspondence}, _File),
            invisible,
        )
    return files


def _entries(where: str, entries: object) -> Iterator[tuple[int, bool, list[tuple[Box, Box]]]]:
    """(class from 0, whether it can be seen, rows of two boxes) of every class of an image."""
    entries = _structs(where, "hoi", entries)
    for entry in entries.ravel() if entries.size else ():  # an image without any has an empty matrix
        hoi, is_visible = _whole(where, entry, "id") - 1, not _whole(where, entry, "invis")
        rows: list[tuple[Box, Box]] = []
        if is_visible:
            humans, things, connection = (
                _one(where, key, _field(where, "a hoi", np.asarray(entry), key))
                for key in ("bboxhuman", "bboxobject", "connection")
            )
            humans, things = _boxes(where, "bboxhuman", humans), _boxes(where, "bboxobject", things)
            if not isinstance(connection, np.ndarray) or connection.dtype.kind not in "iuf":
                raise ValueError(f"{where}: connection is {connection!r:.60}, expected a matrix of numbers")
            if connection.size and (connection.ndim, connection.shape[-1]) != (2, 2):
                raise ValueError(f"{where}: connection has {connection.shape} numbers, expected (rows, 2)")
            if not np.isfinite(connection).all():
                raise ValueError(f"{where}: connection of class {hoi + 1} has a number that is not finite")
            connection = connection.reshape(-1, 2).astype(np.int64) - 1
            if len(connection) and (connection.min() < 0 or (connection.max(0) >= (len(humans), len(things))).any()):
                raise ValueError(
                    f"{where}: class {hoi + 1} connects {(connection + 1).tolist()} (person, thing), but has "
                    f"{len(humans)} and {len(things)} boxes. Is the file damaged?"
                )
            rows = [(humans[human], things[thing]) for human, thing in connection.tolist()]
        yield hoi, is_visible, rows


def _boxes(where: str, name: str, boxes: object) -> list[Box]:
    """The boxes of a struct array, whose fields have any order and any type of number, uint16 as well."""
    boxes = _structs(where, name, boxes)
    if not boxes.size:
        return []
    columns = [
        [_scalar(where, key, cell) for cell in _field(where, name, boxes, key).ravel()]
        for key in ("x1", "y1", "x2", "y2")
    ]
    return list(zip(*columns, strict=True))  # pyright: ignore[reportReturnType]


def _structs(where: str, name: str, content: object) -> np.ndarray:
    """A struct array, or an empty matrix; ValueError for a matrix of numbers, a text, a cell array."""
    if not isinstance(content, np.ndarray) or (content.size and not content.dtype.names):
        raise ValueError(f"{where}: {name} is {SHORT.repr(content)}, expected structs. Is the file damaged?")
    return content


def _field(where: Path | str, name: str, struct: np.ndarray, key: str) -> np.ndarray:
    if key not in (struct.dtype.names or ()):
        raise ValueError(f"{where}: {name} has no field '{key}', but {', '.join(struct.dtype.names or ('none',))}")
    return struct[key]


def _one(where: str, key: str, field: np.ndarray) -> Any:
    """The content of a field of a 1 x 1 struct."""
    if field.size != 1:
        raise ValueError(f"{where}: has {field.size} {key}, expected one")
    return field.item()


def _whole(where: str, struct: np.ndarray | np.void, key: str) -> int:
    """A whole number of a 1 x 1 struct."""
    number = _scalar(where, key, _field(where, "a struct", np.asarray(struct), key))
    if not number.is_integer():
        raise ValueError(f"{where}: {key} is {number}, expected a whole number")
    return int(number)


def _scalar(where: str, key: str, value: object) -> float:
    """One number, however deep SciPy has wrapped it."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.item()
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind not in "iufb":
        raise ValueError(f"{where}: {key} is {value!r}, expected one number")
    if not np.isfinite(number := float(value.item())):
        raise ValueError(f"{where}: {key} is {number}, expected a finite number")
    return number


def _compare(path: Path, json: _File, matrices: Path, boxes: _File) -> None:
    """Raises ValueError if the two forms differ, with the first image."""

    def rows(image: _Image) -> list[tuple]:
        return sorted(zip(image.hoi, image.verb, image.object, image.boxes_h, image.boxes_o, strict=True))

    advice = "Are both whole and of one release? Remove one of the two to use the other"
    for key in ("objects", "verbs", "correspondence", "filenames"):
        ours, theirs = getattr(json, key), getattr(boxes, key)
        first = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        if first is not None or len(ours) != len(theirs):
            what = (
                f"{len(ours)} against {len(theirs)}" if first is None else f"'{ours[first]}' against '{theirs[first]}'"
            )
            raise ValueError(f"{path} and {matrices}: {key} differ, {what}. {advice}")
    for name, one, other, *sizes in zip(
        json.filenames, json.annotation, boxes.annotation, json.size, boxes.size, strict=True
    ):
        if sizes[0] != sizes[1]:
            raise ValueError(f"{path} and {matrices}: {name}: sizes {sizes[0]} and {sizes[1]} differ. {advice}")
        if (ours := Counter(rows(one))) != (theirs := Counter(rows(other))):
            extra, lacking = list((ours - theirs).elements()), list((theirs - ours).elements())
            raise ValueError(
                f"{path} and {matrices}: {name}: {len(one.hoi)} rows and {len(other.hoi)}; only in the first "
                f"{len(extra)}, such as {extra[:1]}, only in the second {len(lacking)}, such as {lacking[:1]} (HOI, "
                f"verb, object, human box, object box). {advice}"
            )


def _rare(train: _File) -> list[int]:
    """The classes with few visible rows in train."""
    rows = Counter(chain.from_iterable(image.hoi for image in train.annotation))
    return [hoi for hoi in range(len(train.correspondence)) if rows[hoi] < FEW]


# ---- records


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
    vocabulary = Vocabulary(
        dataset="hicodet",
        objects=tuple(content.objects),
        person=content.objects.index(PERSON),
        verbs=tuple(content.verbs),
        hois=hois,
        rare=tuple(content.rare),
    )
    check_vocabulary(path, vocabulary)
    return vocabulary


def read_rows(path: Path, content: _File, vocabulary: Vocabulary) -> tuple[list[Annotation], int]:
    """The records of a file's images, and the number of rows left out because one of their boxes has no pixel.

    All images count, also those without a visible row (evaluation specification, 2.1). Each row has its own two boxes;
    1 is subtracted from x1 and y1 only, which makes edges of 1-based corners that lie inside the box.
    """
    annotations, dropped, names = [], 0, {}
    for name, (width, height), image in zip(content.filenames, content.size, content.annotation, strict=True):
        where, numbers = f"{path}: {name}", re.findall(r"\d+", name)
        if not numbers:
            raise ValueError(f"{where}: the file name has no number, which is the image's id")
        if len(numbers[-1]) > MAX_DIGITS:
            raise ValueError(f"{where}: its last number is the image's id, which may have at most {MAX_DIGITS} digits")
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
    """The objects of each image of train and test by anno.mat: those with a class that is labelled 1.

    The other labels (-1 no, 0 uncertain, NaN unknown) do not count. Raises one ValueError with all mismatches with the
    other files.
    """
    content = read_variables(path, ["list_action", *(f"{kind}_{name}" for kind in ("list", "anno") for name in files)])
    objects = [vocabulary.objects[object_] for _, object_ in vocabulary.hois]
    actions = content["list_action"]
    nouns = _texts(actions["nname"]) if "nname" in (actions.dtype.names or ()) else []
    lists = {"list_action.nname": ([noun.replace(" ", "_") for noun in nouns], objects)}
    lists |= {f"list_{name}": (_texts(content[f"list_{name}"]), file.filenames) for name, file in files.items()}
    faults = [f"{name}: {difference}" for name, pair in lists.items() if (difference := differences(*pair))]
    for name, file in files.items():
        labels, shape = content[f"anno_{name}"], (len(objects), len(file.filenames))
        if labels.shape != shape or labels.dtype.kind not in "iuf":
            faults.append(
                f"anno_{name} is {labels.dtype} of {labels.shape}, expected numbers of (classes, images) {shape}"
            )
    if faults:
        raise ValueError(
            f"{path}: does not match instances_*2015.json in this folder: {'; '.join(faults)}. "
            f"Take the anno.mat of {RELEASE}"
        )
    is_of = np.equal.outer(objects, vocabulary.objects).astype(np.float32)  # h o; numbers, for the product's speed
    return {name: (content[f"anno_{name}"] == 1).T.astype(np.float32) @ is_of > 0 for name in files}


def unlabelled_objects(annotations: Sequence[Annotation], labelled: Bool[np.ndarray, "b o"]) -> list[tuple[int, int]]:
    """(image id, object) of every visible pair whose object is not labelled for its image."""
    return [
        (annotation.image_id, int(object_))
        for annotation, row in zip(annotations, labelled, strict=True)
        for object_ in annotation.labels[annotation.interactions[:, 2]]
        if not row[object_]
    ]


def _texts(cells: np.ndarray) -> list[str]:
    """The texts of a cell array, or of a field of a struct array; "" in place of what is not a text."""
    are_texts = (isinstance(cell, np.ndarray) and cell.dtype.kind == "U" and cell.size == 1 for cell in cells.ravel())
    return [str(cell.item()) if is_text else "" for cell, is_text in zip(cells.ravel(), are_texts, strict=True)]
