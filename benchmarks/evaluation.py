"""CPU seconds and memory of our evaluators on drawn sets of full size, reading aside; and of other repositories' code.

    python benchmarks/evaluation.py [--sizes 0.25 0.5 1] [--peers FOLDER]

Full size is 100 rows an image: 965,800 rows on HICO-DET's 9,658 test images (Default and Known Object), 494,600 rows on
V-COCO's 4,946 (scenario 1 and 2). Each measurement is a process of its own on one thread; its peak memory includes
Python, NumPy and the drawn set itself. Cost should grow linearly with size.

FOLDER holds checkouts `upt` and `pocket` (fredzzhang), `qpic` (hitachi-rd-cv) and `v-coco` (s-gupta), whose scoring
code then runs on the very same sets, of the largest size asked for; it takes some minutes. UPT and QPIC score Default
alone. Loading a peer's code and bringing the set into its form is counted apart ("reading"), for V-COCO's program also
its ground truth. That program looks through all rows for each image, so it runs on parts of the images, from which its
cost is extrapolated (below half size the parts are too small for it), and once more with an index instead.

Exit status 1 where full size takes more than the limits, where a peer is less than its number of times slower than we
are, and where a peer that was asked for cannot run.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peers

from rmlr.evaluation import hicodet, vcoco
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary

ROWS = 100  # an image
IMAGES = {"vcoco": 4_946, "hicodet": 9_658}
LIMITS = {"cpu_seconds": 5.0, "peak_mib": 1024.0}  # to stay under
HEADLINES = {  # as peers name them, and as we do
    "vcoco": {"scenario 1": "vcoco_ap_role_1", "scenario 2": "vcoco_ap_role_2"},
    "hicodet": {
        "full": "hicodet_default_full",
        "rare": "hicodet_default_rare",
        "non-rare": "hicodet_default_nonrare",
    },
}
ROLES = (1, 0, 1, 1, 0, 1, 2, 2, 1, 1, 1, 1, 1, 1, 2, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1)  # of V-COCO's 26 actions
NAMES = ("obj", "instr")
UNSCORED = 23  # the action `point`


@dataclass(frozen=True)
class Peer:
    """Another repository's scoring code."""

    title: str
    dataset: str
    prepare: Callable[..., peers.Case]
    times: float | None  # so many times slower than we are it should be
    shares: tuple[float, ...] = (1.0,)  # of the images; where the last is below 1, the cost of all is extrapolated


PEERS = {
    "upt": Peer("UPT test_hico", "hicodet", peers.upt, 5),
    "qpic-hicodet": Peer("QPIC HICOEvaluator", "hicodet", peers.qpic_hicodet, 5),
    "official": Peer("official vsrl_eval", "vcoco", peers.official, 10, shares=(0.02, 0.04)),
    "official-indexed": Peer("the same, indexed", "vcoco", peers.official_indexed, 10),
    "qpic-vcoco": Peer("QPIC VCOCOEvaluator", "vcoco", peers.qpic_vcoco, None),
}


def boxes(draw: np.random.Generator, count: int) -> np.ndarray:
    """Random boxes in an image of 640 x 480."""
    low = draw.uniform(0, [500, 340], (count, 2))
    return np.concatenate([low, low + draw.uniform(20, 140, (count, 2))], axis=1)


def vocabulary(dataset: str) -> Vocabulary:
    """As many classes as the release has."""
    objects = tuple(f"object{index}" for index in range(80))
    if dataset == "vcoco":
        actions = tuple(f"action{index}" for index in range(len(ROLES)))
        names = [f"{action} {role}" for action, count in zip(actions, ROLES, strict=True) for role in NAMES[:count]]
        unscored = tuple(name for name in names if name.startswith(f"{actions[UNSCORED]} "))
        verbs = tuple(name for name in names if name not in unscored)
        return Vocabulary("vcoco", objects, 0, verbs, ((0, 1),), unscored_verbs=unscored, actions=actions)
    verbs = tuple(f"verb{index}" for index in range(117))
    hois = tuple((int(verb), object_) for object_ in range(80) for verb in range(object_, object_ + 8))
    return Vocabulary("hicodet", objects, 49, verbs, hois[:600], rare=tuple(range(138)))


