"""Comparison of A and B under one setting of a benchmark: differences of its headline metrics and of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import Difference, differ, known_means

MIN_IMAGES = 10  # with a positive; with fewer, a class's AP says little


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The differences of A and B under one setting of the benchmark."""

    ranking: Ranking
    headlines: dict[str, Difference]  # by metric
    classes: dict[int, Difference]  # by index into the ranking's names; the classes of the headline means

    @property
    def title(self) -> str:
        """The title of the setting, from its first headline metric."""
        return self.ranking.headlines[0].title

    @property
    def images(self) -> Int[np.ndarray, " c"]:
        """The number of images with a positive, for each class."""
        pairs = np.unique(np.stack([self.ranking.positive_class, self.ranking.positive_image]), axis=1)
        return np.bincount(pairs[0], minlength=len(self.ranking.names))


def compare_runs(
    ranking: Ranking, a: Sequence[Float[np.ndarray, "c s"]], b: Sequence[Float[np.ndarray, "c s"]]
) -> Comparison:
    """Compare AP of the classes of `ranking` on resampled images (`resampled_precision`), an array per run of A and
    B."""
    classes = np.flatnonzero(np.any([headline.classes for headline in ranking.headlines], axis=0))
    return Comparison(
        ranking,
        headlines={
            headline.metric: differ(
                *(np.stack([known_means(run[headline.classes]) for run in side]) for side in (a, b))
            )
            for headline in ranking.headlines
        },
        classes={int(index): differ(*(np.stack([run[index] for run in side]) for side in (a, b))) for index in classes},
    )
