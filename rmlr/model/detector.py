"""The detector: images -> boxes, classes, tokens and a map. Only this file and `anchored` know `transformers`' DETR.

From scratch (`rmlr.model.anchored`) it is a small DETR that learns in minutes; with given weights (`load_detector`) it
is any `DetrForObjectDetection`, or a DETR as its authors publish it, whose names only `rmlr.model.published` knows.
Either is trained through `detection_loss`, saved by `save_detector`, and then used through `FrozenDetector` alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import batched_nms
from transformers import DetrConfig, DetrForObjectDetection, PreTrainedConfig, ResNetConfig
from transformers.models.detr.modeling_detr import replace_batch_norm
from transformers.utils.logging import disable_progress_bar

from rmlr.hoi.batch import Batch, Instances
from rmlr.hoi.boxes import clip, cxcywh_from_xyxy, xyxy_from_cxcywh
from rmlr.model.anchored import COEFFICIENTS, COSTS, AnchoredDetrConfig, AnchoredDetrForObjectDetection, architecture
from rmlr.model.published import read_published
from rmlr.study.settings import Selection
from rmlr.study.tensors import TensorFile, check_finite, save_tensors

WEIGHTS_FILE = "model.safetensors"
DROPOUT = 0.1  # of a DETR as published, wherever its authors have it

# Classes that COCO-trained detectors carry and COCO never annotated: their logits take no part in the arg max.
NEVER_ANNOTATED = "N/A, street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush"


@dataclass(frozen=True, slots=True)
class Detections:
    """Every query's answer for a batch of images, and the map it was read from."""

    boxes: Float[Tensor, "b q 4"]  # xyxy, pixels of the original image, clipped to it
    scores: Float[Tensor, "b q"]  # probability of the likeliest real class
    labels: Int[Tensor, "b q"]  # that class, in the order of the names asked for
    tokens: Float[Tensor, "b q d"]  # last decoder layer
    maps: Float[Tensor, "b c h w"]  # last backbone map
    is_padding: Bool[Tensor, "b h w"]
    cell_sizes: Float[Tensor, "b 2"]  # height and width of one map cell, in pixels of the original image


