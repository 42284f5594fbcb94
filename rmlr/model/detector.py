"""The detector: images -> boxes, classes, tokens and maps, for all kinds of detectors.

`load_detector` reads one: a DETR (`rmlr.model.detr`), another family of `transformers` (`families`), or a class of the
user's (`foreign`). The other modules use it through `FrozenDetector` only.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import batched_nms
from transformers import DetrForObjectDetection, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from rmlr.hoi.batch import DEVIATION, MEAN, Batch, Instances, Level
from rmlr.hoi.boxes import clip
from rmlr.model.adapter import PICTURE, Adapter, Found, match_classes
from rmlr.model.detr import DetrAdapter, freeze_batch_norms, load_published
from rmlr.model.families import DETRS, WEIGHTS_FILE, FamilyAdapter, load_transformers
from rmlr.model.foreign import FORM, Foreign, ForeignAdapter, foreign_files
from rmlr.study.content import sha256_of
from rmlr.study.settings import FixedSize, MapName, PictureSize, Selection
from rmlr.study.tensors import save_tensors

CONFIG_FILE = "config.json"

Network: TypeAlias = PreTrainedModel | Foreign  # the networks that are loaded and saved


@dataclass(frozen=True, slots=True)
class Detections:
    """The output of every query for a batch of images, and the feature maps."""

    boxes: Float[Tensor, "b q 4"]  # xyxy, pixels of the original image, clipped to it
    scores: Float[Tensor, "b q"]  # probability of the likeliest real class; -1 if a query found nothing
    labels: Int[Tensor, "b q"]  # that class, in the order of the requested names
    tokens: Float[Tensor, "b q d"]  # last decoder layer
    maps: Float[Tensor, "b c h w"]  # last backbone map; of several, the coarsest
    is_padding: Bool[Tensor, "b h w"]
    cell_sizes: Float[Tensor, "b 2"]  # height and width of one map cell, in pixels of the original image
    finer: tuple[Level, ...] = ()  # the other maps, from coarse to fine

    @property
    def levels(self) -> tuple[Level, ...]:
        """All maps, from coarse to fine."""
        return (Level(self.maps, self.is_padding, self.cell_sizes), *self.finer)


class FrozenDetector(nn.Module):
    """A detector in inference mode: no gradient, no dropout, no batch statistics (model specification, section 2).

    Its classes are given in the order of `names`, matched by name; names that differ are an error. Each query
    counts with its likeliest class, so a box has one class. Pictures of different sizes are padded for a DETR; another
    detector gets pictures of one size together, without padding, so that its output does not depend on the other
    pictures of a batch.
    """

    def __init__(
        self,
        network: Network,
        names: Sequence[str],
        map: MapName = "backbone",
        strides: Sequence[int] | None = None,
    ) -> None:
        """`map` and `strides` choose X; `strides` None: the coarsest map. Several: one map of each stride."""
        super().__init__()
        adapter = _adapter(network, map, strides)
        self.adapter = adapter.eval().requires_grad_(False)
        self.eval()
        self.register_buffer(
            "label_of", torch.tensor(match_classes(adapter.name, adapter.names, names)), persistent=False
        )
        self.strides, self.token_dim = adapter.strides, adapter.token_dim
        self.channels, *finer = adapter.channels
        self.finer_channels = tuple(finer)

    @property
    def device(self) -> torch.device:
        """The device it runs on."""
        return self.get_buffer("label_of").device

    def train(self, mode: bool = True) -> "FrozenDetector":
        """Stays in evaluation mode, also if a parent module is set to training."""
        return super().train(False)

    def size(self, asked: PictureSize | None) -> PictureSize:
        """The size of its input: the requested one, else its own; ValueError if it does not support the request."""
        own = self.adapter.picture.size
        if asked is not None and isinstance(asked, FixedSize) != isinstance(own, FixedSize):
            raise ValueError(
                f"{self.adapter.name}: takes pictures of {own}, the settings say image: {asked}. Set the detector's "
                "image to null, or to a size of that form"
            )
        if asked is not None and asked != own:
            self.adapter.check_size(asked)
        return asked or own

    @torch.no_grad()
    def forward(
        self,
        pixels: Float[Tensor, "b 3 height width"],
        is_padding: Bool[Tensor, "b height width"],
        resized: Int[Tensor, "b 2"],
        original: Int[Tensor, "b 2"],
    ) -> Detections:
        """`resized` and `original`: height and width of each image without padding, before the network and on disk.

        Differs: boxes are clipped to the image, before suppression and matching, so that all stages use the same boxes.
        UPT does not clip them.
        """
        found = self._find(pixels, is_padding, resized)
        label_of = self.get_buffer("label_of")
        scores, classes = found.probabilities.masked_fill(label_of < 0, -1.0).max(-1)
        height_width = original.to(pixels.dtype)
        corners = found.boxes * height_width.flip(-1).repeat(1, 2)[:, None]
        boxes = torch.stack([clip(b, float(h), float(w)) for b, (h, w) in zip(corners, height_width, strict=True)])
        coarsest, *finer = (
            Level(maps, padded, stride * height_width / resized)
            for maps, padded, stride in zip(found.maps, found.is_padding, self.strides, strict=True)
        )
        return Detections(
            boxes=boxes,
            scores=scores,
            labels=label_of[classes],
            tokens=found.tokens,
            maps=coarsest.maps,
            is_padding=coarsest.is_padding,
            cell_sizes=coarsest.cell_sizes,
            finer=tuple(finer),
        )

    @torch.no_grad()
    def attention(
        self, pixels: Float[Tensor, "b 3 height width"], is_padding: Bool[Tensor, "b height width"]
    ) -> Float[Tensor, "b q h w"]:
        """The attention of each query over the map; sums to 1. ValueError if this kind of detector has none."""
        return self.adapter.attention(self._normalised(pixels), is_padding)

    def _find(self, pixels: Tensor, is_padding: Tensor, resized: Tensor) -> Found:
        if self.adapter.takes_padding:
            return self.adapter.find(self._normalised(pixels, is_padding), is_padding)
        groups: dict[tuple[int, int], list[int]] = {}
        for position, (height, width) in enumerate(resized.tolist()):
            groups.setdefault((height, width), []).append(position)
        parts = []
        for (height, width), positions in groups.items():
            own = pixels[positions, :, :height, :width]
            parts.append(self.adapter.find(self._normalised(own), torch.zeros_like(own[:, 0], dtype=torch.bool)))
        return _together(parts, list(groups.values()))

    def _normalised(self, pixels: Tensor, is_padding: Tensor | None = None) -> Tensor:
        """Pixels normalised with ImageNet's mean and deviation, renormalised for this detector; padding is 0."""
        picture = self.adapter.picture
        if (picture.mean, picture.deviation) == (MEAN, DEVIATION):
            return pixels
        mean, deviation, own_mean, own_deviation = (
            pixels.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION, picture.mean, picture.deviation)
        )
        pixels = (pixels * deviation + mean - own_mean) / own_deviation
        return pixels if is_padding is None else pixels.masked_fill(is_padding[:, None], 0)


