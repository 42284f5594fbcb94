"""AP on a held-out split during training, by the data set's official protocol, as in `evaluate`.

It is only a curve for monitoring. No weight depends on it, so it does not count as code of the stage `train`
(`rmlr.study.source`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from rmlr.data.records import load_annotations, load_image_objects
from rmlr.evaluation import hicodet, vcoco
from rmlr.hoi import Annotation, Vocabulary
from rmlr.learning.examples import Tested
from rmlr.learning.no_object import shares_without_object, with_no_object
from rmlr.model.scoring import concatenate, score_triplets
from rmlr.study.settings import Prediction
from rmlr.study.views import is_headline

SECTION = "val/"  # prefix of a metric's name: a separate section in MLflow's charts


class HeldOutScores:
    """The paper's metrics on the images of `chosen.split`, as in the test."""

    def __init__(
        self,
        annotations: Path,
        vocabulary: Vocabulary,
        tested: Callable[[str, Sequence[Annotation]], tuple[list[int], Tested]],
        chosen: Prediction,
    ) -> None:
        """`tested` says how images are read (`Examples.tested`)."""
        self._vocabulary, self._chosen = vocabulary, chosen
        self._images = load_annotations(annotations, chosen.split)
        self._image_ids, self._read = tested(chosen.split, self._images)
        self._shares = None
        if chosen.no_object:
            self._shares = shares_without_object(load_annotations(annotations, "train"), vocabulary)
        self._image_objects = None
        if vocabulary.dataset == "hicodet":
            self._image_objects = load_image_objects(annotations, chosen.split)

    def __call__(self, network: nn.Module, device: torch.device) -> dict[str, float]:
        """Scores of a network in evaluation mode, without means over an empty set."""
        chosen, parts = self._chosen, []
        is_valid_verb = torch.from_numpy(self._vocabulary.is_valid_verb).to(device)
        for start in range(0, len(self._image_ids), chosen.batch_size):
            positions = range(start, min(start + chosen.batch_size, len(self._image_ids)))
            parts.append(
                score_triplets(
                    network,  # pyright: ignore[reportArgumentType]
                    self._read(positions, device),
                    is_valid_verb,
                    prior_power=chosen.prior_power,
                    min_score=chosen.min_score,
                )
            )
        triplets = concatenate(parts)
        if self._shares is not None:
            triplets = with_no_object(triplets, self._shares)
        if self._vocabulary.dataset == "vcoco":
            scores = vcoco.evaluate(self._images, self._vocabulary, triplets)
        else:
            scores = hicodet.evaluate(self._images, self._vocabulary, triplets, self._image_objects)
        metrics = {name: value for name, value in scores.metrics().items() if is_headline(name)}
        return {f"{SECTION}{name}": value for name, value in metrics.items() if value == value}  # NaN is not itself
