"""DETR as its authors publish it (facebookresearch/detr): their checkpoint's tensors under the names of `transformers`.

Their own files, UPT's fine-tuned ones (fredzzhang/hicodet) and the detector within a trained UPT are of one layout.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rmlr.study.tensors import check_finite, load_pickled

UPT_DETECTOR, UPT_HEAD = "detector.", "interaction_head."  # the two parts of a trained UPT
BODY = "backbone.0.body."  # torchvision's ResNet
HEADS = 8  # of attention, in every published DETR; cannot be inferred from shapes
PROJECTIONS = "qkv"  # in the order of in_proj_weight
NO_OBJECT = 1  # the last row of the class head
WHOLE = "Does it exist, and is it whole? Download it again"

# COCO's classes by category id from 0 on, as a head of 92 rows has them; marked * what COCO never annotated.
COCO_CLASSES: str = (
    "*N/A, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "*street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, "
    "*hat, backpack, umbrella, *shoe, *eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, "
    "kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, *plate, wine glass, cup, fork, "
    "knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, "
    "potted plant, bed, *mirror, dining table, *window, *desk, toilet, *door, tv, laptop, mouse, remote, keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, *blender, book, clock, vase, scissors, teddy bear, "
    "hair drier, toothbrush"
)
ALL_CLASSES = COCO_CLASSES.replace("*", "").split(", ")
CLASSES = [name for name in COCO_CLASSES.split(", ") if not name.startswith("*")]  # of UPT's head, of 81 rows

# Published names by the suffix of our layer names. Norms follow their attention, the last one the two linear layers.
ENCODER: dict[str, str] = {
    "self_attn.o_proj": "self_attn.out_proj",
    "self_attn_layer_norm": "norm1",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "final_layer_norm": "norm2",
}
DECODER: dict[str, str] = ENCODER | {
    "encoder_attn.o_proj": "multihead_attn.out_proj",
    "encoder_attn_layer_norm": "norm2",
    "final_layer_norm": "norm3",
}
SINGLE: dict[str, str] = {
    "model.backbone.model.embedder.embedder.convolution": f"{BODY}conv1",
    "model.backbone.model.embedder.embedder.normalization": f"{BODY}bn1",
    "model.query_position_embeddings": "query_embed",
    "model.input_projection": "input_proj",
    "model.decoder.layernorm": "transformer.decoder.norm",
    "class_labels_classifier": "class_embed",
    **{f"bbox_predictor.layers.{layer}": f"bbox_embed.layers.{layer}" for layer in range(3)},
}
ATTENTIONS: dict[str, str] = {"self_attn": "self_attn", "encoder_attn": "multihead_attn"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a network, from the shapes of its checkpoint."""

    embedding_size: int
    hidden_sizes: list[int]
    depths: list[int]
    layer_type: Literal["basic", "bottleneck"]
    d_model: int
    heads: int
    ffn_dim: int
    encoder_layers: int
    decoder_layers: int
    queries: int