class FrozenDetector(nn.Module):
    """A DETR that only looks: no gradient, no dropout, no batch statistics (model specification, section 2).

    Its classes are given in the order of `names`, matched by name; names that differ are an error.
    """

    def __init__(
        self, detr: DetrForObjectDetection, names: Sequence[str], map: Literal["backbone", "projected"] = "backbone"
    ) -> None:
        """`map` chooses X: the last backbone map (paper), or DETR's own projection of it, what its encoder is given.

        Differs: the paper has the former alone. The projection takes an eighth of the room at DETR's sizes, and loses
        what detection had no use for.
        """
        super().__init__()
        self.detr = detr.eval().requires_grad_(False)
        self._projects = map == "projected"
        self.register_buffer("label_of", torch.tensor(match_classes(detr, names)), persistent=False)
        backbone = detr.model.backbone
        self.stride = backbone_stride(detr)
        self.channels = detr.config.d_model if self._projects else backbone.intermediate_channel_sizes[-1]
        self.token_dim = detr.config.d_model
        self._maps: list[tuple[Tensor, Tensor]] = []
        backbone.register_forward_hook(lambda _module, _inputs, output: self._maps.append(output[-1]))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.detr.device

    def train(self, mode: bool = True) -> "FrozenDetector":
        """Stays in evaluation mode, whatever its owner does."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self,
        pixels: Float[Tensor, "b 3 height width"],
        is_padding: Bool[Tensor, "b height width"],
        resized: Int[Tensor, "b 2"],
        original: Int[Tensor, "b 2"],
    ) -> Detections:
        """`resized` and `original`: height and width of each image without padding, before the network and on disk."""
        self._maps.clear()
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        output = self.detr(pixels, pixel_mask=(~is_padding).long())
        maps, is_cell = self._maps.pop()
        probabilities = output.logits.softmax(-1)[..., :-1]
        label_of = self.get_buffer("label_of")
        scores, classes = probabilities.masked_fill(label_of < 0, -1.0).max(-1)
        height_width = original.to(pixels.dtype)
        corners = xyxy_from_cxcywh(output.pred_boxes) * height_width.flip(-1).repeat(1, 2)[:, None]
        boxes = torch.stack([clip(b, float(h), float(w)) for b, (h, w) in zip(corners, height_width, strict=True)])
        return Detections(
            boxes=boxes,
            scores=scores,
            labels=label_of[classes],
            tokens=output.last_hidden_state,
            maps=self.detr.model.input_projection(maps) if self._projects else maps,
            is_padding=~is_cell,
            cell_sizes=self.stride * height_width / resized,
        )

    @torch.no_grad()
    def attention(
        self, pixels: Float[Tensor, "b 3 height width"], is_padding: Bool[Tensor, "b height width"]
    ) -> Float[Tensor, "b q h w"]:
        """Where on the map each query reads: the last decoder layer's cross-attention, mean over heads; sums to 1.

        A second look at the images: the fused attention of `forward` never holds its weights.
        """
        decoder: Any = self.detr.model.decoder
        fused = decoder.config._attn_implementation
        self._maps.clear()
        decoder.set_attn_implementation({"": "eager"})  # of the backbone, which has none, nothing is said
        try:
            output: Any = self.detr(pixels, pixel_mask=(~is_padding).long(), output_attentions=True)
        finally:
            decoder.set_attn_implementation({"": fused})
        _, is_cell = self._maps.pop()
        return output.cross_attentions[-1].mean(1).unflatten(-1, is_cell.shape[1:])


def random_detector(depths: Sequence[int], names: Sequence[str]) -> DetrForObjectDetection:
    """DETR as published, on a ResNet of bottlenecks with stages of these depths, but with random weights.

    For what does not depend on weights (`rmlr.model.cost`); from these, a DETR does not learn.
    """
    backbone = ResNetConfig(depths=list(depths), out_features=[f"stage{len(depths)}"])  # pyright: ignore[reportCallIssue]
    config = DetrConfig(
        backbone_config=backbone,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    return DetrForObjectDetection(config)


def convolutions_and_feed_forward(detr: DetrForObjectDetection) -> list[str]:
    """Paths of a DETR's convolutions and of its feed-forward networks' linear layers."""
    return [
        name
        for name, module in detr.named_modules()
        if isinstance(module, nn.Conv2d) or name.endswith((".fc1", ".fc2"))
    ]


def load_published(path: Path) -> DetrForObjectDetection:
    """A DETR as its authors publish it (.pth), as UPT fine-tuned it, or from within a trained UPT (.pt)."""
    published = read_published(path)
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), DROPOUT)
    config = DetrConfig(**architecture(published.sizes, published.names), num_queries=published.sizes.queries, **rates)
    detr = DetrForObjectDetection(config)
    shapes = {name: tensor.shape for name, tensor in detr.state_dict().items()}
    detr.load_state_dict(published.renamed(shapes), strict=True)
    detr.config._name_or_path = detr.name_or_path = str(path)
    return detr


def load_detector(source: str, revision: str | None = None) -> DetrForObjectDetection:
    """A DETR from a folder of `save_pretrained`, a published file, or the hub; whole, or ValueError naming what lacks.

    The library itself fills what a checkpoint lacks with random numbers.
    """
    if Path(source).suffix in (".pth", ".pt"):
        return load_published(Path(source))
    disable_progress_bar()
    for name in ("config.json", WEIGHTS_FILE):
        if Path(source).is_dir() and not (path := Path(source, name)).is_file():
            raise ValueError(f"{path}: does not exist. Is this the folder of a detector (`save_pretrained`)?")
    origin: dict[str, Any] = {"revision": revision} if revision else {}
    if Path(source).is_dir():
        dict(TensorFile(Path(source, WEIGHTS_FILE), "Make or get the detector again"))  # all of them are checked
    try:
        kind = PreTrainedConfig.get_config_dict(source, **origin)[0].get("model_type")
    except (OSError, AttributeError, TypeError) as error:  # the latter: JSON, but no object
        raise ValueError(
            f"{source}: neither a folder that holds a detector (config.json, {WEIGHTS_FILE}) nor a model that the hub "
            f"gives ({error})"
        ) from error
    if kind not in ("detr", AnchoredDetrConfig.model_type):
        raise ValueError(f"{source}: expected a DETR (model_type 'detr'), its config.json says '{kind}'")
    form = DetrForObjectDetection if kind == "detr" else AnchoredDetrForObjectDetection
    try:
        loaded: Any = form.from_pretrained(
            source, **origin, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True
        )
    except Exception as error:  # of a damaged config.json, many kinds
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{source}: config.json and {WEIGHTS_FILE} make no DETR ({said}). Get it again") from error
    detr, report = loaded
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(key for key in report["unexpected_keys"] if not key.endswith("num_batches_tracked")),
        "of another shape": sorted(str(key) for key in report["mismatched_keys"]),
    }
    said = [f"{len(keys)} {fault}: {', '.join(keys[:5])}" for fault, keys in faults.items() if keys]
    if said:
        raise ValueError(f"{source}: weights do not fit the architecture of its config.json. {'; '.join(said)}")
    check_finite(source, detr.state_dict(), "Get the detector again")
    return detr


def class_names(detr: DetrForObjectDetection) -> list[str]:
    """Names of the classes in the order of the logits, "no object" not among them."""
    return [name for _, name in sorted((detr.config.id2label or {}).items())]


def match_names(of: Sequence[str], to: Sequence[str]) -> list[int]:
    """For each class of a detector its index in `to`, -1 for one that was never annotated.

    Names are equal up to spaces, underscores and case. ValueError lists those that have no partner on either side.
    """

    def plain(name: str) -> str:
        return name.replace("_", " ").lower()

    index = {plain(name): position for position, name in enumerate(to)}
    ignored = {plain(name) for name in NEVER_ANNOTATED.split(", ")}
    extra = [name for name in of if plain(name) not in index and plain(name) not in ignored]
    missing = [name for name in to if plain(name) not in {plain(other) for other in of}]
    if extra or missing:
        raise ValueError(
            f"the detector's classes are not the dataset's: it knows {extra} in addition and lacks {missing}. "
            "Was it trained on another world or dataset?"
        )
    return [index.get(plain(name), -1) for name in of]


def match_classes(detr: DetrForObjectDetection, names: Sequence[str]) -> list[int]:
    """`match_names` of a detector's classes; ValueError says which detector does not fit."""
    try:
        return match_names(class_names(detr), names)
    except ValueError as error:
        raise ValueError(f"{detr.name_or_path}: {error}") from error


