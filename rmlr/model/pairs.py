"""Candidate pairs, the detector's prior over their verbs, and their geometry."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rmlr.hoi.batch import Batch
from rmlr.hoi.boxes import area, cxcywh_from_xyxy, intersection

GEOMETRY_DIM = 36
LOG_FLOOR = 1e-10  # UPT's epsilon in quotients and logarithms


@dataclass(frozen=True, slots=True)
class Pairs:
    """All candidate pairs of a batch, sorted by image, human, object."""

    human: Int[Tensor, " p"]  # index into the batch's instances
    object: Int[Tensor, " p"]  # likewise
    image: Int[Tensor, " p"]  # position in the batch

    def __len__(self) -> int:
        return len(self.image)


def enumerate_pairs(batch: Batch, person: int) -> Pairs:
    """Every (human, other instance) of one image (paper, section 3.2). Persons can also be objects of other persons."""
    image, labels = batch.instance_image, batch.instances.labels
    is_pair = (image[:, None] == image) & (labels == person)[:, None]  # n n
    is_pair.fill_diagonal_(False)
    human, object_ = is_pair.nonzero(as_tuple=True)
    return Pairs(human, object_, image[human])


def detector_prior(
    batch: Batch, pairs: Pairs, is_valid_verb: Bool[Tensor, "o v"], power: float
) -> Float[Tensor, "p v"]:
    """(s_h s_o)^power, and 0 for verbs that never occur with the object's class.

    Differs: the paper does not specify it; as in UPT, which uses power 1 in training and 2.8 at inference.
    """
    scores = batch.instances.scores.float()
    confidence = (scores[pairs.human] * scores[pairs.object]) ** power
    return confidence[:, None] * is_valid_verb[batch.instances.labels[pairs.object]]


def pair_geometry(batch: Batch, pairs: Pairs) -> Float[Tensor, "p 36"]:
    """The spatial encoding of each pair's two boxes, as in UPT: 18 numbers and their logarithms.

    In order: both centres, both sizes, both areas (relative to the image), the ratio of the areas, both aspect ratios,
    IoU, and the distance of the centres in human widths and heights, split by direction: right, left, down, up.
    """
    human, object_ = batch.instances.boxes[pairs.human], batch.instances.boxes[pairs.object]
    image = batch.image_sizes.flip(1)[pairs.image]  # p 2: width, height
    human_centre, human_extent = cxcywh_from_xyxy(human).split(2, dim=1)
    object_centre, object_extent = cxcywh_from_xyxy(object_).split(2, dim=1)
    areas = torch.stack([area(human), area(object_)], dim=1)
    shared = intersection(human, object_)
    offset = (object_centre - human_centre) / (human_extent + LOG_FLOOR)
    numbers = torch.cat(
        [
            human_centre / image,
            object_centre / image,
            human_extent / image,
            object_extent / image,
            areas / image.prod(1, keepdim=True),
            areas[:, 1:] / (areas[:, :1] + LOG_FLOOR),
            human_extent[:, :1] / (human_extent[:, 1:] + LOG_FLOOR),
            object_extent[:, :1] / (object_extent[:, 1:] + LOG_FLOOR),
            (shared / (areas.sum(1) - shared).clamp(min=LOG_FLOOR))[:, None],
            torch.stack([offset[:, 0], -offset[:, 0], offset[:, 1], -offset[:, 1]], dim=1).clamp(min=0),
        ],
        dim=1,
    )
    return torch.cat([numbers, (numbers + LOG_FLOOR).log()], dim=1)
