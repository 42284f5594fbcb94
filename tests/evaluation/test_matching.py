from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlr.evaluation.matching import best_candidate, first_claims, image_of_rows, overlap
from rmlr.hoi import Annotation, Triplets

Build = Callable[..., Annotation]


def rows_of(*image_ids: int) -> Triplets:
    count = len(image_ids)
    boxes, numbers = np.zeros((count, 4), dtype=np.float32), np.zeros(count, dtype=np.int64)
    ids = np.array(image_ids, dtype=np.int64)
    return Triplets(ids, boxes, boxes, numbers, numbers, np.zeros(count, dtype=np.float32))


def test_a_row_finds_its_image_in_any_order(build_image: Build):
    assert image_of_rows(rows_of(7, 30, 7), [build_image(30), build_image(7)]).tolist() == [1, 0, 1]
    assert image_of_rows(rows_of(), [build_image(30)]).tolist() == []
    assert image_of_rows(rows_of(), []).tolist() == []


@pytest.mark.parametrize("unknown", [6, 20, 31])
def test_a_row_of_an_unknown_image_is_an_error_that_names_it(build_image: Build, unknown: int):
    images = [build_image(30), build_image(7)]
    with pytest.raises(
        ValueError, match=rf"row 1 \(from 0\): image {unknown} is not one of the 2 annotated images; 2 row"
    ):
        image_of_rows(rows_of(30, unknown, unknown), images)


def test_rows_without_any_annotated_image_are_an_error():
    with pytest.raises(ValueError, match=r"row 0 \(from 0\): image 5 is not one of the 0 annotated images"):
        image_of_rows(rows_of(5), [])


def test_overlap_counts_the_last_pixel_or_not():
    box, right_half = np.array([[0.0, 0, 4, 4]]), np.array([[2.0, 0, 4, 4]])
    assert overlap(box, right_half, pixel=0) == pytest.approx([8 / 16])
    assert overlap(box, right_half, pixel=1) == pytest.approx([15 / 25])


def test_boxes_that_touch_overlap_only_where_the_last_pixel_counts():
    box, neighbour = np.array([[0.0, 0, 4, 4]]), np.array([[4.0, 0, 8, 4]])
    assert overlap(box, neighbour, pixel=0).tolist() == [0]
    assert overlap(box, neighbour, pixel=1) == pytest.approx([5 / 45])


def test_overlap_of_boxes_without_a_pixel_is_zero_and_of_nan_is_nan():
    nothing, nan = np.zeros((1, 4)), np.full((1, 4), np.nan)
    assert overlap(nothing, nothing, pixel=0).tolist() == [0]
    assert np.isnan(overlap(np.array([[0.0, 0, 4, 4]]), nan, pixel=1)).all()
    assert overlap(np.zeros((0, 4)), np.zeros((0, 4)), pixel=1).shape == (0,)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=5), max_size=6), st.data())
def test_the_best_candidate_is_the_first_of_the_most_similar(table: list[list[float]], data: st.DataObject):
    """`table` holds the similarities of each group of candidates; every row asks for one group."""
    groups = data.draw(st.lists(st.integers(0, max(len(table) - 1, 0)), max_size=8 if table else 0))
    flat, counts = np.array(list(chain.from_iterable(table))), np.array([len(group) for group in table], dtype=np.int64)
    group = np.array(groups, dtype=np.int64)
    first = (np.cumsum(counts) - counts)[group]
    candidate, best = best_candidate(first, counts[group], lambda _, candidates: flat[candidates])
    expected = [int(first[row] + np.argmax(table[g])) if table[g] else -1 for row, g in enumerate(groups)]
    assert candidate.tolist() == expected
    assert best.tolist() == [max(table[g], default=-1.0) for g in groups]


@given(st.lists(st.integers(-1, 4), max_size=12))
def test_only_the_first_claim_of_each_truth_counts(claim: list[int]):
    expected = [truth >= 0 and truth not in claim[:row] for row, truth in enumerate(claim)]
    assert first_claims(np.array(claim, dtype=np.int64)).tolist() == expected
