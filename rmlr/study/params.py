"""The parts of `params.yaml`: profiles, the named runs, and the tables that they feed."""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from rmlr.study.section import DatasetName, Name, PathName, Section, Seed, Split, must_name
from rmlr.study.settings import (
    Alignment,
    Backbone,
    Claim,
    CostScene,
    Detector,
    Encoder,
    Features,
    HicodetRelease,
    Losses,
    Network,
    Pose,
    Prediction,
    Train,
    VcocoRelease,
    World,
)


def _must_differ(seeds: list[int]) -> list[int]:
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"each seed is one run: {twice[0]} is there {seeds.count(twice[0])} times")
    return seeds


class Profile(Section):
    """One size of the study: the drawn world on a laptop, or the real data on GPUs."""

    world: World | None  # null: real data
    seeds: Annotated[
        list[Seed], Field(min_length=1), AfterValidator(_must_differ)
    ]  # of a run: initialisation and order
    detector_seed: Seed  # of what is trained once and frozen: the detector, and the pose network
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

    def has_seen_test(self, run: "Run") -> bool:
        """Whether the detector under a run learnt from the test photos that the run is scored on."""
        return self.detectors[self.backbones[run.backbone].detector(run.dataset)].has_seen_test(run.dataset)

    def cached_views(self, dataset: DatasetName) -> dict[Split, int]:
        """How many views of a split's photos are cached; splits without any are left out.

        One, but of those that are learnt from as many as the settings say. Where that is none, a split that is both
        learnt from and predicted has the one that is predicted from.
        """
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

    With a `grid` it stands for a run at each of its points, every one of them named after its values.
    """

    variant: str
    dataset: DatasetName
    backbone: str  # key of the profile's `backbones`
    encoder: str  # key of the profile's `encoders`
    overrides: dict[str, Any]  # dotted path of the train node: value, e.g. `losses.irm_word: 0.5`
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)  # path: values
    profiles: list[str] | None = None  # those in which it is made; null: all

    def points(self) -> list[dict[str, Any]]:
        """Each point of the grid, in order, the last key fastest; one that is empty without a grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def at(self, point: Mapping[str, Any]) -> "Run":
        """The run at a point of its grid, which is its whole grid then."""
        return self.model_copy(update={"grid": {path: [value] for path, value in point.items()}})

    @property
    def point(self) -> dict[str, Any]:
        """Where in the grid it is; empty for a run without one."""
        return {path: values[0] for path, values in self.grid.items()}


def point_name(name: str, point: Mapping[str, Any]) -> str:
    """What the run at a point is called: `weights-irm_word_0.1-learning_rate_0.001`. ValueError if no folder can be."""
    keys = [key.rpartition(".")[2] for key in point]
    keys = [key if keys.count(key) == 1 else path for key, path in zip(keys, point, strict=True)]
    return must_name("-".join([name, *(f"{key}_{value}" for key, value in zip(keys, point.values(), strict=True))]))


class TableRow(Section):
    """A row of a table of ours: which of the paper's rows it reproduces, and what feeds it.

    In a table of your own: what it is called. A run with a grid makes a row of each point, with its values as cells.
    """

    row: dict[str, str]  # the paper's cells, as printed, of as many of its columns as it takes; of a control our own
    runs: list[str]  # GROUP/NAME, one for each data set; or `cost`, what that stage measures. Not made: empty cells
    profiles: list[str] | None = None  # those in which they feed it; null: all


class Table(Section):
    """One table: of the paper, where it has the name of one (`table2`); any other is your own."""

    title: str
    note: str | None = None  # what a reader of our numbers must know
    rows: list[TableRow]  # those of the paper that are measured; the others are reported
    controls: list[TableRow] = Field(default_factory=list)  # not in the paper: they stand under the table
    claims: list[Claim] = Field(default_factory=list)  # what the statement is about; of the paper's tables alone
