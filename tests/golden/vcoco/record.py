"""Draw V-COCO-format cases and record what the official program says of them (README.md beside this file).

    python tests/golden/vcoco/record.py PATH/TO/v-coco

Needs a checkout of s-gupta/v-coco, of which only vsrl_eval.py is read, and pycocotools. The cases are drawn by Python's
own generator, whose numbers do not change between versions, so the same content comes out each time.
"""

import argparse
import contextlib
import io
import json
import pickle
import random
import sys
import tempfile
import types
import warnings
from pathlib import Path

import numpy as np

from rmlr.data.triplets import save_triplets
from rmlr.hoi import Triplets

HERE = Path(__file__).parent
UNSCORED = "point instr"
ACTIONS = [  # in the order of the official files, each with its roles besides the agent
    ("hold", "obj"),
    ("stand",),
    ("sit", "instr"),
    ("ride", "instr"),
    ("walk",),
    ("look", "obj"),
    ("hit", "instr", "obj"),
    ("eat", "obj", "instr"),
    ("jump", "instr"),
    ("lay", "instr"),
    ("talk_on_phone", "instr"),
    ("carry", "obj"),
    ("throw", "obj"),
    ("catch", "obj"),
    ("cut", "instr", "obj"),
    ("run",),
    ("work_on_computer", "instr"),
    ("ski", "instr"),
    ("surf", "instr"),
    ("skateboard", "instr"),
    ("smile",),
    ("drink", "instr"),
    ("kick", "obj"),
    ("point", "instr"),
    ("read", "obj"),
    ("snowboard", "instr"),
]
ROLES = [(action, role) for action, *roles in ACTIONS for role in roles]
ACTION_ROLES = [(action, roles) for action, *roles in ACTIONS]
CATEGORIES = [(1, "person"), (2, "bicycle"), (3, "car"), (47, "cup")]
# split, seed, images, detected persons an image, tied scores; the splits only serve to name three cases
CASES = [("train", 1, 40, 16, False), ("val", 2, 5, 60, False), ("test", 3, 25, 6, True)]
PATCHES = [  # what today's NumPy no longer takes
    ("np.bool)", "bool)"),
    ("role_id[i, j - 1] = aid", "role_id[i, j - 1] = aid[0]"),
]
NO_BOX = [float("nan")] * 4


def draw_box(chance, width, height):
    """x, y, w, h with two decimals: mostly inside the image, some outside, some thin or empty."""
    kind = chance.random()
    if kind < 0.05:
        return [
            chance.randrange(width),
            chance.randrange(height),
            chance.choice([0, 0.5, 1]),
            chance.choice([1, 7, 30]),
        ]
    if kind < 0.1:
        return [round(width + chance.random() * 9 - 4, 2), round(chance.random() * height, 2), 40.0, 25.0]
    x, y = chance.random() * width * 0.8 - 8, chance.random() * height * 0.8 - 8
    w, h = 4 + chance.random() * width * 0.5, 4 + chance.random() * height * 0.5
    if kind < 0.3:
        return [round(value) for value in (x, y, w, h)]
    return [round(value, 2) for value in (x, y, w, h)]


def is_valid(annotation, width, height):
    """Whether the official program keeps it; it stops where a role points at one that it does not keep."""
    x, y, w, h = annotation["bbox"]
    x1, x2 = (min(max(value, 0), width - 1) for value in (x, x + max(0, w - 1)))
    y1, y2 = (min(max(value, 0), height - 1) for value in (y, y + max(0, h - 1)))
    return annotation["area"] > 0 and not annotation.get("ignore") and x2 > x1 and y2 > y1


