"""The typed form of `params.yaml`, and of the `settings.yaml` that one node of the study reads.

No number has a default here: each lives in `params.yaml` alone, with unit and source. `Study` is the whole file; the
classes that end in `Node` are what one stage reads, resolved from it for one profile, run and override.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
NaturalInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

Split = Literal["train", "val", "trainval", "test"]  # trainval: train, then val
DatasetName = Literal["vcoco", "hicodet"]


S = TypeVar("S", bound="Section")  # not Self: beartype's import hook does not understand it


class Section(BaseModel):
    """A part of the settings; a misspelt key or a wrong type is an error that names the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def load(cls: type[S], path: Path) -> S:
        """Read a YAML file; ValueError names the file, the key, what was expected and what came."""
        try:
            text = path.read_text()
        except OSError as error:
            raise ValueError(f"{path}: settings cannot be read ({error.strerror}). Does the path exist?") from error
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML: {error}") from error
        return cls.check(content, str(path))

    @classmethod
    def check(cls: type[S], content: Any, where: str) -> S:
        """Type what was read; ValueError says `where`, and for each key what was expected and what came."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            lines = [
                f"  {'.'.join(map(str, item['loc'])) or '(top)'}: {item['msg']}"
                + ("" if item["type"] == "missing" else f", got {_shortened(item['input'])}")
                for item in error.errors()
            ]
            raise ValueError(f"{where}: {len(lines)} setting(s) do not fit:\n" + "\n".join(lines)) from error

    def dump(self) -> str:
        """As YAML, such that `load` gives the same again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- sections, in the order of the stages


class World(Section):
    """The drawn world (`draw`): how many pictures, and the seed that fixes every one of them."""

    seed: NaturalInt
    train: PositiveInt
    val: PositiveInt
    test: PositiveInt
    size: PositiveInt  # height = width of a picture, pixels


class ImageSize(Section):
    """How a picture is resized before the detector sees it: shortest side, longest side at most; pixels."""

    shortest: PositiveInt
    longest: PositiveInt


class Augment(Section):
    """How photos are changed by chance while something is learnt from them (UPT, DETR); sizes in pixels."""

    flip: Fraction  # share of the photos that are mirrored
    jitter: Fraction  # brightness, contrast and saturation are each multiplied by 1 - jitter to 1 + jitter
    shortest: Annotated[list[PositiveInt], Field(min_length=1)]  # one of these becomes the shortest side
    longest: PositiveInt  # at most
    crop: Fraction  # share of the photos that are cropped before that
    crop_from: Annotated[list[PositiveInt], Field(min_length=1)]  # shortest side of what is cropped, one of these
    crop_smallest: PositiveInt  # sides of a crop, drawn apart
    crop_largest: PositiveInt

    @model_validator(mode="after")
    def _crops_have_sizes(self) -> "Augment":
        if self.crop_smallest > self.crop_largest:
            raise ValueError(f"crop_smallest {self.crop_smallest} is more than crop_largest {self.crop_largest}")
        return self


class TransformerSizes(Section):
    """A stack of Transformer encoder layers."""

    layers: PositiveInt
    dim: PositiveInt
    heads: PositiveInt
    ffn_dim: PositiveInt
    dropout: Fraction

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> "TransformerSizes":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} cannot be shared evenly by {self.heads} heads")
        return self


class Encoder(Section):
    """A frozen text encoder: any `transformers.AutoModel`."""

    name: str  # as printed in tables
    model: str  # hub id, local folder, `package:NAME` (one that a package ships), or `random:DIM` (a control)
    revision: str | None  # of the hub id
    sha256: str | None  # of its weights file; checked when given
    pooling: Literal["cls", "mean"]  # of a phrase encoded alone; cls: paper


class Upt(Section):
    """Sizes of UPT's interaction head (Zhang et al. 2022). Unary tokens are as wide as the detector's."""

    code_dims: list[PositiveInt]  # hidden layers between the 36 numbers of a pair's boxes and its spatial code
    dim: PositiveInt  # of a spatial code; a pair's token is twice as wide
    layers: PositiveInt  # cooperative ones; there is one competitive layer
    heads: PositiveInt  # of both kinds
    ffn_dim: PositiveInt  # of the competitive layer; a cooperative one's is 4 x its tokens
    dropout: Fraction

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> "Upt":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} cannot be shared evenly by {self.heads} heads")
        return self


