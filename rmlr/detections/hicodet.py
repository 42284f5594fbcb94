"""HICO-DET's official form of results: detections_01.mat ... detections_80.mat, one file an object, in COCO's order.

Each holds `all_boxes`, a cell array of (classes of the object, in class order) x (images, in the release's order). A
cell has N x 9 doubles, or 0 x 0: human x1 y1 x2 y2, object x1 y1 x2 y2, score. Boxes are 0-based indices of pixels with
both corners inside, so that x2 and y2 are one less than those of our boxes, which are edges. The official program also
reads a single detections.mat, whose `all_boxes` has all classes.

It finds a class in its file by the position of the object's first class, so the classes of an object must be
consecutive, as in HICO-DET.

`cache_hico` of UPT and PViC numbers its files by HICO's own, alphabetical order of objects instead. Each file has as
many rows as its object has classes; these counts show which numbering a folder uses. We write the official one.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from rmlr.detections.triplets import check_triplets
from rmlr.hoi import Triplets, Vocabulary
from rmlr.study.matlab import read_shape, read_variables, write_cells
from rmlr.study.run import Progress

log = logging.getLogger(__name__)

VARIABLE, ALL = "all_boxes", "detections.mat"
COLUMNS = 9
LAST = [2, 3, 6, 7]  # x2 and y2, of human and object

# COCO's 80 categories by their ids, spelt as in HICO-DET; the files are numbered in this order, from 1.
COCO = """
    person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter bench
    bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis
    snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork
    knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed
    dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock
    vase scissors teddy_bear hair_drier toothbrush
"""


def read_hicodet_results(folder: Path, vocabulary: Vocabulary, image_ids: Sequence[int]) -> Triplets:
    """The rows of a folder of results, in double precision, as stored.

    Within a class they are sorted by image, in the order of `image_ids`, and then as in the cell, so that equal scores
    are ranked as in the official program. Raises one ValueError, with file, cell and row, on an invalid format.
    """
    files = _find_files(folder, vocabulary)
    progress, parts = Progress(len(files), f"{folder}: files read"), []
    for path, hois in files.items():
        parts.append(_read_file(path, hois, vocabulary, image_ids))
        progress.advance()
    return Triplets(*(np.concatenate([getattr(part, name) for part in parts]) for name in Triplets.__slots__))


def write_hicodet_results(folder: Path, triplets: Triplets, vocabulary: Vocabulary, image_ids: Sequence[int]) -> None:
    """Write a table as one file per object into `folder`, atomically.

    Rows keep their order within a cell. Rows whose verb and object are not a class are left out and counted in the log.
    """
    check_triplets("triplets", triplets, vocabulary=vocabulary, image_ids=image_ids)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; name a folder that does not, or an empty one")
    ids = np.array(image_ids, dtype=np.int64)
    order = np.argsort(ids)
    hoi = vocabulary.hoi_of[triplets.object_category, triplets.verb]
    rows = np.flatnonzero(hoi >= 0)
    rows = rows[np.argsort(triplets.object_category[rows], kind="stable")]
    bounds = np.searchsorted(triplets.object_category[rows], np.arange(len(vocabulary.objects) + 1))
    if len(rows) < len(hoi):
        dropped = len(hoi) - len(rows)
        log.warning("%s: %d of %d rows left out, whose verb and object are not a class", folder, dropped, len(hoi))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        aside = Path(scratch) / folder.name
        aside.mkdir()
        objects = file_order(vocabulary)
        progress = Progress(len(objects), f"{folder}: files written")
        for number, object_ in enumerate(objects, start=1):
            own, hois = rows[bounds[object_] : bounds[object_ + 1]], _classes(vocabulary, object_)
            image = order[np.searchsorted(ids, triplets.image_id[own], sorter=order)]
            cell = image * len(hois) + np.searchsorted(hois, hoi[own])
            ranked = np.argsort(cell, kind="stable")
            columns = (triplets.human_boxes[own], triplets.object_boxes[own], triplets.score[own, None])
            numbers = np.concatenate(columns, axis=1, dtype=np.float64)
            numbers[:, LAST] -= 1  # the last pixel inside, for the edge
            write_cells(aside / _name(number), VARIABLE, (len(hois), len(ids)), cell[ranked], numbers[ranked])
            progress.advance()
        aside.rename(folder)


def file_order(vocabulary: Vocabulary) -> list[int]:
    """The objects in the order of the files: COCO's order, then objects that COCO does not have, in the
    vocabulary's."""
    place = {name: number for number, name in enumerate(COCO.split())}
    return sorted(
        range(len(vocabulary.objects)),  # sorted is stable
        key=lambda object_: place.get(vocabulary.objects[object_].replace(" ", "_"), len(place)),
    )


def _name(number: int) -> str:
    return f"detections_{number:02d}.mat"


def _classes(vocabulary: Vocabulary, object_: int) -> Int[np.ndarray, " c"]:
    return np.array([hoi for hoi, (_, other) in enumerate(vocabulary.hois) if other == object_], dtype=np.int64)


