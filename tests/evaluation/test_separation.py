"""How well a distance tells two kinds of pairs apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlr.evaluation.resampling import draw_images
from rmlr.evaluation.separation import middle, separation


def area(distance, is_apart, weights=None, images=None) -> np.ndarray:
    count = len(distance)
    first, second = images if images else (np.arange(count), np.arange(count) + count)
    weights = np.ones((2 * count, 1), dtype=np.int32) if weights is None else weights
    return separation(np.array(distance, dtype=float), np.array(is_apart, dtype=bool), first, second, weights)


def test_all_farther_is_one_all_nearer_is_zero_and_equal_is_a_half():
    assert area([1, 2, 3, 4], [False, False, True, True]) == [1.0]
    assert area([1, 2, 3, 4], [True, True, False, False]) == [0.0]
    assert area([1, 1, 1], [True, False, False]) == [0.5]


def test_only_distances_of_one_network_are_compared():
    """Within each network all that is apart is farther, though the second one's distances are all larger."""
    distance, is_apart = np.array([1.0, 2.0, 11.0, 12.0, 13.0]), np.array([False, True, False, False, True])
    images = np.arange(5), np.arange(5, 10)
    weights = np.ones((10, 2), dtype=np.int32)
    weights[[0, 5], 1] = 0  # without the first pair, the first network has nothing to compare
    network = np.array([0, 0, 1, 1, 1])
    assert separation(distance, is_apart, *images, weights, network).tolist() == [1.0, 1.0]
    assert separation(distance, is_apart, *images, weights)[0] == pytest.approx(4 / 6)
    network = np.array([1, 1, 0, 0, 0])
    is_apart = np.array([True, False, False, False, True])
    assert separation(distance, is_apart, *images, weights, network).tolist() == [pytest.approx(2 / 3), 1.0]


def test_without_a_pair_of_one_kind_it_is_not_known():
    assert np.isnan(area([1, 2], [True, True])).all()
    assert np.isnan(area([], [])).all()
    assert np.isnan(middle(np.array([np.nan, 1.0]))).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_it_is_the_share_of_couples_in_which_the_one_that_is_apart_is_farther(rows):
    distance, is_apart = (np.array(column) for column in zip(*rows, strict=True))
    far, near = distance[is_apart], distance[~is_apart]
    if len(far) and len(near):
        couples = np.sign(far[:, None] - near) / 2 + 0.5
        assert area(distance, is_apart)[0] == pytest.approx(couples.mean())


@given(st.integers(0, 1000))
def test_an_image_drawn_twice_counts_as_two_images(seed):
    draw = np.random.default_rng(seed)
    first, second = draw.integers(0, 4, 12), draw.integers(4, 8, 12)
    distance, is_apart = draw.integers(0, 6, 12), draw.random(12) < 0.5
    weights = draw_images(8, 3, seed)
    found = area(distance, is_apart, weights, (first, second))
    for column, value in enumerate(found):
        times = weights[first, column] * weights[second, column]
        repeated = area(np.repeat(distance, times), np.repeat(is_apart, times))
        assert value == pytest.approx(repeated[0], nan_ok=True)
