"""Precision-recall curves, with the precision that average precision uses."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from rmlr.evaluation.average_precision import envelope_at_recalls
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import known_means


def precision_at(ranking: Ranking, recalls: Float[np.ndarray, " r"]) -> Float[np.ndarray, "c r"]:
    """The precision envelope of every class at given recalls above 0; 0 at recalls that a class does not reach.

    V-COCO averages it over all recalls, HICO-DET over eleven. NaN for a class without a positive.
    """
    curves = [
        envelope_at_recalls(is_hit, int(positives), recalls) if positives else np.full(len(recalls), np.nan)
        for is_hit, positives in zip(ranking.hits_of_classes(), ranking.positives(), strict=True)
    ]
    return np.array(curves, dtype=np.float64).reshape(-1, len(recalls))


def precision_curves(
    rankings: Mapping[str, Sequence[Sequence[Ranking]]], recalls: Float[np.ndarray, " r"]
) -> Iterator[tuple[str, str, str, Float[np.ndarray, "q r"]]]:
    """Precision of runs at given recalls; a run has a ranking for each seed and setting of the benchmark.

    First the mean over the classes of each headline metric, then each class of the first one: `mean` or `class`, its
    name, the run's name, and a row for each seed, NaN if no class has a positive.
    """
    measured = {
        run: [[precision_at(one, recalls) for one in seed] for seed in seeds] for run, seeds in rankings.items()
    }
    some = next(iter(rankings.values()))[0]
    settings = [(at, headline) for at, ranking in enumerate(some) for headline in ranking.headlines]
    scored = np.flatnonzero(settings[0][1].classes)
    for of, name, at, classes in (
        *(("mean", headline.title, at, np.flatnonzero(headline.classes)) for at, headline in settings),
        *(("class", some[0].names[index], 0, np.array([index])) for index in scored),
    ):
        for run, seeds in measured.items():
            yield of, name, run, np.stack([known_means(seed[at][classes]) for seed in seeds])
