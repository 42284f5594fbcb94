"""Draw V-COCO-format cases and record what the official program says of them (README.md beside this file).

    python tests/golden/vcoco/record.py PATH/TO/v-coco

Needs a checkout of s-gupta/v-coco, of which only vsrl_eval.py is read, and pycocotools. The cases are drawn by Python's
own generator, whose numbers do not change between versions, so the same content comes out each time. The program is
given pickles that our own writer made, so what is recorded is also that it reads them.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import types
import warnings
from pathlib import Path

import numpy as np

from rmlr.detections.triplets import save_agents, save_triplets
from rmlr.detections.vcoco import write_vcoco_results
from rmlr.hoi import Agents, Triplets, Vocabulary

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
TIED = [split for split, *_, is_tied in CASES if is_tied]
PATCHES = [  # what today's NumPy no longer takes
    ("np.bool)", "bool)"),
    ("role_id[i, j - 1] = aid", "role_id[i, j - 1] = aid[0]"),
]
STABLE = [(".argsort()[::-1]", ".__neg__().argsort(kind='stable')")]  # its own sort leaves equal scores in any order
NO_BOX = [float("nan")] * 4
VERBS = [f"{action} {role}" for action, role in ROLES]
VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=tuple(name for _, name in CATEGORIES),
    person=0,
    verbs=tuple(verb for verb in VERBS if verb != UNSCORED),
    hois=(),
    unscored_verbs=(UNSCORED,),
    actions=tuple(action for action, *_ in ACTIONS),
)


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


def near(chance, box, by):
    """A box x, y, w, h as edges, each moved by at most a share of its side."""
    sides = (*box[2:], *box[2:])
    x, y, w, h = (value + chance.uniform(-by, by) * side for value, side in zip(box, sides, strict=True))
    return [x, y, x + max(w, 0), y + max(h, 0)]


def draw_detections(chance, image, annotations, rows, persons):
    """Rows (merit, image id, human box, object box, role index), right and wrong, some twice over."""
    width, height = image["width"], image["height"]
    valid = {item["id"]: item["bbox"] for item in annotations if is_valid(item, width, height)}
    people = [item["id"] for item in annotations if item["category_id"] == 1 and item["id"] in valid]
    if not people:
        return []  # the official program stops at a detection in an image without a person

    found = []
    for _ in range(chance.randrange(persons + 1)):
        person = chance.choice(people)
        is_random = chance.random() < 0.2
        human = near(
            chance, draw_box(chance, width, height) if is_random else valid[person], chance.choice([0, 0.05, 0.2])
        )
        for index, (action, role) in enumerate(ROLES):
            done = rows.get(person, {}).get(action)
            if chance.random() > (0.1 if done is None else 0.8):
                continue
            annotated = done and done[dict(ACTION_ROLES)[action].index(role)]
            kind = chance.random()
            if annotated and kind < 0.8:
                object_ = near(chance, valid[annotated], chance.choice([0, 0.05, 0.2]))
            elif kind < 0.5:
                object_ = NO_BOX
            elif kind < 0.6:
                object_ = [0.0] * 4
            else:
                object_ = near(chance, draw_box(chance, width, height), 0)
            merit = chance.random() + (0.4 if done and not is_random else 0)
            found.append((merit, image["id"], human, object_, index))
            if chance.random() < 0.15:
                thing = valid[annotated] if annotated else draw_box(chance, width, height)
                found.append((merit + chance.uniform(-0.3, 0.1), image["id"], human, near(chance, thing, 0.1), index))
    return found


def draw_agents(chance, image, annotations, rows, persons, humans):
    """Rows (merit, image id, human box, action index), some at boxes of `humans`, with triplets; some twice over."""
    width, height = image["width"], image["height"]
    valid = {item["id"]: item["bbox"] for item in annotations if is_valid(item, width, height)}
    people = [item["id"] for item in annotations if item["category_id"] == 1 and item["id"] in valid]
    if not people:
        return []
    found = []
    for _ in range(chance.randrange(persons + 1)):
        person = chance.choice(people)
        human, done = near(chance, valid[person], chance.choice([0, 0.05, 0.2])), rows.get(person, {})
        if chance.random() < 0.4:
            human, done = chance.choice([*humans, near(chance, draw_box(chance, width, height), 0)]), {}
        for index, action in enumerate(VOCABULARY.actions):
            if chance.random() < (0.8 if action in done else 0.15):
                found.append((chance.random() + (0.4 if action in done else 0), image["id"], human, index))
    return found + [(row[0] - chance.random() / 3, *row[1:]) for row in found if chance.random() < 0.1]


def as_scores(rows, is_tied):
    """Scores between 0 and 1 by the rows' merit, no two alike; or of one decimal."""
    rank = {row: place for place, row in enumerate(sorted(range(len(rows)), key=lambda row: rows[row][0]))}
    scores = [(rank[row] + 1) / (len(rows) + 1) for row in range(len(rows))]
    return np.array([round(score, 1) for score in scores] if is_tied else scores, dtype=np.float32)


