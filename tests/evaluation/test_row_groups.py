"""AP of verbs by their rows in training, and of combinations that training does not have."""

from dataclasses import replace

import numpy as np
import pytest

from rmlr.evaluation.resampling import draw_images
from rmlr.evaluation.row_groups import UNSEEN, TrainingRows, compare_groups, rank_both, resampled, unseen_alone
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary

PERSON, BALL, BAT = 0, 1, 2
VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=("person", "ball", "bat"),
    person=PERSON,
    verbs=("hold obj", "throw obj"),
    hois=((0, BALL), (0, BAT), (1, BALL)),
    unscored_verbs=("point instr",),
    actions=("hold", "throw", "point"),
)
BOXES = np.array([[0.0, 0.0, 20.0, 40.0], [30.0, 0.0, 50.0, 20.0], [30.0, 30.0, 50.0, 50.0]])


def image(number: int, *interactions: tuple[int, int, int]) -> Annotation:
    """A person (box 0), a ball (1) and a bat (2)."""
    return Annotation(
        image_id=number,
        file_name=f"{number}.jpg",
        height=64,
        width=64,
        boxes=BOXES,
        labels=np.array([PERSON, BALL, BAT]),
        interactions=np.array(interactions, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(3, dtype=bool),
        is_listed=np.array([True, False, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def detections(*rows: tuple[int, int, int, float]) -> Triplets:
    """Rows of image, verb, thing and score."""
    number, verb, thing, score = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    thing = thing.astype(np.int64)
    human = np.tile(BOXES[0], (len(number), 1)).astype(np.float32)
    integers = (number.astype(np.int64), human, BOXES[thing].astype(np.float32), thing, verb.astype(np.int64))
    return Triplets(*integers, score.astype(np.float32))


TRAIN = [image(1, (0, 0, BALL), (0, 1, BALL)), image(2, (0, 0, BALL)), image(3, (0, 0, NO_BOX), (0, 2, NO_BOX))]
TEST = [image(7, (0, 0, BALL)), image(8, (0, 0, BAT)), image(9, (0, 1, BALL))]


def test_rows_are_counted_with_and_without_an_object():
    rows = TrainingRows.of(TRAIN, VOCABULARY)
    assert rows.of_verb.tolist() == [3, 1, 1]
    assert rows.of_combination.tolist() == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_groups_are_bounded_from_below_and_unscored_verbs_are_in_none():
    groups = TrainingRows.of(TRAIN, VOCABULARY).groups([2, 3], headline=2)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in groups.items()} == {
        "all verbs": [0, 1],
        "below 3 rows": [1],
        "0 to 1 rows": [1],
        "2 to 2 rows": [],
        "3 rows and more": [0],
    }


def test_without_training_all_is_unseen():
    rows = TrainingRows.of([], VOCABULARY)
    kept, found = unseen_alone(TEST, detections((7, 0, BALL, 0.5)), rows.of_combination > 0)
    assert [len(one.interactions) for one in kept] == [1, 1, 1]
    assert len(found.score) == 1


def test_of_unseen_combinations_only_positives_and_detections_of_these_count():
    is_seen = TrainingRows.of(TRAIN, VOCABULARY).of_combination > 0
    found = detections((7, 0, BALL, 0.9), (8, 0, BAT, 0.5), (8, 1, BAT, 0.4), (9, 1, BALL, 0.3))
    kept, rest = unseen_alone(TEST, found, is_seen)
    assert [one.interactions.tolist() for one in kept] == [[], [[0, 0, BAT]], []]
    assert rest.verb.tolist() == [0, 1]
    assert rest.object_category.tolist() == [BAT, BAT]


def test_a_detection_of_an_unknown_class_is_of_no_combination():
    unknown = detections((8, 0, BAT, 0.5))
    unknown = replace(unknown, object_category=np.array([-1]))
    _, rest = unseen_alone(TEST, unknown, np.zeros((3, 3), dtype=bool))
    assert len(rest.score) == 0


def test_two_runs_are_compared_group_by_group():
    rows = TrainingRows.of(TRAIN, VOCABULARY)
    masks = rows.groups([2], headline=2)
    weights = draw_images(len(TEST), 20, 0)
    right = detections((7, 0, BALL, 0.9), (8, 0, BAT, 0.8), (9, 1, BALL, 0.7))
    wrong = detections((7, 0, BALL, 0.9), (8, 0, BALL, 0.8), (9, 0, BALL, 0.95))
    ranked = [rank_both(TEST, VOCABULARY, table, rows) for table in (right, wrong)]
    a, b = (resampled(one, weights) for one in ranked)
    found = {one.group: one for one in compare_groups(ranked[0], masks, [a, a], [b, b])}
    assert {name: (one.verbs, one.positives) for name, one in found.items()} == {
        "all verbs": (2, 3),
        "below 2 rows": (1, 1),
        "0 to 1 rows": (1, 1),
        "2 rows and more": (1, 2),
        UNSEEN: (1, 1),
    }
    assert found["below 2 rows"].difference.difference == pytest.approx(1.0)
    assert found["2 rows and more"].difference.b == pytest.approx(0.25), "second of two, after a wrong one: 1/2 of 1/2"
    assert found[UNSEEN].difference.b == 0.0
    assert found[UNSEEN].difference.a == 1.0


def test_a_split_without_images_has_nothing_to_compare():
    rows = TrainingRows.of(TRAIN, VOCABULARY)
    ranked = rank_both([], VOCABULARY, detections(), rows)
    one = resampled(ranked, draw_images(0, 3, 0))
    found = compare_groups(ranked, rows.groups([2], headline=2), [one], [one])
    assert all(np.isnan(group.difference.difference) for group in found)
