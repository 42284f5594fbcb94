"""The sources of a split's features: a frozen detector applied to its photos, or files of another framework."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from rmlr.data.augment import load_view
from rmlr.data.given import GivenFeatures, GivenImage
from rmlr.data.images import ImageBatch
from rmlr.data.loading import pinned
from rmlr.hoi import Annotation, Vocabulary
from rmlr.model.adapter import match_classes
from rmlr.model.detector import Detections, FrozenDetector, load_detector, weights_digest
from rmlr.study.nodes import FeaturesNode
from rmlr.study.settings import PictureSize


@runtime_checkable
class Seeing(Protocol):
    """A source of the features of a split."""

    digest: str
    image: PictureSize
    channels: int  # of the coarsest map
    finer_channels: tuple[int, ...]  # of the others
    token_dim: int
    strides: tuple[int, ...]  # of all maps
    batch_size: int
    device: torch.device

    def load(self, items: Sequence[Annotation], view: int) -> Any:
        """Read the input for these images; called in any thread."""
        ...

    def see(self, loaded: Any) -> tuple[Detections, Int[Tensor, "b 2"]]:
        """The detections in them, and their sizes: height and width."""
        ...


class Looking:
    """A frozen detector applied to the photos."""

    def __init__(self, detector: Path, images: Path, vocabulary: Vocabulary, chosen: FeaturesNode) -> None:
        rule = chosen.features
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        frozen = FrozenDetector(load_detector(str(detector)), vocabulary.objects, rule.map, rule.strides)
        self._frozen, self._images, self._augment = frozen.to(self.device), images, rule.augment
        self.digest, self.image, self.batch_size = weights_digest(detector), frozen.size(chosen.image), rule.batch_size
        self.channels, self.finer_channels = frozen.channels, frozen.finer_channels
        self.token_dim, self.strides = frozen.token_dim, frozen.strides

    def load(self, items: Sequence[Annotation], view: int) -> ImageBatch:
        """The photos in a view, padded."""
        batch = load_view(items, self._images, self.image, self._augment, view)
        return pinned(batch) if self.device.type == "cuda" else batch

    def see(self, loaded: ImageBatch) -> tuple[Detections, Int[Tensor, "b 2"]]:
        """The detections in them."""
        parts = (getattr(loaded.to(self.device), name) for name in ImageBatch.__slots__)
        return self._frozen(*parts), loaded.original


class Taking:
    """Files of another framework, one image at a time."""

    batch_size = 1
    device = torch.device("cpu")

    def __init__(self, folder: Path, vocabulary: Vocabulary, chosen: FeaturesNode) -> None:
        if chosen.features.views != 1:
            raise ValueError(
                f"{folder}: files of another framework have one view of each image, the settings say features.views "
                f"{chosen.features.views}. Set it to 1, and features.augment to null"
            )
        self._given = GivenFeatures(folder)
        about, asked = self._given.about, chosen.features
        if asked.map != "backbone" or asked.strides not in (None, [about.stride]):
            raise ValueError(
                f"{folder}: files of another framework have one map, of stride {about.stride}; the settings ask for "
                f"map {asked.map}, strides {asked.strides}. Set features.map to backbone, and features.strides to null"
            )
        where = f"{folder}: {about.detector}"
        self._label_of = torch.tensor(match_classes(where, about.objects, vocabulary.objects))
        self.digest = hashlib.sha256(about.model_dump_json().encode()).hexdigest()
        self.image, self.channels, self.token_dim = about.image, about.channels, about.token_dim
        self.finer_channels, self.strides = (), (about.stride,)

    def load(self, items: Sequence[Annotation], view: int) -> GivenImage:
        """The features of an image."""
        [item] = items
        return self._given.read(item)

    def see(self, loaded: GivenImage) -> tuple[Detections, Int[Tensor, "b 2"]]:
        """As detections; those of a class that was never annotated are empty."""
        given = loaded.instances
        labels = self._label_of[given.labels]
        detections = Detections(
            boxes=given.boxes[None],
            scores=given.scores.masked_fill(labels < 0, -1.0)[None],
            labels=labels[None],
            tokens=given.tokens[None],
            maps=loaded.maps[None],
            is_padding=torch.zeros(1, *loaded.maps.shape[1:], dtype=torch.bool),
            cell_sizes=loaded.cell_size[None],
        )
        return detections, loaded.size[None]
