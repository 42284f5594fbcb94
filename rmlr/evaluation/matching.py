"""What the matching of both benchmarks shares, vectorised over the rows (scored triplets) of a whole split.

Both ask every row for its one candidate among the annotated, the first best, whether or not that is already taken;
so the outcome is the same as "of the rows that claim a candidate, the highest scored is right".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from rmlr.evaluation.average_precision import Interpolation
from rmlr.hoi import Agents, Annotation, Triplets

MIN_IOU = 0.5  # at least, in both official programs, whatever their texts say


@dataclass(frozen=True, slots=True, eq=False)
class Headline:
    """A number of metrics.json that is a mean of AP."""

    metric: str
    title: str
    classes: Bool[np.ndarray, " c"]  # of which it is the mean


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Triplets under one setting of a benchmark, matched: all that AP needs, and which image each part of it is from.

    Rows are those that count, grouped by ascending class, in each by descending score.
    """

    names: tuple[str, ...]  # of the classes
    headlines: tuple[Headline, ...]
    interpolation: Interpolation
    without_positive: float  # AP of a class that has no positive in the whole split: NaN or 0, as the evaluator
    row_class: Int[np.ndarray, " t"]
    row_image: Int[np.ndarray, " t"]  # index among the annotations
    is_hit: Bool[np.ndarray, " t"]
    positive_class: Int[np.ndarray, " g"]
    positive_image: Int[np.ndarray, " g"]


def image_of_rows(table: Triplets | Agents, annotations: Sequence[Annotation]) -> Int[np.ndarray, " t"]:
    """Index of each row's image among `annotations`.

    Raises ValueError on an image that is not among them. Differs: the official V-COCO program passes over such rows,
    which hides predictions made for another split.
    """
    ids = np.array([annotation.image_id for annotation in annotations], dtype=np.int64)
    order = np.argsort(ids)
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


def join(parts: Sequence[np.ndarray], empty: tuple[int, ...], dtype: type) -> np.ndarray:
    """The arrays of all images in one; of shape `empty` where there is no image."""
    return np.concatenate([np.empty(empty, dtype), *parts]).astype(dtype, copy=False)


def overlap(
    boxes: Float[np.ndarray, "t 4"], others: Float[np.ndarray, "t 4"], *, pixel: int
) -> Float[np.ndarray, " t"]:
    """Intersection over union of box and box, row by row; NaN where a box is NaN, 0 where they do not meet.

    `pixel` is what a side counts beyond x2 - x1: 1 for boxes whose last pixel is inside, 0 for edges.
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
    """Of `count` candidates from index `first` on, each row's most similar, the first on equality, and how similar.

    `similarity(rows, candidates)` is asked for as many pairs as there are, none twice. Without candidates: -1, -1.0.
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
    """True where a row, of rows in descending order of score, is the first to claim its truth; -1 claims nothing."""
    rows = np.flatnonzero(claim >= 0)
    winner = np.full(claim.max(initial=-1) + 1, -1)
    winner[claim[rows[::-1]]] = rows[::-1]  # of a repeated index NumPy keeps the last, here the highest scored
    is_first = np.zeros(len(claim), dtype=bool)
    is_first[winner[winner >= 0]] = True
    return is_first
