"""A beside B under one setting of a benchmark: how far they differ in its headlines, and in each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import Difference, differ, known_means

MIN_IMAGES = 10  # with a positive; of fewer, a class's AP says little


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What A and B differ by under one setting of the benchmark."""

    ranking: Ranking
    headlines: dict[str, Difference]  # by metric
    classes: dict[int, Difference]  # by index into the ranking's names; those that a headline is the mean of

    @property
    def title(self) -> str:
        """The setting's, by its first headline."""
        return self.ranking.headlines[0].title

    @property
    def images(self) -> Int[np.ndarray, " c"]:
        """In how many images each class has a positive."""
        pairs = np.unique(np.stack([self.ranking.positive_class, self.ranking.positive_image]), axis=1)
        return np.bincount(pairs[0], minlength=len(self.ranking.names))


def compare_runs(
    ranking: Ranking, a: Sequence[Float[np.ndarray, "c s"]], b: Sequence[Float[np.ndarray, "c s"]]
) -> Comparison:
    """AP of the classes of `ranking` on sets of images (`resampled_precision`), an array for each run of A and of B."""
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
