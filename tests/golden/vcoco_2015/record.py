"""Record what the official V-COCO program says of detections on all 4,946 test images (README.md beside this file).

    python -m tests.golden.vcoco_2015.record PATH/TO/v-coco RAW

RAW holds coco/ and vcoco/ with the official rows of test. Only the numbers are kept: `draw` makes the detections of the
annotations again, by Python's own generator, whose numbers do not change between versions.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from rmlr.data.vcoco import read_vcoco
from rmlr.detections.vcoco import write_vcoco_results
from rmlr.hoi import NO_BOX, Agents, Annotation, Triplets, Vocabulary

HERE = Path(__file__).parent
UNSCORED = "point instr"
SEED = 0
NOTHING = [float("nan")] * 4
LISTED = [  # 23 images have no listed person here (persons who do nothing are missing), which the program asserts
    (
        "assert np.all(np.equal(np.sort(np.unique(self.VCOCO[0]['image_id'])), self.image_ids))",
        "assert np.isin(self.VCOCO[0]['image_id'], self.image_ids).all()",
    )
]


def moved(chance: random.Random, box: list[float], share: float) -> list[float]:
    """A box, each of whose edges is moved by at most a share of its side; corners stay in order."""
    x1, y1, x2, y2 = box
    width, height = share * (x2 - x1), share * (y2 - y1)
    return [
        x1 + chance.uniform(-width, width) / 2,
        y1 + chance.uniform(-height, height) / 2,
        x2 + chance.uniform(-width, width) / 2,
        y2 + chance.uniform(-height, height) / 2,
    ]


def draw(images: list[Annotation], vocabulary: Vocabulary, seed: int = SEED) -> tuple[Triplets, Agents]:
    """Detections near the truth: some missed, some twice, some of persons whose actions were not annotated, some wrong.

    A verb without an object box is answered with no object, as NaN or as zeros, or with a box. No two scores are alike.
    """
    chance = random.Random(seed)
    num_verbs = len(vocabulary.verbs) + len(vocabulary.unscored_verbs)
    found, acts = [], []  # merit, image id, human box, object box, verb; merit, image id, human box, action
    for image in images:
        boxes = image.boxes.tolist()
        people = np.flatnonzero(image.labels == vocabulary.person).tolist()
        if not people:
            continue  # the official program stops at a detection in an image without a person

        def near(index: int, boxes: list[list[float]] = boxes) -> list[float]:
            return moved(chance, boxes[index], chance.choice([0.05, 0.2, 0.8]))

        for human, verb, thing in image.interactions.tolist():
            if chance.random() < 0.2:
                continue
            for _ in range(1 + (chance.random() < 0.15)):
                answers = [near(thing)] * 5 if thing != NO_BOX else [NOTHING, [0.0] * 4]
                answer = chance.choice([*answers, NOTHING, near(chance.randrange(len(boxes)))])
                found.append((chance.random() + 0.4, image.image_id, near(human), answer, verb))
        for _ in range(4):
            human, thing = chance.choice(people), chance.randrange(len(boxes))
            answer = NOTHING if chance.random() < 0.2 else near(thing)
            found.append((chance.random(), image.image_id, near(human), answer, chance.randrange(num_verbs)))
        for human, action in image.actions.tolist():
            if chance.random() < 0.8:
                acts.append((chance.random() + 0.4, image.image_id, near(human), action))
        for _ in range(3):
            action = chance.randrange(len(vocabulary.actions))
            acts.append((chance.random(), image.image_id, near(chance.choice(people)), action))
    return tables(found, acts)


def tables(found: list[tuple], acts: list[tuple]) -> tuple[Triplets, Agents]:
    """Rows of merit, image id, human box, object box, verb, and of merit, image id, human box, action."""
    return (
        Triplets(
            image_id=np.array([row[1] for row in found], dtype=np.int64),
            human_boxes=np.array([row[2] for row in found], dtype=np.float32),
            object_boxes=np.array([row[3] for row in found], dtype=np.float32),
            object_category=np.zeros(len(found), dtype=np.int64),
            verb=np.array([row[4] for row in found], dtype=np.int64),
            score=scores([row[0] for row in found]),
        ),
        Agents(
            image_id=np.array([row[1] for row in acts], dtype=np.int64),
            human_boxes=np.array([row[2] for row in acts], dtype=np.float32),
            action=np.array([row[3] for row in acts], dtype=np.int64),
            score=scores([row[0] for row in acts]),
        ),
    )


def scores(merits: list[float]) -> np.ndarray:
    """Between 0 and 1 in the order of the merits, no two alike."""
    ranks = np.empty(len(merits))
    ranks[np.argsort(merits, kind="stable")] = np.arange(1, len(merits) + 1)
    return (ranks / (len(merits) + 1)).astype(np.float32)


def main() -> None:
    """Write official.json."""
    from tests.golden.vcoco.record import PATCHES, run_official

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder that holds vsrl_eval.py")
    parser.add_argument("raw", type=Path, help="folder that holds coco/ and vcoco/")
    given = parser.parse_args()
    corpus = read_vcoco(given.raw, [UNSCORED])
    triplets, agents = draw(corpus.splits["test"], corpus.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        detections = Path(folder) / "detections.pkl"
        write_vcoco_results(detections, triplets, agents, corpus.vocabulary)
        said = run_official(given.checkout, given.raw, "test", detections, PATCHES + LISTED)
    counts = {"images": len(corpus.splits["test"]), "triplets": len(triplets.score), "agents": len(agents.score)}
    (HERE / "official.json").write_text(json.dumps(counts | said, indent=1) + "\n")
    sys.stderr.write(f"{counts}\n")


if __name__ == "__main__":
    main()