def _find_files(folder: Path, vocabulary: Vocabulary) -> dict[Path, Int[np.ndarray, " c"]]:
    """The files of a folder in their order, with the classes of each."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: is not a folder; expected one with {_name(1)}, ... or {ALL}")
    expected = [_name(number) for number in range(1, len(vocabulary.objects) + 1)]
    found = {path.name for path in folder.glob("detections_*.mat")}
    if (folder / ALL).exists():
        if found:
            raise ValueError(f"{folder}: contains both {ALL} and {min(found)}. Remove those that are not the results")
        return {folder / ALL: np.arange(len(vocabulary.hois))}
    if wrong := sorted(found ^ set(expected)):
        what = "is missing" if wrong[0] in expected else "is not expected"
        raise ValueError(
            f"{folder}: {wrong[0]} {what}; expected {_name(1)} to {_name(len(expected))}, one for each object, "
            f"or a single {ALL}. Number of files found: {len(found)}"
        )
    files = [folder / name for name in expected]
    return {
        path: _classes(vocabulary, object_) for path, object_ in zip(files, _numbering(files, vocabulary), strict=True)
    }


def _numbering(files: Sequence[Path], vocabulary: Vocabulary) -> list[int]:
    """The object of each file. An object has one row for each of its classes; these counts show the numbering."""
    official, own = file_order(vocabulary), list(range(len(vocabulary.objects)))
    orders = {
        "the official order of objects (COCO's)": official,
        "HICO's own, alphabetical order of objects, as written by cache_hico of UPT and PViC": own,
    }
    rows = np.array([read_shape(path, VARIABLE)[0] for path in files])
    counts = {name: np.array([len(_classes(vocabulary, each)) for each in order]) for name, order in orders.items()}
    fitting = [name for name in orders if np.array_equal(counts[name], rows)]
    if not fitting:
        nearest = max(orders, key=lambda name: (counts[name] == rows).sum())
        number = int(np.argmax(counts[nearest] != rows))
        object_ = vocabulary.objects[orders[nearest][number]]
        raise ValueError(
            f"{files[number]}: {VARIABLE} has {rows[number]} rows; expected {counts[nearest][number]}, one for each "
            f"class of '{object_}', by {nearest}. Are the results of another dataset?"
        )
    if len(fitting) > 1 and official != own:
        raise ValueError(
            f"{files[0].parent}: the files fit both {' and '.join(orders)}, since the objects have as many classes in "
            f"either. Give a single {ALL} of all classes, or a table (docs/evaluation.md)"
        )
    log.info("%s: files are numbered by %s", files[0].parent, fitting[0])
    return orders[fitting[0]]


def _read_file(path: Path, hois: Int[np.ndarray, " c"], vocabulary: Vocabulary, image_ids: Sequence[int]) -> Triplets:
    """The rows of one file, checked: class by class, image by image."""
    cells = read_variables(path, [VARIABLE])[VARIABLE]
    shape = (len(hois), len(image_ids))
    if cells.dtype != object or cells.shape != shape:
        what = "a cell array" if cells.dtype == object else f"an array of {cells.dtype}"
        raise ValueError(
            f"{path}: {VARIABLE} is {what} of {' x '.join(map(str, cells.shape))}; expected a cell array of "
            f"{shape[0]} x {shape[1]}, (classes of the file) x (images of the split). Are they of another split?"
        )

    def describe(cell: int) -> str:
        """The position of a cell, as MATLAB counts, and its class and image."""
        verb, object_ = vocabulary.hois[hois[cell // shape[1]]]
        where = f"{VARIABLE}{{{cell // shape[1] + 1},{cell % shape[1] + 1}}}"
        hoi = f"{vocabulary.verbs[verb]} {vocabulary.objects[object_]}"
        return f"{where} ('{hoi}', image {image_ids[cell % shape[1]]})"

    filled = []
    for number, content in enumerate(cells.ravel()):
        if not content.size:
            continue
        if not isinstance(content, np.ndarray):
            raise ValueError(f"{path}: {describe(number)} is a sparse matrix; expected a full one")
        if content.dtype.kind not in "iuf" or content.ndim != 2 or content.shape[1] != COLUMNS:
            size = " x ".join(map(str, content.shape))
            raise ValueError(
                f"{path}: {describe(number)} is {size} of {content.dtype}; expected N x {COLUMNS} numbers, or empty"
            )
        filled.append(number)
    rows = np.concatenate([np.empty((0, COLUMNS)), *cells.ravel()[filled]], dtype=np.float64)
    height = [len(content) for content in cells.ravel()[filled]]
    cell = np.repeat(np.array(filled, dtype=np.int64), height)
    first = np.repeat(np.cumsum([0, *height])[:-1], height)
    verb, object_ = np.array(vocabulary.hois, dtype=np.int64).reshape(-1, 2)[hois[cell // shape[1]]].T
    triplets = Triplets(
        image_id=np.array(image_ids, dtype=np.int64)[cell % shape[1]],
        human_boxes=_edges(rows[:, :4]),
        object_boxes=_edges(rows[:, 4:8]),
        object_category=object_,
        verb=verb,
        score=rows[:, 8],
    )
    check_triplets(
        path,
        triplets,
        vocabulary=vocabulary,
        image_ids=image_ids,
        describe_row=lambda row: f"{describe(int(cell[row]))}, row {row - first[row] + 1}",
    )
    return triplets


def _edges(corners: Float[np.ndarray, "t 4"]) -> Float[np.ndarray, "t 4"]:
    """Edges from pixel indices that are both inside the box."""
    low, high = corners[:, :2], corners[:, 2:] + 1
    # The file cannot represent edges closer to 0 than 1e-9; this inverts no box.
    is_box = corners[:, 2:] >= low - 1
    return np.concatenate([low, np.where(is_box, np.maximum(high, low), high)], axis=1)