def _adapter(network: Network, map: MapName, strides: Sequence[int] | None) -> Adapter:
    if isinstance(network, Foreign):
        return ForeignAdapter(network, map, strides)
    if isinstance(network, DetrForObjectDetection):
        return DetrAdapter(network, map, strides)
    return FamilyAdapter(network, map, strides)


def _together(parts: Sequence[Found], positions: Sequence[Sequence[int]]) -> Found:
    """The pictures of several calls in the order of their positions; maps are padded to the largest."""
    order = torch.tensor([position for group in positions for position in group]).argsort()
    order = order.to(parts[0].tokens.device)
    queries = max(part.tokens.shape[1] for part in parts)

    def queried(name: str, value: float) -> Float[Tensor, "b q n"]:  # the added queries have found nothing
        given = [getattr(part, name) for part in parts]
        return torch.cat([nn.functional.pad(one, (0, 0, 0, queries - one.shape[1]), value=value) for one in given])[
            order
        ]

    def levels(name: str, value: float | bool) -> tuple[Tensor, ...]:
        return tuple(
            torch.cat(_of_one_size(level, value))[order]
            for level in zip(*(getattr(part, name) for part in parts), strict=True)
        )

    return Found(
        probabilities=queried("probabilities", -1.0),
        boxes=queried("boxes", 0.0),
        tokens=queried("tokens", 0.0),
        maps=levels("maps", 0.0),
        is_padding=levels("is_padding", True),
    )


