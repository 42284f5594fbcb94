"""Which verbs are confused, and whether that goes with another similarity of them."""

import math

import numpy as np
import pytest

from rmlr.evaluation.confusions import associate, confusions, score_shares
from rmlr.hoi import NO_BOX

from .test_row_groups import BALL, BAT, VOCABULARY, detections, image


def test_scores_of_a_detected_pair_are_shared_by_its_verbs():
    images = [image(7, (0, 0, BALL)), image(8, (0, 0, BAT), (0, 1, NO_BOX))]
    table = detections((7, 0, BALL, 0.6), (7, 1, BALL, 0.2), (7, 0, BAT, 0.9), (8, 0, BAT, 0.3), (8, 2, BAT, 0.9))
    verb, shares, possible = score_shares(images, VOCABULARY, table)
    assert verb.tolist() == [0, 0]
    assert shares == pytest.approx(np.array([[0.75, 0.25], [1.0, 0.0]]))
    assert possible.tolist() == [[True, True], [True, False]]


def test_pairs_that_are_not_detected_or_have_no_score_are_left_out():
    images = [image(7, (0, 0, BALL)), image(8, (0, 0, BAT)), image(9)]
    verb, shares, possible = score_shares(images, VOCABULARY, detections((7, 0, BAT, 0.6), (8, 0, BAT, 0.0)))
    assert (len(verb), shares.shape, possible.shape) == (0, (0, 2), (0, 2))
    assert len(score_shares(images, VOCABULARY, detections())[0]) == 0


def test_the_nearest_of_several_detections_is_the_one_that_counts():
    table = detections((7, 0, BALL, 0.6), (7, 1, BALL, 0.6))
    table.object_boxes[1] += 4.0
    _, shares, _ = score_shares([image(7, (0, 0, BALL))], VOCABULARY, table)
    assert shares.tolist() == [[1.0, 0.0]]


def test_confusions_are_relative_to_how_much_a_verb_is_said_at_all():
    verb = np.array([0, 1, 2])
    shares = np.array([[0.5, 0.4, 0.1], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7]])
    found = confusions(verb, shares, np.ones((3, 3), dtype=bool))
    # columns without the diagonal: 0.3 and 0.1, 0.4 and 0.2, 0.1 and 0.1; means 0.2, 0.3, 0.1
    assert found[0, 1] == pytest.approx((0.4 / 0.3 + 0.3 / 0.2) / 2)
    assert found[1, 2] == pytest.approx((0.1 / 0.1 + 0.2 / 0.3) / 2)
    assert np.isnan(np.diag(found)).all()
    assert np.array_equal(found, found.T, equal_nan=True)


def test_verbs_that_share_no_object_are_not_confused_but_unknown():
    verb, shares = (
        np.array([0, 0, 1, 2]),
        np.array([[0.6, 0.4, 0.0], [0.8, 0.2, 0.0], [0.2, 0.8, 0.0], [0.0, 0.5, 0.5]]),
    )
    possible = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=bool)
    found = confusions(verb, shares, possible)
    assert np.isnan(found[0, 2])
    assert not np.isnan(found[0, 1])
    assert np.isnan(confusions(np.zeros(0, dtype=np.int64), np.zeros((0, 3)), np.zeros((0, 3), dtype=bool))).all()


def clusters(verbs: int, of: int) -> np.ndarray:
    return np.equal.outer(np.arange(verbs) // of, np.arange(verbs) // of).astype(float)


def test_confusions_within_clusters_go_with_texts_that_know_the_clusters():
    draw = np.random.default_rng(0)
    noise = draw.normal(size=(24, 24))
    confusion = 3.0 * clusters(24, 3) + noise + noise.T
    cosines = 0.3 * clusters(24, 3) + 0.1 * (noise.T @ noise) / 24
    found = associate(confusion, cosines, 999, 0)
    assert found.pairs == 276
    assert found.rho > 0.1
    assert found.p < 0.01


def test_texts_that_know_other_clusters_have_no_association():
    draw = np.random.default_rng(1)
    noise = draw.normal(size=(24, 24))
    other = draw.permutation(24)
    found = associate(3.0 * clusters(24, 3) + noise + noise.T, clusters(24, 3)[np.ix_(other, other)], 999, 0)
    assert found.p > 0.05


def test_p_is_right_for_unrelated_similarities():
    """Of unrelated ones, a tenth has a p of at most a tenth."""
    draw, small = np.random.default_rng(2), 0
    for _ in range(100):
        confusion, similarity = (draw.normal(size=(8, 8)) for _ in range(2))
        small += associate(confusion + confusion.T, similarity + similarity.T, 99, 0).p <= 0.1
    assert 3 <= small <= 19


def test_a_perfect_association_of_known_numbers():
    line = np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    found = associate(-line, np.exp(-line), 999, 0)
    assert found.rho == pytest.approx(1.0)
    assert found.p == pytest.approx((1 + 2 * 999 / 720) / 1000, abs=0.006), "a line is itself in 2 of 720 orders"


@pytest.mark.parametrize("verbs", [0, 1, 2])
def test_too_few_verbs_have_no_correlation(verbs):
    found = associate(np.ones((verbs, verbs)), np.ones((verbs, verbs)), 9, 0)
    assert math.isnan(found.rho)
    assert math.isnan(found.p)
