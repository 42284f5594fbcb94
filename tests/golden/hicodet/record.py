"""Draw HICO-DET-format cases and record what the official program says of them (README.md beside this file).

    python tests/golden/hicodet/record.py PATH/TO/ho-rcnn

Needs a checkout of ywchao/ho-rcnn (evaluation/, common/ and config.m are read) and GNU Octave's `octave-cli`. The
cases are drawn by Python's own generator, whose numbers do not change between versions: the same content comes out.
"""

import argparse
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import loadmat, savemat

from rmlr.detections.hicodet import write_hicodet_results
from rmlr.detections.triplets import save_triplets
from rmlr.hoi import Triplets, Vocabulary

HERE = Path(__file__).parent
OBJECTS = ["airplane", "bicycle", "cup", "person"]
OBJECTS_IN_COCO = ["person", "bicycle", "airplane", "cup"]  # the order of the files of results
VERBS = ["hold", "no_interaction", "ride", "wash"]
HOIS = [(2, 0), (1, 0), (3, 0), (2, 1), (1, 1), (0, 2), (3, 2), (1, 2), (0, 3), (1, 3)]  # verb, object
WITHOUT_ROW, WITHOUT_DETECTION = 3, 6  # HOIs
# name, seed, test images, rows and detections an image, what a good detection scores more, scores are tied, images have
# labels of their own
CASES = [
    ("clean", 1, 60, 9, 25, 0.5, False, False),
    ("crowded", 2, 4, 60, 600, 0.5, False, False),
    ("tied", 3, 40, 9, 25, 0.5, True, False),
    ("labelled", 4, 60, 4, 25, 0.1, False, True),
]
EXPERIMENT = """
    addpath('evaluation'); addpath('common'); save_default_options('-mat7-binary');
    image_set = 'test2015'; iter = 1; exp_name = 'x'; exp_dir = 'x'; prefix = 'x'; format = 'obj'; score_blob = 'n/a';
    eval_mode = 'def'; eval_one;
    eval_mode = 'ko'; eval_one;
"""


def draw_box(chance, width, height):
    """1-based x1, y1, x2, y2 with both corners inside, whole pixels as in the release."""
    x1, y1 = chance.randrange(1, width - 4), chance.randrange(1, height - 4)
    return [x1, y1, chance.randrange(x1 + 3, width + 1), chance.randrange(y1 + 3, height + 1)]


def draw_images(chance, split, number, most):
    """Images with their annotated rows (HOI, human box, object box), some with none."""
    images = []
    for index in range(1, number + 1):
        width, height = chance.randrange(80, 640), chance.randrange(80, 480)
        rows = []
        for _ in range(0 if chance.random() < 0.15 else chance.randrange(1, most)):
            hoi = chance.choice([hoi for hoi in range(len(HOIS)) if split == "train" or hoi != WITHOUT_ROW])
            if rows and chance.random() < 0.3:
                hoi, human, object_ = chance.choice(
                    rows
                )  # another pair of the class, with the same person, or quite the same
                rows.append((hoi, human, chance.choice([object_, draw_box(chance, width, height)])))
            else:
                rows.append((hoi, draw_box(chance, width, height), draw_box(chance, width, height)))
        images.append({"name": f"HICO_{split}2015_{index:08d}.jpg", "size": (width, height), "rows": rows})
    return images


