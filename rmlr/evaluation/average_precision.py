"""Average precision of one class, by V-COCO's rule or by HICO-DET's."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Interpolation = Literal["all_points", "step", "linspace"]

_TENTHS = np.arange(11) * 0.1  # 0.3, 0.6 and 0.7 come out one ulp too large

# Eleven recalls. `recall >= t` is exact floating point and recall is often exactly 0.6 or 0.7, so the grid matters.
RECALLS = {
    "step": _TENTHS,  # HICO-DET's official `for t = 0:0.1:1`
    "linspace": np.concatenate([_TENTHS[:6], 1 - _TENTHS[4::-1]]),  # from both ends, as in torch: UPT's evaluation
}


def average_precision(
    scores: Float[np.ndarray, " t"], is_hit: Bool[np.ndarray, " t"], positives: int, interpolation: Interpolation
) -> float:
    """Average precision; 0 without detections, NaN without positives.

    `all_points` is the area under the precision envelope (V-COCO); `step` and `linspace` average the envelope at the
    eleven recalls of `RECALLS` (HICO-DET). Of equal scores, the later one ranks lower.
    """
    return ranked_average_precision(is_hit[np.argsort(-scores, kind="stable")], positives, interpolation)


def ranked_average_precision(is_hit: Bool[np.ndarray, " t"], positives: int, interpolation: Interpolation) -> float:
    """`average_precision` of detections that are already sorted by descending score."""
    if not positives:
        return float("nan")
    if interpolation == "all_points":
        return float(envelope_at_hits(is_hit).sum() / positives)
    recalls = RECALLS[interpolation]
    return float(envelope_at_recalls(is_hit, positives, recalls).sum() / len(recalls))


def envelope_at_hits(is_hit: Bool[np.ndarray, " t"]) -> Float[np.ndarray, " _"]:
    """At every hit of ranked detections, the maximum precision from this hit on.

    Precision falls between hits, so this is the precision envelope at all recalls up to the hit's own.
    """
    hits = np.flatnonzero(is_hit)
    return np.maximum.accumulate((np.arange(1, len(hits) + 1) / (hits + 1))[::-1])[::-1]


def envelope_at_recalls(
    is_hit: Bool[np.ndarray, " t"], positives: int, recalls: Float[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    """The precision envelope of ranked detections at given recalls; 0 at a recall that they do not reach."""
    envelope = envelope_at_hits(is_hit)
    first = np.searchsorted(
        np.arange(1, len(envelope) + 1) / positives, recalls
    )  # the first hit with at least that recall
    return np.append(envelope, 0.0)[first]


def rank_by_score(
    classes: Int[np.ndarray, " t"], images: Int[np.ndarray, " t"], scores: Float[np.ndarray, " t"]
) -> Int[np.ndarray, " t"]:
    """Row order by ascending class, then descending score; equal scores by image, then in their own order.

    This is the order in both official programs, which collect the detections image by image. `classes` and `images` are
    0 or more; an image is its index in the split.
    """
    order = _argsort(images)
    order = order[np.argsort(-scores[order], kind="stable")]
    return order[_argsort(classes[order])]


def _argsort(numbers: Int[np.ndarray, " t"]) -> Int[np.ndarray, " t"]:
    """A stable sort of non-negative numbers; NumPy uses radix sort for 16 bits or less, which is much faster."""
    return np.argsort(numbers.astype(np.min_scalar_type(int(numbers.max(initial=0)))), kind="stable")


def known_mean(values: Float[np.ndarray, " n"]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
