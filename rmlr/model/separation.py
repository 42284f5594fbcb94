"""The loss of interaction information: whether a network's vectors differ for people at the same place who do different
things.

Paper, section 3.2, figures 1 and 6: a detector's tokens of two people at the same place are similar whatever they do.
Here this is measured on all people of a split, for the tokens and for the network's own vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rmlr.hoi import NO_BOX, NO_INTERACTION, Annotation, Vocabulary
from rmlr.hoi.batch import Batch
from rmlr.hoi.boxes import iou
from rmlr.model.losses import MATCHING_IOU
from rmlr.model.network import InteractionNetwork, PairDescription
from rmlr.model.pairs import enumerate_pairs
from rmlr.model.remine import pair_shares, pool_cells
from rmlr.model.transformer import Layout

ELSEWHERE = 0.1  # two people are at different places below this IoU
AT_ONCE = 1 << 16  # pairs whose vectors are compared at once
BLOCK = 1024  # interactions whose places are compared with all others at once

Kind = Literal["same", "different", "elsewhere"]
KINDS: tuple[Kind, ...] = ("same", "different", "elsewhere")


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of an interaction, in the order in which they are computed."""

    boxes: Float[Tensor, "u 8"]  # both, relative to width and height: a control, with the places only
    human_token: Float[Tensor, "u d"]  # s_h, the detector's: what the paper compares in figures 1 and 6
    pair_tokens: Float[Tensor, "u e"]  # cat(s_h, s_o): the detector's tokens of both
    learnt_tokens: Float[Tensor, "u f"]  # the same after the network's FC, trained on the verbs like the cue
    cells: Float[Tensor, "u c"]  # the backbone's map, averaged over the cells of the cue: before re-mining
    cue: Float[Tensor, "u g"]  # m, equation 5: re-mined


@dataclass(frozen=True, slots=True)
class Interactions:
    """Detected pairs that interact, of any number of images; one row each."""

    image: Int[Tensor, " u"]  # position among the annotations
    human_boxes: Float[Tensor, "u 4"]
    object_boxes: Float[Tensor, "u 4"]
    places: Float[Tensor, "u 4"]  # the human's box relative to the image's width and height, as in DETR
    objects: Int[Tensor, " u"]  # detected class
    does: Bool[Tensor, "u v"]  # verbs of the pair, unscored ones included
    human_does: Bool[Tensor, "u v"]  # all verbs of its human, those of other objects or without one included
    network: Int[Tensor, " u"]  # which one the vectors are of; those of two networks are not compared
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Compared:
    """Pairs of interactions in different images."""

    first: Int[Tensor, " n"]  # row of the interactions
    second: Int[Tensor, " n"]
    kind: Int[Tensor, " n"]  # of KINDS
    overlap: Float[Tensor, " n"]  # IoU of the places

    def __len__(self) -> int:
        return len(self.first)


