"""A trained network with cached features of a split, for prediction and measurement."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from rmlr.data.features import Features
from rmlr.data.loading import ahead, loader_threads, pinned
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.hoi import Vocabulary
from rmlr.hoi.batch import Batch
from rmlr.model.checkpoint import CARD_FILE, load_card, load_checkpoint
from rmlr.model.network import InteractionNetwork


def networks_of(annotations: Path, weights: Path, folds: int) -> dict[Path, Path]:
    """The records that each network of a run is applied to, and its folder: `weights`, or one in it for each fold."""
    names = [f"fold{fold}" for fold in range(folds)]
    return {annotations / name: weights / name / "train" for name in names} or {annotations: weights}


@dataclass(frozen=True, slots=True)
class Trained:
    """A network on its device, and features of a split that were made like those of its training."""

    vocabulary: Vocabulary
    features: Features
    network: InteractionNetwork
    device: torch.device

    @classmethod
    def open(
        cls,
        annotations: Path,
        features: Path,
        split: str,
        weights: Path,
        pose: Path | None = None,
        images: Collection[int] | None = None,
    ) -> "Trained":
        """Read the outputs of `prepare`, `features`, `train` and `pose`; ValueError names every mismatch.

        `images` are the ids of the images of the split that are wanted; None: all.
        """
        vocabulary, cached = load_vocabulary(annotations), Features.load(features, split, pose)
        cached = cached if images is None else cached.only(images, annotations)
        load_card(weights).must_fit(
            weights / CARD_FILE,
            channels=cached.channels,
            finer_channels=cached.finer_channels,
            token_dim=cached.token_dim,
            detector_digest=cached.detector_digest,
            objects=cached.objects,
            vocabulary=vocabulary,
            pose_digest=cached.pose_digest,
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(vocabulary, cached, load_checkpoint(weights).to(device), device)

    @classmethod
    def open_each(
        cls, annotations: Path, features: Path, split: str, weights: Path, folds: int, pose: Path | None = None
    ) -> list["Trained"]:
        """The network of a run, or with folds that of each, with the images of the fold that it was trained without."""
        opened = []
        for records, network in networks_of(annotations, weights, folds).items():
            own = [image.image_id for image in load_annotations(records, split)] if folds else None
            opened.append(cls.open(records, features, split, network, pose, own))
        return opened

    def batches(self, size: int) -> Iterator[tuple[range, Batch]]:
        """All images in order, in batches of `size`, on the device, with their positions; prefetched."""
        chunks = [range(at, min(at + size, len(self.features))) for at in range(0, len(self.features), size)]

        def load(indices: range) -> Batch:
            batch = self.features.batch(indices)
            return pinned(batch) if self.device.type == "cuda" else batch

        loaded = ahead(load, chunks, loader_threads(self.device))
        yield from ((indices, batch.to(self.device)) for indices, batch in zip(chunks, loaded, strict=True))