def draw_image(chance, image_id, next_id):
    """One image, COCO's annotations of it, and the rows of its listed persons: {annotation id: {action: objects}}."""
    width, height = chance.randrange(60, 640), chance.randrange(60, 480)
    image = {"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": width, "height": height}
    annotations = []
    for number in range(chance.randrange(2, 11)):
        category = 1 if number == 0 or chance.random() < 0.5 else chance.choice(CATEGORIES)[0]
        bbox = draw_box(chance, width, height)
        if annotations and chance.random() < 0.1:
            bbox = list(chance.choice(annotations)["bbox"])  # a second one in the very same place
        annotation = {"id": next_id + number, "image_id": image_id, "category_id": category, "bbox": bbox}
        annotation |= {"area": bbox[2] * bbox[3] / 2, "iscrowd": int(chance.random() < 0.08)}
        if chance.random() < 0.04:
            annotation["ignore"] = 1
        annotations.append(annotation)
    chance.shuffle(annotations)
    persons = [annotation["id"] for annotation in annotations if annotation["category_id"] == 1]
    targets = [annotation["id"] for annotation in annotations if is_valid(annotation, width, height)]
    rows = {}
    for person in persons:
        if rows and chance.random() < 0.35:
            continue  # unlisted; the official program wants at least one listed person in each image
        rows[person] = {
            action: [chance.choice(targets) if targets and chance.random() < 0.7 else 0 for _ in roles]
            for action, *roles in ACTIONS
            if chance.random() < 0.3
        }
    return image, annotations, rows


def draw_detections(chance, image, annotations, rows, persons):
    """Rows (merit, image id, human box, object box, role index), right and wrong, some twice over."""
    width, height = image["width"], image["height"]
    valid = {item["id"]: item["bbox"] for item in annotations if is_valid(item, width, height)}
    people = [item["id"] for item in annotations if item["category_id"] == 1 and item["id"] in valid]
    if not people:
        return []  # the official program stops at a detection in an image without a person

    def near(box, by):
        x, y, w, h = box
        x, y, w, h = (
            value + chance.uniform(-by, by) * side for value, side in zip((x, y, w, h), (w, h, w, h), strict=True)
        )
        return [x, y, x + max(w, 0), y + max(h, 0)]

    found = []
    for _ in range(chance.randrange(persons + 1)):
        person = chance.choice(people)
        is_random = chance.random() < 0.2
        human = near(draw_box(chance, width, height) if is_random else valid[person], chance.choice([0, 0.05, 0.2]))
        for index, (action, role) in enumerate(ROLES):
            done = rows.get(person, {}).get(action)
            if chance.random() > (0.1 if done is None else 0.8):
                continue
            annotated = done and done[dict(ACTION_ROLES)[action].index(role)]
            kind = chance.random()
            if annotated and kind < 0.8:
                object_ = near(valid[annotated], chance.choice([0, 0.05, 0.2]))
            elif kind < 0.5:
                object_ = NO_BOX
            elif kind < 0.6:
                object_ = [0.0] * 4
            else:
                object_ = near(draw_box(chance, width, height), 0)
            merit = chance.random() + (0.4 if done and not is_random else 0)
            found.append((merit, image["id"], human, object_, index))
            if chance.random() < 0.15:
                thing = valid[annotated] if annotated else draw_box(chance, width, height)
                found.append((merit + chance.uniform(-0.3, 0.1), image["id"], human, near(thing, 0.1), index))
    return found


def draw_case(seed, images, persons, is_tied):
    """COCO's images and annotations, the official rows, and scored detections."""
    chance = random.Random(seed)
    drawn, next_id = [], 1 + seed * 10_000
    for number in range(images):
        drawn.append(draw_image(chance, seed * 1000 + 7 * number, next_id))
        next_id += 20
    detections = [row for image, items, rows in drawn for row in draw_detections(chance, image, items, rows, persons)]
    rank = {row: place for place, row in enumerate(sorted(range(len(detections)), key=lambda row: detections[row][0]))}
    scores = [(rank[row] + 1) / (len(detections) + 1) for row in range(len(detections))]
    detections = [row[1:] for row in detections]
    if is_tied:
        scores = [round(score, 1) for score in scores]
    listed = [(image["id"], person, done) for image, _, rows in drawn for person, done in rows.items()]
    people = [person for _, person, _ in listed]
    vcoco = [
        {
            "action_name": action,
            "role_name": ["agent", *roles],
            "image_id": [image_id for image_id, _, _ in listed],
            "ann_id": people,
            "label": [int(action in done) for _, _, done in listed],
            "role_object_id": people
            + [done.get(action, [0] * len(roles))[number] for number in range(len(roles)) for _, _, done in listed],
            "include": [[] for _ in range(len(roles) + 1)],
        }
        for action, *roles in ACTIONS
    ]
    coco = {"images": [item[0] for item in drawn], "annotations": [row for item in drawn for row in item[1]]}
    return coco, vcoco, detections, np.array(scores, dtype=np.float32)


