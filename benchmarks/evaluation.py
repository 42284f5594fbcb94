"""CPU seconds and memory of our evaluators on drawn sets of full size, reading aside.

    python benchmarks/evaluation.py [--sizes 0.25 0.5 1]

Full size is 100 rows an image: 965,800 rows on HICO-DET's 9,658 test images (Default and Known Object), 494,600 rows on
V-COCO's 4,946 (scenario 1 and 2). Each measurement is a process of its own on one thread; its peak memory includes
Python, torch (imported with our records), and the drawn set itself. Cost should grow linearly with size.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from rmlr.evaluation import hicodet, vcoco
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary

ROWS = 100  # an image
IMAGES = {"vcoco": 4_946, "hicodet": 9_658}
LIMITS = {"cpu_seconds": 5.0, "peak_mib": 1024.0}  # to stay under


def boxes(draw: np.random.Generator, count: int) -> np.ndarray:
    """Random boxes in an image of 640 x 480."""
    low = draw.uniform(0, [500, 340], (count, 2))
    return np.concatenate([low, low + draw.uniform(20, 140, (count, 2))], axis=1)


def vocabulary(dataset: str) -> Vocabulary:
    """As many classes as the release has."""
    objects = tuple(f"object{index}" for index in range(80))
    if dataset == "vcoco":
        verbs = tuple(f"verb{index} obj" for index in range(24))
        return Vocabulary("vcoco", objects, 0, verbs, ((0, 1),), unscored_verbs=("point instr",))
    verbs = tuple(f"verb{index}" for index in range(117))
    hois = tuple((int(verb), object_) for object_ in range(80) for verb in range(object_, object_ + 8))
    return Vocabulary("hicodet", objects, 49, verbs, hois[:600], rare=tuple(range(138)))


def annotate(draw: np.random.Generator, words: Vocabulary, image_id: int) -> Annotation:
    """About as many persons, pairs and boxes as an image of the release."""
    if words.dataset == "vcoco":
        persons, things = int(draw.integers(1, 6)), int(draw.integers(1, 8))
        labels = np.array([words.person] * persons + [1 + index for index in range(things)])
        interactions = [
            (person, verb, draw.choice([NO_BOX, persons + int(draw.integers(things))]))
            for person in np.flatnonzero(draw.random(persons) < 0.8)  # the listed ones
            for verb in draw.choice(25, 3, replace=False)
        ]
        drawn = boxes(draw, len(labels))
    else:
        pairs = int(draw.poisson(3.5))
        hois = np.array(words.hois)[draw.integers(len(words.hois), size=pairs)].reshape(-1, 2)
        labels = np.stack([np.full(pairs, words.person), hois[:, 1]], axis=1).reshape(-1)
        interactions = [(2 * row, hois[row, 0], 2 * row + 1) for row in range(pairs)]
        drawn = boxes(draw, 2 * pairs)
    is_listed = np.zeros(len(labels), dtype=bool)
    is_listed[[row[0] for row in interactions]] = True
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=480,
        width=640,
        boxes=drawn,
        labels=labels.astype(np.int64),
        interactions=np.array(interactions, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(len(labels), dtype=bool),
        is_listed=is_listed,
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def predict(draw: np.random.Generator, words: Vocabulary, images: list[Annotation]) -> Triplets:
    """Rows of which about half stand near an annotated interaction of their image."""
    parts = []
    for image in images:
        truth = (
            image.interactions[draw.integers(len(image.interactions), size=ROWS)] if len(image.interactions) else None
        )
        human, object_ = boxes(draw, ROWS), boxes(draw, ROWS)
        if words.dataset == "vcoco":
            verb, category = draw.integers(25, size=ROWS), np.ones(ROWS, dtype=np.int64)
        else:
            verb, category = np.array(words.hois)[draw.integers(len(words.hois), size=ROWS)].T.copy()
        if truth is not None:
            near = draw.random(ROWS) < 0.5
            noise = draw.normal(0, 8, (2, ROWS, 4))
            human[near] = (image.boxes[truth[:, 0]] + noise[0])[near]
            object_[near] = (image.boxes[truth[:, 2]] + noise[1])[near]
            verb[near] = truth[near, 1]
            if words.dataset == "hicodet":
                category[near] = image.labels[truth[near, 2]]
        parts.append((np.full(ROWS, image.image_id), human, object_, category, verb))
    image_id, human, object_, category, verb = (np.concatenate(column) for column in zip(*parts, strict=True))
    score = draw.permutation(len(verb)).astype(np.float32)
    return Triplets(image_id, human.astype(np.float32), object_.astype(np.float32), category, verb, score)


def measure(dataset: str, size: float) -> dict[str, float]:
    """Draw a set and score it once, here."""
    draw = np.random.default_rng(0)
    words = vocabulary(dataset)
    images = [annotate(draw, words, image_id) for image_id in range(round(IMAGES[dataset] * size))]
    table = predict(draw, words, images)
    evaluate: Callable = vcoco.evaluate if dataset == "vcoco" else hicodet.evaluate
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    scores = evaluate(images, words, table)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    headline = "vcoco_ap_role_1" if dataset == "vcoco" else "hicodet_default_full"
    return {
        "rows": len(table.score),
        "cpu_seconds": seconds,
        "peak_mib": peak / 1024,
        "before_mib": before / 1024,
        "ap": scores.metrics()[headline],
    }


def main() -> int:
    """Print a table; exit status 1 where full size takes more than the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--measure", nargs=2, metavar=("DATASET", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(options.measure[0], float(options.measure[1]))))
        return 0
    sys.stdout.write(f"{'':8} {'rows':>9} {'CPU s':>6} {'us/row':>7} {'peak MiB':>9} {'before':>7}  AP (drawn)\n")
    is_over = False
    for dataset in IMAGES:
        for size in options.sizes:
            command = [sys.executable, __file__, "--measure", dataset, str(size)]
            threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            result = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **threads})
            row = json.loads(result.stdout)
            sys.stdout.write(
                f"{dataset:8} {row['rows']:9,} {row['cpu_seconds']:6.2f} {row['cpu_seconds'] / row['rows'] * 1e6:7.2f} "
                f"{row['peak_mib']:9.0f} {row['before_mib']:7.0f}  {row['ap']:.4f}\n"
            )
            sys.stdout.flush()
            is_over |= size == 1 and any(row[name] > limit for name, limit in LIMITS.items())
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
