"""Precision at any recall, as average precision takes it."""

import numpy as np
from jaxtyping import Float

from rmlr.evaluation.average_precision import envelope_at_recalls
from rmlr.evaluation.matching import Ranking


def precision_at(ranking: Ranking, recalls: Float[np.ndarray, " r"]) -> Float[np.ndarray, "c r"]:
    """The precision envelope of every class at some recalls above 0; 0 at recalls that a class does not reach.

    What V-COCO averages over all recalls, and HICO-DET over eleven. NaN for a class without a positive.
    """
    curves = [
        envelope_at_recalls(is_hit, int(positives), recalls) if positives else np.full(len(recalls), np.nan)
        for is_hit, positives in zip(ranking.hits_of_classes(), ranking.positives(), strict=True)
    ]
    return np.array(curves, dtype=np.float64).reshape(-1, len(recalls))