def adapt_classes(detr: DetrForObjectDetection, names: Sequence[str]) -> None:
    """Reorder the class head to `names`, its rows kept (hicodet's fine-tuning copies COCO's rows likewise)."""
    old = class_names(detr)
    target = match_classes(detr, names)
    rows = [target.index(position) for position in range(len(names))] + [len(old)]  # "no object" stays last
    head = detr.class_labels_classifier
    adapted = nn.Linear(head.in_features, len(rows))
    with torch.no_grad():
        adapted.weight.copy_(head.weight[rows])
        adapted.bias.copy_(head.bias[rows])
    detr.class_labels_classifier = adapted
    detr.config.id2label = dict(enumerate(names))
    detr.config.label2id = {name: index for index, name in enumerate(names)}


def backbone_stride(detr: DetrForObjectDetection) -> int:
    """Pixels of the resized image per map cell, as the backbone itself shows."""
    side = 256
    with torch.no_grad():
        maps = detr.model.backbone.model(torch.zeros(1, 3, side, side, device=detr.device)).feature_maps
    return side // maps[-1].shape[-1]


def thaw_given(detr: DetrForObjectDetection, no_object_weight: float) -> None:
    """Let a detector with given weights learn as DETR does: all but its batch norms, the stem and the first stage.

    Differs: the library freezes the whole backbone, and leaves out the losses of the decoder's other layers.
    """
    detr.model.unfreeze_backbone()
    trunk: Any = detr.model.backbone.model
    for part in (trunk.embedder, trunk.encoder.stages[0]):
        part.requires_grad_(False)
    detr.config.update({"auxiliary_loss": True, "eos_coefficient": no_object_weight, **COSTS, **COEFFICIENTS})


