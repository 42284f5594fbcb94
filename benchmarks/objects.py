"""Object AP by pycocotools and by faster-coco-eval (a detector's `object_ap`): the same figures? At what cost?

    python benchmarks/objects.py

Both are called by our own `object_ap` on the same drawn detections, each in a process of its own on one thread. Seconds
are CPU seconds, the conversion of the records included. Exit status 1 where the figures differ by more than 1e-9.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

from rmlr.evaluation.objects import load_scorer, object_ap
from rmlr.hoi import Annotation, Vocabulary

SETS = {  # images, classes, detections an image, decimals of their scores
    "demo": (800, 7, 64, 9),
    "demo, tied scores": (800, 7, 64, 1),
    "COCO": (5_000, 80, 100, 9),
}
SCORERS = ("faster-coco-eval", "pycocotools")


def draw(images: int, classes: int, rows: int, decimals: int) -> tuple[np.ndarray, list[Annotation], Vocabulary]:
    """About seven boxes an image, none in every tenth, one in fifty a crowd; half the detections are near a box."""
    chance = np.random.default_rng(0)
    annotations, detections = [], []
    for image_id in range(images):
        count = int(chance.poisson(7)) if image_id % 10 else 0
        low, sides = chance.uniform(0, [500, 340], (count, 2)), chance.uniform(10, 140, (count, 2))
        labels = chance.integers(classes, size=count)
        annotations.append(
            Annotation(
                image_id=image_id,
                file_name=f"{image_id}.jpg",
                height=480,
                width=640,
                boxes=np.concatenate([low, low + sides], axis=1),
                labels=labels,
                interactions=np.zeros((0, 3), dtype=np.int64),
                is_crowd=chance.random(count) < 0.02,
                is_listed=np.zeros(count, dtype=bool),
                actions=np.zeros((0, 2), dtype=np.int64),
            )
        )
        start, extent = chance.uniform(0, [500, 340], (rows, 2)), chance.uniform(10, 140, (rows, 2))
        label = chance.integers(classes, size=rows)
        if count:
            near, of = chance.random(rows) < 0.5, chance.integers(count, size=rows)
            start[near] = (low[of] + chance.normal(0, 5, (rows, 2)))[near]
            extent[near] = (sides[of] * chance.uniform(0.8, 1.25, (rows, 2)))[near]
            label[near] = labels[of][near]
        score = np.round(chance.random(rows), decimals)
        detections.append(np.column_stack([np.full(rows, image_id), start, extent, score, label + 1]))
    vocabulary = Vocabulary("vcoco", tuple(f"object{index}" for index in range(classes)), 0, (), ())
    return np.concatenate(detections), annotations, vocabulary


def measure(name: str, scorer: str) -> dict[str, float]:
    """Score a set once, here."""
    drawn, program = draw(*SETS[name]), load_scorer(scorer)
    started = time.process_time()
    metrics = object_ap(*drawn, program)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_seconds": seconds, "peak_mib": peak, **metrics}


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, metavar=("SET", "SCORER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(*options.measure)))
        return 0
    sys.stdout.write(f"{'':17} {'':16} {'CPU s':>6} {'peak MiB':>9}  AP50 and AP (drawn)\n")
    is_different = False
    for name in SETS:
        rows = []
        for scorer in SCORERS:
            command = [sys.executable, __file__, "--measure", name, scorer]
            threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            result = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **threads})
            if result.returncode:
                sys.stdout.write(f"{name:17} {scorer:16} cannot run: {result.stderr.strip().splitlines()[-1]}\n")
                continue
            rows.append(json.loads(result.stdout))
            sys.stdout.write(
                f"{name:17} {scorer:16} {rows[-1]['cpu_seconds']:6.2f} {rows[-1]['peak_mib']:9.0f}  "
                f"{rows[-1]['ap50']:.12f} {rows[-1]['ap']:.12f}\n"
            )
            sys.stdout.flush()
        if len(rows) == 2:
            difference = max(abs(rows[0][key] - rows[1][key]) for key in ("ap50", "ap"))
            is_different |= difference > 1e-9
            ratio = rows[1]["cpu_seconds"] / rows[0]["cpu_seconds"]
            sys.stdout.write(f"{name:17} {ratio:.1f} times as fast, figures differ by {difference:.1e}\n")
    return int(is_different)


if __name__ == "__main__":
    sys.exit(main())
