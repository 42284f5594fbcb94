"""The settings of each stage: the content of its `settings.yaml`, resolved from `params.yaml`.

`code` is the digest of the package files that the stage runs (`rmlr.study.source`).
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from rmlr.study.encoder import Encoder
from rmlr.study.figures import (
    Figure,
)
from rmlr.study.frozen import Detector, Pose, PoseArchitecture, PoseSchedule
from rmlr.study.section import DatasetName, NaturalInt, NumFolds, Section, Split, ZeroShot
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
    Online,
    PictureSize,
    Prediction,
    Resampling,
    Selection,
    Separation,
    Train,
    TrainingSpread,
    Variant,
    VcocoRelease,
    World,
)

FOLDS_OF = "test"  # the split whose photos are in folds: all that are scored


class DrawNode(Section):
    code: str
    world: World


class PrepareNode(Section):
    code: str
    dataset: DatasetName
    vcoco: VcocoRelease
    hicodet: HicodetRelease
    leave_out: list[LeftOut] = Field(default_factory=list)
    folds: Folds | None = None


class DetectorNode(Section):
    code: str
    detector: Detector
    features: Features  # the share of true pairs that remain after its selection is a metric of the detector


class FeaturesNode(Section):
    code: str
    image: PictureSize | None  # null: as the detector itself says
    features: Features


class JointsNode(Section):
    code: str
    architecture: PoseArchitecture
    schedule: PoseSchedule


class PoseNode(Section):
    code: str
    pose: Pose


class TextNode(Section):
    code: str
    encoder: Encoder


class TrainNode(Section):
    code: str
    variant: Variant
    network: Network
    alignment: Alignment
    losses: Losses
    train: Train
    online: Online | None = None  # None: from cached features
    held_out: Prediction | None = None  # how val is scored during training (train.validate_every); None: it is not
    fold: NaturalInt | None = None  # the fold that is left out of the training data; None: there are no folds
    start: str | None = None  # the run whose weights are the initial ones; None: random
    tags: dict[str, str]  # group, run, variant, dataset, backbone, encoder, profile: for the tracker

    @model_validator(mode="after")
    def _upt_has_sizes(self) -> "TrainNode":
        if self.variant.network == "upt" and self.network.upt is None:
            raise ValueError("variant upt needs its sizes: give network.upt in the profile")
        return self

    @model_validator(mode="after")
    def _path_has_sizes(self) -> "TrainNode":
        if self.alignment.on_path != (self.network.pair_attention is not None):
            raise ValueError("alignment.on_path and network.pair_attention go together: give both, or false and null")
        if self.alignment.on_path and self.variant.network == "upt":
            raise ValueError("variant upt has no alignment: alignment.on_path must be false")
        return self

    @model_validator(mode="after")
    def _unseen_classes_stay_unseen(self) -> "TrainNode":
        if self.train.zero_shot is not None and self.alignment.form == "literal":
            raise ValueError(
                "train.zero_shot needs another alignment.form than literal, which reads the text of whole images: it "
                "names their unseen interactions"
            )
        return self

    @model_validator(mode="after")
    def _held_out_is_not_learnt_from(self) -> "TrainNode":
        if (self.train.validate_every > 0) != (self.held_out is not None):
            raise ValueError("train.validate_every and held_out go together: give both, or 0 and null")
        learnt = ("train", "val") if self.train.split == "trainval" else (self.train.split,)
        if self.held_out is not None and (self.held_out.split in learnt or self.held_out.split == "trainval"):
            raise ValueError(f"held_out.split is {self.held_out.split}, which is trained on: {self.train.split}")
        return self


class PredictNode(Section):
    code: str
    prediction: Prediction
    folds: NumFolds = 0  # each is predicted by the network that was trained without it; 0: one network for all


class EvaluateNode(Section):
    code: str
    split: Split
    zero_shot: ZeroShot | None = None  # HICO-DET: whose seen and unseen classes are scored apart as well


class CostNode(Section):
    code: str
    cost: CostScene
    network: Network
    selection: Selection
    prediction: Prediction
    variants: dict[str, Variant]  # upt, rmlr


class Source(Section):
    """The source of cells of a row: a run with all its seeds, or the stage `cost`."""

    run: str  # GROUP/NAME, or `cost`
    measures: Literal["vcoco", "hicodet", "cost"]  # which of the table's columns
    detector: str  # as printed; empty for `cost`
    encoder: str  # likewise; empty where nothing is learnt from text
    leaks: bool  # its detector was trained on the test photos
    is_zero_shot: bool = False  # it has seen and unseen classes


class MeasuredRow(Section):
    row: dict[str, str]
    sources: list[Source]


class TableNode(Section):
    code: str
    profile: str
    drawn: bool  # measured on the drawn world, not on photos
    title: str
    note: str | None
    rows: list[MeasuredRow]
    controls: list[MeasuredRow]
    seeds: list[NaturalInt]
    folds: NumFolds = 0


class SeparationNode(Section):
    code: str
    split: Split
    separation: Separation
    folds: NumFolds = 0  # vectors are compared within each, since each has its own network; 0: one network for all


class FigureNode(Section):
    code: str
    split: Split  # that was predicted
    figure: Figure
    seeds: list[NaturalInt]  # of the runs that are shown


class Claimed(Section):
    """A table, and the paper's claims from it."""

    table: TableNode
    claims: list[Claim]


class StatementNode(Section):
    code: str
    profile: str
    drawn: bool  # measured on the drawn world, not on photos
    split: Split
    seeds: list[NaturalInt]
    folds: NumFolds = 0
    training_spread: dict[str, TrainingSpread] = Field(default_factory=dict)
    resampling: Resampling
    tables: dict[str, Claimed]
    places: list[str]  # runs, GROUP/NAME, for which the stage separation measures distances of people; first seed
    made_with: dict[str, Any]  # the profile, its runs and their variants, for a reader


NODES: dict[str, type[Section]] = {  # by stage
    "draw": DrawNode,
    "prepare": PrepareNode,
    "detector": DetectorNode,
    "features": FeaturesNode,
    "joints": JointsNode,
    "pose": PoseNode,
    "text": TextNode,
    "train": TrainNode,
    "predict": PredictNode,
    "evaluate": EvaluateNode,
    "cost": CostNode,
    "table": TableNode,
    "separation": SeparationNode,
    "figure": FigureNode,
    "statement": StatementNode,
}
