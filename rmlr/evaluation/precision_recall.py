"""Precision at any recall, as average precision takes it."""

import numpy as np
from jaxtyping import Float

from rmlr.evaluation.matching import Ranking


def precision_at(ranking: Ranking, recalls: Float[np.ndarray, " r"]) -> Float[np.ndarray, "c r"]:
    """The precision envelope of every class at some recalls above 0; 0 at recalls that a class does not reach.

    What V-COCO averages over all recalls, and HICO-DET over eleven. NaN for a class without a positive.
    """
    positives = np.bincount(ranking.positive_class, minlength=len(ranking.names))
    bounds = np.searchsorted(ranking.row_class, np.arange(len(ranking.names) + 1))
    curves = np.full((len(ranking.names), len(recalls)), np.nan)
    for index in np.flatnonzero(positives):
        hits = np.flatnonzero(ranking.is_hit[bounds[index] : bounds[index + 1]])
        found = np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate((found / (hits + 1))[::-1])[::-1]
        first = np.searchsorted(found / positives[index], recalls)  # the first hit of at least that recall
        curves[index] = np.append(envelope, 0.0)[first]
    return curves
