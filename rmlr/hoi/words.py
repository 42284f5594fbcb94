"""The shared words of the study: what was annotated, what was detected, what is predicted.

Everything that crosses from one wing (data, model, evaluation) to another is one of these records, or one of `batch`,
which holds what is made of tensors: scoring needs no torch.
A box is `xyxy`, float, 0-based edges in pixels of the original image (x2 - x1 is its width).
All indices are contiguous from 0; foreign numberings stay inside the reader that knows them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

NO_INTERACTION = "no_interaction"  # HICO-DET's verb of a pair that does nothing
NO_BOX = -1  # in `Annotation.interactions`: the verb was annotated, its object has no box

Dataset = Literal["vcoco", "hicodet"]


@dataclass(frozen=True)
class Phrase:
    """One interaction in words, in parts, so that each word's role stays known (paper, section 3.3)."""

    subject: str  # "person"
    verb: str  # "ride", "talk on phone", "hit with"
    object: str | None  # "bicycle"; None where a role without an object is put in words

    def __str__(self) -> str:
        return " ".join(part for part in (self.subject, self.verb, self.object) if part)


@dataclass(frozen=True)
class Vocabulary:
    """The classes of one dataset, read from its own files.

    `verbs` are those learnt and scored: HICO-DET's 117 verbs, or V-COCO's 24 action-roles ("hit instr"), in the order
    of the literature. V-COCO's left-out roles follow in `unscored_verbs`; their ids go on after those of `verbs`.
    """

    dataset: Dataset
    objects: tuple[str, ...]
    person: int  # index into `objects`
    verbs: tuple[str, ...]
    hois: tuple[tuple[int, int], ...]  # (verb, object); HICO-DET: its fixed classes; V-COCO: those seen in training
    unscored_verbs: tuple[str, ...] = ()  # V-COCO: `point instr`
    actions: tuple[str, ...] = ()  # V-COCO: all actions in file order, role-less ones included
    rare: tuple[int, ...] = ()  # HICO-DET: indices into `hois`

    @cached_property
    def hoi_of(self) -> Int[np.ndarray, "o v"]:
        """Index of the HOI of an object class and a verb, -1 where the combination is not one."""
        table = np.full((len(self.objects), len(self.verbs)), -1, dtype=np.int64)
        for hoi, (verb, object_) in enumerate(self.hois):
            table[object_, verb] = hoi
        return table

    @cached_property
    def is_valid_verb(self) -> Bool[np.ndarray, "o v"]:
        """True where an object class can take a verb."""
        return self.hoi_of >= 0

    def phrase(self, verb: int, object_: int | None) -> Phrase:
        """An interaction in words: `person <verb> <object>`, instruments of V-COCO `person <verb> with <object>`."""
        name = (self.verbs + self.unscored_verbs)[verb]
        if self.dataset == "vcoco":
            action, role = name.rsplit(" ", 1)
            name = f"{action} with" if role == "instr" and object_ is not None else action
        noun = None if object_ is None else self.objects[object_].replace("_", " ")
        return Phrase("person", name.replace("_", " "), noun)


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """What people annotated in one image.

    HICO-DET draws every row's two boxes anew, so its boxes come in pairs and none is shared; V-COCO's are COCO's
    instances, crowds included, of which `is_listed` marks the persons whose actions were annotated.
    """

    image_id: int
    file_name: str  # relative to the folder of images
    height: int
    width: int
    boxes: Float[np.ndarray, "k 4"]
    labels: Int[np.ndarray, " k"]  # object class
    interactions: Int[np.ndarray, "m 3"]  # rows (human box, verb, object box or NO_BOX), in annotation order
    is_crowd: Bool[np.ndarray, " k"]  # COCO's crowds: no detector's target, but persons for V-COCO's matching
    is_listed: Bool[np.ndarray, " k"]  # a person whose actions were annotated; other persons are V-COCO's don't-care
    actions: Int[np.ndarray, "q 2"]  # V-COCO: rows (human box, action), every label that is 1


@dataclass(frozen=True, slots=True, eq=False)
class Triplets:
    """Scored predictions of any number of images, one row each: our neutral table (a Parquet file, docs/evaluation.md).

    Row order carries no meaning except between equal scores of one image: the later row counts as the lower one.
    Between images, equal scores rank in the order of the split.
    """

    image_id: Int[np.ndarray, " t"]
    human_boxes: Float[np.ndarray, "t 4"]
    object_boxes: Float[np.ndarray, "t 4"]  # V-COCO: four NaN say "no object"
    object_category: Int[np.ndarray, " t"]  # V-COCO: -1 where the method did not say
    verb: Int[np.ndarray, " t"]
    score: Float[np.ndarray, " t"]  # larger is better, any range


@dataclass(frozen=True, slots=True, eq=False)
class Agents:
    """Scored predictions of what single people do, one row each: what V-COCO's agent AP is computed from.

    Equal scores rank as those of triplets.
    """

    image_id: Int[np.ndarray, " t"]
    human_boxes: Float[np.ndarray, "t 4"]
    action: Int[np.ndarray, " t"]  # index into `Vocabulary.actions`
    score: Float[np.ndarray, " t"]  # larger is better, any range


def full_of(rare: float, nonrare: float, rare_classes: int, nonrare_classes: int) -> float:
    """The mean over all classes that follows from the means over the rare and over the other ones, in their unit.

    A printed result that breaks this has a number wrong: HICO-DET has 138 rare and 462 other classes.
    """
    parts = ((rare, rare_classes), (nonrare, nonrare_classes))
    return sum(mean * classes for mean, classes in parts if classes) / (rare_classes + nonrare_classes)
