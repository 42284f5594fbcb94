"""Resampled test images, several seeds, and what they say of a difference."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rmlr.data.hicodet import read_hicodet
from rmlr.data.vcoco import read_vcoco
from rmlr.detections.triplets import load_triplets
from rmlr.evaluation import hicodet, vcoco
from rmlr.evaluation.average_precision import rank_by_score, ranked_average_precision
from rmlr.evaluation.matching import Headline, Ranking
from rmlr.evaluation.resampling import (
    AT_ONCE,
    differ,
    draw_images,
    known_means,
    resampled_precision,
    weighted_average_precision,
)
from rmlr.hoi import Triplets

GOLDEN = Path(__file__).parents[1] / "golden"

rows = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=30)  # is it a hit, how often does it stand there
interpolations = st.sampled_from(["all_points", "step", "linspace"])


@given(rows, interpolations, st.integers(0, 12))
def test_weights_give_the_ap_of_rows_that_stand_as_often(row, interpolation, missed):
    is_hit = np.array([hit for hit, _ in row], dtype=bool)
    weight = np.array([weight for _, weight in row], dtype=np.int32)
    positives = int(weight[is_hit].sum()) + missed
    wrong = np.diff(np.cumsum(np.where(is_hit, 0, weight))[is_hit], prepend=0)
    got = weighted_average_precision(
        weight[is_hit, None], wrong.astype(np.int32)[:, None], np.array([positives]), interpolation
    )
    expected = ranked_average_precision(is_hit.repeat(weight), positives, interpolation)
    assert got == pytest.approx([expected], abs=1e-12, nan_ok=True)


def golden(case: str):
    """Vocabulary, images, table and module of a golden case."""
    if case == "vcoco":
        corpus, path, split, module = read_vcoco(GOLDEN / "vcoco", ["point instr"]), "triplets_val", "val", vcoco
    elif case == "vcoco, tied":
        corpus, path, split, module = read_vcoco(GOLDEN / "vcoco", ["point instr"]), "triplets_test", "test", vcoco
    else:
        corpus, path, split, module = read_hicodet(GOLDEN / "hicodet" / case, 1), f"{case}/triplets", "test", hicodet
    table = load_triplets(GOLDEN / ("hicodet" if module is hicodet else "vcoco") / f"{path}.parquet")
    return corpus.vocabulary, corpus.splits[split], table, module


def copied(images, table: Triplets, weights: np.ndarray):
    """A test set that really holds each image so many times, and its table, the copies of a row side by side.

    Scores are replaced by places, so that of equal ones only copies are left; the evaluators take them by image.
    """
    ids = np.array([image.image_id for image in images])
    place = np.argsort(ids)[np.searchsorted(np.sort(ids), table.image_id)]
    rank = np.empty(len(place))
    rank[np.lexsort((place, -table.score))] = np.arange(len(place))
    table = replace(table, score=-rank)
    times = weights[place]
    row = np.arange(len(times)).repeat(times)
    copy = np.arange(len(row)) - (np.cumsum(times) - times).repeat(times)
    columns = {name: getattr(table, name)[row] for name in Triplets.__slots__}
    copies = [
        replace(image, image_id=1000 * index + copy)
        for index, (image, weight) in enumerate(zip(images, weights, strict=True))
        for copy in range(weight)
    ]
    return copies, Triplets(**columns | {"image_id": 1000 * place[row] + copy})


@pytest.mark.parametrize("case", ["vcoco", "vcoco, tied", "clean", "crowded", "tied"])
def test_an_image_that_is_drawn_twice_counts_as_two_images(case):
    vocabulary, images, table, module = golden(case)
    weights = draw_images(len(images), 3, seed=1)
    found = [resampled_precision(ranking, weights) for ranking in module.rank(images, vocabulary, table)]
    assert not np.array_equal(found[0][:, 0], found[0][:, 1], equal_nan=True)
    in_all = module.evaluate(images, vocabulary, table).positives > 0
    for column in range(weights.shape[1]):
        copies, its_table = copied(images, table, weights[:, column])
        scores = module.evaluate(copies, vocabulary, its_table)
        was_not_drawn = in_all & (scores.positives == 0)
        both = (scores.ap_role_1, scores.ap_role_2) if module is vcoco else (scores.default, scores.known_object)
        for precision, ap in zip(found, both, strict=True):
            expected = np.where(was_not_drawn, np.nan, ap)
            assert precision[:, column] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("case", ["vcoco", "clean"])
def test_the_first_set_is_the_test_set_and_gives_the_evaluators_headlines(case):
    vocabulary, images, table, module = golden(case)
    metrics = module.evaluate(images, vocabulary, table).metrics()
    rankings = module.rank(images, vocabulary, table)
    headlines = [headline for ranking in rankings for headline in ranking.headlines]
    assert len(headlines) == (2 if module is vcoco else 6)
    for ranking in rankings:
        precision = resampled_precision(ranking, draw_images(len(images), 1, seed=0))
        for headline in ranking.headlines:
            expected = metrics[headline.metric]
            assert known_means(precision[headline.classes])[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_images_are_drawn_as_many_as_there_are_and_the_same_for_a_seed():
    weights = draw_images(7, 50, seed=3)
    assert weights.shape == (7, 51)
    assert (weights.sum(axis=0) == 7).all()
    assert (weights[:, 0] == 1).all()
    assert len(np.unique(weights[:, 1:], axis=1).T) > 40
    assert np.array_equal(weights, draw_images(7, 50, seed=3))
    assert not np.array_equal(weights, draw_images(7, 50, seed=4))
    assert draw_images(0, 5, seed=3).shape == (0, 6)


def ranking(
    row_class=(), row_image=(), is_hit=(), positives=(), *, classes=2, interpolation="all_points", absent=math.nan
):
    """Rows in ranked order, and positives as (class, image)."""
    pairs = np.array(positives, dtype=np.int64).reshape(-1, 2)
    return Ranking(
        names=tuple(f"class {index}" for index in range(classes)),
        headlines=(Headline("mean", "Mean", np.ones(classes, dtype=bool)),),
        interpolation=interpolation,
        without_positive=absent,
        row_class=np.array(row_class, dtype=np.int64),
        row_image=np.array(row_image, dtype=np.int64),
        is_hit=np.array(is_hit, dtype=bool),
        positive_class=pairs[:, 0],
        positive_image=pairs[:, 1],
    )


def test_without_rows_ap_is_zero_and_without_positives_nan():
    weights = draw_images(3, 4, seed=0)
    assert np.isnan(resampled_precision(ranking(), weights)).all()
    assert resampled_precision(ranking(positives=[(1, 0), (1, 1), (1, 2)]), weights)[1].tolist() == [0.0] * 5
    only_wrong = ranking([1, 1], [0, 2], [False, False], [(1, 0), (1, 1), (1, 2)])
    assert resampled_precision(only_wrong, weights)[1].tolist() == [0.0] * 5
    assert np.isnan(resampled_precision(ranking(), draw_images(0, 4, seed=0))).all()
    assert resampled_precision(ranking(classes=0), weights).shape == (0, 5)


def test_false_positives_after_the_last_hit_of_a_class_leave_the_next_class_alone():
    one = ranking([0, 0, 1], [0, 0, 0], [True, False, True], [(0, 0), (1, 0)])
    assert resampled_precision(one, np.array([[1, 2]], dtype=np.int32)).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_class_whose_positives_are_not_drawn_is_left_out_of_that_mean():
    # Class 0 is in image 0 alone and found; class 1 is in both and never found; class 2 is nowhere in the test set.
    weights = np.array([[1, 0, 2], [1, 2, 0]], dtype=np.int32)
    for absent, means in ((math.nan, [0.5, 0.0, 0.5]), (0.0, [1 / 3, 0.0, 1 / 3])):
        found = resampled_precision(
            ranking([0], [0], [True], [(0, 0), (1, 0), (1, 1)], classes=3, absent=absent), weights
        )
        assert np.isnan(found[0]).tolist() == [False, True, False]
        assert known_means(found).tolist() == pytest.approx(means)


def test_sets_beyond_those_in_work_at_once_are_scored_alike():
    vocabulary, images, table, _ = golden("clean")
    default = hicodet.rank(images, vocabulary, table)[0]
    weights = draw_images(len(images), AT_ONCE + 5, seed=0)
    whole = resampled_precision(default, weights)
    assert whole.shape[1] == AT_ONCE + 6
    assert np.array_equal(whole[:, -8:], resampled_precision(default, weights[:, -8:]), equal_nan=True)


# ---- the difference


def test_the_very_same_runs_differ_by_nothing_for_sure():
    runs = np.random.default_rng(0).random((2, 101))
    found = differ(runs, runs)
    assert found.difference == 0
    assert [found.images, found.seeds, found.both] == [found.images] * 3
    assert (found.images.error, found.images.low, found.images.high) == (0, 0, 0)
    assert not found.is_clear


def test_one_run_on_a_side_leaves_the_seeds_out():
    draw = np.random.default_rng(0)
    found = differ(0.5 + 0.01 * draw.normal(size=(1, 2001)), 0.4 + 0.01 * draw.normal(size=(3, 2001)))
    assert found.seeds is None
    assert found.both is None
    assert found.whole is found.images
    assert found.images.error == pytest.approx(0.01 * math.sqrt(4 / 3), rel=0.1)
    assert found.images.high - found.images.low == pytest.approx(2 * 1.96 * found.images.error, rel=0.1)
    assert found.is_clear


def test_the_interval_of_seeds_is_welchs():
    a, b = [0.51, 0.55, 0.50], [0.44, 0.49]
    columns = np.ones((1, 201))
    found = differ(np.array(a)[:, None] * columns, np.array(b)[:, None] * columns)
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert found.seeds is not None
    assert (found.seeds.low, found.seeds.high) == pytest.approx((welch.low, welch.high))
    assert found.images.error == pytest.approx(0, abs=1e-12)  # all sets alike
    assert found.both is not None
    assert (found.both.low, found.both.high) == pytest.approx((welch.low, welch.high))


def test_both_sources_add_their_variances_and_the_images_part_is_taken_as_known():
    draw = np.random.default_rng(1)
    shift = np.append(0.0, draw.normal(0, 0.02, 5000))
    a, b = np.array([[0.60], [0.62], [0.64]]) + shift, np.array([[0.5], [0.5]]) + 0 * shift
    found = differ(a, b)
    assert found.seeds is not None
    assert found.both is not None
    assert found.both.error == pytest.approx(math.hypot(found.images.error, found.seeds.error))
    degrees = 2 * found.both.error**4 / found.seeds.error**4  # only A's seeds vary, 2 degrees of freedom
    reach = stats.t.ppf(0.975, degrees) * found.both.error
    assert (found.both.low, found.both.high) == pytest.approx((0.12 - reach, 0.12 + reach))


def test_seeds_that_all_agree_leave_the_images_alone():
    shift = np.append(0.0, np.random.default_rng(1).normal(0, 0.02, 500))
    found = differ(0.6 + np.stack([shift, shift]), 0.5 + 0 * np.stack([shift, shift]))
    assert found.seeds is not None
    assert (found.seeds.error, found.seeds.low) == (0, pytest.approx(0.1))
    assert found.both is not None
    assert found.both.high - 0.1 == pytest.approx(1.96 * found.images.error, rel=1e-3)


def test_sets_without_any_positive_are_passed_over():
    a = np.array([[0.5, 0.4, np.nan, 0.6]])
    assert differ(a, a / 2).images.error == pytest.approx(np.std([0.2, 0.3], ddof=1))
    nothing = differ(np.full((2, 4), np.nan), np.full((2, 4), np.nan))
    assert math.isnan(nothing.difference)
    assert math.isnan(nothing.images.low)
    assert not nothing.is_clear


def drawn_methods(
    draw: np.random.Generator, qualities: list[float], *, images: int = 150, classes: int = 4
) -> list[Ranking]:
    """Methods on one drawn test set, to which images are alike: hard ones are so for all, and in all their pairs."""
    count = draw.poisson(0.3, (images, classes))
    positive_image, positive_class = np.nonzero(count)
    times = count[positive_image, positive_class]
    positive_image, positive_class = positive_image.repeat(times), positive_class.repeat(times)
    ease = draw.normal(0, 0.7, images)
    methods = []
    for quality in qualities:
        is_found = draw.random(len(positive_image)) < 0.8
        wrong_image = draw.integers(images, size=4 * images)
        image = np.append(positive_image[is_found], wrong_image)
        row_class = np.append(positive_class[is_found], draw.integers(classes, size=len(wrong_image)))
        is_hit = np.arange(len(image)) < is_found.sum()
        score = draw.normal(size=len(image)) + is_hit * (quality + ease[image])
        order = rank_by_score(row_class, image, score)
        positives = np.stack([positive_class, positive_image], axis=1)
        methods.append(ranking(row_class[order], image[order], is_hit[order], positives, classes=classes))
    return methods


def resampled_means(methods: list[Ranking], seed: int) -> np.ndarray:
    weights = draw_images(150, 200, seed)
    return np.stack([known_means(resampled_precision(method, weights)) for method in methods])


def test_of_equal_methods_the_interval_holds_zero_about_as_often_as_it_says():
    draw, held, trials = np.random.default_rng(0), 0, 120
    for trial in range(trials):
        a, b = resampled_means(drawn_methods(draw, [1.0, 1.0]), trial)
        found = differ(a[None], b[None])
        held += found.images.low <= 0 <= found.images.high
    assert 0.88 <= held / trials <= 0.99


def test_with_noise_of_training_only_the_interval_of_both_holds_zero_as_often_as_it_says():
    draw, trials = np.random.default_rng(0), 60
    held = {"images": 0, "both": 0}
    for trial in range(trials):
        means = resampled_means(drawn_methods(draw, list(1.0 + draw.normal(0, 0.5, 6))), trial)
        found = differ(means[:3], means[3:])
        for source in held:
            held[source] += getattr(found, source).low <= 0 <= getattr(found, source).high
    assert held["both"] / trials >= 0.88
    assert held["images"] < held["both"] - trials / 10


def test_a_clear_difference_is_found():
    draw = np.random.default_rng(0)
    found = [
        differ(*(side[None] for side in resampled_means(drawn_methods(draw, [2.5, 0.5]), trial))) for trial in range(5)
    ]
    assert all(one.is_clear and one.difference > 0 for one in found)
