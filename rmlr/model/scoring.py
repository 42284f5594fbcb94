"""Scored triplets from a network's output."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rmlr.hoi import Triplets
from rmlr.hoi.batch import Batch
from rmlr.model.network import InteractionNetwork
from rmlr.model.pairs import Pairs, detector_prior


@dataclass(frozen=True, slots=True)
class ScoredVerbs:
    """Scored verbs of a batch's pairs."""

    human: Int[Tensor, " t"]  # index into the batch's instances
    object: Int[Tensor, " t"]  # likewise
    image: Int[Tensor, " t"]  # position in the batch, ascending
    verb: Int[Tensor, " t"]
    score: Float[Tensor, " t"]


@torch.inference_mode()
def score_verbs(
    network: InteractionNetwork,
    batch: Batch,
    is_valid_verb: Bool[Tensor, "o v"],
    *,
    prior_power: float,
    min_score: float,
) -> ScoredVerbs:
    """Every possible verb of every pair: sigmoid(logit) (s_h s_o)^k, sorted by image, pair and verb.

    Verbs that never occur with an object's class are left out, and scores below `min_score`. ValueError on a score that
    is not finite: every threshold would drop it, so a pair would disappear.

    Differs: the paper does not specify it; k is `prior_power`, as in UPT.
    """
    output = network(batch)
    pairs = output.pairs
    prior = detector_prior(batch, pairs, is_valid_verb, prior_power)
    scores = output.logits.float().sigmoid() * prior  # p v
    _check_finite(scores, batch, pairs)
    possible = is_valid_verb[batch.instances.labels[pairs.object]]
    pair, verb = (possible & (scores >= min_score)).nonzero(as_tuple=True)
    return ScoredVerbs(pairs.human[pair], pairs.object[pair], pairs.image[pair], verb, scores[pair, verb])


def _check_finite(scores: Tensor, batch: Batch, pairs: Pairs) -> None:
    """ValueError that names image, pair and verb of the first score that is not finite."""
    is_bad = ~scores.isfinite()
    if not is_bad.any():
        return
    pair, verb = is_bad.nonzero()[0].tolist()
    image = int(pairs.image[pair])
    first = int((batch.instance_image < image).sum())
    human, object_ = (int(side[pair]) - first for side in (pairs.human, pairs.object))
    raise ValueError(
        f"image {int(batch.image_ids[image])}: the score of verb {verb} for its instances {human} (human) and "
        f"{object_} (object) is {scores[pair, verb].item()}, expected a finite number. Are weights, features and "
        "detector valid?"
    )


def score_triplets(
    network: InteractionNetwork,
    batch: Batch,
    is_valid_verb: Bool[Tensor, "o v"],
    *,
    prior_power: float,
    min_score: float,
) -> Triplets:
    """The result of `score_verbs` as rows of the neutral table."""
    scored = score_verbs(network, batch, is_valid_verb, prior_power=prior_power, min_score=min_score)
    instances = batch.instances
    columns = (
        batch.image_ids[scored.image],
        instances.boxes[scored.human],
        instances.boxes[scored.object],
        instances.labels[scored.object],
        scored.verb,
        scored.score,
    )
    return Triplets(*(column.cpu().numpy() for column in columns))


def concatenate(parts: list[Triplets]) -> Triplets:
    """All rows, in the order given."""
    boxes, integers, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
    empty = Triplets(integers, boxes, boxes, integers, integers, scores)
    return Triplets(*(np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in Triplets.__slots__))
