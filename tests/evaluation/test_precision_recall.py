"""Precision at any recall."""

import numpy as np
import pytest

from rmlr.evaluation.average_precision import ranked_average_precision
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.precision_recall import precision_at


def ranking(hits: list[list[bool]], positives: list[int]) -> Ranking:
    row_class = np.repeat(np.arange(len(hits)), [len(rows) for rows in hits])
    positive_class = np.repeat(np.arange(len(positives)), positives)
    return Ranking(
        names=tuple(map(str, range(len(hits)))),
        headlines=(),
        interpolation="all_points",
        without_positive=float("nan"),
        row_class=row_class,
        row_image=np.zeros(len(row_class), dtype=int),
        is_hit=np.array([hit for rows in hits for hit in rows], dtype=bool),
        positive_class=positive_class,
        positive_image=np.zeros(len(positive_class), dtype=int),
    )


def test_it_is_the_best_precision_from_that_recall_on():
    curve = precision_at(ranking([[True, False, True]], [2]), np.array([0.25, 0.5, 0.75, 1.0]))
    assert curve.tolist() == [[1.0, 1.0, 2 / 3, 2 / 3]]


def test_a_recall_that_is_not_reached_has_precision_zero():
    assert precision_at(ranking([[True]], [4]), np.array([0.25, 0.5])).tolist() == [[1.0, 0.0]]


def test_its_mean_over_the_recalls_of_each_positive_is_average_precision():
    hits = [True, False, True, True, False, False, True]
    curve = precision_at(ranking([hits], [5]), np.arange(1, 6) / 5)
    assert curve.mean() == pytest.approx(ranked_average_precision(np.array(hits), 5, "all_points"))


def test_a_class_without_a_positive_is_unknown_and_one_without_a_row_is_zero():
    curve = precision_at(ranking([[False], []], [0, 2]), np.array([0.5]))
    assert np.isnan(curve[0]).all()
    assert curve[1].tolist() == [0.0]
    assert precision_at(ranking([], []), np.array([0.5])).shape == (0, 1)