def draw_case(seed, images, persons, is_tied):
    """COCO's images and annotations, the official rows, scored detections, and scored agents."""
    chance = random.Random(seed)
    drawn, next_id = [], 1 + seed * 10_000
    for number in range(images):
        drawn.append(draw_image(chance, seed * 1000 + 7 * number, next_id))
        next_id += 20
    detections = [row for image, items, rows in drawn for row in draw_detections(chance, image, items, rows, persons)]
    chance, agents = random.Random(seed + 1000), []
    for image, items, rows in drawn:
        humans = [row[2] for row in detections if row[1] == image["id"]]
        agents += draw_agents(chance, image, items, rows, persons, humans)
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
    return (
        coco,
        vcoco,
        as_triplets(detections, as_scores(detections, is_tied)),
        as_agents(agents, as_scores(agents, is_tied)),
    )


def as_triplets(detections, scores):
    """The neutral table; verbs in the literature's order, the left-out role last."""
    order = VOCABULARY.verbs + VOCABULARY.unscored_verbs
    return Triplets(
        image_id=np.array([row[1] for row in detections], dtype=np.int64),
        human_boxes=np.array([row[2] for row in detections], dtype=np.float32),
        object_boxes=np.array([row[3] for row in detections], dtype=np.float32),
        object_category=np.zeros(len(detections), dtype=np.int64),
        verb=np.array([order.index(VERBS[row[4]]) for row in detections], dtype=np.int64),
        score=scores,
    )


def as_agents(rows, scores):
    """The neutral table of agents."""
    return Agents(
        image_id=np.array([row[1] for row in rows], dtype=np.int64),
        human_boxes=np.array([row[2] for row in rows], dtype=np.float32),
        action=np.array([row[3] for row in rows], dtype=np.int64),
        score=scores,
    )


def run_official(checkout, folder, split, detections, patches=PATCHES):
    """What the official program, its NumPy names patched, says of a pickle: AP of every action-role and agent.

    `folder` holds coco/ and vcoco/ as this one does.
    """
    source = (checkout / "vsrl_eval.py").read_text()
    for old, new in patches:
        if old not in source:
            raise ValueError(f"{checkout / 'vsrl_eval.py'}: '{old}' is not in it. Is it the released program?")
        source = source.replace(old, new)
    official = types.ModuleType("vsrl_eval")
    exec(compile(source, "vsrl_eval.py", "exec"), official.__dict__)
    original, values = official.voc_ap, []
    official.voc_ap = lambda recall, precision: values.append(float(original(recall, precision))) or values[-1]
    files = ("vcoco/vcoco_{}.json", "coco/instances_val2014.json", "vcoco/splits/vcoco_{}.ids")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = official.VCOCOeval(*(str(folder / file.format(split)) for file in files))
        program._do_eval(str(detections))
    names = [*VOCABULARY.actions, *VERBS, *VERBS]  # in this order it asks for them
    said = list(zip(names, values, strict=True))
    ends = len(VOCABULARY.actions), len(VOCABULARY.actions) + len(VERBS)
    parts = {"scenario_1": said[ends[0] : ends[1]], "scenario_2": said[ends[1] :], "agent": said[: ends[0]]}
    return {part: dict(values) for part, values in parts.items()}


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
    (HERE / "coco" / "instances_val2014.json").write_text(json.dumps(coco, separators=(",", ":")) + "\n")
    for split, (images, vcoco, triplets, agents) in cases.items():
        (HERE / "vcoco" / f"vcoco_{split}.json").write_text(json.dumps(vcoco, separators=(",", ":")) + "\n")
        ids = "".join(f"{image['id']}\n" for image in images["images"])
        (HERE / "vcoco" / "splits" / f"vcoco_{split}.ids").write_text(ids)
        save_triplets(HERE / f"triplets_{split}.parquet", triplets)
        save_agents(HERE / f"agents_{split}.parquet", agents)
        with tempfile.TemporaryDirectory() as folder:
            detections = Path(folder) / "detections.pkl"
            write_vcoco_results(detections, triplets, agents, VOCABULARY)
            recorded[split] = run_official(checkout, HERE, split, detections)
            if split in TIED:
                recorded[f"{split}, sorted stably"] = run_official(checkout, HERE, split, detections, PATCHES + STABLE)
        counts = f"{len(triplets.score)} triplets, {len(agents.score)} agents on {len(images['images'])} images"
        sys.stderr.write(f"{split}: {counts}\n")
    (HERE / "official.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
