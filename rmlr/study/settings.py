"""The sections of the settings, in the order of the stages.

Numbers have no defaults here: each is in `params.yaml` only, with unit and source. `rmlr.study.params` has the other
parts of that file, `rmlr.study.nodes` says which sections each stage reads.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rmlr.study.section import (
    Depth,
    Fraction,
    NaturalInt,
    NonNegative,
    NumFolds,
    Positive,
    PositiveInt,
    Section,
    Seed,
    Split,
    Strides,
    ZeroShot,
)


class Words(Section):
    """Rows of each verb of the world of near-synonyms: one is a person who does it to a thing (docs/words.md)."""

    head: PositiveInt  # in train, of each frequent verb
    medium: PositiveInt
    rare: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]  # from, to: in equal steps
    val: PositiveInt  # of each verb
    test: PositiveInt
    idle: Annotated[float, Field(ge=0, lt=1)]  # share of the people who do nothing, in every split

    @model_validator(mode="after")
    def _rare_ascends(self) -> "Words":
        if self.rare[0] > self.rare[1]:
            raise ValueError(f"rare: {self.rare} must be the least and the most rows, in this order")
        return self


class World(Section):
    """The synthetic data (`draw`): numbers of pictures, and the seed that determines all of them."""

    seed: Seed
    train: PositiveInt
    val: PositiveInt
    test: PositiveInt
    size: PositiveInt  # height = width of a picture, pixels
    words: Words | None = None  # the world of near-synonyms (docs/words.md); null: the other one


class ImageSize(Section):
    """The size of a picture as input of the detector: shortest side, and maximum of the longest side; pixels."""

    shortest: PositiveInt
    longest: PositiveInt


class FixedSize(Section):
    """How a picture is resized before a detector sees it that takes pictures of one size only; pixels."""

    height: PositiveInt
    width: PositiveInt


PictureSize = ImageSize | FixedSize
MapName = Literal["backbone", "projected", "encoder"]  # X: of the backbone, its projection, the detector's encoder


class Augment(Section):
    """Random augmentation of photos in training (UPT, DETR); sizes in pixels."""

    flip: Fraction  # share of the photos that are mirrored
    jitter: Fraction  # brightness, contrast and saturation are each multiplied by 1 - jitter to 1 + jitter
    shortest: Annotated[list[PositiveInt], Field(min_length=1)]  # one of these becomes the shortest side
    longest: PositiveInt  # at most
    crop: Fraction  # share of the photos that are cropped before that
    crop_from: Annotated[list[PositiveInt], Field(min_length=1)]  # shortest side before cropping, one of these
    crop_smallest: PositiveInt  # sides of a crop, drawn independently
    crop_largest: PositiveInt

    @model_validator(mode="after")
    def _crops_have_sizes(self) -> "Augment":
        if self.crop_smallest > self.crop_largest:
            raise ValueError(f"crop_smallest {self.crop_smallest} is larger than crop_largest {self.crop_largest}")
        return self


class TransformerSizes(Section):
    """A stack of Transformer encoder layers."""

    layers: Depth
    dim: PositiveInt
    heads: PositiveInt
    ffn_dim: PositiveInt
    dropout: Fraction

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> "TransformerSizes":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} cannot be shared evenly by {self.heads} heads")
        return self


class Upt(Section):
    """Sizes of UPT's interaction head (Zhang et al. 2022). Unary tokens are as wide as the detector's."""

    code_dims: list[PositiveInt]  # hidden layers between the 36 numbers of a pair's boxes and its spatial code
    dim: PositiveInt  # of a spatial code; a pair's token is twice as wide
    layers: Depth  # cooperative ones; there is one competitive layer
    heads: PositiveInt  # of both kinds
    ffn_dim: PositiveInt  # of the competitive layer; a cooperative one's is 4 x its tokens
    dropout: Fraction

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> "Upt":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} cannot be shared evenly by {self.heads} heads")
        return self


class PairAttention(Section):
    """Self-attention over the pairs of an image that changes what the network computes: on m, and on O.

    See `Alignment.on_path`. As wide as the vectors themselves.
    """

    layers: Depth
    heads: PositiveInt
    ffn_dim: PositiveInt
    dropout: Fraction


class Network(Section):
    """Sizes of the interaction modules (paper, sections 3.2 to 3.5 and appendix B)."""

    pool: Literal["covered", "roi"]  # masked RoI: mean over the covered area, or over the bounding RoI (paper)
    feature_dim: PositiveInt  # g, s_h, s_o and m each
    ire: TransformerSizes
    pair_dim: PositiveInt  # H and O
    irm: TransformerSizes
    upt: Upt | None = None  # sizes of the baseline, which uses none of the above; None in the nodes of other variants
    pair_attention: PairAttention | None = None  # of a run whose alignment is `on_path`, with the sizes of its stack

    @model_validator(mode="after")
    def _widths_fit(self) -> "Network":
        if self.pair_attention is not None:
            for name in ("feature_dim", "pair_dim"):
                if getattr(self, name) % self.pair_attention.heads:
                    raise ValueError(
                        f"{name} {getattr(self, name)} cannot be shared evenly by {self.pair_attention.heads} heads of "
                        "pair_attention"
                    )
        if self.irm.dim != self.pair_dim:
            raise ValueError(f"irm.dim {self.irm.dim} must equal pair_dim {self.pair_dim}: it reads H and returns O")
        if self.ire.dim % 4:
            raise ValueError(f"ire.dim {self.ire.dim} must be a multiple of 4: sines and cosines of two axes")
        return self


class Alignment(Section):
    """Cross-modal alignment (paper, section 3.4; model specification, section 10)."""

    form: Literal["anchored", "anchored_attention", "literal"]
    residual: bool  # anchored forms: only the difference of a verb from its object's mean target
    whiten: bool  # sentence targets as well
    stack: TransformerSizes  # `literal`: self-attention over pairs (CML-SA); its dim is FFN_T's hidden size, always

    # What a pair with several interactions is compared with: the text of each, or the mean of their texts. Words of the
    # literal form have no target.
    targets: Literal["each", "mean"] = "each"

    # `literal`: whether the output of the self-attention over pairs (equations 11 and 12) goes on to the classifier, or
    # is compared with text only.
    on_path: bool = False

    @model_validator(mode="after")
    def _path_is_literal(self) -> "Alignment":
        if self.on_path and self.form != "literal":
            raise ValueError(f"on_path needs form: literal, which has self-attention over pairs; got {self.form}")
        return self


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
    share: Annotated[float, Field(gt=0, le=1)]  # of the split's images; a smaller share is a subset of a larger one
    epochs: PositiveInt  # passes over that share
    batch_size: PositiveInt  # effective: devices x micro-batch x accumulation
    micro_batch_size: PositiveInt
    learning_rate: Positive
    weight_decay: NonNegative
    clip_norm: Positive
    precision: Literal["fp32", "bf16"]
    validate_every: NaturalInt = 0  # epochs between two evaluations on val; 0: never. Requires split: train
    zero_shot: ZeroShot | None = None  # HICO-DET: excludes the unseen classes of this split; null: none

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
    prior_power: Positive  # exponent of (s_h s_o) at inference; 1 in training
    min_score: NonNegative  # triplets with lower scores are not written
    no_object: bool = False  # V-COCO: for each person and verb, also a row without an object (docs/evaluation.md)


class Variant(Section):
    """A row of Table 2, or a control: switches, not subclasses (model specification, section 8)."""

    network: Literal["rmlr", "boxes", "upt"]
    global_context: bool
    ire: bool
    ire_sentence: bool
    ire_word: bool
    irm_sentence: bool
    irm_word: bool
    pose: bool  # the cues come from a frozen pose network's map, in place of IRE (Table 9)

    @property
    def aligns(self) -> bool:
        """Whether the variant is trained with text."""
        return self.ire_sentence or self.ire_word or self.irm_sentence or self.irm_word

    @model_validator(mode="after")
    def _switches_fit(self) -> "Variant":
        if self.ire and self.pose:
            raise ValueError("pose takes the place of ire: one of them must be false")
        if (self.ire_sentence or self.ire_word) and not (self.ire or self.pose):
            raise ValueError("ire_sentence and ire_word supervise the cues of IRE: they need ire: true, or pose: true")
        if self.network != "rmlr" and self.pose:
            raise ValueError(f"network {self.network} cannot use the cues of a pose network: pose must be false")
        if self.network == "boxes" and (self.global_context or self.ire or self.aligns):
            raise ValueError("network boxes is a control that sees boxes and classes only: its switches must be false")
        if self.network == "upt" and (self.global_context or self.ire or self.aligns):
            raise ValueError("network upt is a baseline without any part of RmLR: its switches must be false")
        return self


# With fewer than 16 channels, oneDNN's strided 1x1 convolution corrupts memory in training (torch 2.14, CPU).
class Selection(Section):
    """Which detections are kept (model specification, section 2)."""

    nms_iou: Fraction  # class-wise
    min_score: Fraction
    min_instances: NaturalInt  # minimum number of humans, and of non-persons, filled by score
    max_instances: PositiveInt  # at most


class View(Section):
    """How a detector is applied to a picture: the size of the picture, and which detections are kept."""

    image: PictureSize
    selection: Selection
    map: MapName
    strides: Strides = None


class Features(Section):
    """Which outputs of the frozen detector are cached for each image (model specification, section 2)."""

    batch_size: PositiveInt
    selection: Selection
    map: MapName
    strides: Strides = None
    map_dtype: Literal["float16", "float32"]
    shard_images: PositiveInt  # images in one file
    views: NaturalInt  # cached per training photo; epoch e uses view e mod views. 0: augmented on-line
    augment: Augment | None = None  # of all views except the first cached one, the original photo; null: no others

    @model_validator(mode="after")
    def _views_are_made_somehow(self) -> "Features":
        if (self.views == 1) != (self.augment is None):
            raise ValueError(f"views {self.views} needs `augment`" if self.views != 1 else "views 1 takes no `augment`")
        return self

    def with_views(self, views: int) -> "Features":
        """The same settings for a split with this number of cached views."""
        return self.model_copy(update={"views": views, "augment": self.augment if views != 1 else None})


class AskedView(Section):
    """A `View` whose size may be left to the detector."""

    image: PictureSize | None  # null: as the detector itself says
    selection: Selection
    map: MapName
    strides: Strides = None

    def at(self, image: PictureSize) -> View:
        """The view, at this size."""
        return View(image=image, selection=self.selection, map=self.map, strides=self.strides)


class Online(Section):
    """How the frozen detector is applied to photos in training, if none of their views is cached."""

    view: AskedView
    augment: Augment


class VcocoRelease(Section):
    """Properties of one release of files in V-COCO's format."""

    # vcoco-2015 (published) and -rewritten (a copy, some persons missing): counts are asserted; drawn: unchecked; own:
    # checked strictly
    release: Literal["vcoco-2015", "vcoco-2015-rewritten", "drawn", "own"]
    unscored_roles: list[str]  # left out of the headline mean, e.g. "point instr"
    photos: Literal["val2017"] | None = (
        None  # only the 579 images that lie in COCO val2017, all of the test split; null: all
    )