@torch.inference_mode()
def find_interactions(
    network: InteractionNetwork,
    batch: Batch,
    images: Sequence[Annotation],
    positions: Sequence[int],
    vocabulary: Vocabulary,
) -> Interactions:
    """The detected pairs of a batch that are annotated to interact, and their vectors in the network.

    `images` are the batch's, and `positions` their positions among all annotations. A detected pair has the verbs that
    are annotated for boxes with an IoU >= 0.5 with its own, as in training. "No interaction" is not a verb.

    Differs: the paper shows pairs of people and does not say which vectors of the network its re-mined features are.
    Ours is m, which section 3.2 calls the direct reflection of the interaction, generated because the tokens lack it.
    It belongs to a pair, so each person is combined with the object of an interaction, and tokens of both are compared
    as well. ValueError for a network without such a cue.
    """
    describe = network.describe
    if not isinstance(describe, PairDescription) or (ire := describe.ire) is None:
        raise ValueError("this run's variant has no IRE, so there is no re-mined cue to compare. Use one with `ire`")
    pairs = enumerate_pairs(batch, network.person)
    layout = Layout.of_rows(pairs.image, len(batch.image_ids))
    maps, tokens, boxes = batch.maps.float(), batch.instances.tokens.float(), batch.instances.boxes
    human_boxes, object_boxes = boxes[pairs.human], boxes[pairs.object]

    num_verbs = len(vocabulary.verbs + vocabulary.unscored_verbs)
    does = torch.zeros(2, len(pairs), num_verbs, dtype=torch.bool, device=boxes.device)  # of pair, of human
    for place, image in enumerate(images):
        rows = torch.from_numpy(image.interactions).to(boxes.device)
        annotated = torch.from_numpy(image.boxes).to(boxes.device, boxes.dtype)
        own = (pairs.image == place).nonzero()[:, 0]
        is_human = iou(human_boxes[own], annotated[rows[:, 0]]) >= MATCHING_IOU  # pairs, rows
        has_box = rows[:, 2] != NO_BOX
        is_object = torch.zeros_like(is_human)
        is_object[:, has_box] = iou(object_boxes[own], annotated[rows[has_box, 2]]) >= MATCHING_IOU
        for part, is_true in enumerate((is_human & is_object, is_human)):
            pair, row = is_true.nonzero(as_tuple=True)
            does[part, own[pair], rows[row, 1]] = True
    does[:, :, [verb for verb, name in enumerate(vocabulary.verbs) if name == NO_INTERACTION]] = False

    kept = does[0].any(1).nonzero()[:, 0]
    cells = maps.flatten(2).transpose(1, 2)  # b hw c
    _, cues = describe(batch, pairs, layout)
    assert cues is not None
    both = torch.cat([tokens[pairs.human], tokens[pairs.object]], dim=1)
    learnt = describe.project_tokens(tokens)
    sizes = batch.image_sizes.flip(1).repeat(1, 2)[pairs.image]  # p 4: width, height, width, height
    vectors = Vectors(
        boxes=torch.cat([human_boxes / sizes, object_boxes / sizes], dim=1)[kept],
        human_token=tokens[pairs.human][kept],
        pair_tokens=both[kept],
        learnt_tokens=torch.cat([learnt[pairs.human], learnt[pairs.object]], dim=1)[kept],
        cells=pool_cells(cells, pair_shares(batch, pairs, ire.pool), layout)[kept],
        cue=cues[kept],
    )
    return Interactions(
        image=torch.tensor(positions, dtype=torch.long, device=boxes.device)[pairs.image[kept]],
        human_boxes=human_boxes[kept],
        object_boxes=object_boxes[kept],
        places=(human_boxes / sizes)[kept],
        objects=batch.instances.labels[pairs.object[kept]],
        does=does[0, kept],
        human_does=does[1, kept],
        network=torch.zeros_like(kept),
        vectors=vectors,
    )


def join(parts: Sequence[Interactions]) -> Interactions:
    """The interactions of one batch or more, on the CPU, in the order given."""

    def columns(records: Sequence, names: Sequence[str]) -> list[Tensor]:
        return [torch.cat([getattr(record, name) for record in records]).cpu() for name in names]

    vectors = Vectors(*columns([part.vectors for part in parts], list(Vectors.__slots__)))
    return Interactions(*columns(parts, list(Interactions.__slots__)[:-1]), vectors=vectors)


def compare_places(found: Interactions, min_iou: float, seed: int) -> Compared:
    """All pairs of interactions with the same object class whose humans are at the same place, in different images.

    Same place: the humans' boxes, relative to their images, have an IoU of at least `min_iou`. `same`: pair and human
    do the same things; `different`: the humans have no verb in common. Pairs with some verbs in common, and people
    without annotated verbs, are left out. The object class must be the same, otherwise it alone would separate the
    pairs. `elsewhere` are pairs that do the same things at other places, for comparison: drawn at random (`seed`), as
    many as there are `same` ones, if possible.

    Differs: the paper compares selected pairs, and does not define the same place. In one image, two boxes at the same
    place would be one person, of which non-maximum suppression keeps one box.
    """
    near = [_near(found, start, min_iou) for start in range(0, len(found.image), BLOCK)]
    parts = [part for part in near if len(part)]
    num_same = sum(int((part.kind == KINDS.index("same")).sum()) for part in parts)
    parts.append(_elsewhere(found, num_same, seed))
    return Compared(*(torch.cat([getattr(part, name) for part in parts]) for name in Compared.__slots__))


