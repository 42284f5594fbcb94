"""The sections of the settings for the frozen networks: detectors, their backbones by data set, and a pose network."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rmlr.study.section import DatasetName, Depth, Fraction, NaturalInt, NonNegative, Positive, PositiveInt, Section
from rmlr.study.settings import Augment, ImageSize, PictureSize

Width = Annotated[int, Field(ge=16)]


class DetectorArchitecture(Section):
    """A small DETR trained from scratch (demo specification, section 2). Stage k of the backbone has stride 2^(k+1)."""

    embedding_size: Width
    hidden_sizes: list[Width]  # one stage each
    depths: list[Depth]
    layer_type: Literal["basic", "bottleneck"]
    d_model: PositiveInt
    encoder_layers: Depth
    decoder_layers: Depth
    heads: PositiveInt
    ffn_dim: PositiveInt
    grid: PositiveInt  # queries have a grid x grid of anchors
    sine_temperature: Positive

    @model_validator(mode="after")
    def _parts_fit(self) -> "DetectorArchitecture":
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} cannot be shared evenly by {self.heads} heads")
        if len(self.hidden_sizes) != len(self.depths):
            raise ValueError(f"hidden_sizes has {len(self.hidden_sizes)} stages and depths {len(self.depths)}")
        return self


class DetectorSchedule(Section):
    """The schedule by which the detector is trained or fine-tuned before it is frozen."""

    steps: PositiveInt | None = None  # optimiser steps, or
    epochs: PositiveInt | None = None  # passes over the photos
    batch_size: PositiveInt  # effective: processes x micro-batch x accumulation
    micro_batch_size: PositiveInt | None = None  # null: each process takes its whole share at once
    learning_rate: Positive
    backbone_learning_rate: Positive
    decay: Literal["cosine", "none"] = "cosine"  # of both learning rates
    weight_decay: NonNegative
    warmup_steps: NaturalInt
    clip_norm: Positive
    ema_decay: Fraction  # 0: no averaging
    no_object_weight: Positive
    augment: Augment | None = None  # null: half of the photos are mirrored, nothing else

    @model_validator(mode="after")
    def _one_length(self) -> "DetectorSchedule":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either `steps` or `epochs`")
        return self


ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]  # MODULE.CLASS
PUBLIC_DETECTORS = (  # trained on all of COCO
    *("facebook/detr-", "detr-r50-e632da11", "detr-r101-2c7b67e5", "microsoft/conditional-detr-", "hustvl/yolos-"),
    *("SenseTime/deformable-detr", "IDEA-Research/dab-detr-", "PekingU/rtdetr_", "ustc-community/dfine"),
)
OBJECTS365 = "obj365"  # ends the name of a detector that was trained on Objects365 alone


class Detector(Section):
    """A detector: from given weights or from scratch, trained by a schedule (DETR) or taken as it is, then frozen."""

    dataset: DatasetName  # whose records it is trained and measured on
    all_of_coco: bool = False  # it is trained on COCO 2014 without V-COCO's test photos instead
    repeats_iou: Fraction | None = None  # annotated boxes of a class with at least this IoU are one; null: all count
    python: ImportPath | None = None  # your own class, such as examples.centernet.CenterNet (docs/detectors.md)
    weights: str | None  # hub id, folder of `save_pretrained`, or file as published (.pth); null: from scratch
    revision: str | None  # of the hub id
    # What given weights were trained on: all of COCO, COCO train2017, or the train split of a data set.
    seen: list[Literal["coco", "coco2017", "vcoco", "hicodet"]]
    architecture: DetectorArchitecture | None
    schedule: DetectorSchedule | None  # null: used unchanged
    image: PictureSize | None  # null: as the checkpoint, or the class, says
    object_ap: Literal["pycocotools", "faster-coco-eval"] = "pycocotools"  # the library for object AP: equal results

    @model_validator(mode="after")
    def _one_origin(self) -> "Detector":
        if self.python is not None and (self.architecture is not None or self.schedule is not None):
            raise ValueError("with `python`, a detector of your own, architecture and schedule must be null")
        if (self.weights is None and self.python is None) == (self.architecture is None):
            raise ValueError("give either `weights` (a hub id or folder), or `architecture` (from scratch), not both")
        if self.architecture is not None and self.schedule is None:
            raise ValueError("a detector from scratch needs a `schedule`: random weights are never used")
        if self.architecture is not None and self.seen:
            raise ValueError("`seen` says what given weights were trained on: from scratch, it must be empty")
        if self.schedule is not None and not isinstance(self.image, ImageSize):
            raise ValueError("a detector that is trained needs `image`: {shortest: ..., longest: ...}, as DETR's")
        is_public = self.weights is not None and any(name in self.weights for name in PUBLIC_DETECTORS)
        if is_public and not (self.weights or "").endswith(OBJECTS365) and not {"coco", "coco2017"} & set(self.seen):
            raise ValueError(
                f"{self.weights} was trained on COCO: `seen` must contain coco or coco2017 (train2017), got {self.seen}"
            )
        if self.all_of_coco and (self.dataset != "vcoco" or self.schedule is None):
            raise ValueError("all_of_coco is for detectors that are trained, for dataset vcoco")
        return self

    def has_seen_test(self, dataset: DatasetName, photos: Literal["val2017"] | None = None) -> bool:
        """Whether it was trained on a data set's test photos, all of them or those in COCO val2017.

        All of V-COCO's are COCO's. Those in val2017 are not in train2017: COCO's splits of 2017 share no photo.
        """
        is_of_train2017 = "coco2017" in self.seen and photos != "val2017"
        return dataset == "vcoco" and ("coco" in self.seen or is_of_train2017)


class Backbone(Section):
    """A backbone as named by runs: its detectors, which may differ by data set, as in the paper."""

    name: str  # as printed in tables
    vcoco: str  # key of the profile's `detectors`
    hicodet: str

    def detector(self, dataset: DatasetName) -> str:
        """The key of the detector for a data set."""
        return self.vcoco if dataset == "vcoco" else self.hicodet


class PoseArchitecture(Section):
    """A small pose network: a ResNet of basic blocks, whose four stages have stride 4 to 32, then deconvolutions."""

    embedding_size: Width
    hidden_sizes: Annotated[list[Width], Field(min_length=4, max_length=4)]  # one stage each
    depths: Annotated[list[Depth], Field(min_length=4, max_length=4)]
    deconvolutions: Annotated[list[Width], Field(min_length=1, max_length=5)]  # each doubles the map; channels


class PoseSchedule(Section):
    """How a pose network is trained from scratch: on crops around one person each, as MMPose does."""

    steps: PositiveInt
    batch_size: PositiveInt  # persons
    learning_rate: Positive
    weight_decay: NonNegative
    warmup_steps: NaturalInt
    crop: PositiveInt  # height = width of the input crop of one person, pixels; a multiple of 32
    margin: Annotated[float, Field(ge=1)]  # longer side of a crop, relative to the person's box
    shift: Fraction  # in training, a crop is shifted by up to this share of its side, vertically and horizontally
    zoom: Fraction  # and scaled by up to this share
    sigma: Positive  # of a joint's Gaussian in its heat map, cells

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
    batch_size: PositiveInt  # photos in one batch

    @model_validator(mode="after")
    def _one_origin(self) -> "Pose":
        origins = (self.weights is not None, self.architecture is not None, self.schedule is not None)
        if origins not in ((True, False, False), (False, True, True)):
            raise ValueError("give either `weights` (a file), or `architecture` and `schedule` (from scratch)")
        return self
