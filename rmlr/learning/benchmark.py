"""A split of a data set with its official protocol: opens predictions of any method on it, ranks and resamples them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from rmlr.data.records import load_annotations, load_image_objects, load_vocabulary
from rmlr.detections.files import load_detections
from rmlr.evaluation import hicodet, vcoco
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import known_means, resampled_precision
from rmlr.hoi import Agents, Annotation, Triplets, Vocabulary

SAME = 1e-9  # two fractions

Scores = vcoco.RoleScores | vcoco.AgentScores | hicodet.HoiScores


@dataclass(frozen=True, slots=True, eq=False)
class Benchmark:
    """What predictions on one split are scored against."""

    vocabulary: Vocabulary
    images: list[Annotation]
    image_objects: Mapping[int, Sequence[int]] | None  # HICO-DET's labels of whole images, where there are any

    @classmethod
    def load(cls, annotations: Path, split: str) -> "Benchmark":
        """A split of a folder that was made by `prepare`."""
        vocabulary, images = load_vocabulary(annotations), load_annotations(annotations, split)
        is_hicodet = vocabulary.dataset == "hicodet"
        return cls(vocabulary, images, load_image_objects(annotations, split) if is_hicodet else None)

    @property
    def image_ids(self) -> list[int]:
        """In the order of the split."""
        return [image.image_id for image in self.images]

    def read(self, path: Path, agents: Path | None = None) -> tuple[Triplets, Agents | None]:
        """Predictions in any form that the field writes (`rmlr.detections.files`), checked against the split."""
        return load_detections(path, agents, self.vocabulary, self.image_ids)

    def evaluate(self, triplets: Triplets, agents: Agents | None = None) -> dict[str, Scores]:
        """By the official protocol; named by the table that `evaluate` writes of each part."""
        if self.vocabulary.dataset == "hicodet":
            return {"per_class.csv": hicodet.evaluate(self.images, self.vocabulary, triplets, self.image_objects)}
        scores: dict[str, Scores] = {"per_verb.csv": vcoco.evaluate(self.images, self.vocabulary, triplets)}
        if agents is not None and len(agents.score):
            scores["per_action.csv"] = vcoco.evaluate_agents(self.images, self.vocabulary, agents)
        return scores

    def rank(self, path: Path) -> tuple[Ranking, ...]:
        """Predictions of a file as the protocol matches them, under each of its settings."""
        triplets, _ = self.read(path)
        if self.vocabulary.dataset == "hicodet":
            return hicodet.rank(self.images, self.vocabulary, triplets, self.image_objects)
        return vcoco.rank(self.images, self.vocabulary, triplets)


def resample(
    rankings: Sequence[Ranking], weights: Int[np.ndarray, "b s"], reported: Mapping[str, float | None], where: str
) -> list[Float[np.ndarray, "c s"]]:
    """AP of every class on sets of images, for each setting; the first set is the split as it is.

    Raises ValueError where that is not what `evaluate` reported (metric: fraction, nothing for NaN): inputs may have
    changed since. `where` says who reported it.
    """
    precisions = [resampled_precision(ranking, weights) for ranking in rankings]
    for ranking, precision in zip(rankings, precisions, strict=True):
        for headline in ranking.headlines:
            now = float(known_means(precision[headline.classes, :1])[0])
            before = reported.get(headline.metric)
            before = math.nan if before is None else before
            if not (abs(now - before) < SAME or (math.isnan(now) and math.isnan(before))):
                raise ValueError(
                    f"{where}: {headline.metric} is {before} there, but scoring the predictions again gives {now}. "
                    "Predictions or protocol have changed since: run `rmlr evaluate` again"
                )
    return precisions