class Network(Section):
    """Sizes of the interaction modules (paper, sections 3.2 to 3.5 and appendix B)."""

    pool: Literal["covered", "roi"]  # masked RoI: mean over the covered area, or over the bounding RoI (paper)
    feature_dim: PositiveInt  # g, s_h, s_o and m each
    ire: TransformerSizes
    pair_dim: PositiveInt  # H and O
    irm: TransformerSizes
    upt: Upt | None = None  # the baseline's, which has none of the above; None in the nodes of other variants

    @model_validator(mode="after")
    def _widths_fit(self) -> "Network":
        if self.irm.dim != self.pair_dim:
            raise ValueError(f"irm.dim {self.irm.dim} must equal pair_dim {self.pair_dim}: it reads H and gives O")
        if self.ire.dim % 4:
            raise ValueError(f"ire.dim {self.ire.dim} must be a multiple of 4: sines and cosines of two axes")
        return self


class Alignment(Section):
    """Cross-modal alignment (paper, section 3.4; model specification, section 10)."""

    form: Literal["anchored", "anchored_attention", "literal"]
    residual: bool  # anchored forms: only what the verb adds to its object's mean target
    whiten: bool  # sentence targets as well
    stack: TransformerSizes  # `literal`: self-attention over the pairs (CML-SA); its dim is FFN_T's hidden one, always


class Losses(Section):
    """Terms of the objective, equation 22 and Table 7."""

    focal_balance: Fraction
    focal_gamma: NonNegative
    hoi: NonNegative
    irm_sentence: NonNegative
    irm_word: NonNegative
    ire_sentence: NonNegative
    ire_word: NonNegative


class Train(Section):
    """The schedule of one run."""

    split: Split
    share: Annotated[float, Field(gt=0, le=1)]  # of the split's images; a smaller share is part of a larger one
    epochs: PositiveInt  # passes over that share
    batch_size: PositiveInt  # effective: devices x micro-batch x accumulation
    micro_batch_size: PositiveInt
    learning_rate: Positive
    weight_decay: NonNegative
    clip_norm: Positive
    precision: Literal["fp32", "bf16"]

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> "Train":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class Prediction(Section):
    """How weights become triplets."""

    split: Split
    batch_size: PositiveInt
    prior_power: Positive  # of (s_h s_o) at inference; 1 in training
    min_score: NonNegative  # triplets below are not written


class Variant(Section):
    """A row of Table 2, or a control: switches, not subclasses (model specification, section 8)."""

    network: Literal["rmlr", "boxes", "upt"]
    global_context: bool
    ire: bool
    ire_sentence: bool
    ire_word: bool
    irm_sentence: bool
    irm_word: bool
    pose: bool  # the cues are of a frozen pose network's map, in IRE's place (Table 9)

    @property
    def aligns(self) -> bool:
        """Whether anything is learnt from text."""
        return self.ire_sentence or self.ire_word or self.irm_sentence or self.irm_word

    @model_validator(mode="after")
    def _switches_fit(self) -> "Variant":
        if self.ire and self.pose:
            raise ValueError("pose takes the place of ire: one of them must be false")
        if (self.ire_sentence or self.ire_word) and not (self.ire or self.pose):
            raise ValueError("ire_sentence and ire_word teach the cues of IRE: they need ire: true, or pose: true")
        if self.network != "rmlr" and self.pose:
            raise ValueError(f"network {self.network} has no place for the cues of a pose network: pose must be false")
        if self.network == "boxes" and (self.global_context or self.ire or self.aligns):
            raise ValueError("network boxes is a control that sees boxes and classes only: its switches must be false")
        if self.network == "upt" and (self.global_context or self.ire or self.aligns):
            raise ValueError("network upt is a baseline without any part of RmLR: its switches must be false")
        return self