def _of_one_size(maps: Sequence[Tensor], value: float | bool) -> list[Tensor]:
    """Padded below and to the right, to the largest number of rows and columns (the last two dimensions)."""
    rows, columns = max(one.shape[-2] for one in maps), max(one.shape[-1] for one in maps)
    return [nn.functional.pad(one, (0, columns - one.shape[-1], 0, rows - one.shape[-2]), value=value) for one in maps]


def load_detector(source: str, revision: str | None = None) -> Network:
    """A detector from a folder, a published file, or the hub; ValueError names what is missing."""
    if Path(source).suffix in (".pth", ".pt"):
        return load_published(Path(source))
    if _is_foreign(Path(source)):
        return Foreign.load(Path(source))
    return load_transformers(source, revision)


def _config(folder: Path) -> dict[str, object]:
    """The configuration of a saved detector; empty if it has none."""
    try:
        content = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_foreign(folder: Path) -> bool:
    return _config(folder).get("model_type") == FORM


def holds_detector(folder: Path) -> bool:
    """Whether a folder was written by `save_detector` or `save_pretrained`."""
    return (folder / WEIGHTS_FILE).is_file() or _is_foreign(folder)


def select_instances(detections: Detections, person: int, rule: Selection) -> tuple[Instances, Int[Tensor, " n"]]:
    """The detections of a batch that `select_queries` keeps, and the image of each."""
    image, query = select_queries(detections, person, rule)
    parts = (detections.boxes, detections.scores, detections.labels, detections.tokens)
    return Instances(*(part[image, query] for part in parts)), image


def as_batch(
    detections: Detections, image_ids: Int[Tensor, " b"], sizes: Int[Tensor, "b 2"], person: int, rule: Selection
) -> Batch:
    """The input of the interaction modules for these images; `sizes` are their heights and widths."""
    instances, image = select_instances(detections, person, rule)
    return Batch(
        image_ids=image_ids,
        maps=detections.maps.masked_fill(detections.is_padding[:, None], 0),
        is_padding=detections.is_padding,
        cell_sizes=detections.cell_sizes,
        image_sizes=sizes.float(),
        instances=instances,
        instance_image=image,
        finer=tuple(
            replace(level, maps=level.maps.masked_fill(level.is_padding[:, None], 0)) for level in detections.finer
        ),
    )


def select_queries(detections: Detections, person: int, rule: Selection) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Image and query of the detections that are kept: image by image, people first, by falling score.

    Class-wise non-maximum suppression, then scores of at least `min_score`; of people, and likewise of objects, at
    least `min_instances` if suppression left so many, and at most `max_instances`.

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
    kept = (
        (group < 2)
        & (score >= 0)
        & (rank < rule.max_instances)
        & ((score >= rule.min_score) | (rank < rule.min_instances))
    )
    image, place = kept.nonzero(as_tuple=True)
    return image, order[image, place]


def save_detector(network: Network, folder: Path) -> None:
    """Write a folder that `load_detector` reads; for `transformers`, also the library's `from_pretrained`."""
    if isinstance(network, Foreign):
        network.save(folder)
        return
    disable_progress_bar()
    if isinstance(network, DetrForObjectDetection):
        freeze_batch_norms(network)
    network.save_pretrained(folder)
    path = folder / WEIGHTS_FILE
    save_tensors(path, load_file(path), {"format": "pt"})


def detector_files(folder: Path) -> list[Path]:
    """The files that define a saved detector."""
    if _is_foreign(folder):
        return foreign_files(folder)
    return [folder / CONFIG_FILE, folder / WEIGHTS_FILE]


def weights_digest(folder: Path) -> str:
    """SHA-256 of a saved detector, which identifies it in a feature cache.

    For a DETR, of its weights; for others, also of its input format and of a user's class.
    """
    config = _config(folder)
    if config.get("model_type") in DETRS and PICTURE not in config:
        return sha256_of(folder / WEIGHTS_FILE)
    parts: list[object] = [config.get("model_type"), config.get(PICTURE)]
    parts += [(str(path.relative_to(folder)), sha256_of(path)) for path in detector_files(folder)[1:]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
