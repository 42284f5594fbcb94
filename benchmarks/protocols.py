"""What the habits of other evaluators are worth in points: one change at a time, on the same detections.

    python benchmarks/protocols.py PREPARED [--split test]

PREPARED is made by `rmlr prepare`. Detections are drawn around what is annotated there, so the figures say how much a
published number may owe to its evaluator, not how good anything is. Each change is made to the detections or the
annotations, never to our rules.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.evaluation import hicodet, vcoco
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary

ROWS = 12  # an image, besides those at annotated pairs
FILLER = [0.0, 0.0, 0.1, 0.1]  # UPT's and PViC's box of a role that was not predicted


def select(table: Triplets, rows: np.ndarray) -> Triplets:
    """Some rows, in the order given."""
    return Triplets(*(getattr(table, field.name)[rows] for field in fields(Triplets)))


def draw(vocabulary: Vocabulary, images: list[Annotation], seed: int = 7) -> Triplets:
    """Two detections of most annotated interactions, near and farther off, and wrong ones in every image."""
    chance = np.random.default_rng(seed)
    hois, rows = np.array(vocabulary.hois), []
    for image in images:
        extent = np.array([image.width, image.height] * 2)
        for human, verb, object_ in image.interactions:
            for spread in (0.04, 0.15):
                if chance.random() < 0.8:
                    boxes = image.boxes[[human, object_ if object_ != NO_BOX else human]]
                    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
                    boxes = boxes + chance.normal(0, spread, (2, 4)) * sides
                    label = image.labels[object_] if object_ != NO_BOX else 0
                    rows.append((image.image_id, *boxes, label, verb, chance.normal(1.0 - 3 * spread, 0.5)))
        corners = np.sort(chance.random((ROWS, 2, 2, 2)), axis=2).reshape(ROWS, 2, 4) * extent
        for boxes, (verb, label) in zip(corners, hois[chance.integers(len(hois), size=ROWS)], strict=True):
            rows.append((image.image_id, *boxes, label, verb, chance.normal(0, 0.5)))
    image_id, human_boxes, object_boxes, labels, verbs, scores = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    human_boxes, object_boxes = (
        np.concatenate([np.minimum(b[:, :2], b[:, 2:]), np.maximum(b[:, :2], b[:, 2:])], axis=1).astype(np.float32)
        for b in (human_boxes, object_boxes)
    )
    return Triplets(image_id, human_boxes, object_boxes, labels, verbs, scores.astype(np.float32))


def strongest(table: Triplets, limit: int) -> Triplets:
    """The best rows of every image."""
    order = np.lexsort((-table.score, table.image_id))
    first = np.searchsorted(table.image_id[order], table.image_id[order])
    return select(table, np.sort(order[np.arange(len(order)) - first < limit]))


def larger(table: Triplets) -> Triplets:
    """Continuous boxes taken for boxes whose last pixel is inside."""
    inside = np.array([0, 0, 1, 1], dtype=np.float32)
    return replace(table, human_boxes=table.human_boxes + inside, object_boxes=table.object_boxes + inside)


def tied(table: Triplets) -> Triplets:
    """Scores rounded to twentieths."""
    return replace(table, score=(np.round(table.score * 20) / 20).astype(np.float32))


def filled(table: Triplets, verbs: int) -> Triplets:
    """For each row, score 0 and a tiny box for every other role; other scores are made positive first."""
    score = table.score - min(table.score.min(), 0) + 1e-3
    others = np.tile(np.arange(verbs), len(table.verb))
    rows = np.arange(len(table.verb)).repeat(verbs)[others != table.verb.repeat(verbs)]
    fillers = replace(
        select(table, rows),
        object_boxes=np.tile(np.array(FILLER, dtype=np.float32), (len(rows), 1)),
        verb=others[others != table.verb.repeat(verbs)],
        score=np.zeros(len(rows), dtype=np.float32),
    )
    parts = (replace(table, score=score), fillers)
    return Triplets(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Triplets)))


def hicodet_changes(
    vocabulary: Vocabulary, images: list[Annotation], table: Triplets
) -> Iterator[tuple[str, Callable[[], dict[str, float]], str]]:
    """Name of each change, its metrics, and the suffix under which they stand."""

    def score(of: Triplets, on: list[Annotation] = images) -> Callable[[], dict[str, float]]:
        return lambda: hicodet.evaluate(on, vocabulary, of).metrics()

    annotated = [image for image in images if len(image.interactions)]
    is_annotated = np.isin(table.image_id, [image.image_id for image in annotated])
    ties = tied(table)
    yield "official rules", score(table), ""
    yield "`linspace` recall grid (UPT, PViC)", score(table), "_linspace"
    yield "images without a visible pair left out (UPT, PViC, QPIC)", score(select(table, is_annotated), annotated), ""
    yield "x2, y2 one pixel larger (QPIC, GEN-VLKT)", score(larger(table)), ""
    yield "best 100 of an image", score(strongest(table, 100)), ""
    yield "best 25 of an image", score(strongest(table, 25)), ""
    yield "scores rounded to 0.05", score(ties), ""
    yield "the same, rows of each image in reverse", score(select(ties, np.arange(len(ties.score))[::-1])), ""


def vcoco_changes(
    vocabulary: Vocabulary, images: list[Annotation], table: Triplets
) -> Iterator[tuple[str, Callable[[], dict[str, float]], str]]:
    """Likewise."""

    def score(of: Triplets, on: list[Annotation] = images) -> Callable[[], dict[str, float]]:
        return lambda: vcoco.evaluate(on, vocabulary, of).metrics()

    everyone = [replace(image, is_listed=image.labels == vocabulary.person) for image in images]
    boxed = [replace(image, interactions=image.interactions[image.interactions[:, 2] != NO_BOX]) for image in images]
    ties = tied(table)
    yield "official rules", score(table), ""
    yield "mean over all roles, as the program prints", score(table), "_all_roles"
    yield "fillers for absent roles (UPT, PViC)", score(filled(table, len(vocabulary.verbs))), ""
    yield "unlisted people count as wrong", score(table, everyone), ""
    yield "positives without an object box left out", score(table, boxed), ""
    yield "best 100 of an image", score(strongest(table, 100)), ""
    yield "scores rounded to 0.05", score(ties), ""
    yield "the same, rows of each image in reverse", score(select(ties, np.arange(len(ties.score))[::-1])), ""


def main() -> None:
    """Print a table in Markdown, in points: the official figures, then differences from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    vocabulary, images = load_vocabulary(options.prepared), load_annotations(options.prepared, options.split)
    table = draw(vocabulary, images)
    if vocabulary.dataset == "vcoco":
        changes, names = vcoco_changes(vocabulary, images, table), {"vcoco_ap_role_1": "S1", "vcoco_ap_role_2": "S2"}
    else:
        names = {f"hicodet_{s}_{c}": f"{s} {c}" for s in ("default", "known_object") for c in ("full", "rare")}
        changes = hicodet_changes(vocabulary, images, table)
    sys.stdout.write(f"{len(table.score):,} drawn rows on {len(images):,} images\n\n| change | ")
    sys.stdout.write(" | ".join(names.values()) + " |\n| --- |" + " --: |" * len(names) + "\n")
    official: dict[str, float] = {}
    for change, measure, suffix in changes:
        metrics = measure()
        points = {name: 100 * metrics[name + suffix] for name in names}
        cells = [f"{points[name] - official[name]:+.2f}" if official else f"{points[name]:.2f}" for name in names]
        official = official or points
        sys.stdout.write(f"| {change} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