class HicodetRelease(Section):
    """Properties of one release of files in HICO-DET's format."""

    release: Literal["hicodet-2016", "drawn", "own"]  # as of V-COCO
    val_images: PositiveInt  # from the end of the train file: the format has no validation split


LeftOut = Literal["absent", "damaged"]  # why an annotated photo is left out


class Folds(Section):
    """Cross-validation by photo: each run is trained once for each fold, on the others, and scored once over all."""

    count: Annotated[NumFolds, Field(ge=2)]
    of: Literal["test", "all"] = "all"  # the photos that are split: those of the test split, or of all three
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of what is learnt from that is kept as `val`


class Claim(Section):
    """A claim of the paper on a table: one row is better than another, or all rows are alike within a margin.

    Of a cost (MACs, parameters), with all three: one row exceeds another by at most the margin.
    """

    claim: str
    metric: str  # column of the paper
    better: dict[str, str] | None = None  # cells of the row, as printed
    than: dict[str, str] | None = None
    than_in: str | None = None  # the table of `than`; null: the same one
    margin: Positive | None = None  # fixed before anything is measured; points, of a cost per cent of `than`
    quoted: str | None = None  # the size in the paper's text, where it has one; points
    stand_in: dict[str, str] = Field(default_factory=dict)  # by profile: what is measured in place of the paper's, why

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "Claim":
        if (self.better is None) != (self.than is None) or (self.better is None and self.margin is None):
            raise ValueError(
                f"the claim '{self.claim}': expected `better` and `than` (one row is better than another), `margin` "
                "(all rows are alike), or all three (one row costs little more than another)"
            )
        return self


class TrainingSpread(Section):
    """How far trainings of one variant that differ by their seed alone are apart: measured once, on one profile."""

    deviation: Positive  # standard deviation, points
    degrees: PositiveInt  # of freedom: trainings less variants
    measured: str  # on what, for a reader


class Resampling(Section):
    """The bootstrap over test images that gives the intervals of differences."""

    samples: Annotated[int, Field(ge=2)]
    seed: Seed


class CostScene(Section):
    """How Table 4 is measured: one photo at a time, random weights."""

    sizes: str  # the profile whose networks are measured
    side: PositiveInt  # height and width of the photo, pixels
    people: NaturalInt  # assumed in it
    things: NaturalInt
    passes: PositiveInt  # timed passes
    warmup: NaturalInt  # passes before these, in addition to the one in which MACs are counted
    precision: Literal["fp32", "bf16"]


class Separation(Section):
    """Whether a network's vectors distinguish people at the same place who do different things: how it is measured."""

    min_iou: Annotated[float, Field(gt=0, le=1)]  # of two boxes relative to their images: the same place
    batch_size: PositiveInt
    samples: PositiveInt  # bootstrap samples of images for the intervals
    seed: Seed  # of the bootstrap
