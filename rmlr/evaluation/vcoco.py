"""V-COCO's AP_role, scenario 1 and 2, and agent AP, by the official program's rules (s-gupta/v-coco, `vsrl_eval.py`).

A verb here is an action-role ("hit instr"). For each verb and image, every detection is compared with the person whose
box overlaps its person box most, even if no box overlaps:

- if the actions of that person were not annotated, the detection is ignored;
- otherwise it is a true positive if that person does the verb, both boxes have an IoU of at least one half, and no
  higher scored detection matched the same person and verb; else it is a false positive.

If the verb was annotated without an object box, scenario 1 requires "no object" (four NaN, or four zeros) and scenario
2 accepts any box. Object class and detector score are not used.

Agent AP scores only the person of every action, including those without roles, by the same rules, with separate scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from rmlr.evaluation.average_precision import known_mean, rank_by_score
from rmlr.evaluation.matching import (
    MIN_IOU,
    Headline,
    Ranking,
    best_candidate,
    first_claims,
    image_of_rows,
    join_annotations,
    overlap,
)
from rmlr.hoi import NO_BOX, Agents, Annotation, Triplets, Vocabulary

PIXEL = 1  # the last pixel is inside a box: sides are x2 - x1 + 1


@dataclass(frozen=True, slots=True, eq=False)
class RoleScores:
    """AP_role of every action-role, those of the headline first: fractions, NaN if the split has no positive."""

    verbs: tuple[str, ...]
    headline: int  # the first so many of `verbs` are in the literature's mean (24); the program's has all (25)
    ap_role_1: Float[np.ndarray, " v"]
    ap_role_2: Float[np.ndarray, " v"]
    positives: Int[np.ndarray, " v"]  # annotated persons who do it, with or without an object box
    detections: Int[np.ndarray, " v"]
    ignored: Int[np.ndarray, " v"]  # of the detections, those at persons whose actions were not annotated

    def metrics(self) -> dict[str, float]:
        """The means over roles that have a positive, and the numbers of these roles; NaN if there are none."""
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

    def columns(self) -> dict[str, Sequence]:
        """The columns of a table with one row per action-role."""
        return {
            "verb": self.verbs,
            "in_headline": [index < self.headline for index in range(len(self.verbs))],
            "ap_role_1": self.ap_role_1.tolist(),
            "ap_role_2": self.ap_role_2.tolist(),
            "positives": self.positives.tolist(),
            "detections": self.detections.tolist(),
            "ignored": self.ignored.tolist(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class AgentScores:
    """Agent AP of every action: fractions, NaN if the split has no positive."""

    actions: tuple[str, ...]
    ap_agent: Float[np.ndarray, " a"]
    positives: Int[np.ndarray, " a"]  # annotated persons who do it
    detections: Int[np.ndarray, " a"]
    ignored: Int[np.ndarray, " a"]  # of the detections, those at persons whose actions were not annotated

    def metrics(self) -> dict[str, float]:
        """The mean over actions that have a positive, and the number of these actions; NaN if there are none.

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

    def columns(self) -> dict[str, Sequence]:
        """The columns of a table with one row per action."""
        return {
            "action": self.actions,
            "ap_agent": self.ap_agent.tolist(),
            "positives": self.positives.tolist(),
            "detections": self.detections.tolist(),
            "ignored": self.ignored.tolist(),
        }


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


def evaluate(annotations: Sequence[Annotation], vocabulary: Vocabulary, triplets: Triplets) -> RoleScores:
    """AP_role of a table of triplets over all images of `annotations`, also those without a positive or a person."""
    scenario_1, scenario_2 = rank(annotations, vocabulary, triplets)
    detections = np.bincount(triplets.verb, minlength=len(scenario_1.names))
    return RoleScores(
        verbs=scenario_1.names,
        headline=len(vocabulary.verbs),
        ap_role_1=scenario_1.average_precision(),
        ap_role_2=scenario_2.average_precision(),
        positives=scenario_1.positives(),
        detections=detections,
        ignored=detections - scenario_1.detections(),
    )


def evaluate_agents(annotations: Sequence[Annotation], vocabulary: Vocabulary, agents: Agents) -> AgentScores:
    """Agent AP of a table of agents over all images of `annotations`, also those without a positive or a person."""
    ranking = rank_agents(annotations, vocabulary, agents)
    detections = np.bincount(agents.action, minlength=len(ranking.names))
    return AgentScores(
        actions=ranking.names,
        ap_agent=ranking.average_precision(),
        positives=ranking.positives(),
        detections=detections,
        ignored=detections - ranking.detections(),
    )


