"""AP of a detector's objects, and the share of true pairs that it leaves to be recognised."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from rmlr.evaluation.objects import find_pairs, load_scorer, object_ap
from rmlr.hoi import NO_BOX, Annotation, Vocabulary
from rmlr.hoi.batch import Instances

VOCABULARY = Vocabulary(dataset="vcoco", objects=("ball", "person"), person=1, verbs=("hold obj",), hois=((0, 0),))
SCORERS = ("pycocotools", "faster-coco-eval")
PERSON, BALL = [0.0, 0.0, 20.0, 40.0], [30.0, 30.0, 40.0, 40.0]


def annotation(image_id: int = 7) -> Annotation:
    """A person that holds a ball and looks at something without a box."""
    return Annotation(
        image_id=image_id,
        file_name="7.jpg",
        height=50,
        width=50,
        boxes=np.array([PERSON, BALL]),
        labels=np.array([1, 0]),
        interactions=np.array([[0, 0, 1], [0, 0, NO_BOX]]),
        is_crowd=np.zeros(2, dtype=bool),
        is_listed=np.array([True, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def row(box: list[float], score: float, label: int, image_id: int = 7) -> list[float]:
    return [image_id, box[0], box[1], box[2] - box[0], box[3] - box[1], score, label + 1]


def score(rows: np.ndarray, annotations: list[Annotation], name: str = "pycocotools") -> dict[str, float]:
    return object_ap(rows, annotations, VOCABULARY, load_scorer(name))


def instances(boxes: list[list[float]], labels: list[int]) -> Instances:
    count = len(boxes)
    return Instances(
        boxes=torch.tensor(boxes).view(-1, 4),
        scores=torch.ones(count),
        labels=torch.tensor(labels, dtype=torch.long),
        tokens=torch.zeros(count, 1),
    )


def test_what_is_found_exactly_has_ap_1():
    found = score(np.array([row(PERSON, 0.9, 1), row(BALL, 0.8, 0)]), [annotation()])
    assert found == {"ap50": pytest.approx(1), "ap": pytest.approx(1)}


def test_a_box_of_another_class_finds_nothing():
    found = score(np.array([row(PERSON, 0.9, 0), row(BALL, 0.8, 0)]), [annotation()])
    assert found["ap50"] == pytest.approx(0.25)  # person 0; the ball comes second of two


def test_a_loose_box_counts_at_one_half_only():
    loose = [0.0, 0.0, 20.0, 24.0]  # IoU 0.6
    found = score(np.array([row(loose, 0.9, 1), row(BALL, 0.8, 0)]), [annotation()])
    assert found["ap50"] == pytest.approx(1)
    assert found["ap"] == pytest.approx((1 + 0.3) / 2)  # 0.50, 0.55 and 0.60 of ten


def test_a_crowd_is_neither_asked_for_nor_held_against():
    crowd = dataclasses.replace(annotation(), is_crowd=np.array([True, False]))
    found = score(np.array([row(PERSON, 0.9, 1), row(BALL, 0.8, 0)]), [crowd])
    assert found["ap50"] == pytest.approx(1)


def test_images_without_a_box_count_against():
    bare = dataclasses.replace(
        annotation(8), boxes=np.zeros((0, 4)), labels=np.zeros(0, dtype=np.int64), is_crowd=np.zeros(0, dtype=bool),
        is_listed=np.zeros(0, dtype=bool), interactions=np.zeros((0, 3), dtype=np.int64),
    )  # fmt: skip
    rows = np.array([row(PERSON, 0.9, 1), row(BALL, 0.8, 0), row(BALL, 0.95, 0, image_id=8)])
    assert score(rows, [annotation(), bare])["ap50"] == pytest.approx(0.75)
    assert score(rows[2:], [bare]) == {}


def test_no_image_has_no_ap():
    assert score(np.zeros((0, 7)), []) == {}


def test_crowds_alone_have_no_ap():
    crowds = dataclasses.replace(annotation(), is_crowd=np.ones(2, dtype=bool))
    assert score(np.array([row(PERSON, 0.9, 1)]), [crowds]) == {}


def test_no_detection_has_ap_0():
    assert score(np.zeros((0, 7)), [annotation()]) == {"ap50": 0, "ap": 0}


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("faster-coco-eval", "faster_coco_eval", r"by faster-coco-eval, .*rmlr\[fast\].*or set object_ap: pycocotools"),
        ("pycocotools", "pycocotools.coco", "by pycocotools, which cannot be imported .*: pip install pycocotools"),
    ],
)
def test_a_scorer_that_is_not_installed_is_an_error_that_says_what_to_do(monkeypatch, name, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=message):
        load_scorer(name)


def test_what_the_programs_print_is_kept_from_the_user(capfd):
    for name in SCORERS:
        score(np.array([row(PERSON, 0.9, 1)]), [annotation()], name)
    assert capfd.readouterr() == ("", "")


def draw_objects(seed: int, decimals: int) -> tuple[np.ndarray, list[Annotation]]:
    """Images with crowds, with many boxes or none, thin boxes, boxes outside; hundreds of detections, many tied."""
    chance = np.random.default_rng(seed)
    annotations, rows = [], []
    for image_id in range(12):
        count = 0 if image_id % 4 == 0 else int(chance.integers(1, 9))
        low, sides = chance.uniform(-5, 40, (count, 2)), chance.uniform(0.1, 20, (count, 2))
        annotations.append(
            dataclasses.replace(
                annotation(image_id),
                boxes=np.concatenate([low, low + sides], axis=1),
                labels=chance.integers(2, size=count),
                interactions=np.zeros((0, 3), dtype=np.int64),
                is_crowd=chance.random(count) < 0.2,
                is_listed=np.zeros(count, dtype=bool),
            )
        )
        if image_id % 5 == 0:
            continue  # nothing is found in it
        found = 250 if image_id == 3 else 30  # of a class, the best hundred of an image count
        start, extent = chance.uniform(-5, 40, (found, 2)), chance.uniform(0, 20, (found, 2))
        label = chance.integers(2, size=found)
        if count:
            near, of = chance.random(found) < 0.6, chance.integers(count, size=found)
            start[near], extent[near] = (low[of] + chance.normal(0, 0.5, (found, 2)))[near], sides[of][near]
            label[near] = annotations[-1].labels[of][near]
        score = np.round(chance.random(found), decimals)
        rows.append(np.column_stack([np.full(found, image_id), start, extent, score, label + 1]))
    return np.concatenate(rows), annotations


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("seed", range(3))
def test_both_programs_return_the_same_values(seed, decimals):
    rows, annotations = draw_objects(seed, decimals)
    found = {name: score(rows, annotations, name) for name in SCORERS}
    assert found["pycocotools"] == pytest.approx(found["faster-coco-eval"], abs=1e-9)
    assert 0.05 < found["pycocotools"]["ap"] < found["pycocotools"]["ap50"] < 0.95


def test_a_pair_is_found_when_both_boxes_are_whatever_the_objects_class():
    assert find_pairs(instances([PERSON, BALL], [1, 0]), annotation(), person=1).tolist() == [True]
    assert find_pairs(instances([PERSON, BALL], [1, 1]), annotation(), person=1).tolist() == [True]


def test_a_pair_is_not_found_without_its_human_or_its_object():
    assert find_pairs(instances([PERSON, BALL], [0, 0]), annotation(), person=1).tolist() == [False]
    assert find_pairs(instances([PERSON], [1]), annotation(), person=1).tolist() == [False]
    assert find_pairs(instances([BALL], [0]), annotation(), person=1).tolist() == [False]


def test_no_instance_finds_no_pair_and_no_interaction_is_no_case():
    assert find_pairs(instances([], []), annotation(), person=1).tolist() == [False]
    bare = dataclasses.replace(annotation(), interactions=np.zeros((0, 3), dtype=np.int64))
    assert find_pairs(instances([PERSON, BALL], [1, 0]), bare, person=1).tolist() == []


def test_an_instance_is_no_pair_with_itself():
    one = dataclasses.replace(annotation(), boxes=np.array([PERSON, PERSON]), labels=np.array([1, 1]))
    assert find_pairs(instances([PERSON], [1]), one, person=1).tolist() == [False]
    assert find_pairs(instances([PERSON, PERSON], [1, 1]), one, person=1).tolist() == [True]
