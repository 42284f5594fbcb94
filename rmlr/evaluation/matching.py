"""The matching of both benchmarks, vectorised over the rows (scored triplets) of a whole split.

In both, every row has one candidate among the annotations, the first of the most similar ones, whether or not it is
already matched. So the result is the same as "of the rows with the same candidate, the highest scored is right".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from rmlr.evaluation.average_precision import Interpolation, ranked_average_precision
from rmlr.hoi import NO_BOX, Agents, Annotation, Triplets

MIN_IOU = 0.5  # inclusive in both official programs, although their papers say otherwise


@dataclass(frozen=True, slots=True, eq=False)
class Headline:
    """A metric in metrics.json that is a mean of AP."""

    metric: str
    title: str
    classes: Bool[np.ndarray, " c"]  # the classes of this mean


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Matched detections under one setting of a benchmark: the data for AP, and the image of each row and positive.

    Rows are those that are not ignored, in the order of `rank_by_score`: by ascending class, then descending score,
    equal scores by image and then by row.
    """

    names: tuple[str, ...]  # of the classes
    headlines: tuple[Headline, ...]
    interpolation: Interpolation
    without_positive: float  # AP of a class without a positive in the whole split: NaN or 0, as in the evaluator
    row_class: Int[np.ndarray, " t"]
    row_image: Int[np.ndarray, " t"]  # index among the annotations
    is_hit: Bool[np.ndarray, " t"]
    positive_class: Int[np.ndarray, " g"]
    positive_image: Int[np.ndarray, " g"]

    def positives(self) -> Int[np.ndarray, " c"]:
        """The number of positives of every class."""
        return np.bincount(self.positive_class, minlength=len(self.names))

    def detections(self) -> Int[np.ndarray, " c"]:
        """The number of rows of every class."""
        return np.bincount(self.row_class, minlength=len(self.names))

    def hits_of_classes(self) -> list[Bool[np.ndarray, " _"]]:
        """`is_hit` for the rows of every class."""
        return np.split(self.is_hit, np.cumsum(self.detections())[:-1]) if self.names else []

    def average_precision(self, interpolation: Interpolation | None = None) -> Float[np.ndarray, " c"]:
        """AP of every class, by the benchmark's interpolation or by another one."""
        ap = [
            ranked_average_precision(hits, int(count), interpolation or self.interpolation)
            for hits, count in zip(self.hits_of_classes(), self.positives(), strict=True)
        ]
        return np.where(self.positives() > 0, np.array(ap, dtype=np.float64), self.without_positive)


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """The annotations of all images, joined: interactions and actions point into one list of boxes."""

    image: Int[np.ndarray, " k"]  # of each box, index among the annotations
    boxes: Float[np.ndarray, "k 4"]
    labels: Int[np.ndarray, " k"]
    is_listed: Bool[np.ndarray, " k"]
    interactions: Int[np.ndarray, "m 3"]  # human box, verb, object box or NO_BOX
    actions: Int[np.ndarray, "q 2"]  # human box, action


def join_annotations(annotations: Sequence[Annotation]) -> Annotated:
    """The annotations of all images joined, in order; without images, empty arrays."""
    lengths = np.array([len(annotation.boxes) for annotation in annotations], dtype=np.int64)
    first = np.cumsum(lengths) - lengths  # box of each image

    def join(parts: Sequence[np.ndarray], columns: tuple[int, ...], dtype: type) -> np.ndarray:
        return np.concatenate([np.empty((0, *columns), dtype), *parts]).astype(dtype, copy=False)

    def offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
        return first.repeat(np.array([len(part) for part in parts], dtype=np.int64))

    interactions = join(rows := [a.interactions for a in annotations], (3,), np.int64).copy()
    interactions[:, 0] += offsets(rows)
    interactions[:, 2] += np.where(interactions[:, 2] == NO_BOX, 0, offsets(rows))
    actions = join(rows := [a.actions for a in annotations], (2,), np.int64).copy()
    actions[:, 0] += offsets(rows)
    return Annotated(
        image=np.arange(len(annotations)).repeat(lengths),
        boxes=join([a.boxes for a in annotations], (4,), np.float64),
        labels=join([a.labels for a in annotations], (), np.int64),
        is_listed=join([a.is_listed for a in annotations], (), bool),
        interactions=interactions,
        actions=actions,
    )


