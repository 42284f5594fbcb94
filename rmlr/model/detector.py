"""The detector: images -> boxes, classes, tokens and a map. Only this file knows how `transformers` spells DETR.

From scratch (`build_detector`) it is a small DETR that learns in minutes; with given weights (`load_detector`) it is
any `DetrForObjectDetection`, or a DETR as its authors publish it, whose names only `rmlr.model.published` knows. Either
is trained through `detection_loss`, saved by `save_pretrained`, and then used through `FrozenDetector` alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import batched_nms
from transformers import DetrConfig, DetrForObjectDetection, PreTrainedConfig, ResNetConfig
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d, DetrMLPPredictionHead, replace_batch_norm
from transformers.utils.logging import disable_progress_bar

from rmlr.hoi.batch import Batch, Instances
from rmlr.hoi.boxes import clip, cxcywh_from_xyxy, xyxy_from_cxcywh
from rmlr.model.published import Sizes, read_published
from rmlr.study.settings import DetectorArchitecture, Selection
from rmlr.study.tensors import TensorFile, check_finite, save_tensors

WEIGHTS_FILE = "model.safetensors"
COSTS: dict[str, Any] = {"class_cost": 1, "bbox_cost": 5, "giou_cost": 2}  # of matching and of the loss: DETR's 1, 5, 2
COEFFICIENTS: dict[str, Any] = {"bbox_loss_coefficient": 5, "giou_loss_coefficient": 2}

DROPOUT = 0.1  # of a DETR as published, wherever its authors have it

# Classes that COCO-trained detectors carry and COCO never annotated: their logits take no part in the arg max.
NEVER_ANNOTATED = "N/A, street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush"


@no_type_check  # the library's own __init__ takes keywords that its signature does not tell
class AnchoredDetrConfig(DetrConfig):
    """DETR's configuration and what the anchored one adds; saved and loaded with it."""

    model_type = "anchored_detr"
    grid: int = 4
    sine_temperature: float = 20.0


class AnchoredBoxHead(DetrMLPPredictionHead):
    """DETR's box head plus one learnt box per query, which starts as that query's cell of a regular grid.

    The sum is taken on the logits, so a query begins with its own place and size and learns the difference.
    """

    def __init__(self, dim: int, grid: int) -> None:
        super().__init__(input_dim=dim, hidden_dim=dim, output_dim=4, num_layers=3)
        self.anchors = nn.Parameter(grid_anchors(grid))

    def forward(self, tokens: Float[Tensor, "*b q d"]) -> Float[Tensor, "*b q 4"]:
        return super().forward(tokens) + self.anchors