def draw_detections(chance, images, most, bonus, is_tied):
    """Rows (image index, HOI, human box, object box, score), by image; boxes are edges, rounded to 32 bits."""
    found = []
    for index, image in enumerate(images):
        width, height = image["size"]

        def near(box, by, width=width, height=height):
            x1, y1, x2, y2 = box or draw_box(chance, width, height)
            x1, y1, x2, y2 = x1 - 1, y1 - 1, x2, y2
            w, h = x2 - x1, y2 - y1
            moved = [
                value + chance.uniform(-by, by) * side
                for value, side in zip((x1, y1, x2, y2), (w, h, w, h), strict=True)
            ]
            return [*moved[:2], max(moved[2], moved[0]), max(moved[3], moved[1])]

        for _ in range(chance.randrange(most // 2, most)):
            is_good = image["rows"] and chance.random() < 0.6
            hoi, human, object_ = chance.choice(image["rows"]) if is_good else (chance.randrange(len(HOIS)), None, None)
            if hoi == WITHOUT_DETECTION:
                continue
            by = chance.choice([0, 0.05, 0.25])
            score = chance.random() + (bonus if is_good else 0)
            found.append((index, hoi, near(human, by), near(object_, by), round(score, 1) if is_tied else score))
    return found


def as_json(images, rare):
    """instances_*2015.json."""
    columns = {"boxes_h": 1, "boxes_o": 2}
    return {
        "annotation": [
            {key: [row[place] for row in image["rows"]] for key, place in columns.items()}
            | {"hoi": [row[0] for row in image["rows"]]}
            | {"object": [HOIS[row[0]][1] for row in image["rows"]], "verb": [HOIS[row[0]][0] for row in image["rows"]]}
            for image in images
        ],
        "filenames": [image["name"] for image in images],
        "size": [image["size"] for image in images],
        "empty": [index for index, image in enumerate(images) if not image["rows"]],
        "objects": OBJECTS,
        "verbs": VERBS,
        "correspondence": [[hoi, object_, verb] for hoi, (verb, object_) in enumerate(HOIS)],
        "rare": rare,
        "non_rare": [hoi for hoi in range(len(HOIS)) if hoi not in rare],
    }


def as_triplets(detections):
    """The neutral table."""
    return Triplets(
        image_id=np.array([row[0] + 1 for row in detections], dtype=np.int64),
        human_boxes=np.array([row[2] for row in detections], dtype=np.float32),
        object_boxes=np.array([row[3] for row in detections], dtype=np.float32),
        object_category=np.array([HOIS[row[1]][1] for row in detections], dtype=np.int64),
        verb=np.array([HOIS[row[1]][0] for row in detections], dtype=np.int64),
        score=np.array([row[4] for row in detections], dtype=np.float32),
    )


def as_structs(rows):
    """A MATLAB struct array."""
    if not rows:
        return np.zeros((0, 0))
    array = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for index, row in enumerate(rows):
        array[0, index] = tuple(row.values())
    return array


def as_cells(rows):
    """A MATLAB cell array of the same shape as the nested list."""
    array = np.empty((len(rows), len(rows[0])), dtype=object)
    for place in np.ndindex(*array.shape):
        array[place] = rows[place[0]][place[1]]
    return array


def is_invisible(index, hoi):
    """Whether a class of which an image has no row is annotated there nevertheless, but cannot be seen."""
    return (index + hoi) % 7 == 0


def as_labels(images, with_invisible):
    """anno_train or anno_test: 1 where a class is annotated, be it invisible or not; else -1, 0 or NaN."""
    labels = np.resize([-1, 0, np.nan], (len(HOIS), len(images)))
    for index, image in enumerate(images):
        rows = [row[0] for row in image["rows"]]
        labels[
            [hoi for hoi in range(len(HOIS)) if hoi in rows or (with_invisible and is_invisible(index, hoi))], index
        ] = 1
    return labels


def as_boxes(images):
    """bbox_train or bbox_test: the rows of each class, and an invisible entry here and there."""
    result = []
    for index, image in enumerate(images):
        entries = []
        for hoi in range(len(HOIS)):
            rows = [row for row in image["rows"] if row[0] == hoi]
            boxes = [
                as_structs([dict(zip(("x1", "y1", "x2", "y2"), map(float, row[k]), strict=True)) for row in rows])
                for k in (1, 2)
            ]
            connection = np.array([[k + 1.0, k + 1.0] for k in range(len(rows))])
            if rows or is_invisible(index, hoi):
                keys = ("id", "bboxhuman", "bboxobject", "connection", "invis")
                entries.append(dict(zip(keys, (hoi + 1.0, *boxes, connection, float(not rows)), strict=True)))
        result.append({"filename": image["name"], "hoi": as_structs(entries)})
    return as_structs(result)


def write_variables(path, variables):
    """A MATLAB file; SciPy's would say when it was made."""
    content = io.BytesIO()
    savemat(content, variables, do_compression=True)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + content.getvalue()[116:])


def write_anno(path, train, test, with_invisible):
    """anno.mat: the labels of whole images."""
    names = {"list_train": train, "list_test": test}
    write_variables(
        path,
        {name: as_cells([[image["name"]] for image in images]) for name, images in names.items()}
        | {"list_action": as_structs([{"nname": OBJECTS[o], "vname_ing": VERBS[v]} for v, o in HOIS])}
        | {"anno_train": as_labels(train, with_invisible), "anno_test": as_labels(test, with_invisible)},
    )


def run_official(checkout, folder, train, test, table, with_invisible):
    """AP of every class under both settings, by the official program in GNU Octave."""
    for name in ("evaluation", "common"):
        shutil.copytree(checkout / name, folder / name)
    shutil.copy(checkout / "config.m", folder)
    # Octave has no pool of workers; the program deletes the pool in the end, which also works on a file's name.
    (folder / "parpool.m").write_text(
        "function pool = parpool(varargin)\n pool = tempname(); fclose(fopen(pool, 'w'));\nend\n"
    )
    data, output = folder / "data/hico_20160224_det", folder / "output/x/hico_det_test2015/x_iter_1"
    cache = folder / "cache/det_base_caffenet/train2015"
    for made in (data, cache):
        made.mkdir(parents=True)
    savemat(cache / "HICO_train2015_00000001.mat", {"cls": as_cells([["__background__", *OBJECTS_IN_COCO]])})
    write_anno(data / "anno.mat", train, test, with_invisible)
    savemat(data / "anno_bbox.mat", {"bbox_train": as_boxes(train), "bbox_test": as_boxes(test)})
    vocabulary = Vocabulary("hicodet", tuple(OBJECTS), OBJECTS.index("person"), tuple(VERBS), tuple(HOIS))
    write_hicodet_results(output, table, vocabulary, range(1, len(test) + 1))
    subprocess.run(
        ["octave-cli", "--norc", "--quiet", "--eval", EXPERIMENT], cwd=folder, check=True, capture_output=True
    )
    result = {}
    for setting, mode in (("default", "def"), ("known_object", "ko")):
        result[setting] = loadmat(folder / f"evaluation/result/x/{mode}_test2015_000001.mat")["AP"].ravel().tolist()
    return result


def record(case, checkout, folder):
    """Write the raw folder and table of a case to `folder`; what the official program says of it."""
    _, seed, number, most_rows, most, bonus, is_tied, with_labels = case
    chance = random.Random(seed)
    train, test = draw_images(chance, "train", 20, 9), draw_images(chance, "test", number, most_rows)
    table = as_triplets(draw_detections(chance, test, most, bonus, is_tied))
    counts = [sum(row[0] == hoi for image in train for row in image["rows"]) for hoi in range(len(HOIS))]
    rare = [hoi for hoi, count in enumerate(counts) if count < 10]
    (folder / "hicodet").mkdir(parents=True, exist_ok=True)
    for split, images in (("train", train), ("test", test)):
        text = json.dumps(as_json(images, rare), separators=(",", ":"))
        (folder / "hicodet" / f"instances_{split}2015.json").write_text(text + "\n")
    if with_labels:
        write_anno(folder / "hicodet" / "anno.mat", train, test, with_labels)
    save_triplets(folder / "triplets.parquet", table)
    with tempfile.TemporaryDirectory() as scratch:
        return run_official(checkout, Path(scratch), train, test, table, with_labels)


def main():
    """Write the raw folder and table of each case, and official.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder that holds evaluation/eval_one.m")
    checkout = parser.parse_args().checkout
    recorded = {}
    for case in CASES:
        recorded[case[0]] = record(case, checkout, HERE / case[0])
        sys.stderr.write(f"{case[0]}: recorded\n")
    (HERE / "official.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
