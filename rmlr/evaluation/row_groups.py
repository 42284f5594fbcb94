"""AP of verbs by their rows in training, and of combinations of verb and object that training does not have.

V-COCO's protocol throughout: AP_role, scenario 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from rmlr.evaluation import vcoco
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import Difference, differ, known_means, resampled_precision
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary

UNSEEN = "unseen combinations"


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """How often each verb of a vocabulary was learnt: rows, one per person and verb."""

    of_verb: Int[np.ndarray, " v"]
    of_combination: Int[np.ndarray, "v o"]  # with an object box

    @classmethod
    def of(cls, annotations: Sequence[Annotation], vocabulary: Vocabulary) -> "TrainingRows":
        """The rows of these annotations; a verb without an object box counts for the verb alone."""
        verbs = len(vocabulary.verbs + vocabulary.unscored_verbs)
        of_verb = np.zeros(verbs, dtype=np.int64)
        of_combination = np.zeros((verbs, len(vocabulary.objects)), dtype=np.int64)
        for one in annotations:
            _, verb, box = one.interactions.T
            np.add.at(of_verb, verb, 1)
            has_box = box != NO_BOX
            np.add.at(of_combination, (verb[has_box], one.labels[box[has_box]]), 1)
        return cls(of_verb, of_combination)

    def groups(self, bounds: Sequence[int], headline: int) -> dict[str, Bool[np.ndarray, " v"]]:
        """Verbs by their rows: all, those below the last bound, and those between two bounds, rarest first.

        `bounds` ascend. Only the first `headline` verbs count.
        """
        counts = self.of_verb.astype(np.float64)
        counts[headline:] = np.nan
        found = {"all verbs": counts >= 0, f"below {bounds[-1]} rows": counts < bounds[-1]}
        edges = [0, *bounds, np.inf]
        for low, high in pairwise(edges):
            name = f"{low} rows and more" if np.isinf(high) else f"{low} to {high - 1:.0f} rows"
            found[name] = (counts >= low) & (counts < high)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Precisions:
    """AP of every verb on samples of test images, the first of which is the split itself: all, and unseen alone."""

    whole: Float[np.ndarray, "v s"]
    unseen: Float[np.ndarray, "v s"]  # NaN for a verb without an unseen combination in the split

    def mean(self, mask: Bool[np.ndarray, " v"] | None) -> Float[np.ndarray, " s"]:
        """The mean over the verbs of a mask; over the unseen combinations of every verb where it is None."""
        return known_means(self.unseen if mask is None else self.whole[mask])


@dataclass(frozen=True, slots=True)
class GroupResult:
    """A - B of one group of verbs."""

    group: str
    verbs: int  # with a positive
    positives: int
    difference: Difference


def unseen_alone(
    annotations: Sequence[Annotation], triplets: Triplets, is_seen: Bool[np.ndarray, "v o"]
) -> tuple[list[Annotation], Triplets]:
    """Annotations and detections of the combinations that were not seen in training, and nothing else of either.

    A detection belongs to the class that its detector gave the object; without one (-1) it is left out.
    """
    kept = []
    for one in annotations:
        _, verb, box = one.interactions.T
        is_unseen = (box != NO_BOX) & ~is_seen[verb, one.labels[box]]
        kept.append(replace(one, interactions=one.interactions[is_unseen]))
    row = (triplets.object_category >= 0) & ~is_seen[triplets.verb, triplets.object_category]
    return kept, Triplets(*(getattr(triplets, name)[row] for name in Triplets.__slots__))


def rank_both(
    annotations: Sequence[Annotation], vocabulary: Vocabulary, triplets: Triplets, rows: TrainingRows
) -> tuple[Ranking, Ranking]:
    """Detections matched by scenario 1: all, and of unseen combinations alone."""
    unseen = unseen_alone(annotations, triplets, rows.of_combination > 0)
    whole = vcoco.rank(annotations, vocabulary, triplets)[0]
    return whole, vcoco.rank(unseen[0], vocabulary, unseen[1])[0]


def resampled(rankings: tuple[Ranking, Ranking], weights: Int[np.ndarray, "b s"]) -> Precisions:
    """AP on resampled images (`rmlr.evaluation.resampling`)."""
    return Precisions(*(resampled_precision(ranking, weights) for ranking in rankings))


def compare_groups(
    rankings: tuple[Ranking, Ranking],
    masks: Mapping[str, Bool[np.ndarray, " v"]],
    a: Sequence[Precisions],
    b: Sequence[Precisions],
) -> list[GroupResult]:
    """A - B of every group and of the unseen combinations, a `Precisions` per seed of A and B."""
    found = []
    for name, mask in [*masks.items(), (UNSEEN, None)]:
        positives = rankings[0 if mask is not None else 1].positives()
        positives = positives if mask is None else positives[mask]
        sides = (np.stack([seed.mean(mask) for seed in side]) for side in (a, b))
        found.append(GroupResult(name, int((positives > 0).sum()), int(positives.sum()), differ(*sides)))
    return found
