"""What a detector learns from, in which order, and the average of its weights."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch

from rmlr.hoi import Annotation
from rmlr.learning.detector import Average, _batches, _shares, distinct


def test_repeated_boxes_of_a_class_are_one_and_the_first_stays():
    boxes = np.array([[0, 0, 20, 20], [0, 0, 20, 20], [1, 0, 20, 20], [0, 0, 20, 20], [0, 0, 20, 10], [0, 0, 20, 20.0]])
    record = Annotation(
        image_id=1,
        file_name="1.jpg",
        height=20,
        width=20,
        boxes=boxes,
        labels=np.array([1, 0, 0, 0, 0, 0]),
        interactions=np.array([[1, 0, 0]]),
        is_crowd=np.array([False] * 5 + [True]),
        is_listed=np.zeros(6, dtype=bool),
        actions=np.zeros((0, 2), dtype=np.int64),
    )
    kept = distinct(record, 0.7)
    np.testing.assert_array_equal(kept.boxes, boxes[[0, 1, 4, 5]])
    assert kept.labels.tolist() == [1, 0, 0, 0]
    assert kept.is_crowd.tolist() == [False, False, False, True]
    assert len(kept.interactions) == 0
    assert len(distinct(record, None).boxes) == 6
    empty = dataclasses.replace(record, boxes=boxes[:0], labels=record.labels[:0], is_crowd=record.is_crowd[:0],
                                is_listed=record.is_listed[:0])  # fmt: skip
    assert distinct(empty, 0.7).boxes.shape == (0, 4)


def test_every_image_comes_once_before_any_comes_again():
    drawn = [index for _, indices, _ in islice(_batches(5, 3, seed=0), 10) for index in indices]
    assert all(sorted(drawn[at : at + 5]) == [0, 1, 2, 3, 4] for at in range(0, 30, 5))
    assert drawn[:5] != drawn[5:10]


def test_a_batch_may_be_larger_than_the_split():
    assert sorted(next(_batches(2, 6, seed=0))[1]) == [0, 0, 0, 1, 1, 1]


def test_the_average_follows_the_weights_and_leaves_whole_numbers_alone():
    model = torch.nn.BatchNorm1d(1)
    average = Average(model, decay=0.75)
    with torch.no_grad():
        model.weight.fill_(5.0)
        model.num_batches_tracked.fill_(7)
    average.update(model, step=1000)
    average.copy_to(model)
    assert model.weight.item() == pytest.approx(0.75 * 1.0 + 0.25 * 5.0)
    assert model.num_batches_tracked.item() == 7


def test_processes_and_micro_batches_share_a_batch_without_rest_or_repetition():
    batch = 7, list(range(8)), torch.arange(8) % 2 == 0
    parts = [part for rank in range(2) for part in _shares(batch, rank, 2, 2)]
    assert [indices for _, indices, _ in parts] == [[0, 1], [4, 5], [2, 3], [6, 7]]
    assert all(step == 7 and is_mirrored.tolist() == [True, False] for step, _, is_mirrored in parts)