@dataclass(frozen=True, slots=True)
class Published:
    """A published checkpoint of DETR: its tensors by their own names, its sizes, and the names of its classes."""

    path: Path
    tensors: dict[str, Tensor]
    sizes: Sizes
    names: list[str]

    def renamed(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """The tensors under the names, and of the shapes, that a network of `transformers` asks for.

        Every one is used; ValueError names those that lack, are of another shape, or are left over.
        """
        found, missing, misshaped, left = {}, [], [], set(self.tensors)
        for name, shape in shapes.items():
            origin, part = origin_of(name)
            if origin not in self.tensors:
                missing.append(origin)
                continue
            left.discard(origin)
            tensor = self.tensors[origin]
            if tensor.shape != (shape if part is None else (len(PROJECTIONS) * shape[0], *shape[1:])):
                misshaped.append(f"{origin} {tuple(tensor.shape)}")
                continue
            found[name] = (tensor if part is None else tensor.chunk(len(PROJECTIONS))[part]).float().contiguous()
        faults = {"lack": sorted(set(missing)), "are of another shape": misshaped, "are left over": sorted(left)}
        said = [f"{len(names)} tensor(s) {fault} ({', '.join(names[:5])})" for fault, names in faults.items() if names]
        if said:
            raise ValueError(f"{self.path}: expected a DETR as its authors publish it, but {'; '.join(said)}")
        return found


def origin_of(name: str) -> tuple[str, int | None]:
    """DETR's own name of a tensor of `transformers`, and which third of it, if it is one of three in one."""
    layer, _, kind = name.rpartition(".")
    if layer in SINGLE:
        return f"{SINGLE[layer]}.{kind}", None
    if at := re.fullmatch(r"model\.backbone\.model\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+)\.(\w+)", layer):
        stage, block, part, what = int(at[1]), at[2], at[3], at[4]
        if part == "shortcut":
            theirs = f"downsample.{0 if what == 'convolution' else 1}"
        else:
            theirs = f"{'conv' if what == 'convolution' else 'bn'}{int(part.removeprefix('layer.')) + 1}"
        return f"{BODY}layer{stage + 1}.{block}.{theirs}.{kind}", None
    if at := re.fullmatch(r"model\.(encoder|decoder)\.layers\.(\d+)\.(\w+)\.([qkv])_proj", layer):
        attention = f"transformer.{at[1]}.layers.{at[2]}.{ATTENTIONS[at[3]]}"
        return f"{attention}.in_proj_{kind}", PROJECTIONS.index(at[4])
    at = re.fullmatch(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)", layer)
    assert at, f"'{name}': a part of DETR that its authors' has not"
    return f"transformer.{at[1]}.layers.{at[2]}.{(ENCODER if at[1] == 'encoder' else DECODER)[at[3]]}.{kind}", None


def read_published(path: Path) -> Published:
    """A DETR's file: its authors' (`model`), UPT's fine-tuned (`model_state_dict`), or a trained UPT with its DETR."""
    content = load_pickled(path, WHOLE)
    keys = list(map(str, content)) if isinstance(content, dict) else [type(content).__name__]
    state = next((content[key] for key in ("model", "model_state_dict") if key in keys), None)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(
            f"{path}: expected a DETR's tensors under 'model' or 'model_state_dict', found {', '.join(keys)[:200]}"
        )
    check_finite(path, state, WHOLE)
    if any(name.startswith(UPT_DETECTOR) for name in state):
        state = {name: tensor for name, tensor in state.items() if not name.startswith(UPT_HEAD)}
        state = {name.removeprefix(UPT_DETECTOR): tensor for name, tensor in state.items()}
    flags = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
    if flags.get("dilation"):
        raise ValueError(
            f"{path}: a DETR with a dilated backbone (DC5), which `transformers` has not. Take a plain one"
        )
    try:
        sizes, rows = _sizes(state, flags.get("nheads", HEADS)), len(state["class_embed.weight"])
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{path}: expected a DETR as facebookresearch/detr publishes it; there is no tensor {error}. It has "
            f"{', '.join(list(state)[:3])} ..."
        ) from error
    by_rows = {len(names) + NO_OBJECT: names for names in (ALL_CLASSES, CLASSES)}
    if rows not in by_rows:
        raise ValueError(
            f"{path}: its class head has {rows} rows, expected {' or '.join(map(str, by_rows))}: COCO's category ids, "
            "or its 80 classes, and 'no object'"
        )
    return Published(path, state, sizes, list(by_rows[rows]))


def _sizes(state: Mapping[str, Tensor], heads: int) -> Sizes:
    def count(pattern: str) -> int:
        number = 0
        while pattern.format(number) in state:
            number += 1
        return number

    is_deep = f"{BODY}layer1.0.conv3.weight" in state
    last = "conv3" if is_deep else "conv2"
    first = state["transformer.encoder.layers.0.linear1.weight"]
    stages = [stage for stage in range(1, 5) if f"{BODY}layer{stage}.0.conv1.weight" in state]
    return Sizes(
        embedding_size=len(state[f"{BODY}conv1.weight"]),
        hidden_sizes=[len(state[f"{BODY}layer{stage}.0.{last}.weight"]) for stage in stages],
        depths=[count(f"{BODY}layer{stage}.{{}}.conv1.weight") for stage in stages],
        layer_type="bottleneck" if is_deep else "basic",
        d_model=first.shape[1],
        heads=heads,
        ffn_dim=first.shape[0],
        encoder_layers=count("transformer.encoder.layers.{}.linear1.weight"),
        decoder_layers=count("transformer.decoder.layers.{}.linear1.weight"),
        queries=len(state["query_embed.weight"]),
    )
