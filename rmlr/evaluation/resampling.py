"""Significance of a difference between two methods: the paired bootstrap over test images, and the spread of seeds.

The test set is a sample of images; another sample would change the numbers of both methods. So images are drawn with
replacement, as many as there are and the same for both methods, and the spread of the difference over such samples is
its standard error. An image drawn w times counts as w images: AP of a bootstrap sample equals what the evaluators
return for a set that contains the image, its rows and its positives w times (with the copies of a row next to each
other).

A class without a positive in a sample has no AP there and is left out of that sample's mean. For V-COCO this is the
evaluator's rule. Differs: HICO-DET's evaluator would count 0, for both methods. Since an image is drawn in 63 % of all
samples, the difference of a class with a positive in one image only would shrink to 63 %, and the mean would seem more
certain than it is.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.special import stdtrit

from rmlr.evaluation.average_precision import RECALLS, Interpolation
from rmlr.evaluation.matching import Ranking

CONFIDENCE = 0.95
AT_ONCE = 128  # samples computed together; more need more memory and save no time


@dataclass(frozen=True, slots=True)
class Spread:
    """The uncertainty of a difference from one source: its standard error, and the interval of CONFIDENCE."""

    error: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Training:
    """How far trainings of one method are apart, measured elsewhere: a standard deviation, as a fraction."""

    deviation: float
    degrees: int  # of freedom


@dataclass(frozen=True, slots=True)
class Difference:
    """A - B of one metric, as fractions; NaN if there is nothing to average."""

    a: float  # mean over seeds
    b: float
    images: Spread  # other test images, the same training runs
    seeds: Spread | None  # other training runs, the same test images; None where their spread is not known
    both: Spread | None

    @property
    def difference(self) -> float:
        """A - B."""
        return self.a - self.b

    @property
    def whole(self) -> Spread:
        """The combined uncertainty of all measured sources."""
        return self.both or self.images

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0, on the side of the difference."""
        return min(self.whole.low, self.difference) > 0 or max(self.whole.high, self.difference) < 0


def draw_images(images: int, samples: int, seed: int) -> Int[np.ndarray, "b s"]:
    """How often each image occurs in each sample. The first column is the test set itself, all others are resampled."""
    draw = np.random.default_rng(seed)
    counts = np.ones((1 + samples, images), dtype=np.int32)
    for row in counts[1:] if images else ():
        row[:] = np.bincount(draw.integers(images, size=images), minlength=images)
    return np.ascontiguousarray(counts.T)


def resampled_precision(ranking: Ranking, weights: Int[np.ndarray, "b s"]) -> Float[np.ndarray, "c s"]:
    """AP of every class on every sample of `draw_images`; NaN if a class has no positive in a sample."""
    num_images, num_sets = weights.shape
    hits, misses = np.flatnonzero(ranking.is_hit), np.flatnonzero(~ranking.is_hit)
    # A false positive counts from the next hit of its class on; after the last hit it has no effect.
    following = np.cumsum(ranking.is_hit)[misses]
    misses, following = misses[following < len(hits)], following[following < len(hits)]
    is_same = ranking.row_class[misses] == ranking.row_class[hits[following]]
    misses, following = misses[is_same], following[is_same]

    def count(rows: np.ndarray, images: np.ndarray, num_rows: int) -> sparse.csr_array:
        return sparse.csr_array((np.ones(len(rows), dtype=weights.dtype), (rows, images)), (num_rows, num_images))

    wrong_between = count(following, ranking.row_image[misses], len(hits))
    positives_of = count(ranking.positive_class, ranking.positive_image, len(ranking.names))
    hit_image = ranking.row_image[hits]
    bounds = np.searchsorted(ranking.row_class[hits], np.arange(len(ranking.names) + 1))
    ap = np.empty((len(ranking.names), num_sets))
    for start in range(0, num_sets, AT_ONCE):
        part = weights[:, start : start + AT_ONCE]
        right, wrong, positives = part[hit_image], wrong_between @ part, positives_of @ part
        for index in range(len(ap)):
            own = slice(bounds[index], bounds[index + 1])
            ap[index, start : start + AT_ONCE] = weighted_average_precision(
                right[own], wrong[own], positives[index], ranking.interpolation
            )
    has_positive = np.bincount(ranking.positive_class, minlength=len(ap)) > 0
    ap[~has_positive] = ranking.without_positive
    return ap