def freeze_batch_norms(detr: DetrForObjectDetection) -> None:
    """Give trained batch norms the library's frozen form, the one that `save_pretrained` and `from_pretrained` know."""
    with torch.no_grad():
        replace_batch_norm(detr.model.backbone)


def detection_loss(
    detr: DetrForObjectDetection,
    pixels: Float[Tensor, "b 3 height width"],
    is_padding: Bool[Tensor, "b height width"],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    labels: Sequence[Int[Tensor, "_"]],
    sizes: Int[Tensor, "b 2"],
) -> Float[Tensor, ""]:
    """DETR's set loss over a batch. `boxes` are in pixels of images of height and width `sizes`, without padding."""
    targets = [
        {"class_labels": label, "boxes": cxcywh_from_xyxy(box / size.flip(0).repeat(2))}
        for box, label, size in zip(boxes, labels, sizes, strict=True)
    ]
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return detr(pixels, pixel_mask=(~is_padding).long(), labels=targets).loss


def select_instances(detections: Detections, person: int, rule: Selection) -> tuple[Instances, Int[Tensor, " n"]]:
    """The detections of a batch that `select_queries` keeps, and the image of each."""
    image, query = select_queries(detections, person, rule)
    parts = (detections.boxes, detections.scores, detections.labels, detections.tokens)
    return Instances(*(part[image, query] for part in parts)), image


def as_batch(
    detections: Detections, image_ids: Int[Tensor, " b"], sizes: Int[Tensor, "b 2"], person: int, rule: Selection
) -> Batch:
    """What the interaction modules are given of these images; `sizes` are their heights and widths."""
    instances, image = select_instances(detections, person, rule)
    return Batch(
        image_ids=image_ids,
        maps=detections.maps.masked_fill(detections.is_padding[:, None], 0),
        is_padding=detections.is_padding,
        cell_sizes=detections.cell_sizes,
        image_sizes=sizes.float(),
        instances=instances,
        instance_image=image,
    )


def select_queries(detections: Detections, person: int, rule: Selection) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Image and query of the detections that are kept: image by image, people first, by falling score.

    Class-wise non-maximum suppression, then scores of at least `min_score`; of people, and likewise of all else, at
    least `min_instances` where suppression left so many and at most `max_instances`.

    Differs: the paper is silent; this is UPT's rule.
    """
    scores, labels = detections.scores, detections.labels
    group = torch.where(labels == person, 0, 1)
    for image, (boxes, score, label) in enumerate(zip(detections.boxes, scores, labels, strict=True)):
        suppressed = torch.ones_like(label, dtype=torch.bool)
        suppressed[batched_nms(boxes, score, label, rule.nms_iou)] = False
        group[image, suppressed] = 2
    order = scores.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, group.gather(1, order).argsort(dim=1, stable=True))  # b q: people, others, suppressed
    group, score = group.gather(1, order), scores.gather(1, order)
    people = (group == 0).sum(1, keepdim=True)
    rank = torch.arange(order.shape[1], device=order.device) - people * (group == 1)
    kept = (group < 2) & (rank < rule.max_instances) & ((score >= rule.min_score) | (rank < rule.min_instances))
    image, place = kept.nonzero(as_tuple=True)
    return image, order[image, place]


def save_detector(detr: DetrForObjectDetection, folder: Path) -> None:
    """Write config.json and the weights, as `load_detector` and the library's `from_pretrained` read them."""
    disable_progress_bar()
    freeze_batch_norms(detr)
    detr.save_pretrained(folder)
    path = folder / WEIGHTS_FILE
    save_tensors(path, load_file(path), {"format": "pt"})


def weights_digest(folder: Path) -> str:
    """SHA-256 of a saved detector's weights: whose features a cache holds."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