@functools.cache
def roles_of_actions(words: Vocabulary) -> list[list[int]]:
    """The verbs (action-roles) of each V-COCO action that has any; a person who does it has them all."""
    names = [name.rsplit(" ", 1)[0] for name in words.verbs + words.unscored_verbs]
    return [verbs for action in words.actions if (verbs := [v for v, name in enumerate(names) if name == action])]


def annotate(draw: np.random.Generator, words: Vocabulary, image_id: int) -> Annotation:
    """About as many persons, pairs and boxes as an image of the release."""
    if words.dataset == "vcoco":
        persons, things = int(draw.integers(1, 6)), int(draw.integers(1, 8))
        labels = np.array([words.person] * persons + [1 + index for index in range(things)])
        listed = draw.random(persons) < 0.8
        listed[0] = True  # the official program wants one in each image
        actions = roles_of_actions(words)
        interactions = [
            (person, verb, draw.choice([NO_BOX, persons + int(draw.integers(things))]))
            for person in np.flatnonzero(listed)
            for action in draw.choice(len(actions), 3, replace=False)
            for verb in actions[action]
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
            corners = image.boxes[truth[:, [0, 2]].T] + draw.normal(0, 8, (2, ROWS, 4))
            moved = np.sort(corners.reshape(2, ROWS, 2, 2), axis=2).reshape(corners.shape)  # none turned around
            human[near], object_[near] = moved[:, near]
            verb[near] = truth[near, 1]
            category[near] = image.labels[truth[near, 2]]
            object_[near & (truth[:, 2] == NO_BOX) & (draw.random(ROWS) < 0.5)] = np.nan  # "no object"
        parts.append((np.full(ROWS, image.image_id), human, object_, category, verb))
    image_id, human, object_, category, verb = (np.concatenate(column) for column in zip(*parts, strict=True))
    score = draw.permutation(len(verb)).astype(np.float32)
    return Triplets(image_id, human.astype(np.float32), object_.astype(np.float32), category, verb, score)


def draw_set(dataset: str, size: float) -> tuple[list[Annotation], Vocabulary, Triplets]:
    """Annotations, vocabulary and detections of a share of full size; the same ones each time."""
    draw = np.random.default_rng(0)
    words = vocabulary(dataset)
    images = [annotate(draw, words, image_id) for image_id in range(round(IMAGES[dataset] * size))]
    return images, words, predict(draw, words, images)


def measure(dataset: str, size: float) -> dict:
    """Draw a set and score it once, here."""
    images, words, table = draw_set(dataset, size)
    evaluate: Callable = vcoco.evaluate if dataset == "vcoco" else hicodet.evaluate
    before = peak_mib()
    started = time.process_time()
    scores = evaluate(images, words, table)
    seconds = time.process_time() - started
    row = {"rows": len(table.score), "cpu_seconds": seconds, "peak_mib": peak_mib(), "before_mib": before}
    return row | {"figures": {name: scores.metrics()[key] for name, key in HEADLINES[dataset].items()}}


def measure_peer(peer: Peer, size: float, folder: Path, share: float) -> dict:
    """Draw a set and have a peer score it once, here; then ours by the peer's rules."""
    images, words, table = draw_set(peer.dataset, size)
    options = {} if share == 1 else {"share": share}
    with contextlib.redirect_stdout(io.StringIO()):  # peers print
        started = time.process_time()
        case = peer.prepare(folder, images, words, table, **options)
        ready = time.process_time()
        figures = case.evaluate()
        done = time.process_time()
    row = {"rows": len(table.score), "reading": ready - started, "cpu_seconds": done - ready, "peak_mib": peak_mib()}
    return row | {"figures": figures, "ours": case.ours()}


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_alone(*words: str) -> dict:
    """A measurement in a process of its own, on one thread. Raises RuntimeError with the last line that it leaves."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *words]
    result = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **threads})
    if result.returncode:
        raise RuntimeError((result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1])
    return json.loads(result.stdout)


def compare(name: str, size: float, folder: Path, ours: dict) -> bool:
    """Print a peer's cost and figures beside ours; False where it cannot run or is not slow enough."""
    peer = PEERS[name]
    try:
        parts = [
            run_alone("--measure", peer.dataset, str(size), "--peer", name, str(share), "--peers", str(folder))
            for share in peer.shares
        ]
    except RuntimeError as error:
        sys.stdout.write(f"{peer.title:20} cannot run: {error}\n")
        return False
    row, seconds, note = parts[-1], parts[-1]["cpu_seconds"], ""
    if peer.shares[-1] < 1:
        seconds /= peer.shares[-1]
        measured = ", ".join(
            f"{part['cpu_seconds']:.1f} s for {share:.0%}" for part, share in zip(parts, peer.shares, strict=True)
        )
        note = f"  extrapolated from {measured} of the images"
    ratio = seconds / ours["cpu_seconds"]
    sys.stdout.write(
        f"{peer.title:20} {row['rows']:9,} {seconds:7.2f} {row['reading']:8.2f} {row['peak_mib']:9.0f} {ratio:6.0f}x"
        f"{note}\n"
    )
    for figure, value in row["figures"].items():
        line = f"    {figure} {value:.6f}"
        if figure in ours["figures"]:
            line += f", ours {ours['figures'][figure]:.6f} ({value - ours['figures'][figure]:+.1e})"
        if figure in row["ours"]:
            line += f", ours by its rules {row['ours'][figure]:.6f} ({value - row['ours'][figure]:+.1e})"
        sys.stdout.write(line + "\n")
    sys.stdout.flush()
    return peer.times is None or ratio >= peer.times


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="checkouts of other repositories")
    parser.add_argument("--measure", nargs=2, metavar=("DATASET", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=2, metavar=("NAME", "SHARE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers is not None and not options.peers.is_dir():
        parser.error(f"--peers: {options.peers} is not a folder")
    if options.measure:
        dataset, size = options.measure[0], float(options.measure[1])
        if options.peer:
            row = measure_peer(PEERS[options.peer[0]], size, options.peers, float(options.peer[1]))
        else:
            row = measure(dataset, size)
        sys.stdout.write(json.dumps(row))
        return 0
    sys.stdout.write(f"{'ours':8} {'rows':>9} {'CPU s':>6} {'us/row':>7} {'peak MiB':>9} {'before':>7}  AP (drawn)\n")
    is_good, ours = True, {}
    for dataset in IMAGES:
        for size in sorted(options.sizes):
            ours[dataset] = row = run_alone("--measure", dataset, str(size))
            headline = next(iter(row["figures"].values()))
            sys.stdout.write(
                f"{dataset:8} {row['rows']:9,} {row['cpu_seconds']:6.2f} {row['cpu_seconds'] / row['rows'] * 1e6:7.2f} "
                f"{row['peak_mib']:9.0f} {row['before_mib']:7.0f}  {headline:.4f}\n"
            )
            sys.stdout.flush()
            is_good &= size != 1 or all(row[name] <= limit for name, limit in LIMITS.items())
    if options.peers is not None:
        sys.stdout.write(f"\n{'peer':20} {'rows':>9} {'CPU s':>7} {'reading':>8} {'peak MiB':>9} {'to ours':>7}\n")
        for name, peer in PEERS.items():
            is_good &= compare(name, max(options.sizes), options.peers, ours[peer.dataset])
    return int(not is_good)


if __name__ == "__main__":
    sys.exit(main())