# Of fewer than 16 channels, oneDNN's strided 1x1 convolution overwrites foreign memory in training (torch 2.14, CPU).
Width = Annotated[int, Field(ge=16)]


class DetectorArchitecture(Section):
    """A small DETR trained from scratch (demo specification, section 2). Stage k of the backbone has stride 2^(k+1)."""

    embedding_size: Width
    hidden_sizes: list[Width]  # one stage each
    depths: list[PositiveInt]
    layer_type: Literal["basic", "bottleneck"]
    d_model: PositiveInt
    encoder_layers: PositiveInt
    decoder_layers: PositiveInt
    heads: PositiveInt
    ffn_dim: PositiveInt
    grid: PositiveInt  # queries stand on a grid x grid of anchors
    sine_temperature: Positive


class DetectorSchedule(Section):
    """How the detector is trained, or fine-tuned, before it is frozen."""

    steps: PositiveInt | None = None  # so many, or
    epochs: PositiveInt | None = None  # passes over the photos
    batch_size: PositiveInt  # effective: processes x micro-batch x accumulation
    micro_batch_size: PositiveInt | None = None  # null: each process takes its share at once
    learning_rate: Positive
    backbone_learning_rate: Positive
    decay: Literal["cosine", "none"] = "cosine"  # of both rates
    weight_decay: NonNegative
    warmup_steps: NaturalInt
    clip_norm: Positive
    ema_decay: Fraction  # 0: no averaging
    no_object_weight: Positive
    augment: Augment | None = None  # null: half of the photos are mirrored, no more

    @model_validator(mode="after")
    def _one_length(self) -> "DetectorSchedule":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either `steps` or `epochs`")
        return self


PUBLIC_DETECTORS = ("facebook/detr-", "detr-r50-e632da11", "detr-r101-2c7b67e5")  # trained on all of COCO


class Detector(Section):
    """A DETR: from given weights or from scratch, trained by a schedule or taken as it is, then frozen."""

    dataset: DatasetName  # whose records it is trained and measured on
    all_of_coco: bool = False  # it is trained on COCO 2014 without V-COCO's test photos instead
    repeats_iou: Fraction | None = None  # annotated boxes of a class that overlap so much are one; null: all count
    weights: str | None  # hub id, folder of `save_pretrained`, or file as published (.pth); null: from scratch
    revision: str | None  # of the hub id
    seen: list[Literal["coco", "vcoco", "hicodet"]]  # what given weights learnt from: all of COCO, or train splits
    architecture: DetectorArchitecture | None
    schedule: DetectorSchedule | None  # null: taken as it is
    image: ImageSize

    @model_validator(mode="after")
    def _one_origin(self) -> "Detector":
        if (self.weights is None) == (self.architecture is None):
            raise ValueError("give either `weights` (a hub id or folder) or `architecture` (from scratch), not both")
        if self.weights is None and self.schedule is None:
            raise ValueError("a detector from scratch needs a `schedule`: nothing is ever run on random weights")
        if self.weights is None and self.seen:
            raise ValueError("`seen` tells what given weights learnt from: from scratch, it must be empty")
        is_public = self.weights is not None and any(name in self.weights for name in PUBLIC_DETECTORS)
        if is_public and "coco" not in self.seen:
            raise ValueError(f"{self.weights} learnt from all of COCO: `seen` must say so, got {self.seen}")
        if self.all_of_coco and (self.dataset != "vcoco" or self.schedule is None):
            raise ValueError("all_of_coco is for detectors that are trained, for dataset vcoco")
        return self

    def has_seen_test(self, dataset: DatasetName) -> bool:
        """Whether it learnt from a data set's test photos: all of V-COCO's are COCO's."""
        return dataset == "vcoco" and "coco" in self.seen


class Backbone(Section):
    """What runs call one: the detectors that stand on it, which differ by data set where the paper's do."""

    name: str  # as printed in tables
    vcoco: str  # key of the profile's `detectors`
    hicodet: str

    def detector(self, dataset: DatasetName) -> str:
        """The key of the detector that serves a data set."""
        return self.vcoco if dataset == "vcoco" else self.hicodet


