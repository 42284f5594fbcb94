"""Average precision of one class, by V-COCO's rule or by HICO-DET's."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Interpolation = Literal["all_points", "step", "linspace"]

_TENTHS = np.arange(11) * 0.1  # 0.3, 0.6 and 0.7 come out one ulp too large

# Eleven recalls. `recall >= t` is exact floating point and recall is often exactly 0.6 or 0.7, so the grid matters.
RECALLS = {
    "step": _TENTHS,  # HICO-DET's official `for t = 0:0.1:1`
    "linspace": np.concatenate([_TENTHS[:6], 1 - _TENTHS[4::-1]]),  # from both ends, as torch's: UPT's evaluation
}


def average_precision(
    scores: Float[np.ndarray, " t"], is_hit: Bool[np.ndarray, " t"], positives: int, interpolation: Interpolation
) -> float:
    """Precision averaged over recall; 0 without detections, NaN without positives.

    `all_points` is the area under the precision envelope (V-COCO); `step` and `linspace` average the envelope at the
    eleven recalls of `RECALLS` (HICO-DET). Among equal scores the later one counts as the lower.
    """
    return ranked_average_precision(is_hit[np.argsort(-scores, kind="stable")], positives, interpolation)


def ranked_average_precision(is_hit: Bool[np.ndarray, " t"], positives: int, interpolation: Interpolation) -> float:
    """`average_precision` of detections that stand in descending order of score already."""
    if not positives:
        return float("nan")
    hits = np.flatnonzero(is_hit)
    true_positives = np.arange(1, len(hits) + 1)
    # Precision falls between hits, so the envelope at any recall is the best precision at a hit from there on.
    envelope = np.maximum.accumulate((true_positives / (hits + 1))[::-1])[::-1]
    if interpolation == "all_points":
        return float(envelope.sum() / positives)
    first = np.searchsorted(true_positives / positives, RECALLS[interpolation])  # the first hit of at least that recall
    return float(np.append(envelope, 0.0)[first].sum() / len(first))


def rank_by_score(classes: Int[np.ndarray, " t"], scores: Float[np.ndarray, " t"]) -> Int[np.ndarray, " t"]:
    """Rows grouped by ascending class (0 or more), in each by descending score; equal scores keep their order."""
    by_score = np.argsort(-scores, kind="stable")
    narrow = classes.astype(np.min_scalar_type(int(classes.max(initial=0))))  # NumPy sorts 16 bits or less by radix
    return by_score[np.argsort(narrow[by_score], kind="stable")]


def known_mean(values: Float[np.ndarray, " n"]) -> float:
    """Mean of what is not NaN; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
