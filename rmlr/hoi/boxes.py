"""Boxes: two encodings, clipping, overlap. A box is `xyxy` edges in pixels unless its name says otherwise."""

import torch
from jaxtyping import Float
from torch import Tensor


def xyxy_from_cxcywh(boxes: Float[Tensor, "*a 4"]) -> Float[Tensor, "*a 4"]:
    """Corners from centre, width and height, in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def cxcywh_from_xyxy(boxes: Float[Tensor, "*a 4"]) -> Float[Tensor, "*a 4"]:
    """Centre, width and height from corners, in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def clip(boxes: Float[Tensor, "*a 4"], height: float, width: float) -> Float[Tensor, "*a 4"]:
    """The part of each box inside an image; a box outside becomes empty (zero width or height)."""
    limit = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limit)


def area(boxes: Float[Tensor, "*a 4"]) -> Float[Tensor, "*a"]:
    """Width x height, 0 for an inverted box."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Float[Tensor, "*#i 4"], b: Float[Tensor, "*#i 4"]) -> Float[Tensor, "*#i"]:
    """Area of the intersection of boxes, broadcast."""
    low, high = a[..., :2].maximum(b[..., :2]), a[..., 2:].minimum(b[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(a: Float[Tensor, "m 4"], b: Float[Tensor, "n 4"]) -> Float[Tensor, "m n"]:
    """Intersection over union of every pair; 0 if both boxes are empty."""
    shared = intersection(a[:, None], b[None])
    union = area(a)[:, None] + area(b)[None] - shared
    return shared / union.clamp(min=1e-9)