class Selection(Section):
    """Which detections are kept (model specification, section 2)."""

    nms_iou: Fraction  # class-wise
    min_score: Fraction
    min_instances: NaturalInt  # at least so many humans, and as many non-persons, filled by score
    max_instances: PositiveInt  # at most


class View(Section):
    """How a detector is made to see a picture: at what size, and which of its detections count."""

    image: ImageSize
    selection: Selection
    map: Literal["backbone", "projected"]  # X: the last map, or what DETR makes of it


class Features(Section):
    """What is kept of the frozen detector's view of each image (model specification, section 2)."""

    batch_size: PositiveInt
    selection: Selection
    map: Literal["backbone", "projected"]  # as in `View`
    map_dtype: Literal["float16", "float32"]
    shard_images: PositiveInt  # images in one file
    views: NaturalInt  # cached of each training photo; epoch e takes view e mod views. 0: drawn while training
    augment: Augment | None = None  # of all views but the first cached one, which is the photo as it is; null: no such

    @model_validator(mode="after")
    def _views_are_made_somehow(self) -> "Features":
        if (self.views == 1) != (self.augment is None):
            raise ValueError(f"views {self.views} needs `augment`" if self.views != 1 else "views 1 takes no `augment`")
        return self

    def with_views(self, views: int) -> "Features":
        """The same for a split of which so many views are cached."""
        return self.model_copy(update={"views": views, "augment": self.augment if views != 1 else None})


class Online(Section):
    """How photos are seen by the frozen detector while training, where none of their views is cached."""

    view: View
    augment: Augment


class PoseArchitecture(Section):
    """A small pose network: a ResNet of basic blocks, whose four stages have stride 4 to 32, then deconvolutions."""

    embedding_size: Width
    hidden_sizes: Annotated[list[Width], Field(min_length=4, max_length=4)]  # one stage each
    depths: Annotated[list[PositiveInt], Field(min_length=4, max_length=4)]
    deconvolutions: Annotated[list[Width], Field(min_length=1, max_length=5)]  # each doubles the map; channels


class PoseSchedule(Section):
    """How a pose network is trained from scratch: on crops around one person each, as MMPose does."""

    steps: PositiveInt
    batch_size: PositiveInt  # persons
    learning_rate: Positive
    weight_decay: NonNegative
    warmup_steps: NaturalInt
    crop: PositiveInt  # height = width of what the network sees of one person, pixels; a multiple of 32
    margin: Annotated[float, Field(ge=1)]  # longer side of a crop, of the person's box
    shift: Fraction  # in training, a crop is moved by up to this share of its side, up or down and left or right
    zoom: Fraction  # and made larger or smaller by up to this share
    sigma: Positive  # of a joint's spot in its heat map, cells

    @model_validator(mode="after")
    def _cells_are_whole(self) -> "PoseSchedule":
        if self.crop % 32:
            raise ValueError(f"crop {self.crop} must be a multiple of 32, the stride of a ResNet")
        return self


class Pose(Section):
    """A frozen pose network (paper, appendix G), from a file or trained by a schedule; read by variants with `pose`."""

    weights: str | None  # file, as MMPose publishes its CrowdPose networks; a SHA-256 in its name is checked
    architecture: PoseArchitecture | None
    schedule: PoseSchedule | None
    batch_size: PositiveInt  # photos that it sees at once

    @model_validator(mode="after")
    def _one_origin(self) -> "Pose":
        origins = (self.weights is not None, self.architecture is not None, self.schedule is not None)
        if origins not in ((True, False, False), (False, True, True)):
            raise ValueError("give either `weights` (a file), or `architecture` and `schedule` (from scratch)")
        return self


class VcocoRelease(Section):
    """What is true of one release of V-COCO-format files only."""

    release: Literal["vcoco-2015", "drawn", "own"]  # published: counts are asserted; drawn world; own: checked strictly
    unscored_roles: list[str]  # left out of the headline mean, e.g. "point instr"


