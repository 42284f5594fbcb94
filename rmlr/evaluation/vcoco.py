"""V-COCO's AP_role, scenario 1 and 2, and agent AP, by the official program's rules (s-gupta/v-coco, `vsrl_eval.py`).

A verb here is an action-role ("hit instr"). For each, in each image, every detection is judged by the person whose
box overlaps its person box most, be it by nothing at all:

- a person whose actions were not annotated: the detection does not count, neither way;
- otherwise it is right if that person does the verb, both boxes overlap by half at least, and no higher scored
  detection was right about the same person and verb; else it is wrong.

Where the verb was annotated without an object box, scenario 1 asks for "no object" (four NaN, or four zeros) and
scenario 2 accepts any box. Neither object class nor detector score is looked at.

Agent AP asks of every action, role-less ones included, only for the person, by the same rules and scores of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from rmlr.evaluation.average_precision import known_mean, rank_by_score, ranked_average_precision
from rmlr.evaluation.matching import (
    MIN_IOU,
    Headline,
    Ranking,
    best_candidate,
    first_claims,
    image_of_rows,
    join,
    overlap,
)
from rmlr.hoi import NO_BOX, Agents, Annotation, Triplets, Vocabulary

PIXEL = 1  # the last pixel is inside a box: sides are x2 - x1 + 1


@dataclass(frozen=True, slots=True, eq=False)
class RoleScores:
    """AP_role of every action-role, the headline's first: fractions, NaN where the split holds no positive."""

    verbs: tuple[str, ...]
    headline: (
        int  # so many of `verbs`, from the first, are in the literature's mean (24); all are in the program's (25)
    )
    ap_role_1: Float[np.ndarray, " v"]
    ap_role_2: Float[np.ndarray, " v"]
    positives: Int[np.ndarray, " v"]  # annotated persons who do it, with or without an object box
    detections: Int[np.ndarray, " v"]
    ignored: Int[np.ndarray, " v"]  # of the detections, those at persons whose actions were not annotated

    def metrics(self) -> dict[str, float]:
        """The means over roles that have a positive, and over how many roles they are; NaN where over none."""
        has_positive = self.positives > 0
        return {
            "vcoco_ap_role_1": known_mean(self.ap_role_1[: self.headline]),
            "vcoco_ap_role_2": known_mean(self.ap_role_2[: self.headline]),
            "vcoco_roles": float(has_positive[: self.headline].sum()),
            "vcoco_ap_role_1_all_roles": known_mean(self.ap_role_1),
            "vcoco_ap_role_2_all_roles": known_mean(self.ap_role_2),
            "vcoco_all_roles": float(has_positive.sum()),
        }

    def summary(self) -> str:
        """The headline with its protocol, in one sentence."""
        metrics = self.metrics()
        return (
            f"AP_role scenario 1 {metrics['vcoco_ap_role_1']:.2%}, scenario 2 {metrics['vcoco_ap_role_2']:.2%}, "
            f"mean over {metrics['vcoco_roles']:.0f} of {self.headline} action-roles (those with a positive); with "
            f"{', '.join(self.verbs[self.headline :]) or 'none'} besides, {metrics['vcoco_all_roles']:.0f} roles: "
            f"{metrics['vcoco_ap_role_1_all_roles']:.2%}, {metrics['vcoco_ap_role_2_all_roles']:.2%}"
        )

    def rows(self) -> list[dict[str, object]]:
        """One row per action-role, for a table."""
        columns = {
            "verb": self.verbs,
            "in_headline": [index < self.headline for index in range(len(self.verbs))],
            "ap_role_1": self.ap_role_1.tolist(),
            "ap_role_2": self.ap_role_2.tolist(),
            "positives": self.positives.tolist(),
            "detections": self.detections.tolist(),
            "ignored": self.ignored.tolist(),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class AgentScores:
    """Agent AP of every action: fractions, NaN where the split holds no positive."""

    actions: tuple[str, ...]
    ap_agent: Float[np.ndarray, " a"]
    positives: Int[np.ndarray, " a"]  # annotated persons who do it
    detections: Int[np.ndarray, " a"]
    ignored: Int[np.ndarray, " a"]  # of the detections, those at persons whose actions were not annotated

    def metrics(self) -> dict[str, float]:
        """The mean over actions that have a positive, and over how many they are; NaN where over none.

        Differs: the official program divides the sum by the number of all actions. On the released splits, where each
        has a positive, that is the same; where one has none, the program stops.
        """
        return {
            "vcoco_ap_agent": known_mean(self.ap_agent),
            "vcoco_actions": float((self.positives > 0).sum()),
        }

    def summary(self) -> str:
        """The headline with its protocol, in one sentence."""
        metrics = self.metrics()
        return (
            f"agent AP {metrics['vcoco_ap_agent']:.2%}, person boxes only, "
            f"mean over {metrics['vcoco_actions']:.0f} of {len(self.actions)} actions (those with a positive)"
        )

    def rows(self) -> list[dict[str, object]]:
        """One row per action, for a table."""
        columns = {
            "action": self.actions,
            "ap_agent": self.ap_agent.tolist(),
            "positives": self.positives.tolist(),
            "detections": self.detections.tolist(),
            "ignored": self.ignored.tolist(),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class People:
    """The persons of all images in annotation order, image by image, and what they do."""

    first: Int[np.ndarray, " b"]  # each image's first person
    count: Int[np.ndarray, " b"]
    boxes: Float[np.ndarray, "n 4"]  # with the last pixel inside
    is_listed: Bool[np.ndarray, " n"]  # others are don't-care
    acts: Bool[np.ndarray, "n a"]
    does: Bool[np.ndarray, "n v"]
    object_boxes: Float[np.ndarray, "n v 4"]  # NaN where the annotated verb has none


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What each row of a table is worth, under either scenario."""

    image: Int[np.ndarray, " t"]  # index among the annotations
    is_ignored: Bool[np.ndarray, " t"]
    is_hit_1: Bool[np.ndarray, " t"]
    is_hit_2: Bool[np.ndarray, " t"]


def evaluate(annotations: Sequence[Annotation], vocabulary: Vocabulary, triplets: Triplets) -> RoleScores:
    """AP_role of a table of triplets over all images of `annotations`, also those without a positive or a person."""
    verbs = vocabulary.verbs + vocabulary.unscored_verbs
    people = gather_people(annotations, vocabulary)
    positives = people.does.sum(axis=0)
    judgement = judge(people, image_of_rows(triplets, annotations), triplets)

    ranked = rank_by_score(triplets.verb, triplets.score)
    ranked = ranked[~judgement.is_ignored[ranked]]
    verb = triplets.verb[ranked]
    return RoleScores(
        verbs=verbs,
        headline=len(vocabulary.verbs),
        ap_role_1=precision_of_classes(verb, judgement.is_hit_1[ranked], positives),
        ap_role_2=precision_of_classes(verb, judgement.is_hit_2[ranked], positives),
        positives=positives,
        detections=np.bincount(triplets.verb, minlength=len(verbs)),
        ignored=np.bincount(triplets.verb[judgement.is_ignored], minlength=len(verbs)),
    )


def evaluate_agents(annotations: Sequence[Annotation], vocabulary: Vocabulary, agents: Agents) -> AgentScores:
    """Agent AP of a table of agents over all images of `annotations`, also those without a positive or a person."""
    people = gather_people(annotations, vocabulary)
    positives = people.acts.sum(axis=0)
    person, human_iou, is_ignored = nearest_persons(people, image_of_rows(agents, annotations), agents.human_boxes)

    ranked = rank_by_score(agents.action, agents.score)
    ranked = ranked[~is_ignored[ranked]]
    person, action = person[ranked], agents.action[ranked]
    rows = np.flatnonzero(human_iou[ranked] >= MIN_IOU)
    rows = rows[people.acts[person[rows], action[rows]]]
    claim = np.full(len(ranked), -1)
    claim[rows] = person[rows] * len(positives) + action[rows]
    return AgentScores(
        actions=vocabulary.actions,
        ap_agent=precision_of_classes(action, first_claims(claim), positives),
        positives=positives,
        detections=np.bincount(agents.action, minlength=len(positives)),
        ignored=np.bincount(agents.action[is_ignored], minlength=len(positives)),
    )


def precision_of_classes(
    classes: Int[np.ndarray, " t"], is_hit: Bool[np.ndarray, " t"], positives: Int[np.ndarray, " c"]
) -> Float[np.ndarray, " c"]:
    """AP of every class, of rows that stand grouped by ascending class, in each by descending score."""
    bounds = np.searchsorted(classes, np.arange(len(positives) + 1))
    ap = [
        ranked_average_precision(is_hit[bounds[index] : bounds[index + 1]], int(count), "all_points")
        for index, count in enumerate(positives)
    ]
    return np.array(ap, dtype=np.float64)


def rank(annotations: Sequence[Annotation], vocabulary: Vocabulary, triplets: Triplets) -> tuple[Ranking, ...]:
    """Scenario 1 and 2, as `evaluate` judges them, for resampling."""
    verbs = vocabulary.verbs + vocabulary.unscored_verbs
    people = gather_people(annotations, vocabulary)
    judgement = judge(people, image_of_rows(triplets, annotations), triplets)
    ranked = rank_by_score(triplets.verb, triplets.score)
    ranked = ranked[~judgement.is_ignored[ranked]]
    person, verb = np.nonzero(people.does)
    return tuple(
        Ranking(
            names=verbs,
            headlines=(
                Headline(
                    f"vcoco_ap_role_{scenario}",
                    f"AP_role scenario {scenario}",
                    np.arange(len(verbs)) < len(vocabulary.verbs),
                ),
            ),
            interpolation="all_points",
            without_positive=float("nan"),
            row_class=triplets.verb[ranked],
            row_image=judgement.image[ranked],
            is_hit=is_hit[ranked],
            positive_class=verb,
            positive_image=np.arange(len(annotations)).repeat(people.count)[person],
        )
        for scenario, is_hit in ((1, judgement.is_hit_1), (2, judgement.is_hit_2))
    )


def judge(people: People, image: Int[np.ndarray, " t"], triplets: Triplets) -> Judgement:
    """Match rows with persons: which rows do not count, and which are right under scenario 1 and under 2."""
    object_boxes, verb = triplets.object_boxes, triplets.verb
    person, human_iou, is_ignored = nearest_persons(people, image, triplets.human_boxes)
    rows = np.flatnonzero(human_iou >= MIN_IOU)
    rows = rows[people.does[person[rows], verb[rows]]]
    rows = rows[np.argsort(-triplets.score[rows], kind="stable")]
    person, verb, object_boxes = person[rows], verb[rows], object_boxes[rows]

    truth = people.object_boxes[person, verb]
    has_no_object = np.isnan(truth).all(axis=1)
    says_no_object = np.isnan(object_boxes).all(axis=1) | (object_boxes == 0).all(axis=1)
    is_right_object = overlap(object_boxes, truth, pixel=PIXEL) >= MIN_IOU
    claim = person * people.does.shape[1] + verb
    hits = []
    for is_right_without in (says_no_object, True):  # scenario 1, 2
        is_right = np.where(has_no_object, is_right_without, is_right_object)
        is_hit = np.zeros(len(image), dtype=bool)
        is_hit[rows[first_claims(np.where(is_right, claim, -1))]] = True
        hits.append(is_hit)
    return Judgement(image, is_ignored, *hits)


def nearest_persons(
    people: People, image: Int[np.ndarray, " t"], boxes: Float[np.ndarray, "t 4"]
) -> tuple[Int[np.ndarray, " t"], Float[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
    """The person that judges each box, the overlap of the two, and whether it is one whose actions are not annotated.

    In an image without a person: -1, -1.0, False.
    """
    is_new = np.ones(len(image), dtype=bool)  # tables tell many things of one person in a row
    is_new[1:] = (image[1:] != image[:-1]) | (boxes[1:] != boxes[:-1]).any(axis=1)
    one_box, one_image = boxes[is_new], image[is_new]
    person, human_iou = best_candidate(
        people.first[one_image],
        people.count[one_image],
        lambda rows, candidates: overlap(one_box[rows], people.boxes[candidates], pixel=PIXEL),
    )
    is_ignored = person >= 0
    is_ignored[is_ignored] = ~people.is_listed[person[is_ignored]]
    of_row = np.cumsum(is_new) - 1
    return person[of_row], human_iou[of_row], is_ignored[of_row]


def gather_people(annotations: Sequence[Annotation], vocabulary: Vocabulary) -> People:
    """The persons that the official program matches with, and their annotated actions and verbs.

    As there, a box ends one pixel before its edge, is clipped to the last pixel of the image, and is dropped, with
    what it does, unless it is then wider and higher than 0. An object whose box is dropped counts as without a box
    (there the program stops; the released annotations have none).
    """
    num_verbs = len(vocabulary.verbs + vocabulary.unscored_verbs)
    lengths = np.array([len(annotation.boxes) for annotation in annotations], dtype=np.int64)
    offsets = np.cumsum(lengths) - lengths
    edges = join([annotation.boxes for annotation in annotations], (0, 4), np.float64)
    labels = join([annotation.labels for annotation in annotations], (0,), np.int64)
    is_listed = join([annotation.is_listed for annotation in annotations], (0,), bool)
    limits = (
        np.array([(a.width, a.height) * 2 for a in annotations], dtype=np.float64).reshape(-1, 4).repeat(lengths, 0)
    )
    boxes = np.concatenate([edges[:, :2], np.maximum(edges[:, 2:] - 1, edges[:, :2])], axis=1).clip(0, limits - 1)
    # COCO's boxes have two decimals; what is less comes from adding a width to a corner and taking it away again.
    is_kept = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) > 1e-3

    is_person = is_kept & (labels == vocabulary.person)
    image = np.arange(len(annotations)).repeat(lengths)
    count = np.bincount(image[is_person], minlength=len(annotations))
    person_of_box = np.where(is_person, np.cumsum(is_person) - 1, -1)

    actions = join([a.actions for a in annotations], (0, 2), np.int64)
    person = person_of_box[actions[:, 0] + offsets.repeat(np.array([len(a.actions) for a in annotations], dtype=int))]
    acts = np.zeros((is_person.sum(), len(vocabulary.actions)), dtype=bool)
    acts[person[person >= 0], actions[person >= 0, 1]] = True

    interactions = join([a.interactions for a in annotations], (0, 3), np.int64)
    offset = offsets.repeat(np.array([len(a.interactions) for a in annotations], dtype=np.int64))
    person, verb = person_of_box[interactions[:, 0] + offset], interactions[:, 1]
    object_ = interactions[:, 2] + offset
    does = np.zeros((is_person.sum(), num_verbs), dtype=bool)
    object_boxes = np.full((*does.shape, 4), np.nan)
    is_matched = person >= 0
    does[person[is_matched], verb[is_matched]] = True
    has_box = np.flatnonzero(is_matched & (interactions[:, 2] != NO_BOX))
    has_box = has_box[is_kept[object_[has_box]]]
    object_boxes[person[has_box], verb[has_box]] = boxes[object_[has_box]]
    return People(np.cumsum(count) - count, count, boxes[is_person], is_listed[is_person], acts, does, object_boxes)
