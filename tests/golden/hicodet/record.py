"""Draw HICO-DET-format cases and record what the official program says of them (README.md beside this file).

    python tests/golden/hicodet/record.py PATH/TO/ho-rcnn

Needs a checkout of ywchao/ho-rcnn (evaluation/, common/ and config.m are read) and GNU Octave's `octave-cli`. The
cases are drawn by Python's own generator, whose numbers do not change between versions: the same content comes out.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import loadmat, savemat

from rmlr.data.triplets import save_triplets
from rmlr.hoi import Triplets

HERE = Path(__file__).parent
OBJECTS = ["airplane", "bicycle", "cup", "person"]
VERBS = ["hold", "no_interaction", "ride", "wash"]
HOIS = [(2, 0), (1, 0), (3, 0), (2, 1), (1, 1), (0, 2), (3, 2), (1, 2), (0, 3), (1, 3)]  # verb, object
WITHOUT_ROW, WITHOUT_DETECTION = 3, 6  # HOIs
# name, seed, test images, rows and detections an image, tied scores
CASES = [("clean", 1, 60, 9, 25, False), ("crowded", 2, 4, 60, 600, False), ("tied", 3, 40, 9, 25, True)]
EXPERIMENT = """
    addpath('evaluation'); addpath('common'); save_default_options('-mat7-binary');
    image_set = 'test2015'; iter = 1; exp_name = 'x'; exp_dir = 'x'; prefix = 'x'; format = 'all'; score_blob = 'n/a';
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


def draw_detections(chance, images, most, is_tied):
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
            score = chance.random() + (0.5 if is_good else 0)
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
            if rows or (index + hoi) % 7 == 0:
                keys = ("id", "bboxhuman", "bboxobject", "connection", "invis")
                entries.append(dict(zip(keys, (hoi + 1.0, *boxes, connection, float(not rows)), strict=True)))
        result.append({"filename": image["name"], "hoi": as_structs(entries)})
    return as_structs(result)


def run_official(checkout, folder, train, test, table):
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
    for made in (data, output, cache):
        made.mkdir(parents=True)
    savemat(cache / "HICO_train2015_00000001.mat", {"cls": as_cells([["__background__", *OBJECTS]])})
    labels = np.zeros((len(HOIS), len(test)))
    for index, image in enumerate(test):
        for hoi, *_ in image["rows"]:
            labels[hoi, index] = 1  # visible pairs only: the rule of ours
    actions = as_structs([{"nname": OBJECTS[o], "vname_ing": VERBS[v]} for v, o in HOIS])
    names = {
        f"list_{name}": as_cells([[image["name"]] for image in images])
        for name, images in (("train", train), ("test", test))
    }
    savemat(
        data / "anno.mat",
        names | {"list_action": actions, "anno_test": labels, "anno_train": np.zeros((len(HOIS), len(train)))},
    )
    savemat(data / "anno_bbox.mat", {"bbox_train": as_boxes(train), "bbox_test": as_boxes(test)})
    cells = [[np.zeros((0, 0)) for _ in test] for _ in HOIS]
    inside = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0])  # the last pixel is inside the box
    every = (
        np.concatenate([table.human_boxes, table.object_boxes, table.score[:, None]], axis=1).astype(np.float64)
        - inside
    )
    for hoi, (verb, object_) in enumerate(HOIS):
        for index in range(len(test)):
            rows = every[(table.verb == verb) & (table.object_category == object_) & (table.image_id == index + 1)]
            cells[hoi][index] = rows if len(rows) else np.zeros((0, 0))
    savemat(output / "detections.mat", {"all_boxes": as_cells(cells)})
    subprocess.run(
        ["octave-cli", "--norc", "--quiet", "--eval", EXPERIMENT], cwd=folder, check=True, capture_output=True
    )
    result = {}
    for setting, mode in (("default", "def"), ("known_object", "ko")):
        result[setting] = loadmat(folder / f"evaluation/result/x/{mode}_test2015_000001.mat")["AP"].ravel().tolist()
    return result


def main():
    """Write the raw folder and table of each case, and official.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder that holds evaluation/eval_one.m")
    checkout = parser.parse_args().checkout
    recorded = {}
    for name, seed, number, most_rows, most, is_tied in CASES:
        chance = random.Random(seed)
        train, test = draw_images(chance, "train", 20, 9), draw_images(chance, "test", number, most_rows)
        table = as_triplets(draw_detections(chance, test, most, is_tied))
        counts = [sum(row[0] == hoi for image in train for row in image["rows"]) for hoi in range(len(HOIS))]
        rare = [hoi for hoi, count in enumerate(counts) if count < 10]
        folder = HERE / name / "hicodet"
        folder.mkdir(parents=True, exist_ok=True)
        for split, images in (("train", train), ("test", test)):
            text = json.dumps(as_json(images, rare), separators=(",", ":"))
            (folder / f"instances_{split}2015.json").write_text(text + "\n")
        save_triplets(HERE / name / "triplets.parquet", table)
        with tempfile.TemporaryDirectory() as scratch:
            recorded[name] = run_official(checkout, Path(scratch), train, test, table)
        sys.stderr.write(f"{name}: {len(table.score)} rows on {number} images, rare {rare}\n")
    (HERE / "official.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
