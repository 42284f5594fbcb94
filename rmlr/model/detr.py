"""DETR: its training loss `detection_loss`, the reading of published checkpoints, and its adapter.

From scratch (`rmlr.model.anchored`) it is a small DETR that learns in minutes; with given weights it is any
`DetrForObjectDetection`, or a DETR as its authors publish it, whose names only `rmlr.model.published` knows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.models.detr.modeling_detr import replace_batch_norm

from rmlr.hoi.boxes import cxcywh_from_xyxy, xyxy_from_cxcywh
from rmlr.model.adapter import Adapter, Found, match_classes
from rmlr.model.anchored import COEFFICIENTS, COSTS, architecture
from rmlr.model.families import class_names, picture_of
from rmlr.model.published import read_published
from rmlr.study.settings import MapName

DROPOUT = 0.1  # of a DETR as published, wherever its authors apply it


class DetrAdapter(Adapter):
    """A DETR: softmax with "no object", one map, pictures of several sizes padded to one."""

    takes_padding = True

    def __init__(self, detr: DetrForObjectDetection, map: MapName, strides: Sequence[int] | None) -> None:
        """`map` chooses X: the last backbone map (paper), DETR's projection of it, or the output of its encoder.

        Differs: the paper has the first alone. The projection needs an eighth of the space at DETR's sizes, and
        loses what detection does not use.
        """
        super().__init__()
        self.detr = detr
        self.name = detr.name_or_path or "this DETR"
        self.names = class_names(detr.config)
        self.picture = picture_of(detr.config)
        stride = backbone_stride(detr)
        if strides is not None and list(strides) != [stride]:
            raise ValueError(
                f"{self.name}: a DETR has one map, of stride {stride}; asked for is {list(strides)}. Set "
                "features.strides to null"
            )
        backbone = detr.model.backbone
        channels = backbone.intermediate_channel_sizes[-1] if map == "backbone" else detr.config.d_model
        self.strides, self.channels = (stride,), (channels,)
        self.token_dim = detr.config.d_model
        self._map = map
        self._maps: list[tuple[Tensor, Tensor]] = []
        backbone.register_forward_hook(lambda _module, _inputs, output: self._maps.append(output[-1]))

    def find(self, pixels: Float[Tensor, "b 3 height width"], is_padding: Bool[Tensor, "b height width"]) -> Found:
        self._maps.clear()
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        output = self.detr(pixels, pixel_mask=(~is_padding).long())
        maps, is_cell = self._maps.pop()
        if self._map == "projected":
            maps = self.detr.model.input_projection(maps)
        elif self._map == "encoder":
            maps = output.encoder_last_hidden_state.transpose(1, 2).unflatten(2, maps.shape[2:])
        return Found(
            probabilities=output.logits.softmax(-1)[..., :-1],
            boxes=xyxy_from_cxcywh(output.pred_boxes),
            tokens=output.last_hidden_state,
            maps=(maps,),
            is_padding=(~is_cell,),
        )

    def attention(
        self, pixels: Float[Tensor, "b 3 height width"], is_padding: Bool[Tensor, "b height width"]
    ) -> Float[Tensor, "b q h w"]:
        """The last decoder layer's cross-attention, mean over heads.

        Needs a second forward pass: the fused attention of `find` does not return its weights.
        """
        decoder: Any = self.detr.model.decoder
        fused = decoder.config._attn_implementation
        self._maps.clear()
        decoder.set_attn_implementation({"": "eager"})  # the backbone has no attention
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


def adapt_classes(detr: DetrForObjectDetection, names: Sequence[str]) -> None:
    """Reorder the class head to `names`, keeping its rows (hicodet's fine-tuning copies COCO's rows likewise)."""
    old = class_names(detr.config)
    target = match_classes(detr.name_or_path or "this DETR", old, names)
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
    """Pixels of the resized image per map cell, measured on the backbone."""
    side = 256
    with torch.no_grad():
        maps = detr.model.backbone.model(torch.zeros(1, 3, side, side, device=detr.device)).feature_maps
    return side // maps[-1].shape[-1]


def thaw_given(detr: DetrForObjectDetection, no_object_weight: float) -> None:
    """Make a pre-trained detector trainable as in DETR: all but its batch norms, the stem and the first stage.

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