class AnchoredDetrForObjectDetection(DetrForObjectDetection):
    """A DETR that learns from scratch in a few hundred gradient steps instead of hundreds of thousands.

    Differs from the library's DETR: anchored box logits (`AnchoredBoxHead`), a decoder that starts from what the
    encoder sees at each query's anchor instead of zeros, and a sine code of a temperature that fits maps of few cells.
    What differs is made here and described by the configuration, so `from_pretrained` restores all of it.
    """

    config_class = AnchoredDetrConfig

    def __init__(self, config: AnchoredDetrConfig) -> None:
        super().__init__(config)
        self.bbox_predictor = AnchoredBoxHead(config.d_model, config.grid)
        position: Any = self.model.position_embedding
        position.temperature = config.sine_temperature
        self._is_valid = torch.ones(1, 1, 1, dtype=torch.bool)  # cells of the map last seen
        self.model.backbone.register_forward_hook(self._keep_valid)
        self.model.decoder.register_forward_pre_hook(self._start_queries, with_kwargs=True)

    def _keep_valid(self, _backbone: nn.Module, _inputs: Any, output: Any) -> None:
        self._is_valid = output[-1][1]

    def _start_queries(self, _decoder: nn.Module, inputs: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Give the decoder the encoder's map, read at the anchors, as its first tokens."""
        seen: Tensor = named["encoder_hidden_states"]  # b hw d
        images, height, width = self._is_valid.shape
        valid = torch.stack([self._is_valid.any(1).sum(1) / width, self._is_valid.any(2).sum(1) / height], dim=-1)
        anchors = self.bbox_predictor.anchors.detach()[:, :2].sigmoid() * valid[:, None]  # b q 2, in the padded map
        cells = seen.transpose(1, 2).unflatten(2, (height, width))
        tokens = nn.functional.grid_sample(cells, anchors[:, :, None].to(seen.dtype) * 2 - 1, align_corners=False)
        return inputs, named | {"inputs_embeds": tokens.view(images, seen.shape[2], -1).transpose(1, 2)}


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


def build_detector(
    sizes: DetectorArchitecture, names: Sequence[str], no_object_weight: float
) -> AnchoredDetrForObjectDetection:
    """A small DETR with random weights that can learn.

    Differs from the library's initialisation, N(0, 0.02) everywhere, from which DETR does not start: Xavier in encoder,
    decoder, box head and the map's projection, as DETR's authors have it; queries from their anchors' position code,
    and boxes that are the anchors.
    """
    config = AnchoredDetrConfig(
        **_architecture(sizes, names),
        num_queries=sizes.grid**2,
        dropout=0.0,
        auxiliary_loss=True,
        eos_coefficient=no_object_weight,
        grid=sizes.grid,
        sine_temperature=sizes.sine_temperature,
    )
    detr = AnchoredDetrForObjectDetection(config)
    for part in (detr.model.encoder, detr.model.decoder, detr.bbox_predictor, detr.model.input_projection):
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1 and not name.endswith("anchors"):
                nn.init.xavier_uniform_(parameter)
    last: Any = detr.bbox_predictor.layers[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    cells = torch.ones(1, sizes.grid, sizes.grid, dtype=torch.bool)
    shape = torch.Size([1, sizes.d_model, sizes.grid, sizes.grid])
    code: Tensor = detr.model.position_embedding(shape=shape, device="cpu", dtype=torch.float32, mask=cells)
    with torch.no_grad():
        detr.model.query_position_embeddings.weight.copy_(code.flatten(2)[0].T)
    return detr


def grid_anchors(grid: int) -> Float[Tensor, "q 4"]:
    """Logits of (centre x, centre y, width, height) of the cells of a grid x grid over the image, row by row."""
    centre = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    size = torch.full_like(x, 1 / grid).clamp(max=0.5)
    return torch.logit(torch.stack([x, y, size, size], dim=-1).flatten(0, 1))


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


def _architecture(sizes: DetectorArchitecture | Sizes, names: Sequence[str]) -> dict[str, Any]:
    """What configures a DETR of these sizes over a ResNet."""
    backbone = ResNetConfig(
        embedding_size=sizes.embedding_size,
        hidden_sizes=sizes.hidden_sizes,
        depths=sizes.depths,
        layer_type=sizes.layer_type,
        out_features=[f"stage{len(sizes.hidden_sizes)}"],  # pyright: ignore[reportCallIssue]
    )
    return {
        "backbone_config": backbone,
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "d_model": sizes.d_model,
        "encoder_layers": sizes.encoder_layers,
        "decoder_layers": sizes.decoder_layers,
        "encoder_attention_heads": sizes.heads,
        "decoder_attention_heads": sizes.heads,
        "encoder_ffn_dim": sizes.ffn_dim,
        "decoder_ffn_dim": sizes.ffn_dim,
        **COSTS,
        **COEFFICIENTS,
    }


def load_published(path: Path) -> DetrForObjectDetection:
    """A DETR as its authors publish it (.pth), as UPT fine-tuned it, or from within a trained UPT (.pt)."""
    published = read_published(path)
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), DROPOUT)
    config = DetrConfig(**_architecture(published.sizes, published.names), num_queries=published.sizes.queries, **rates)
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
    architecture = DetrForObjectDetection if kind == "detr" else AnchoredDetrForObjectDetection
    try:
        loaded: Any = architecture.from_pretrained(
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


def thaw(detr: DetrForObjectDetection) -> None:
    """Let a detector from scratch learn everything: its backbone, which the library freezes, and its batch norms.

    The library's batch norms are frozen ones, the identity when fresh: from scratch there would be no normalisation.
    """
    detr.model.unfreeze_backbone()

    def exchange(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, DetrFrozenBatchNorm2d):
                trainable = nn.BatchNorm2d(len(child.weight))
                trainable.load_state_dict(child.state_dict(), strict=False)
                setattr(module, name, trainable)
            else:
                exchange(child)

    exchange(detr.model.backbone)


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
