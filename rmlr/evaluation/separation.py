"""How well a distance separates two kinds of pairs: the area under the ROC curve, with an interval.

A pair has two images, and an image is in many pairs, so pairs are not independent samples. Images are: they are drawn
with replacement (`resampling.draw_images`), and the weight of a pair is the product of the counts of its two images.
Distances in the spaces of several networks have no common scale: only pairs of one network are compared, and the area
is the share of all such comparisons.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from rmlr.evaluation.resampling import AT_ONCE, CONFIDENCE


def separation(
    distance: Float[np.ndarray, " n"],
    is_apart: Bool[np.ndarray, " n"],
    first_image: Int[np.ndarray, " n"],
    second_image: Int[np.ndarray, " n"],
    weights: Int[np.ndarray, "b s"],
    network: Int[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " s"]:
    """For every sample of images, the probability that of two pairs, one of each kind, the `apart` one has the larger
    distance.

    1 means perfect separation, 0.5 none; equal distances count one half. NaN if a sample has no pair of one kind.
    Images are rows of `weights`, and the first column is the split itself. `network`: of each pair; None: one for all.
    """
    right, whole = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])  # weight of comparisons: correct, and all
    network = np.zeros(len(distance), dtype=np.int64) if network is None else network
    for own in (np.flatnonzero(network == number) for number in np.unique(network)):
        order = own[np.argsort(distance[own], kind="stable")]
        starts = np.flatnonzero(np.diff(distance[order], prepend=-np.inf))  # of runs of equal distances
        for start in range(0, weights.shape[1], AT_ONCE):
            part = weights[:, start : start + AT_ONCE].astype(np.float64)
            count = part[first_image[order]] * part[second_image[order]]  # n s
            apart = np.add.reduceat(np.where(is_apart[order, None], count, 0), starts)
            near = np.add.reduceat(np.where(is_apart[order, None], 0, count), starts)
            right[start : start + AT_ONCE] += (apart * (near.cumsum(axis=0) - near / 2)).sum(axis=0)
            whole[start : start + AT_ONCE] += apart.sum(axis=0) * near.sum(axis=0)
    return np.divide(right, whole, out=np.full(weights.shape[1], np.nan), where=whole > 0)


def middle(values: Float[np.ndarray, " s"]) -> tuple[float, float]:
    """The central CONFIDENCE of resampled values; NaN if fewer than two are known."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
