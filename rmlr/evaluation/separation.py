"""Does a distance tell two kinds of pairs apart? The area under the ROC curve, and how sure it is.

A pair is of two images, and an image is in many pairs, so pairs are no independent draws. Images are: they are drawn
with replacement (`resampling.draw_images`), and a pair counts as often as its two images were drawn, multiplied.
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
) -> Float[np.ndarray, " s"]:
    """On every set of images: the chance that of two pairs, one of each kind, the one that is apart is the farther.

    1 tells all, 0.5 nothing; equal distances count a half. NaN where a set has no pair of one kind. Images are rows of
    `weights`, and the first column is the split as it is.
    """
    order = np.argsort(distance, kind="stable")
    distance, is_apart = distance[order], is_apart[order]
    first_image, second_image = first_image[order], second_image[order]
    starts = np.flatnonzero(np.diff(distance, prepend=-np.inf))  # of runs of equal distances
    area = np.full(weights.shape[1], np.nan)
    for start in range(0, weights.shape[1] if len(order) else 0, AT_ONCE):
        part = weights[:, start : start + AT_ONCE].astype(np.float64)
        count = part[first_image] * part[second_image]  # n s
        apart = np.add.reduceat(np.where(is_apart[:, None], count, 0), starts)
        near = np.add.reduceat(np.where(is_apart[:, None], 0, count), starts)
        right = (apart * (near.cumsum(axis=0) - near / 2)).sum(axis=0)
        whole = apart.sum(axis=0) * near.sum(axis=0)
        np.divide(right, whole, out=area[start : start + AT_ONCE], where=whole > 0)
    return area


def middle(values: Float[np.ndarray, " s"]) -> tuple[float, float]:
    """The middle CONFIDENCE of resampled values; NaN where fewer than two are known."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
