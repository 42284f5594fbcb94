"""A split of a data set with its official protocol: reads, ranks and resamples predictions of any method on it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from rmlr.data.records import load_annotations, load_image_objects, load_vocabulary
from rmlr.data.zero_shot import unseen_classes
from rmlr.detections.files import load_detections
from rmlr.evaluation import hicodet, vcoco
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import known_means, resampled_precision
from rmlr.hoi import Agents, Annotation, Triplets, Vocabulary
from rmlr.study.section import Split, ZeroShot

if TYPE_CHECKING:
    import pandas as pd

SAME = 1e-9  # two fractions

Scores = vcoco.RoleScores | vcoco.AgentScores | hicodet.HoiScores


@dataclass(frozen=True, slots=True, eq=False)
class Benchmark:
    """What predictions on one split are scored against: classes and annotated images of a prepared data set."""

    vocabulary: Vocabulary
    images: list[Annotation]
    image_objects: Mapping[int, Sequence[int]] | None  # HICO-DET's image-level labels, if there are any
    unseen: tuple[int, ...] = ()  # HICO-DET's classes that a zero-shot split excludes from training

    @classmethod
    def load(cls, annotations: Path, split: str, zero_shot: ZeroShot | None = None) -> "Benchmark":
        """A split of a folder that was made by `prepare`."""
        vocabulary, images = load_vocabulary(annotations), load_annotations(annotations, split)
        unseen = unseen_classes(zero_shot, annotations, vocabulary)
        is_hicodet = vocabulary.dataset == "hicodet"
        return cls(vocabulary, images, load_image_objects(annotations, split) if is_hicodet else None, unseen)

    @property
    def image_ids(self) -> list[int]:
        """The image ids in the order of the split."""
        return [image.image_id for image in self.images]

    def read(
        self, source: Path | pa.Table | Triplets, agents: Path | pa.Table | Agents | None = None
    ) -> tuple[Triplets, Agents | None]:
        """Predictions in any supported format (`rmlr.detections.files`), checked against the split."""
        return load_detections(source, agents, self.vocabulary, self.image_ids)

    def evaluate(self, triplets: Triplets, agents: Agents | None = None) -> dict[str, Scores]:
        """Scores by the official protocol, keyed by the table that `evaluate` writes for each part."""
        if self.vocabulary.dataset == "hicodet":
            given = (self.images, self.vocabulary, triplets, self.image_objects, self.unseen)
            return {"per_class.csv": hicodet.evaluate(*given)}
        scores: dict[str, Scores] = {"per_verb.csv": vcoco.evaluate(self.images, self.vocabulary, triplets)}
        if agents is not None and len(agents.score):
            scores["per_action.csv"] = vcoco.evaluate_agents(self.images, self.vocabulary, agents)
        return scores

    def rank(self, path: Path) -> tuple[Ranking, ...]:
        """Predictions of a file, matched by the protocol under each of its settings."""
        triplets, _ = self.read(path)
        if self.vocabulary.dataset == "hicodet":
            return hicodet.rank(self.images, self.vocabulary, triplets, self.image_objects, self.unseen)
        return vcoco.rank(self.images, self.vocabulary, triplets)


class Metrics(Mapping[str, float]):
    """Scores of detections on a split by the official protocol: metrics by name, as fractions, and tables.

    A metric is NaN if there is nothing to average. Its text is the headline metrics, with the protocol in words.
    """

    def __init__(self, parts: Mapping[str, Scores]) -> None:
        """`parts` by their tables: per_verb and per_action of V-COCO, per_class of HICO-DET."""
        self.parts = dict(parts)

    @cached_property
    def _values(self) -> dict[str, float]:
        return {name: value for part in self.parts.values() for name, value in part.metrics().items()}

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __str__(self) -> str:
        return "\n".join(part.summary() for part in self.parts.values())

    def frame(self, table: str | None = None) -> "pd.DataFrame":
        """AP and counts of each class: per_verb or per_class, or the named table, such as per_action."""
        import pandas as pd

        name = next(iter(self.parts)) if table is None else table
        if name not in self.parts:
            raise ValueError(f"there is no table '{name}' here, but {', '.join(self.parts)}")
        return pd.DataFrame(self.parts[name].columns())


def read_annotations(folder: str | Path, split: Split = "test", *, zero_shot: ZeroShot | None = None) -> Benchmark:
    """One split of a folder that `rmlr prepare` wrote: its classes (`vocabulary`) and annotations (`images`).

    With `zero_shot`, scores also include the seen and the unseen classes of that split of HICO-DET. ValueError names
    the file that is missing or invalid.
    """
    return Benchmark.load(Path(folder), split, zero_shot)


def evaluate(
    detections: "str | Path | Triplets | pd.DataFrame",
    annotations: str | Path | Benchmark,
    *,
    agents: "str | Path | Agents | pd.DataFrame | None" = None,
    split: Split = "test",
) -> Metrics:
    """Score detections, of any method, over all images of a split, as `rmlr evaluate` does. Nothing is written.

    Args:
        detections: a path in any form of docs/evaluation.md (a Parquet table, V-COCO's official pickle, a folder with
            HICO-DET's official .mat files), a data frame with the columns of the table, or `Triplets`.
        annotations: folder made by `rmlr prepare`, or a split from `read_annotations`.
        agents: V-COCO's agent scores, unless the detections are a pickle: a table as path or data frame, or `Agents`.
        split: train, val, trainval or test, if the annotations are a folder.

    Raises ValueError on the first row that the format, the classes or the images do not allow.
    """
    benchmark = annotations if isinstance(annotations, Benchmark) else read_annotations(annotations, split)
    triplets, people = benchmark.read(_source(detections), None if agents is None else _source(agents))
    scores = benchmark.evaluate(triplets, people)
    return Metrics({name.removesuffix(".csv"): part for name, part in scores.items()})


def _source(given: Any) -> Any:
    """Detections in a form that can be read: a path, an Arrow table, or records. ValueError on anything else."""
    if isinstance(given, str | Path):
        return Path(given)
    if isinstance(given, Triplets | Agents):
        return given
    import pandas as pd

    if not isinstance(given, pd.DataFrame):
        raise ValueError(
            f"detections of type {type(given).__module__}.{type(given).__name__}: expected a path, a data frame from "
            "pandas, or Triplets (for agent scores Agents). See docs/evaluation.md for the columns"
        )
    try:
        return pa.Table.from_pandas(given, preserve_index=False)
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"the data frame does not fit a table: {error}. See docs/evaluation.md") from error


def resample(
    rankings: Sequence[Ranking], weights: Int[np.ndarray, "b s"], reported: Mapping[str, float | None], where: str
) -> list[Float[np.ndarray, "c s"]]:
    """AP of every class on samples of images, for each setting; the first sample is the split itself.

    Raises ValueError if that differs from the values that `evaluate` reported (metric: fraction, missing for NaN),
    since inputs may have changed. `where` names the report.
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
