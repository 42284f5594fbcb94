"""What a figure shows, by its kind: the entries of `figures` in `params.yaml`."""

from typing import Annotated, Literal

from pydantic import Field

from rmlr.study.section import PositiveInt, Section, Seed


class ExamplesFigure(Section):
    """Pictures of the test split: what was annotated, and runs' strongest triplets (paper, figures 5 and 8).

    Images are taken evenly over those with so many annotated interactions or more, never by their scores.
    """

    kind: Literal["examples"]
    runs: dict[str, str]  # name in print -> GROUP/NAME, first seed
    images: PositiveInt
    columns: PositiveInt
    interactions: PositiveInt
    triplets: PositiveInt  # strongest ones drawn on each picture


class SeparationFigure(Section):
    """Distances between people at the same place, before and after re-mining, as distributions (paper, figure 1)."""

    kind: Literal["separation"]
    runs: dict[str, str]  # one, first seed


class PlacesFigure(Section):
    """Pictures of people at the same place, with their distances before and after re-mining (paper, figures 1 and 6).

    The pairs whose boxes lie nearest, each image once: those who do different things, and those who do the same.
    """

    kind: Literal["places"]
    runs: dict[str, str]  # one, first seed
    pairs: PositiveInt  # of each kind


class CurvesFigure(Section):
    """Loss terms and spreads of the aligned rows over the epochs of training: mean, least and most of the seeds."""

    kind: Literal["curves"]
    runs: dict[str, str]


class DifferencesFigure(Section):
    """AP differences of two runs, class by class, with intervals of a bootstrap over test images."""

    kind: Literal["differences"]
    runs: dict[str, str]  # two: A, B
    classes: PositiveInt  # that differ most are shown, of those with positives in enough images
    samples: Annotated[int, Field(ge=2)]  # sets of images
    seed: Seed


class PrecisionRecallFigure(Section):
    """Precision over recall, the mean over classes and class by class where they are few; the mean over seeds."""

    kind: Literal["precision_recall"]
    runs: dict[str, str]


FirstSeedFigure = ExamplesFigure | SeparationFigure | PlacesFigure
AnyFigure = FirstSeedFigure | CurvesFigure | DifferencesFigure | PrecisionRecallFigure
Figure = Annotated[AnyFigure, Field(discriminator="kind")]
