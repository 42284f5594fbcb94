"""Target assignment, and the terms of the objective (paper, section 3.5, equations 21 and 22)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from rmlr.hoi.batch import Batch, Truth
from rmlr.hoi.boxes import iou
from rmlr.model.align import Alignment, AlignmentTerm, Matched, PhraseTargets
from rmlr.model.pairs import Pairs, detector_prior, enumerate_pairs
from rmlr.model.reason import Output
from rmlr.model.text import TextEmbeddings
from rmlr.model.transformer import Layout
from rmlr.study.settings import Losses

MATCHING_IOU = 0.5  # as UPT
PRIOR_POWER = 1.0  # in training, as UPT
Number = Shaped[Tensor, ""] | float | int
TERMS = ("irm_sentence", "irm_word", "ire_sentence", "ire_word")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a pair with one of its true interactions, sorted by pair."""

    pair: Int[Tensor, " r"]
    truth: Int[Tensor, " r"]


@dataclass(frozen=True, slots=True)
class Counts:
    """The divisors of a batch's sums, after summation over micro-batches and ranks."""

    positives: Int[Tensor, ""]  # pair-verb entries that are true and possible
    rows: Int[Tensor, ""]


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The terms of the objective, summed over a micro-batch; None if a switch is off."""

    hoi: Float[Tensor, ""]
    counts: Counts
    irm_sentence: AlignmentTerm | None
    irm_word: AlignmentTerm | None
    ire_sentence: AlignmentTerm | None
    ire_word: AlignmentTerm | None

    def total(self, weights: Losses, positives: Number, rows: Number) -> Float[Tensor, ""]:
        """L of equation 22, each term divided by the count of the whole effective batch, at least 1.

        Differs: the paper does not say over what its terms are averaged. Here L_hoi is divided by the number of
        positives, as in UPT, and each alignment term by the number of rows.
        """
        total = weights.hoi * self.hoi / positives
        for name in TERMS:
            term: AlignmentTerm | None = getattr(self, name)
            if term is not None:
                total = total + getattr(weights, name) * term.loss / rows
        return total

    def sums(self) -> dict[str, Float[Tensor, ""]]:
        """The values for the log, detached, to be summed over steps and ranks and passed to `means`."""
        found = {"hoi": self.hoi, "positives": self.counts.positives, "rows": self.counts.rows}
        for name in TERMS:
            term: AlignmentTerm | None = getattr(self, name)
            if term is None:
                continue
            found |= {name: term.loss, f"{name}_spread": term.spread, f"{name}_spread_within": term.spread_within}
            if term.floor is not None and term.object_floor is not None:
                found |= {f"{name}_floor": term.floor, f"{name}_object_floor": term.object_floor}
        return {name: tensor.detach().float() for name, tensor in found.items()}


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """The logged values from summed `LossTerms.sums`: each loss, spreads, and gains over the floors, 1 - L / L_0.

    A gain above 0 on held-out images shows that rows depend on the image; over the object's floor, that the verb was
    transferred, too (model specification, section 10).
    """
    positives, rows = max(sums["positives"], 1.0), max(sums["rows"], 1.0)
    logged = {"hoi": sums["hoi"] / positives}
    for name in TERMS:
        if name not in sums:
            continue
        for key in (name, f"{name}_spread", f"{name}_spread_within"):
            logged[key] = sums[key] / rows
        for key in (f"{name}_floor", f"{name}_object_floor"):
            if sums.get(key, 0.0) > 0:
                logged[key.replace("floor", "gain")] = 1 - sums[name] / sums[key]
    return logged


def assign_targets(batch: Batch, pairs: Pairs, truth: Truth) -> Rows:
    """For every pair, the true interactions of its image whose two boxes both have an IoU >= 0.5 with its own.

    Differs: the paper does not specify it; as in UPT. The object's class is ignored. A pair with several interactions
    has a row for each, so that an alignment term has several targets for one vector, which an L1 distance cannot all
    meet: it is least at their median. Of V-COCO's rows, 69 % are of such pairs. `alignment.targets: mean` gives the
    rows of a pair one target.
    """
    same_image = batch.instance_image[:, None] == truth.image
    boxes = batch.instances.boxes
    is_human = same_image & (iou(boxes, truth.human_boxes) >= MATCHING_IOU)  # n g
    is_object = same_image & (iou(boxes, truth.object_boxes) >= MATCHING_IOU)
    pair, true = (is_human[pairs.human] & is_object[pairs.object]).nonzero(as_tuple=True)
    return Rows(pair, true)


def focal_loss(
    logits: Float[Tensor, "p v"],
    prior: Float[Tensor, "p v"],
    is_true: Bool[Tensor, "p v"],
    balance: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """Sum over entries with a prior of -b |y - p|^gamma log(p of y), p = sigmoid(logit) x prior (paper, equation 21).

    b is `balance` for true entries and 1 - `balance` for others. Value and gradient are finite for all logits, since
    the logit of p is computed directly: z = log prior - log(exp(-logit) + 1 - prior).

    Differs: the paper's p is the sigmoid alone; the prior, and the power of |y - p| for both labels, are as in UPT.
    """
    is_possible = prior > 0
    logit, prior, is_true = logits[is_possible].float(), prior[is_possible].float(), is_true[is_possible]
    logit = prior.log() - torch.logaddexp(-logit, torch.log1p(-prior))
    logit = torch.where(is_true, logit, -logit)  # of the correct label
    weight = torch.where(is_true, balance, 1 - balance)
    return -(weight * (gamma * F.logsigmoid(-logit)).exp() * F.logsigmoid(logit)).sum()


class Objective(nn.Module):
    """The training objective, with the alignment heads, which only training uses.

    `irm` and `ire` are None if both of their switches are off.
    """

    is_valid_verb: Bool[Tensor, "o v"]

    def __init__(
        self,
        *,
        person: int,
        is_valid_verb: Bool[Tensor, "o v"],
        focal_balance: float,
        focal_gamma: float,
        irm: Alignment | None,
        ire: Alignment | None,
        targets: PhraseTargets | None,
    ):
        super().__init__()
        self.person = person
        self.focal_balance = focal_balance
        self.focal_gamma = focal_gamma
        self.irm = irm
        self.ire = ire
        self.targets = targets
        self.register_buffer("is_valid_verb", is_valid_verb, persistent=False)

    def count(self, batch: Batch, truth: Truth) -> Counts:
        """The counts of `forward`, without the network: callers need those of the whole effective batch first."""
        pairs = enumerate_pairs(batch, self.person)
        rows = assign_targets(batch, pairs, truth)
        return self._labels(batch, pairs, truth, rows)[2]

    def forward(self, output: Output, batch: Batch, truth: Truth, text: TextEmbeddings | None) -> LossTerms:
        """`text`, on any device, is used by literal word alignment only."""
        pairs = output.pairs
        rows = assign_targets(batch, pairs, truth)
        prior, is_true, counts = self._labels(batch, pairs, truth, rows)
        hoi = focal_loss(output.logits, prior, is_true, self.focal_balance, self.focal_gamma)
        irm_sentence = irm_word = ire_sentence = ire_word = None
        if self.targets is not None:
            matched = self._phrases(pairs, truth, rows, self.targets)
            layout = Layout.of_rows(pairs.image, len(batch.image_ids))
            words = self._image_words(batch, text)
            if self.irm is not None:
                irm_sentence, irm_word = self.irm(output.reasoned, layout, matched, self.targets, words)
            if self.ire is not None:
                ire_sentence, ire_word = self.ire(output.cues, layout, matched, self.targets, words)
        return LossTerms(hoi, counts, irm_sentence, irm_word, ire_sentence, ire_word)

    def _labels(self, batch: Batch, pairs: Pairs, truth: Truth, rows: Rows) -> tuple[Tensor, Tensor, Counts]:
        prior = detector_prior(batch, pairs, self.is_valid_verb, PRIOR_POWER)
        is_true = torch.zeros_like(prior, dtype=torch.bool)
        is_true[rows.pair, truth.verbs[rows.truth]] = True
        number = torch.tensor(len(rows.pair), device=prior.device)
        return prior, is_true, Counts((is_true & (prior > 0)).sum(), number)

    def _phrases(self, pairs: Pairs, truth: Truth, rows: Rows, targets: PhraseTargets) -> Matched:
        verbs, objects = truth.verbs[rows.truth], truth.objects[rows.truth]
        phrase = targets.phrase_of[verbs, objects]
        if bool((phrase < 0).any()):
            row = int((phrase < 0).nonzero()[0, 0])
            raise ValueError(
                f"the text embeddings hold no phrase for verb {int(verbs[row])} with object class {int(objects[row])}, "
                "which is annotated. Were they computed from the same annotations?"
            )
        return Matched(rows.pair, pairs.image[rows.pair], phrase)

    def _image_words(self, batch: Batch, text: TextEmbeddings | None) -> tuple[Tensor, Tensor] | None:
        if not any(level is not None and level.needs_image_words for level in (self.irm, self.ire)):
            return None
        if text is None:
            raise ValueError("literal word alignment reads the images' words: give the text embeddings")
        words, is_padding = text.image_words(batch.image_ids.to(text.image_ids.device))
        return words.to(batch.maps.device), is_padding.to(batch.maps.device)