class HicodetRelease(Section):
    """What is true of one release of HICO-DET-format files only."""

    release: Literal["hicodet-2016", "drawn", "own"]  # as of V-COCO
    val_images: PositiveInt  # of the end of the train file: the format has no validation split


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


class Claim(Section):
    """What the paper takes from two rows of a table: the one is better than the other."""

    claim: str
    metric: str  # column of the paper
    better: dict[str, str]  # cells of the row, as printed
    than: dict[str, str]


class Table(Section):
    """One table of the paper."""

    title: str
    note: str | None  # what a reader of our numbers must know
    rows: list[TableRow]  # those of the paper that are measured; the others are reported
    controls: list[TableRow]  # not in the paper: they stand under the table
    claims: list[Claim]  # what the statement is about


class Resampling(Section):
    """How sure a difference is: by sets of test images, drawn with replacement."""

    samples: Annotated[int, Field(ge=2)]
    seed: NaturalInt


class CostScene(Section):
    """How Table 4 is measured: one photo at a time, random weights."""

    sizes: str  # the profile whose networks are measured
    side: PositiveInt  # height and width of the photo, pixels
    people: NaturalInt  # taken for granted in it
    things: NaturalInt
    passes: PositiveInt  # timed ones
    warmup: NaturalInt  # passes before them, besides the one in which MACs are counted
    precision: Literal["fp32", "bf16"]


class Separation(Section):
    """How it is measured whether people at the same place who do different things look different to a network."""

    min_iou: Annotated[float, Field(gt=0, le=1)]  # of two boxes in shares of their images: the same place
    batch_size: PositiveInt
    samples: PositiveInt  # sets of images that are drawn for the intervals
    seed: NaturalInt  # of that drawing


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
    seed: NaturalInt


class PrecisionRecallFigure(Section):
    """Precision over recall, the mean over classes and class by class where they are few; the mean over seeds."""

    kind: Literal["precision_recall"]
    runs: dict[str, str]


FirstSeedFigure = ExamplesFigure | SeparationFigure | PlacesFigure
AnyFigure = FirstSeedFigure | CurvesFigure | DifferencesFigure | PrecisionRecallFigure
Figure = Annotated[AnyFigure, Field(discriminator="kind")]


# ---- nodes: what one stage of one run reads; `code` is the digest of the package files that the stage runs


class DrawNode(Section):
    code: str
    world: World


class PrepareNode(Section):
    code: str
    dataset: DatasetName
    vcoco: VcocoRelease
    hicodet: HicodetRelease


class DetectorNode(Section):
    code: str
    detector: Detector
    features: Features  # the share of true pairs that survives its selection is a metric of the detector


class FeaturesNode(Section):
    code: str
    image: ImageSize
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
    tags: dict[str, str]  # group, run, variant, dataset, backbone, encoder, profile: for the tracker

    @model_validator(mode="after")
    def _upt_has_sizes(self) -> "TrainNode":
        if self.variant.network == "upt" and self.network.upt is None:
            raise ValueError("variant upt needs its sizes: give network.upt in the profile")
        return self


class PredictNode(Section):
    code: str
    prediction: Prediction


class EvaluateNode(Section):
    code: str
    split: Split


class CostNode(Section):
    code: str
    cost: CostScene
    network: Network
    selection: Selection
    prediction: Prediction
    variants: dict[str, Variant]  # upt, rmlr


class Source(Section):
    """What feeds cells of a row: a run over all its seeds, or the stage `cost`."""

    run: str  # GROUP/NAME, or `cost`
    measures: Literal["vcoco", "hicodet", "cost"]  # which of the table's columns
    detector: str  # as printed; empty for `cost`
    encoder: str  # likewise; empty where nothing is learnt from text
    leaks: bool  # its detector has learnt from the test photos


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


class SeparationNode(Section):
    code: str
    split: Split
    separation: Separation


class FigureNode(Section):
    code: str
    split: Split  # that was predicted
    figure: Figure
    seeds: list[NaturalInt]  # of the runs that are shown


