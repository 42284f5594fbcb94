"""The settings of each kind of figure: the entries of `figures` in `params.yaml`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rmlr.study.section import Name, PositiveInt, Section, Seed, Split


def _as_pairs(value: Any) -> Any:
    """YAML has lists, and no tuples."""
    if not isinstance(value, list):
        return value
    return [tuple(one) if isinstance(one, list) else one for one in value]


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


class RowsFigure(Section):
    """AP_role differences of V-COCO's verbs grouped by their rows in training, and over unseen combinations."""

    kind: Literal["rows"]
    runs: dict[str, str]
    compared: Annotated[list[tuple[str, str]], Field(min_length=1), BeforeValidator(_as_pairs)]  # names of runs: A, B
    rows_of: Split  # the split whose rows are counted: the one that was trained on
    bounds: Annotated[list[PositiveInt], Field(min_length=1)]  # rows at which groups begin, ascending
    samples: Annotated[int, Field(ge=2)]  # bootstrap samples of images
    seed: Seed

    @model_validator(mode="after")
    def _names_are_known(self) -> "RowsFigure":
        if unknown := [name for pair in self.compared for name in pair if name not in self.runs]:
            raise ValueError(f"compared: '{unknown[0]}' is none of the runs: {', '.join(self.runs)}")
        if sorted(set(self.bounds)) != self.bounds:
            raise ValueError(f"bounds: {self.bounds} must ascend")
        return self


class ConfusionsFigure(Section):
    """Which verbs a run confuses, against the similarity of their texts, with a permutation test (V-COCO)."""

    kind: Literal["confusions"]
    runs: dict[str, str]  # one; the mean over its seeds
    encoder: Name  # key of the profile's `encoders`: whose texts
    permutations: PositiveInt
    seed: Seed


FirstSeedFigure = ExamplesFigure | SeparationFigure | PlacesFigure
AnyFigure = FirstSeedFigure | CurvesFigure | DifferencesFigure | PrecisionRecallFigure | RowsFigure | ConfusionsFigure
Figure = Annotated[AnyFigure, Field(discriminator="kind")]