def image_of_rows(table: Triplets | Agents, annotations: Sequence[Annotation]) -> Int[np.ndarray, " t"]:
    """Index of each row's image among `annotations`.

    Raises ValueError on an image that is not among them, and on duplicate images. Differs: the official V-COCO program
    ignores rows of other images, which hides predictions made for another split.
    """
    ids = np.array([annotation.image_id for annotation in annotations], dtype=np.int64)
    order = np.argsort(ids)
    if (is_repeated := np.diff(ids[order]) == 0).any():
        raise ValueError(
            f"image {ids[order][int(np.argmax(is_repeated))]} stands more than once among the {len(ids)} annotated "
            "images; expected one record of each. Prepare the annotations again"
        )
    place = np.searchsorted(ids, table.image_id, sorter=order).clip(max=max(len(ids) - 1, 0))
    image = order[place] if len(ids) else place
    is_unknown = ids[image] != table.image_id if len(ids) else np.ones(len(place), dtype=bool)
    if is_unknown.any():
        row = int(np.argmax(is_unknown))
        raise ValueError(
            f"{type(table).__name__.lower()}, row {row} (from 0): image {table.image_id[row]} is not one of the "
            f"{len(ids)} annotated images; {int(is_unknown.sum())} row(s) like it. Were they of another split?"
        )
    return image


def overlap(
    boxes: Float[np.ndarray, "t 4"], others: Float[np.ndarray, "t 4"], *, pixel: int
) -> Float[np.ndarray, " t"]:
    """Intersection over union of two boxes per row; NaN if a box is NaN, 0 if they do not overlap.

    `pixel` is added to each side x2 - x1: 1 for boxes whose last pixel is inside, 0 for edges.
    """
    ax1, ay1, ax2, ay2 = boxes.T.astype(np.float64)
    bx1, by1, bx2, by2 = others.T.astype(np.float64)
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1) + pixel, 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1) + pixel, 0)
    shared = width * height
    union = (ax2 - ax1 + pixel) * (ay2 - ay1 + pixel) + (bx2 - bx1 + pixel) * (by2 - by1 + pixel) - shared
    return np.divide(shared, union, out=shared.copy(), where=shared > 0)


def best_candidate(
    first: Int[np.ndarray, " t"],
    count: Int[np.ndarray, " t"],
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[Int[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """The most similar of `count` candidates from index `first` on for each row (the first of equal ones), and the
    similarity.

    `similarity(rows, candidates)` is called once for all pairs. Without candidates: -1, -1.0.
    """
    candidate, best = np.full(len(first), -1), np.full(len(first), -1.0)
    rows = np.arange(len(first))
    for rank in range(count.max(initial=0)):
        rows = rows[count[rows] > rank]
        this = first[rows] + rank
        value = similarity(rows, this)
        is_better = value > best[rows]
        candidate[rows[is_better]], best[rows[is_better]] = this[is_better], value[is_better]
    return candidate, best


def first_claims(claim: Int[np.ndarray, " t"]) -> Bool[np.ndarray, " t"]:
    """True for rows, sorted by descending score, that are the first with their truth; -1 means no truth."""
    rows = np.flatnonzero(claim >= 0)
    winner = np.full(claim.max(initial=-1) + 1, -1)
    winner[claim[rows[::-1]]] = rows[::-1]  # for repeated indices NumPy keeps the last, here the highest scored
    is_first = np.zeros(len(claim), dtype=bool)
    is_first[winner[winner >= 0]] = True
    return is_first
