"""From a network's output to scored triplets."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from rmlr.batch import Batch
from rmlr.hoi import Triplets
from rmlr.model.network import InteractionNetwork
from rmlr.model.pairs import detector_prior


@torch.inference_mode()
def score_triplets(
    network: InteractionNetwork,
    batch: Batch,
    is_valid_verb: Bool[Tensor, "o v"],
    *,
    prior_power: float,
    min_score: float,
) -> Triplets:
    """Every possible verb of every pair: sigmoid(logit) (s_h s_o)^k, sorted by image, pair and verb.

    Verbs that an object's class never takes are left out, and scores below `min_score`.

    Differs: the paper is silent; k is `prior_power`, as UPT.
    """
    output = network(batch)
    instances, pairs = batch.instances, output.pairs
    prior = detector_prior(batch, pairs, is_valid_verb, prior_power)
    scores = output.logits.float().sigmoid() * prior  # p v
    possible = is_valid_verb[instances.labels[pairs.object]]
    pair, verb = (possible & (scores >= min_score)).nonzero(as_tuple=True)
    human, object_ = pairs.human[pair], pairs.object[pair]
    columns = (
        batch.image_ids[pairs.image[pair]],
        instances.boxes[human],
        instances.boxes[object_],
        instances.labels[object_],
        verb,
        scores[pair, verb],
    )
    return Triplets(*(column.cpu().numpy() for column in columns))


def concatenate(parts: list[Triplets]) -> Triplets:
    """All rows, in the order given."""
    boxes, integers, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
    empty = Triplets(integers, boxes, boxes, integers, integers, scores)
    return Triplets(*(np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in Triplets.__slots__))
