import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rmlr.evaluation.average_precision import RECALLS, average_precision, known_mean, rank_by_score

INTERPOLATIONS = ["all_points", "step", "linspace"]
hits = arrays.arrays(bool, st.integers(0, 40))
interpolations = st.sampled_from(INTERPOLATIONS)


def falling(hit: np.ndarray) -> np.ndarray:
    return np.linspace(1.0, 0.5, len(hit))


def definition(hit: np.ndarray, positives: int, interpolation: str) -> float:
    """Precision and recall at every cut, then the definition of each kind, as slowly as it reads."""
    cuts = [(hit[:k].sum() / positives, hit[:k].sum() / k) for k in range(1, len(hit) + 1)]

    def best_from(recall: float) -> float:
        return max((precision for reached, precision in cuts if reached >= recall), default=0.0)

    if interpolation == "all_points":
        steps = [0.0, *sorted({reached for reached, _ in cuts})]
        return sum((b - a) * best_from(b) for a, b in itertools.pairwise(steps))
    return sum(best_from(recall) for recall in RECALLS[interpolation]) / 11


@given(hits, interpolations, st.integers(0, 3))
def test_average_precision_is_its_definition(hit, interpolation, missed):
    positives = int(hit.sum()) + missed
    got = average_precision(falling(hit), hit, positives, interpolation)
    if positives:
        assert got == pytest.approx(definition(hit, positives, interpolation), abs=1e-12)
        assert 0 <= got <= 1
    else:
        assert math.isnan(got)


@given(hits, interpolations)
def test_a_trailing_false_positive_changes_nothing(hit, interpolation):
    positives = int(hit.sum()) + 1
    before = average_precision(falling(hit), hit, positives, interpolation)
    after = average_precision(np.append(falling(hit), 0.1), np.append(hit, False), positives, interpolation)
    assert after == before


@given(hits, interpolations, st.randoms())
def test_the_order_of_rows_is_irrelevant_without_ties(hit, interpolation, chance):
    order = list(range(len(hit)))
    chance.shuffle(order)
    positives = int(hit.sum()) + 1
    before = average_precision(falling(hit), hit, positives, interpolation)
    assert average_precision(falling(hit)[order], hit[order], positives, interpolation) == before


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_perfect_detections_give_one(interpolation):
    assert average_precision(np.array([0.3, 0.9]), np.array([True, True]), 2, interpolation) == pytest.approx(1)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_no_detection_means_zero_and_no_positive_nan(interpolation):
    nothing = np.zeros(0), np.zeros(0, dtype=bool)
    assert average_precision(*nothing, 3, interpolation) == 0
    assert math.isnan(average_precision(*nothing, 0, interpolation))


def test_of_equal_scores_the_later_row_is_the_lower():
    scores = np.array([0.5, 0.5])
    assert average_precision(scores, np.array([True, False]), 1, "all_points") == 1
    assert average_precision(scores, np.array([False, True]), 1, "all_points") == 0.5


def test_the_recall_grids_differ_at_six_and_seven_tenths_only():
    # 3 of 5 found, then one wrong and the fourth: recall is exactly 0.6, which the official loop's 0.6 is above.
    hit = np.array([True, True, True, False, True])
    assert average_precision(falling(hit), hit, 5, "linspace") == pytest.approx((7 + 2 * 0.8) / 11)
    assert average_precision(falling(hit), hit, 5, "step") == pytest.approx((6 + 3 * 0.8) / 11)
    assert np.flatnonzero(RECALLS["step"] != RECALLS["linspace"]).tolist() == [6, 7]


@given(arrays.arrays(np.int64, st.integers(0, 30), elements=st.integers(0, 300)), st.data())
def test_ranking_groups_by_class_and_falls_in_score_and_takes_equal_scores_by_image(classes, data):
    images = data.draw(arrays.arrays(np.int64, len(classes), elements=st.sampled_from([0, 1, 70_000])))
    scores = data.draw(arrays.arrays(np.float32, len(classes), elements=st.sampled_from([0.25, 0.5, 0.75])))
    expected = sorted(range(len(classes)), key=lambda row: (classes[row], -scores[row], images[row], row))
    assert rank_by_score(classes, images, scores).tolist() == expected


def test_the_mean_leaves_nan_out():
    assert known_mean(np.array([0.2, np.nan, 0.4])) == pytest.approx(0.3)
    assert math.isnan(known_mean(np.array([np.nan])))
    assert math.isnan(known_mean(np.zeros(0)))
