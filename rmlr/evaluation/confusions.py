"""Which verbs a network confuses, and whether that goes with another similarity of verbs, such as their texts'."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from rmlr.evaluation.matching import MIN_IOU, image_of_rows, overlap
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary


@dataclass(frozen=True, slots=True)
class Association:
    """Spearman's correlation of two similarities over pairs of verbs, and its one-sided p by permutation (Mantel)."""

    pairs: int
    rho: float  # NaN for fewer than three pairs, or where one of the two is constant
    p: float  # of a correlation at least as large if verbs had nothing to do with each other; NaN likewise


def score_shares(
    annotations: Sequence[Annotation], vocabulary: Vocabulary, triplets: Triplets
) -> tuple[Int[np.ndarray, " r"], Float[np.ndarray, "r v"], Bool[np.ndarray, "r v"]]:
    """Of each annotated, detected pair and each of its verbs: that verb, how all verbs share its scores, and which are
    possible with its object.

    A pair is detected if both boxes have an IoU of at least one half with those of a detection; of several, the one
    whose smaller IoU is largest. A verb's share is its score divided by the sum over verbs. Pairs whose scores are all
    0 are left out.
    """
    verbs = len(vocabulary.verbs)
    image = image_of_rows(triplets, annotations)
    boxes = np.concatenate([triplets.human_boxes, triplets.object_boxes], axis=1).astype(np.float64)
    keyed = np.column_stack([image, np.nan_to_num(boxes, nan=-1.0)])
    _, first, pair = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
    pair = pair.reshape(-1)
    scores = np.zeros((len(first), verbs))
    is_scored = triplets.verb < verbs
    np.maximum.at(scores, (pair[is_scored], triplets.verb[is_scored]), triplets.score[is_scored])
    of_image = np.searchsorted(image[first], np.arange(len(annotations) + 1))  # `np.unique` sorts by image first
    said, shares, possible = [], [], []
    for number, one in enumerate(annotations):
        candidates = np.arange(of_image[number], of_image[number + 1])
        for human, verb, object_ in one.interactions.tolist():
            if object_ == NO_BOX or verb >= verbs or not len(candidates):
                continue
            truth = np.concatenate([one.boxes[human], one.boxes[object_]])[None].repeat(len(candidates), axis=0)
            found = boxes[first[candidates]]
            ious = [overlap(found[:, part], truth[:, part], pixel=0) for part in (slice(0, 4), slice(4, 8))]
            least = np.nan_to_num(np.minimum(*ious), nan=0.0)
            best = int(least.argmax())
            total = scores[candidates[best]].sum()
            if least[best] >= MIN_IOU and total > 0:
                said.append(verb)
                shares.append(scores[candidates[best]] / total)
                possible.append(vocabulary.is_valid_verb[one.labels[object_]])
    return (
        np.array(said, dtype=np.int64),
        np.array(shares, dtype=np.float64).reshape(-1, verbs),
        np.array(possible, dtype=bool).reshape(-1, verbs),
    )


def confusions(
    verb: Int[np.ndarray, " r"], shares: Float[np.ndarray, "r v"], is_possible: Bool[np.ndarray, "r v"]
) -> Float[np.ndarray, "v v"]:
    """How much two verbs are confused, symmetric; NaN where no annotated pair of either allows the other.

    C(v, w) is the mean share of w over the annotated pairs of v whose object w is possible with. It is divided by the
    mean of its column over the other verbs, so that frequent verbs do not count more, and averaged over both
    directions. The diagonal is NaN.
    """
    verbs = shares.shape[1]
    total, count = np.zeros((verbs, verbs)), np.zeros((verbs, verbs))
    np.add.at(total, verb, np.where(is_possible, shares, 0.0))
    np.add.at(count, verb, is_possible)
    mean = np.divide(total, count, out=np.full((verbs, verbs), np.nan), where=count > 0)
    np.fill_diagonal(mean, np.nan)
    known = ~np.isnan(mean)
    column = np.where(known, mean, 0).sum(0) / np.maximum(known.sum(0), 1)
    lift = np.divide(mean, column, out=np.full((verbs, verbs), np.nan), where=column > 0)
    both = np.stack([lift, lift.T])
    is_known = ~np.isnan(both)
    sums = np.where(is_known, both, 0).sum(0)
    return np.divide(sums, is_known.sum(0), out=np.full((verbs, verbs), np.nan), where=is_known.any(0))


def associate(
    confusion: Float[np.ndarray, "v v"], similarity: Float[np.ndarray, "v v"], permutations: int, seed: int
) -> Association:
    """Whether verbs that are confused are similar: Mantel's test with Spearman's correlation.

    Pairs of verbs without a confusion (NaN) are left out. A permutation gives every verb another verb's similarities;
    the pairs stay. p is (1 + permutations with at least this correlation) / (1 + permutations).
    """
    a, b = np.triu_indices(len(confusion), 1)
    kept = ~np.isnan(confusion[a, b])
    a, b = a[kept], b[kept]
    ranks = rankdata(confusion[a, b])
    rho = _correlation(ranks, similarity[a, b])
    if math.isnan(rho):
        return Association(len(a), rho, math.nan)
    draw, as_large = np.random.default_rng(seed), 0
    for _ in range(permutations):
        order = draw.permutation(len(confusion))
        as_large += _correlation(ranks, similarity[order[a], order[b]]) >= rho - 1e-12
    return Association(len(a), rho, (1 + as_large) / (1 + permutations))


def _correlation(ranks: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> float:
    """Spearman's; NaN for fewer than three, or where one of the two is constant."""
    others = rankdata(values)
    if len(ranks) < 3 or np.ptp(ranks) == 0 or np.ptp(others) == 0:
        return math.nan
    return float(np.corrcoef(ranks, others)[0, 1])