def weighted_average_precision(
    right: Int[np.ndarray, "h s"],
    wrong: Int[np.ndarray, "h s"],
    positives: Int[np.ndarray, " s"],
    interpolation: Interpolation,
) -> Float[np.ndarray, " s"]:
    """`ranked_average_precision` of one class under several weightings of its rows, one column each.

    `right` is the weight of every hit, `wrong` of the false positives between the hit before and this one. A hit of
    weight w is w hits in a row, along which precision does not fall: the envelope of all of them is that of the last.
    """
    found = right.cumsum(axis=0)  # h s
    listed = found + wrong.cumsum(axis=0)
    precision = np.divide(found, listed, out=np.zeros(found.shape), where=listed > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if interpolation == "all_points":
        share, whole = right, np.maximum(positives, 1)
    else:
        reached = np.searchsorted(RECALLS[interpolation], found / np.maximum(positives, 1), side="right")
        share, whole = np.diff(reached, axis=0, prepend=0), len(RECALLS[interpolation])
    return np.where(positives > 0, (envelope * share).sum(axis=0) / whole, np.nan)


def known_means(values: Float[np.ndarray, "c s"]) -> Float[np.ndarray, " s"]:
    """`known_mean` of every column."""
    is_known = ~np.isnan(values)
    count = is_known.sum(axis=0)
    total = np.where(is_known, values, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def differ(a: Float[np.ndarray, "q s"], b: Float[np.ndarray, "r s"], *, training: Training | None = None) -> Difference:
    """The difference of A and B, which have a row per seed and a column per sample of `draw_images`.

    Images: the central CONFIDENCE of the resampled differences of the means over seeds. Seeds: Welch's interval; where
    a side has one seed, by the spread of `training`, if it is given. Both: the variances are added, with Student's t
    and the degrees of freedom of Welch and Satterthwaite, the images' variance taken as known. Differences between
    seeds that vary by image are in both variances, so this is slightly too wide.
    """
    means = a.mean(axis=0), b.mean(axis=0)
    difference = float(means[0][0] - means[1][0])
    resampled = (means[0] - means[1])[1:]
    resampled = resampled[~np.isnan(resampled)]
    if len(resampled) < 2:
        images = Spread(math.nan, math.nan, math.nan)
    else:
        low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        images = Spread(float(resampled.std(ddof=1)), float(low), float(high))
    parts, seeds, both = None, None, None
    if min(len(a), len(b)) > 1:
        parts = [(float(side[:, 0].var(ddof=1)) / len(side), len(side) - 1) for side in (a, b)]
    elif training is not None:
        parts = [(training.deviation**2 * (1 / len(a) + 1 / len(b)), training.degrees)]
    if parts is not None:
        if np.array_equal(a, b, equal_nan=True):  # identical runs: their randomness cancels
            parts = []
        seeds = _student(difference, 0.0, parts)
        both = _student(difference, images.error**2, parts)
    return Difference(float(means[0][0]), float(means[1][0]), images, seeds, both)


def _student(difference: float, known: float, parts: list[tuple[float, int]]) -> Spread:
    """An interval by Student's t, from a known variance and estimated ones with their degrees of freedom."""
    variance = known + sum(part for part, _ in parts)
    fourth = sum(part**2 / degrees for part, degrees in parts)
    error, degrees = math.sqrt(variance), variance**2 / fourth if fourth else math.inf
    reach = error * float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
    return Spread(error, difference - reach, difference + reach)
