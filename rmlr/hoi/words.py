"""The shared records: annotations, vocabularies, predictions.

All data passed between subpackages (data, model, evaluation, ...) are these records, or those of `batch`, which contain
tensors: scoring needs no torch. A box is `xyxy`, float, 0-based edges in pixels of the original image (x2 - x1 is its
width). All indices are contiguous from 0; foreign numberings stay inside the reader that knows them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

NO_INTERACTION = "no_interaction"  # HICO-DET's verb of a pair that does not interact
NO_BOX = -1  # in `Annotation.interactions`: the verb was annotated, its object has no box

Dataset = Literal["vcoco", "hicodet"]


@dataclass(frozen=True)
class Phrase:
    """One interaction in words, in parts, so that the role of each word is known (paper, section 3.3)."""

    subject: str  # "person"
    verb: str  # "ride", "talk on phone", "hit with"
    object: str | None  # "bicycle"; None for a role without an object

    def __str__(self) -> str:
        return " ".join(part for part in (self.subject, self.verb, self.object) if part)


@dataclass(frozen=True)
class Vocabulary:
    """The classes of one dataset, read from its own files.

    `verbs` are those that are trained and scored: HICO-DET's 117 verbs, or V-COCO's 24 action-roles ("hit instr"), in
    the order of the literature. V-COCO's excluded roles follow in `unscored_verbs`; their ids continue those of
    `verbs`.
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
        """Index of the HOI of an object class and a verb, -1 for combinations that are not an HOI."""
        table = np.full((len(self.objects), len(self.verbs)), -1, dtype=np.int64)
        for hoi, (verb, object_) in enumerate(self.hois):
            table[object_, verb] = hoi
        return table

    @cached_property
    def is_valid_verb(self) -> Bool[np.ndarray, "o v"]:
        """True if an object class can occur with a verb."""
        return self.hoi_of >= 0

    def without(self, hois: Sequence[int]) -> "Vocabulary":
        """The same verbs and objects with fewer combinations, to learn from; itself where none is left out."""
        if not hois:
            return self
        kept = tuple(hoi for number, hoi in enumerate(self.hois) if number not in set(hois))
        return replace(self, hois=kept, rare=())

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
    """The annotations of one image.

    In HICO-DET every row has its own two boxes, which no other row shares. V-COCO's boxes are COCO's instances,
    including crowds; `is_listed` marks the persons whose actions were annotated.
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
    actions: Int[np.ndarray, "q 2"]  # V-COCO: rows (human box, action), one per label 1


@dataclass(frozen=True, slots=True, eq=False)
class Triplets:
    """Scored predictions of any number of images, one row each: our neutral table (a Parquet file, docs/evaluation.md).

    The order of rows matters only for equal scores in one image: the later row ranks lower.
    Between images, equal scores rank in the order of the split.
    """

    image_id: Int[np.ndarray, " t"]
    human_boxes: Float[np.ndarray, "t 4"]
    object_boxes: Float[np.ndarray, "t 4"]  # V-COCO: four NaN mean "no object"
    object_category: Int[np.ndarray, " t"]  # V-COCO: -1 if unknown
    verb: Int[np.ndarray, " t"]
    score: Float[np.ndarray, " t"]  # larger is better, any range


@dataclass(frozen=True, slots=True, eq=False)
class Agents:
    """Scored predictions of the actions of single people, one row each: the input of V-COCO's agent AP.

    Equal scores rank as for triplets.
    """

    image_id: Int[np.ndarray, " t"]
    human_boxes: Float[np.ndarray, "t 4"]
    action: Int[np.ndarray, " t"]  # index into `Vocabulary.actions`
    score: Float[np.ndarray, " t"]  # larger is better, any range


def full_of(rare: float, nonrare: float, rare_classes: int, nonrare_classes: int) -> float:
    """The mean over all classes, computed from the means over rare and other classes, in the same unit.

    A printed result that violates this contains an error: HICO-DET has 138 rare and 462 other classes.
    """
    parts = ((rare, rare_classes), (nonrare, nonrare_classes))
    return sum(mean * classes for mean, classes in parts if classes) / (rare_classes + nonrare_classes)
