"""The parts of `params.yaml`: profiles, the named runs, and the tables that they feed."""

from typing import Annotated, Any

from pydantic import Field

from rmlr.study.section import DatasetName, NaturalInt, Section, Split
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


class Profile(Section):
    """One size of the study: the drawn world on a laptop, or the real data on GPUs."""

    world: World | None  # null: real data
    seeds: Annotated[list[NaturalInt], Field(min_length=1)]  # of a run: initialisation and order
    detector_seed: NaturalInt  # of what is trained once and frozen: the detector, and the pose network
    vcoco: VcocoRelease
    hicodet: HicodetRelease
    detectors: dict[str, Detector]
    backbones: dict[str, Backbone]
    encoders: dict[str, Encoder]
    pose: Pose | None  # null: no variant with `pose` can be run
    features: Features
    network: Network
    alignment: Alignment
    losses: Losses
    train: dict[DatasetName, Train]
    prediction: Prediction
    cost: "CostScene"

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


class Run(Section):
    """One named run: which variant, on which data, with which frozen parts; numbers that differ as overrides."""

    variant: str
    dataset: DatasetName
    backbone: str  # key of the profile's `backbones`
    encoder: str  # key of the profile's `encoders`
    overrides: dict[str, Any]  # dotted path of the train node: value, e.g. `losses.irm_word: 0.5`
    profiles: list[str] | None = None  # those in which it is made; null: all


class TableRow(Section):
    """A row of a table of ours: which of the paper's rows it reproduces, and what feeds it."""

    row: dict[str, str]  # the paper's cells, as printed, of as many of its columns as it takes; of a control our own
    runs: list[str]  # GROUP/NAME, one for each data set; or `cost`, what that stage measures. Not made: empty cells
    profiles: list[str] | None = None  # those in which they feed it; null: all


class Table(Section):
    """One table of the paper."""

    title: str
    note: str | None  # what a reader of our numbers must know
    rows: list[TableRow]  # those of the paper that are measured; the others are reported
    controls: list[TableRow]  # not in the paper: they stand under the table
    claims: list[Claim]  # what the statement is about
