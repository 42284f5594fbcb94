"""The parts of `params.yaml`: profiles, the named runs, and the tables that use them."""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from rmlr.study.encoder import Encoder
from rmlr.study.frozen import Backbone, Detector, Pose
from rmlr.study.section import DatasetName, Name, PathName, PositiveInt, Section, Seed, Split, must_name
from rmlr.study.settings import (
    Alignment,
    Claim,
    CostScene,
    Features,
    Folds,
    HicodetRelease,
    LeftOut,
    Losses,
    Network,
    Prediction,
    Train,
    TrainingSpread,
    VcocoRelease,
    World,
)


def _must_differ(seeds: list[int]) -> list[int]:
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"each seed is one run: {twice[0]} is listed {seeds.count(twice[0])} times")
    return seeds


def _of_count(value: Any) -> Any:
    """A number of folds, alone, is a section of them."""
    return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


class Profile(Section):
    """One size of the study: synthetic data on a laptop, or the real data on GPUs."""

    world: World | None  # null: real data
    seeds: Annotated[
        list[Seed], Field(min_length=1), AfterValidator(_must_differ)
    ]  # of a run: initialisation and order
    detector_seed: Seed  # of networks that are trained once and frozen: the detector, and the pose network
    vcoco: VcocoRelease
    hicodet: HicodetRelease
    detectors: dict[PathName, Detector]
    backbones: dict[Name, Backbone]
    encoders: dict[Name, Encoder]
    pose: Pose | None  # null: no variant with `pose` can be run
    features: Features
    network: Network
    alignment: Alignment
    losses: Losses
    train: dict[DatasetName, Train]
    prediction: Prediction
    cost: "CostScene"
    groups: Annotated[list[Name], Field(min_length=1)] | None = (
        None  # of runs: these alone, which are no other profile's
    )

    # By column of the tables: the spread between trainings, for verdicts where there is one seed.
    training_spread: dict[str, TrainingSpread] = Field(default_factory=dict)

    # Images that are left out because of their photos; for other reasons there is an error.
    leave_out: list[LeftOut] = Field(default_factory=list)
    folds: Annotated[Folds | None, BeforeValidator(_of_count)] = None  # a number, or a section; null: the data's splits
    together: PositiveInt = 1  # the most training runs of one job, of those with the same photos; it changes no number

    @property
    def num_folds(self) -> int:
        """How many folds there are; 0: none."""
        return self.folds.count if self.folds else 0

    @property
    def fold_names(self) -> list[str]:
        """What a path of a run, or of a text, is continued by for each fold; one empty name where there are none."""
        return [f"/fold{fold}" for fold in range(self.num_folds)] or [""]

    def at_default(self) -> set[str]:
        """The fields that are as if they had not been given."""
        fields = {name: field for name, field in type(self).model_fields.items() if not field.is_required()}
        defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
        return {name for name, default in defaults.items() if getattr(self, name) == default}

    def has_seen_test(self, run: "Run") -> bool:
        """Whether the detector of a run was trained on the test photos that the run is scored on."""
        detector = self.detectors[self.backbones[run.backbone].detector(run.dataset)]
        has_folds_of_train = self.folds is not None and self.folds.of == "all"
        if has_folds_of_train and run.dataset in detector.seen:
            return True
        return detector.has_seen_test(run.dataset, self.vcoco.photos)

    def cached_views(self, dataset: DatasetName) -> dict[Split, int]:
        """The number of cached views of each split's photos; splits without any are left out.

        One for splits that are only predicted, the number of the settings for training splits. If that is 0, a split
        that is both trained on and predicted has the one view that is predicted from.
        """
        if self.folds is not None:  # all photos that are learnt from or predicted are those of test
            return {"test": max(self.features.views, 1)}
        views, split = self.features.views, self.train[dataset].split
        learnt = ("train", "val") if split == "trainval" else (split,)
        found: dict[Split, int] = {name: views if name in learnt else 1 for name in ("train", "val", "test")}
        predicted = self.prediction.split
        for name in ("train", "val") if predicted == "trainval" else (predicted,):
            found[name] = max(found[name], 1)
        return {name: number for name, number in found.items() if number}


PAPER_TABLES = tuple(f"table{number}" for number in range(1, 10))


class Run(Section):
    """One named run: which variant, on which data, with which frozen parts; numbers that differ as overrides.

    With a `grid` it stands for one run per grid point, named after its values.
    """

    variant: str
    dataset: DatasetName
    backbone: str  # key of the profile's `backbones`
    encoder: str  # key of the profile's `encoders`
    overrides: dict[str, Any]  # dotted path of the train node: value, e.g. `losses.irm_word: 0.5`
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)  # path: values
    profiles: list[str] | None = None  # those that include it; null: all
    start: str | None = None  # GROUP/NAME of the run whose weights are the initial ones; null: random

    def points(self) -> list[dict[str, Any]]:
        """Each point of the grid, in order, the last key fastest; without a grid, one empty point."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def at(self, point: Mapping[str, Any]) -> "Run":
        """The run at a point of its grid, as a run whose grid is that point."""
        return self.model_copy(update={"grid": {path: [value] for path, value in point.items()}})

    @property
    def point(self) -> dict[str, Any]:
        """The grid point of this run; empty for a run without a grid."""
        return {path: values[0] for path, values in self.grid.items()}


def point_name(name: str, point: Mapping[str, Any]) -> str:
    """The name of the run at a point: `weights-irm_word_0.1-learning_rate_0.001`. ValueError if it is invalid."""
    keys = [key.rpartition(".")[2] for key in point]
    keys = [key if keys.count(key) == 1 else path for key, path in zip(keys, point, strict=True)]
    return must_name("-".join([name, *(f"{key}_{value}" for key, value in zip(keys, point.values(), strict=True))]))


class TableRow(Section):
    """A row of a table: which of the paper's rows it reproduces, and the runs that it shows.

    In a custom table, `row` is its name. A run with a grid gives one row per grid point, with its values as cells.
    """

    row: dict[str, str]  # the paper's cells, as printed, as many as identify the row; for a control, our own
    runs: list[str]  # GROUP/NAME, one per data set; or `cost`, that stage's result. Not in the profile: empty cells
    profiles: list[str] | None = None  # those in which the row has values; null: all


class Table(Section):
    """One table: the paper's, if it has the name of one (`table2`); otherwise a custom table."""

    title: str
    note: str | None = None  # a remark on our numbers
    rows: list[TableRow]  # those of the paper that are measured; the others are reported
    controls: list[TableRow] = Field(default_factory=list)  # not in the paper: shown below its rows
    claims: list[Claim] = Field(default_factory=list)  # tested by the statement; only for the paper's tables