def rank(annotations: Sequence[Annotation], vocabulary: Vocabulary, triplets: Triplets) -> tuple[Ranking, Ranking]:
    """The matched rankings of scenarios 1 and 2, for AP and for resampling."""
    verbs = vocabulary.verbs + vocabulary.unscored_verbs
    people, image = gather_people(annotations, vocabulary), image_of_rows(triplets, annotations)
    person, human_iou, is_ignored = nearest_persons(people, image, triplets.human_boxes)
    ranked = rank_by_score(triplets.verb, image, triplets.score)
    ranked = ranked[~is_ignored[ranked]]
    person, verb, object_boxes = person[ranked], triplets.verb[ranked], triplets.object_boxes[ranked]
    claim = claims(people.does, person, human_iou[ranked], verb)

    rows = np.flatnonzero(claim >= 0)
    truth, object_boxes = people.object_boxes[person[rows], verb[rows]], object_boxes[rows]
    has_no_object = np.isnan(truth).all(axis=1)
    says_no_object = np.isnan(object_boxes).all(axis=1) | (object_boxes == 0).all(axis=1)
    is_right_object = overlap(object_boxes, truth, pixel=PIXEL) >= MIN_IOU

    def scenario(number: int, is_right_without: np.ndarray | bool) -> Ranking:
        of_scenario = claim.copy()
        of_scenario[rows[~np.where(has_no_object, is_right_without, is_right_object)]] = -1
        name, title = f"vcoco_ap_role_{number}", f"AP_role scenario {number}"
        headline = Headline(name, title, np.arange(len(verbs)) < len(vocabulary.verbs))
        return _ranking(verbs, (headline,), verb, image[ranked], of_scenario, people, people.does)

    return scenario(1, says_no_object), scenario(2, True)


def rank_agents(annotations: Sequence[Annotation], vocabulary: Vocabulary, agents: Agents) -> Ranking:
    """Agents, matched."""
    people, image = gather_people(annotations, vocabulary), image_of_rows(agents, annotations)
    person, human_iou, is_ignored = nearest_persons(people, image, agents.human_boxes)
    ranked = rank_by_score(agents.action, image, agents.score)
    ranked = ranked[~is_ignored[ranked]]
    claim = claims(people.acts, person[ranked], human_iou[ranked], agents.action[ranked])
    headline = Headline("vcoco_ap_agent", "agent AP", np.ones(len(vocabulary.actions), dtype=bool))
    return _ranking(vocabulary.actions, (headline,), agents.action[ranked], image[ranked], claim, people, people.acts)


def claims(
    does: Bool[np.ndarray, "n c"],
    person: Int[np.ndarray, " t"],
    human_iou: Float[np.ndarray, " t"],
    classes: Int[np.ndarray, " t"],
) -> Int[np.ndarray, " t"]:
    """The truth of each row, a number for its person and class; -1 if the person does not do it."""
    rows = np.flatnonzero(human_iou >= MIN_IOU)
    rows = rows[does[person[rows], classes[rows]]]
    claim = np.full(len(person), -1)
    claim[rows] = person[rows] * does.shape[1] + classes[rows]
    return claim


def _ranking(
    names: tuple[str, ...],
    headlines: tuple[Headline, ...],
    row_class: np.ndarray,
    row_image: np.ndarray,
    claim: np.ndarray,
    people: People,
    does: np.ndarray,
) -> Ranking:
    """The ranking of rows; a row is right if it is the first with its truth. A positive is a person who `does` a
    class."""
    person, positive_class = np.nonzero(does)
    return Ranking(
        names=names,
        headlines=headlines,
        interpolation="all_points",
        without_positive=float("nan"),
        row_class=row_class,
        row_image=row_image,
        is_hit=first_claims(claim),
        positive_class=positive_class,
        positive_image=np.arange(len(people.count)).repeat(people.count)[person],
    )


def nearest_persons(
    people: People, image: Int[np.ndarray, " t"], boxes: Float[np.ndarray, "t 4"]
) -> tuple[Int[np.ndarray, " t"], Float[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
    """The person compared with each box, the overlap of the two, and whether that person's actions are not annotated.

    In an image without a person: -1, -1.0, False.
    """
    is_new = np.ones(len(image), dtype=bool)  # tables have many consecutive rows of one person
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
    known = join_annotations(annotations)
    limits = np.array([(a.width, a.height) * 2 for a in annotations], dtype=np.float64).reshape(-1, 4)[known.image]
    low, high = known.boxes[:, :2], known.boxes[:, 2:]
    boxes = np.concatenate([low, np.maximum(high - 1, low)], axis=1).clip(0, limits - 1)
    # COCO's boxes have two decimals; smaller differences come from adding a width to a corner and subtracting it again.
    is_kept = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) > 1e-3

    is_person = is_kept & (known.labels == vocabulary.person)
    count = np.bincount(known.image[is_person], minlength=len(annotations))
    person_of_box = np.where(is_person, np.cumsum(is_person) - 1, -1)

    person, action = person_of_box[known.actions[:, 0]], known.actions[:, 1]
    acts = np.zeros((is_person.sum(), len(vocabulary.actions)), dtype=bool)
    acts[person[person >= 0], action[person >= 0]] = True

    person, verb, object_ = person_of_box[known.interactions[:, 0]], known.interactions[:, 1], known.interactions[:, 2]
    does = np.zeros((is_person.sum(), len(vocabulary.verbs + vocabulary.unscored_verbs)), dtype=bool)
    object_boxes = np.full((*does.shape, 4), np.nan)
    does[person[person >= 0], verb[person >= 0]] = True
    has_box = np.flatnonzero((person >= 0) & (object_ != NO_BOX))
    has_box = has_box[is_kept[object_[has_box]]]
    object_boxes[person[has_box], verb[has_box]] = boxes[object_[has_box]]
    first, is_listed = np.cumsum(count) - count, known.is_listed[is_person]
    return People(first, count, boxes[is_person], is_listed, acts, does, object_boxes)
