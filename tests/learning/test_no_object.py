"""Rows without an object: how many, with which scores, and what V-COCO's protocol makes of them."""

import numpy as np
import pytest

from rmlr.evaluation import vcoco
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary
from rmlr.learning.no_object import shares_without_object, with_no_object

VOCABULARY = Vocabulary("vcoco", ("person", "ball"), 0, ("hold obj", "throw obj"), ((0, 1), (1, 1)))
PERSON, OTHER, BALL = (4.0, 4.0, 30.0, 60.0), (60.0, 4.0, 90.0, 60.0), (32.0, 20.0, 48.0, 40.0)


def annotation(image_id: int, *interactions: tuple[int, int, int]) -> Annotation:
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=100,
        width=100,
        boxes=np.array([PERSON, OTHER, BALL]),
        labels=np.array([0, 0, 1]),
        interactions=np.array(interactions, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(3, dtype=bool),
        is_listed=np.array([True, True, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def triplets(*rows: tuple[int, tuple, tuple, int, float]) -> Triplets:
    image, human, thing, verb, score = zip(*rows, strict=True)
    boxes = (np.array(one, dtype=np.float32) for one in (human, thing))
    return Triplets(np.array(image), *boxes, np.ones(len(rows), np.int64), np.array(verb), np.array(score, np.float32))


def test_the_share_is_of_the_persons_who_do_the_verb():
    images = [annotation(1, (0, 0, 2), (1, 0, NO_BOX)), annotation(2, (0, 0, NO_BOX), (1, 0, 2)), annotation(3)]
    assert shares_without_object(images, VOCABULARY).tolist() == [0.5, 0.0]
    assert shares_without_object([], VOCABULARY).tolist() == [0.0, 0.0]


def test_each_person_and_verb_with_a_share_gets_one_row_by_the_best_pair():
    given = triplets(
        (7, PERSON, BALL, 0, 0.2), (7, PERSON, OTHER, 0, 0.6), (7, PERSON, BALL, 1, 0.9), (7, OTHER, BALL, 0, 0.4),
        (8, PERSON, BALL, 0, 0.8),
    )  # fmt: skip
    found = with_no_object(given, np.array([0.5, 0.0]))
    for name in Triplets.__slots__:
        np.testing.assert_array_equal(getattr(found, name)[:5], getattr(given, name), err_msg=name)
    assert found.image_id[5:].tolist() == [7, 7, 8]
    assert [tuple(box) for box in found.human_boxes[5:].tolist()] == [PERSON, OTHER, PERSON]
    assert np.isnan(found.object_boxes[5:]).all()
    assert (found.object_category[5:] == -1).all()
    assert found.verb[5:].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.score[5:], [0.3, 0.2, 0.4])
    assert found.score.dtype == given.score.dtype


def test_without_triplets_or_shares_nothing_is_added():
    given = triplets((7, PERSON, BALL, 0, 0.2))
    assert len(with_no_object(given, np.zeros(2)).score) == 1
    empty = Triplets(*(getattr(given, name)[:0] for name in Triplets.__slots__))
    assert len(with_no_object(empty, np.ones(2)).score) == 0


def test_scenario_1_finds_a_person_without_an_object_only_with_the_row():
    images = [annotation(1, (0, 0, 2)), annotation(2, (0, 0, NO_BOX))]
    given = triplets((1, PERSON, BALL, 0, 0.9), (2, PERSON, BALL, 0, 0.8))
    before = vcoco.evaluate(images, VOCABULARY, given).metrics()
    after = vcoco.evaluate(images, VOCABULARY, with_no_object(given, np.array([0.5, 0.0]))).metrics()
    assert before["vcoco_ap_role_1"] == pytest.approx(0.5)
    assert after["vcoco_ap_role_1"] == pytest.approx((1 + 2 / 4) / 2)  # its rank is behind a wrong row on either image
    assert after["vcoco_ap_role_2"] == before["vcoco_ap_role_2"] == pytest.approx(1.0)