def distances(found: Interactions, compared: Compared) -> dict[str, Float[Tensor, " n"]]:
    """For every pair, `cosine_VECTOR` (1 - cosine) and `euclidean_VECTOR` for each of `Vectors`."""
    columns: dict[str, Tensor] = {}
    for name in Vectors.__slots__:
        vectors = getattr(found.vectors, name)
        cosine, euclidean = torch.empty(len(compared)), torch.empty(len(compared))
        for start in range(0, len(compared), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            a, b = vectors[compared.first[part]], vectors[compared.second[part]]
            cosine[part] = 1 - torch.cosine_similarity(a, b, dim=1)
            euclidean[part] = (a - b).norm(dim=1)
        columns |= {f"cosine_{name}": cosine, f"euclidean_{name}": euclidean}
    return columns


def _near(found: Interactions, start: int, min_iou: float) -> Compared:
    """The pairs at the same place whose first interaction is in the block from `start` on."""
    rows = torch.arange(start, min(start + BLOCK, len(found.image)))
    overlap = iou(found.places[rows], found.places)
    is_near = (overlap >= min_iou) & (found.image[rows, None] != found.image)
    is_near &= (found.objects[rows, None] == found.objects) & (rows[:, None] < torch.arange(len(found.image)))
    is_near &= found.network[rows, None] == found.network
    first, second = is_near.nonzero(as_tuple=True)
    overlap, first = overlap[first, second], rows[first]
    is_same, is_different = _alike(found, first, second)
    kept = is_same | is_different
    kind = torch.where(is_same, KINDS.index("same"), KINDS.index("different"))
    return Compared(first[kept], second[kept], kind[kept], overlap[kept])


def _alike(found: Interactions, first: Tensor, second: Tensor) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Whether two interactions do the same things, and whether their humans have no verb in common."""
    humans, pairs = found.human_does, found.does
    is_same = (humans[first] == humans[second]).all(1) & (pairs[first] == pairs[second]).all(1)
    return is_same, ~(humans[first] & humans[second]).any(1)


def _elsewhere(found: Interactions, wanted: int, seed: int) -> Compared:
    """Pairs that do the same things at other places, without duplicates; fewer if sampling does not find enough."""
    generator, count = torch.Generator().manual_seed(seed), len(found.image)
    taken = torch.zeros(0, dtype=torch.long)  # first * count + second
    for _ in range(64 if wanted else 0):
        drawn = torch.randint(count, (2, 16 * wanted), generator=generator)
        first, second = drawn.amin(0), drawn.amax(0)
        is_right = (found.image[first] != found.image[second]) & (found.objects[first] == found.objects[second])
        is_right &= found.network[first] == found.network[second]
        first, second = first[is_right], second[is_right]
        is_same, _ = _alike(found, first, second)
        first, second = first[is_same], second[is_same]
        is_far = _overlaps(found.places[first], found.places[second]) < ELSEWHERE
        taken = torch.cat([taken, (first * count + second)[is_far]])
        if len(taken.unique()) >= wanted:
            break
    values, place = taken.unique(return_inverse=True)
    drawn_at = torch.full((len(values),), len(taken)).scatter_reduce(0, place, torch.arange(len(taken)), "amin")
    taken = values[drawn_at.argsort()][:wanted]  # in the order drawn: sorting would bias the selection
    first, second = taken // max(count, 1), taken % max(count, 1)
    overlap = _overlaps(found.places[first], found.places[second])
    return Compared(first, second, torch.full_like(first, KINDS.index("elsewhere")), overlap)


def _overlaps(a: Float[Tensor, "n 4"], b: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """IoU of box and box, row by row."""
    low, high = a[:, :2].maximum(b[:, :2]), a[:, 2:].minimum(b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)
