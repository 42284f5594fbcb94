"""The settings of each kind of figure: the entries of `figures` in `params.yaml`."""

from typing import Annotated, Literal

from pydantic import Field

from rmlr.study.section import PositiveInt, Section, Seed


class ExamplesFigure(Section):
    """Pictures of the test split: annotations, and runs' highest-scoring triplets (paper, figures 5 and 8).

    Images are spaced evenly among those with at least `interactions` annotated interactions, never selected by score.
    """

    kind: Literal["examples"]
    runs: dict[str, str]  # name in print -> GROUP/NAME, first seed
    images: PositiveInt
    columns: PositiveInt
    interactions: PositiveInt
    triplets: PositiveInt  # highest-scoring ones drawn on each picture


class SeparationFigure(Section):
    """Distances between people at the same place, before and after re-mining, as distributions (paper, figure 1)."""

    kind: Literal["separation"]
    runs: dict[str, str]  # one, first seed


class PlacesFigure(Section):
    """Pictures of people at the same place, with their distances before and after re-mining (paper, figures 1 and 6).

    The pairs whose boxes overlap most, each image once: pairs that do different things, and pairs that do the same.
    """

    kind: Literal["places"]
    runs: dict[str, str]  # one, first seed
    pairs: PositiveInt  # of each kind


class CurvesFigure(Section):
    """Loss terms and spreads of the aligned rows by epoch: mean, minimum and maximum over the seeds."""

    kind: Literal["curves"]
    runs: dict[str, str]


class DifferencesFigure(Section):
    """AP differences of two runs for each class, with bootstrap intervals over test images."""

    kind: Literal["differences"]
    runs: dict[str, str]  # two: A, B
    classes: PositiveInt  # the number shown: those that differ most, with positives in enough images
    samples: Annotated[int, Field(ge=2)]  # bootstrap samples of images
    seed: Seed


class PrecisionRecallFigure(Section):
    """Precision-recall curves: the mean over classes, and each class if they are few; the mean over seeds."""

    kind: Literal["precision_recall"]
    runs: dict[str, str]


FirstSeedFigure = ExamplesFigure | SeparationFigure | PlacesFigure
AnyFigure = FirstSeedFigure | CurvesFigure | DifferencesFigure | PrecisionRecallFigure
Figure = Annotated[AnyFigure, Field(discriminator="kind")]
