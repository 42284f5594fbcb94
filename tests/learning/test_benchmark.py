"""Predictions opened, scored and resampled by the official protocol of their data set."""

from pathlib import Path

import numpy as np
import pytest

from rmlr.data.hicodet import read_hicodet
from rmlr.data.records import Corpus, save_annotations, save_vocabulary
from rmlr.data.vcoco import read_vcoco
from rmlr.evaluation.resampling import draw_images, known_means
from rmlr.learning.benchmark import Benchmark, resample

GOLDEN = Path(__file__).parents[1] / "golden"


def save(folder: Path, corpus: Corpus) -> Path:
    """As `rmlr prepare` would."""
    save_vocabulary(folder / "vocabulary.json", corpus.vocabulary)
    for split, images in corpus.splits.items():
        save_annotations(folder / f"{split}.json", images)
    return folder


@pytest.fixture(params=["vcoco", "hicodet"])
def opened(request, tmp_path) -> tuple[Benchmark, Path]:
    """A split of each data set, and predictions on it."""
    if request.param == "vcoco":
        folder = save(tmp_path, read_vcoco(GOLDEN / "vcoco", ["point instr"]))
        return Benchmark.load(folder, "train"), GOLDEN / "vcoco/triplets_train.parquet"
    folder = save(tmp_path, read_hicodet(GOLDEN / "hicodet/clean", 1))
    return Benchmark.load(folder, "test"), GOLDEN / "hicodet/clean/triplets.parquet"


def metrics_of(split: Benchmark, path: Path) -> dict[str, float | None]:
    """As metrics.json has them."""
    scores = split.evaluate(*split.read(path))
    metrics = {name: value for part in scores.values() for name, value in part.metrics().items()}
    return {name: None if np.isnan(value) else value for name, value in metrics.items()}


def test_the_split_as_it_is_scores_as_it_was_evaluated(opened):
    split, path = opened
    rankings, metrics = split.rank(path), metrics_of(split, path)
    precisions = resample(rankings, draw_images(len(split.images), 10, 0), metrics, "here")
    assert len(precisions) == 2
    for ranking, precision in zip(rankings, precisions, strict=True):
        assert precision.shape == (len(ranking.names), 11)
        for headline in ranking.headlines:
            assert known_means(precision[headline.classes])[0] == pytest.approx(metrics[headline.metric], nan_ok=True)


def test_predictions_that_are_not_what_was_evaluated_are_refused(opened):
    split, path = opened
    rankings, weights = split.rank(path), draw_images(len(split.images), 1, 0)
    metrics, name = metrics_of(split, path), rankings[1].headlines[0].metric
    value = metrics[name]
    assert value is not None
    with pytest.raises(ValueError, match=f"metrics.json: {name} is .* there, .* run `rmlr evaluate` again"):
        resample(rankings, weights, metrics | {name: value + 1e-6}, "metrics.json")
    with pytest.raises(ValueError, match=f"{name} is nan there"):
        resample(rankings, weights, {key: number for key, number in metrics.items() if key != name}, "metrics.json")