class Claimed(Section):
    """A table, and what the paper takes from it."""

    table: TableNode
    claims: list[Claim]


class StatementNode(Section):
    code: str
    profile: str
    drawn: bool  # measured on the drawn world, not on photos
    split: Split
    seeds: list[NaturalInt]
    resampling: Resampling
    tables: dict[str, Claimed]
    places: list[str]  # runs, GROUP/NAME, of which the stage separation says how alike people are; first seed
    made_with: dict[str, Any]  # the profile, its runs and their variants, for a reader


class Study(Section):
    """`params.yaml`, whole."""

    profile: str
    profiles: dict[str, Profile]
    variants: dict[str, Variant]
    runs: dict[str, dict[str, Run]]  # group, name
    tables: dict[str, Table]
    separation: Separation
    figures: dict[str, Figure]
    statement: Resampling

    def nodes(self, profile: str, code: Mapping[str, str]) -> dict[str, Section]:
        """Every node of a profile's study: its folder below `results/PROFILE`, and the settings that its stage reads.

        `code` gives each stage's digest (`rmlr.study.source`). Raises ValueError where a name refers to nothing.
        """
        chosen = _find(self.profiles, profile, "profile")
        nodes: dict[str, Section] = {}
        if chosen.world is not None:
            nodes["world/draw"] = DrawNode(code=code["draw"], world=chosen.world)
        for dataset in chosen.train:
            nodes[f"{dataset}/prepare"] = PrepareNode(
                code=code["prepare"], dataset=dataset, vcoco=chosen.vcoco, hicodet=chosen.hicodet
            )
            for encoder, section in chosen.encoders.items():
                nodes[f"{dataset}/text/{encoder}"] = TextNode(code=code["text"], encoder=section)
        if chosen.pose is not None and chosen.pose.architecture is not None and chosen.pose.schedule is not None:
            nodes["pose/joints"] = JointsNode(
                code=code["joints"], architecture=chosen.pose.architecture, schedule=chosen.pose.schedule
            )
        for detector, section in chosen.detectors.items():
            nodes[f"detector/{detector}"] = DetectorNode(
                code=code["detector"], detector=section, features=chosen.features.with_views(1)
            )
        for backbone, by_dataset in chosen.backbones.items():
            for dataset in chosen.train:
                where = f"profiles.{profile}.backbones.{backbone}.{dataset}"
                section = _find(chosen.detectors, by_dataset.detector(dataset), where)
                for split, views in chosen.cached_views(dataset).items():
                    nodes[f"{dataset}/features/{backbone}/{split}"] = FeaturesNode(
                        code=code["features"], image=section.image, features=chosen.features.with_views(views)
                    )
                    if chosen.pose is not None:
                        nodes[f"pose/{dataset}/{backbone}/{split}"] = PoseNode(code=code["pose"], pose=chosen.pose)
        for name, run in self.runs_in(profile).items():
            train = self._train_node(chosen, profile, name, run, code["train"])
            for seed in chosen.seeds:
                folder = f"runs/{name}/{seed}"
                nodes[f"{folder}/train"] = train
                nodes[f"{folder}/predict"] = PredictNode(code=code["predict"], prediction=chosen.prediction)
                nodes[f"{folder}/evaluate"] = EvaluateNode(code=code["evaluate"], split=chosen.prediction.split)
        nodes["cost"] = self.cost_node(chosen.cost, code["cost"], f"profiles.{profile}.cost.sizes")
        for name, table in self.tables.items():
            nodes[f"tables/{name}"] = TableNode(
                code=code["table"],
                profile=profile,
                drawn=chosen.world is not None,
                title=table.title,
                note=table.note,
                rows=self._measured(profile, table.rows, f"tables.{name}.rows"),
                controls=self._measured(profile, table.controls, f"tables.{name}.controls"),
                seeds=chosen.seeds,
            )
        for name, figure in self.figures_in(profile).items():
            split, seeds = chosen.prediction.split, chosen.seeds
            seeds = seeds[:1] if isinstance(figure, FirstSeedFigure) else seeds
            nodes[f"figures/{name}"] = FigureNode(code=code["figure"], split=split, figure=figure, seeds=seeds)
            if isinstance(figure, SeparationFigure | PlacesFigure):
                for run in figure.runs.values():
                    nodes[f"separation/{run}/{seeds[0]}"] = SeparationNode(
                        code=code["separation"], split=split, separation=self.separation
                    )
        nodes["statement"] = self._statement(profile, code["statement"], nodes)
        return nodes

    def _statement(self, profile: str, code: str, nodes: Mapping[str, Section]) -> StatementNode:
        """What is said of all tables, and by which numbers they were made."""
        chosen, made = self.profiles[profile], self.runs_in(profile)
        tables = {name: nodes[f"tables/{name}"] for name in self.tables}
        variants = {run.variant: self.variants[run.variant] for run in made.values()}
        return StatementNode(
            code=code,
            profile=profile,
            drawn=chosen.world is not None,
            split=chosen.prediction.split,
            seeds=chosen.seeds,
            resampling=self.statement,
            tables={
                name: Claimed(table=node, claims=self.tables[name].claims)
                for name, node in tables.items()
                if isinstance(node, TableNode)
            },
            places=[
                next(iter(figure.runs.values()))
                for figure in self.figures_in(profile).values()
                if isinstance(figure, SeparationFigure)
            ],
            made_with={
                "profile": chosen.model_dump(mode="json"),
                "variants": {name: variant.model_dump(mode="json") for name, variant in variants.items()},
                "runs": {name: run.model_dump(mode="json", exclude={"profiles"}) for name, run in made.items()},
            },
        )

    def figures_in(self, profile: str) -> dict[str, AnyFigure]:
        """The figures of a profile: those all of whose runs it makes."""
        for name, figure in self.figures.items():
            self._check_figure(name, figure)
        made = self.runs_in(profile)
        return {name: figure for name, figure in self.figures.items() if made.keys() >= set(figure.runs.values())}

    def _check_figure(self, name: str, figure: AnyFigure) -> None:
        """ValueError unless its runs are as many as it shows, and of one data set."""
        where = f"figures.{name}.runs"
        wanted = {"separation": 1, "places": 1, "differences": 2}.get(figure.kind)
        if not figure.runs or len(figure.runs) != (wanted or len(figure.runs)):
            raise ValueError(
                f"params.yaml, {where}: a figure of kind {figure.kind} shows {wanted or 'at least one'} run(s), "
                f"got {len(figure.runs)}"
            )
        datasets = {self.run(run, f"{where}, '{label}'").dataset for label, run in figure.runs.items()}
        if len(datasets) > 1:
            raise ValueError(f"params.yaml, {where}: one figure shows one data set, got runs of {sorted(datasets)}")

    def run(self, name: str, where: str) -> Run:
        """The run `GROUP/NAME`; `where` names the place that refers to it."""
        return _find(self._all_runs(), name, where)

    def runs_in(self, profile: str) -> dict[str, Run]:
        """The runs that a profile makes, by GROUP/NAME: those on its data sets."""
        named, datasets = self._all_runs().items(), _find(self.profiles, profile, "profile").train
        is_made = {name: self._is_in(profile, run.profiles, f"runs.{name}") for name, run in named}
        return {name: run for name, run in named if is_made[name] and run.dataset in datasets}

    def cost_node(self, cost: CostScene, code: str, where: str) -> CostNode:
        """What Table 4 is measured with; `where` names the place that refers to its profile."""
        sizes = _find(self.profiles, cost.sizes, where)
        return CostNode(
            code=code,
            cost=cost,
            network=sizes.network,
            selection=sizes.features.selection,
            prediction=sizes.prediction,
            variants={name: _find(self.variants, name, "variants for Table 4") for name in ("upt", "rmlr")},
        )

    def _all_runs(self) -> dict[str, Run]:
        return {f"{group}/{name}": run for group, runs in self.runs.items() for name, run in runs.items()}

    def _is_in(self, profile: str, profiles: list[str] | None, where: str) -> bool:
        for name in profiles or []:
            _find(self.profiles, name, f"{where}.profiles")
        return profiles is None or profile in profiles

    def _measured(self, profile: str, rows: list[TableRow], where: str) -> list[MeasuredRow]:
        """The rows that a profile measures, with what feeds them."""
        made, found = self.runs_in(profile), []
        for row in rows:
            place = f"{where}, row {', '.join(row.row.values())}"
            for name in row.runs:
                if name != "cost":
                    self.run(name, place)
            is_fed = self._is_in(profile, row.profiles, place)
            sources = [self._source(profile, name) for name in row.runs if is_fed and (name == "cost" or name in made)]
            if len({source.measures for source in sources}) < len(sources):
                raise ValueError(f"params.yaml, {place}: {', '.join(row.runs)}: two of them are of one data set")
            if sources:
                found.append(MeasuredRow(row=row.row, sources=sources))
        return found

    def _source(self, profile: str, name: str) -> Source:
        if name == "cost":
            return Source(run=name, measures="cost", detector="", encoder="", leaks=False)
        run, chosen = self.run(name, ""), self.profiles[profile]
        aligns = self.variants[run.variant].aligns
        return Source(
            run=name,
            measures=run.dataset,
            detector=chosen.backbones[run.backbone].name,
            encoder=chosen.encoders[run.encoder].name if aligns else "",
            leaks=chosen.has_seen_test(run),
        )

    def _train_node(self, profile: Profile, profile_name: str, full_name: str, run: Run, code: str) -> TrainNode:
        group, _, name = full_name.partition("/")
        where = f"runs.{group}.{name}"
        _find(profile.backbones, run.backbone, f"{where}.backbone")
        _find(profile.encoders, run.encoder, f"{where}.encoder")
        named = run.model_dump(include={"variant", "dataset", "backbone", "encoder"})
        content = {
            "code": code,
            "variant": _find(self.variants, run.variant, f"{where}.variant").model_dump(),
            "network": profile.network.model_dump(),
            "alignment": profile.alignment.model_dump(),
            "losses": profile.losses.model_dump(),
            "train": _find(profile.train, run.dataset, f"{where}.dataset").model_dump(),
            "online": self._online(profile, run),
            "tags": {"profile": profile_name, "group": group, "run": name, **named},
        }
        if content["variant"]["network"] != "upt":
            content["network"]["upt"] = None
        for path, value in run.overrides.items():
            *parents, last = path.split(".")
            section = content
            for parent in parents:
                section = section.get(parent) if isinstance(section, dict) else None
            if not isinstance(section, dict) or last not in section or parents[:1] in ([], ["tags"]):
                raise ValueError(
                    f"{where}.overrides: '{path}' is not a number of a run. Give a dotted path below "
                    "variant, network, alignment, losses or train, such as `train.epochs: 5`"
                )
            section[last] = value
        node = TrainNode.check(content, f"{where}, with its overrides")
        if node.variant.pose and profile.pose is None:
            raise ValueError(
                f"{where}: its variant reads a pose network, and profile {profile_name} has none. Give profiles."
                f"{profile_name}.pose a weights file, such as MMPose's res50_crowdpose_256x192-c6a526b6_20201227.pth, "
                "or sizes and a schedule to train one on joints that the data set knows"
            )
        return node

    def _online(self, profile: Profile, run: Run) -> dict[str, Any] | None:
        """How a run sees photos while it learns, where the profile caches no views of them."""
        rule = profile.features
        if rule.views:
            return None
        detector = profile.backbones[run.backbone].detector(run.dataset)
        image = _find(profile.detectors, detector, f"backbones.{run.backbone}.{run.dataset}").image
        assert rule.augment is not None
        view = View(image=image, selection=rule.selection, map=rule.map)
        return Online(view=view, augment=rule.augment).model_dump()


Value = TypeVar("Value")


def _find(table: Mapping[Any, Value], name: str, where: str) -> Value:
    """An entry by name; ValueError says where it was named and what there is."""
    if name not in table:
        raise ValueError(f"params.yaml, {where}: there is no '{name}'. There are: {', '.join(table)}")
    return table[name]