def as_triplets(detections, scores):
    """The neutral table; verbs in the literature's order, the left-out role last."""
    names = [f"{action} {role}" for action, role in ROLES]
    order = [name for name in names if name != UNSCORED] + [UNSCORED]
    return Triplets(
        image_id=np.array([row[0] for row in detections], dtype=np.int64),
        human_boxes=np.array([row[1] for row in detections], dtype=np.float32),
        object_boxes=np.array([row[2] for row in detections], dtype=np.float32),
        object_category=np.zeros(len(detections), dtype=np.int64),
        verb=np.array([order.index(names[row[3]]) for row in detections], dtype=np.int64),
        score=scores,
    )


def as_pickle(detections, scores):
    """The official list, one item per row: every other action-role is absent (NaN)."""
    empty = {f"{action}_agent": float("nan") for action, *_ in ACTIONS}
    empty |= {f"{action}_{role}": [*NO_BOX, float("nan")] for action, role in ROLES}
    return [
        empty
        | {"image_id": image_id, "person_box": np.array(human, dtype=np.float32)}
        | {"_".join(ROLES[index]): np.array([*object_, score], dtype=np.float32)}
        for (image_id, human, object_, index), score in zip(detections, scores, strict=True)
    ]


def run_official(checkout, coco_file, vcoco_file, ids_file, detections):
    """AP of every action-role under both scenarios, by the official program, its NumPy names patched."""
    source = (checkout / "vsrl_eval.py").read_text()
    for old, new in PATCHES:
        if old not in source:
            raise ValueError(f"{checkout / 'vsrl_eval.py'}: '{old}' is not in it. Is it the released program?")
        source = source.replace(old, new)
    official = types.ModuleType("vsrl_eval")
    exec(compile(source, "vsrl_eval.py", "exec"), official.__dict__)
    original, values = official.voc_ap, []
    official.voc_ap = lambda recall, precision: values.append(float(original(recall, precision))) or values[-1]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "detections.pkl"
        path.write_bytes(pickle.dumps(detections, protocol=2))
        program = official.VCOCOeval(str(vcoco_file), str(coco_file), str(ids_file))
        result = {}
        for scenario in ("scenario_1", "scenario_2"):
            values.clear()
            program._do_role_eval(program._get_vcocodb(), str(path), eval_type=scenario)
            assert len(values) == len(ROLES)
            result[scenario] = {f"{action} {role}": value for (action, role), value in zip(ROLES, values, strict=True)}
    return result


def main():
    """Write the raw folder of all cases, their tables, and official.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder that holds vsrl_eval.py")
    checkout = parser.parse_args().checkout
    categories = [{"id": number, "name": name} for number, name in CATEGORIES]
    coco, recorded = {"images": [], "annotations": [], "categories": categories}, {}
    for folder in ("coco", "vcoco/splits"):
        (HERE / folder).mkdir(parents=True, exist_ok=True)
    cases = {split: draw_case(*rest) for split, *rest in CASES}
    for case in cases.values():
        coco["images"] += case[0]["images"]
        coco["annotations"] += case[0]["annotations"]
    coco_file = HERE / "coco" / "instances_val2014.json"
    coco_file.write_text(json.dumps(coco, separators=(",", ":")) + "\n")
    for split, (images, vcoco, detections, scores) in cases.items():
        vcoco_file, ids_file = HERE / "vcoco" / f"vcoco_{split}.json", HERE / "vcoco" / "splits" / f"vcoco_{split}.ids"
        vcoco_file.write_text(json.dumps(vcoco, separators=(",", ":")) + "\n")
        ids_file.write_text("".join(f"{image['id']}\n" for image in images["images"]))
        save_triplets(HERE / f"triplets_{split}.parquet", as_triplets(detections, scores))
        recorded[split] = run_official(checkout, coco_file, vcoco_file, ids_file, as_pickle(detections, scores))
        sys.stderr.write(f"{split}: {len(detections)} rows on {len(images['images'])} images\n")
    (HERE / "official.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
