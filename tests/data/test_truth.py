"""True interactions as tensors."""

import numpy as np
import pytest
import torch

from rmlr.data.truth import Truths
from rmlr.hoi import NO_BOX, Annotation, Vocabulary

VOCABULARY = Vocabulary(
    "vcoco", ("person", "ball", "bat"), 0, ("hit obj", "hit instr"), ((0, 1), (1, 2)), ("point instr",)
)
HIT, HIT_WITH, POINT = range(3)


def annotation(image_id: int, *interactions: tuple[int, int, int]) -> Annotation:
    """A person (box 0), a ball (1) and a bat (2), all of them lying 100 x `image_id` to the right."""
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]) + np.array([100, 0, 100, 0]) * image_id
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=60,
        width=60,
        boxes=boxes.astype(np.float64),
        labels=np.arange(3),
        interactions=np.array(interactions, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(3, dtype=bool),
        is_listed=np.array([True, False, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def test_a_batch_holds_each_images_interactions_in_annotation_order():
    annotations = [annotation(1, (0, HIT_WITH, 2), (0, HIT, 1)), annotation(2), annotation(3, (0, HIT, 1))]
    truth = Truths(annotations, [3, 1, 2], VOCABULARY).batch(torch.tensor([1, 2, 0, 1]))
    assert truth.image.tolist() == [0, 0, 2, 3, 3]
    assert truth.verbs.tolist() == [HIT_WITH, HIT, HIT, HIT_WITH, HIT]
    assert truth.objects.tolist() == [2, 1, 1, 2, 1]
    assert truth.human_boxes[:, 0].tolist() == [100, 100, 300, 100, 100]
    assert truth.object_boxes[:, 0].tolist() == [140, 120, 320, 140, 120]


def test_interactions_without_an_object_box_and_verbs_that_are_not_learnt_are_left_out():
    truths = Truths([annotation(1, (0, HIT, NO_BOX), (0, POINT, 2), (0, HIT, 1))], [1], VOCABULARY)
    truth = truths.batch(torch.tensor([0]))
    assert truth.verbs.tolist() == [HIT]
    assert truth.object_boxes.tolist() == [[120, 0, 130, 10]]


def test_no_image_and_no_interaction_give_empty_tensors_of_the_right_shape():
    for truth in (
        Truths([], [], VOCABULARY).batch(torch.zeros(0, dtype=torch.long)),
        Truths([annotation(1)], [1], VOCABULARY).batch(torch.tensor([0, 0])),
    ):
        assert truth.human_boxes.shape == (0, 4)
        assert truth.image.shape == (0,)
        assert truth.verbs.dtype == torch.long


def test_an_image_without_annotation_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"1 image\(s\) have features but no annotation, e.g. \[9\]"):
        Truths([annotation(1)], [1, 9], VOCABULARY)
