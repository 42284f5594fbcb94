"""Training examples: images with cached features (`Cached`), or photos (`rmlr.learning.photos`)."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rmlr.data.augment import annotated_views
from rmlr.data.features import INDEX_FILE, Features
from rmlr.data.truth import Truths
from rmlr.hoi import Annotation, Vocabulary
from rmlr.hoi.batch import Batch, Truth
from rmlr.study.settings import View

Tested = Callable[[Sequence[int], torch.device], Batch]  # images, by position -> as in the test, not augmented


@runtime_checkable
class Batches(Protocol):
    """The interface of examples for the trainer: images by position, from 0."""

    def __len__(self) -> int: ...

    def load(self, positions: list[int], epoch: int) -> Any:
        """These images in an epoch; called from prefetching threads."""
        ...

    def see(self, loaded: Any, device: torch.device) -> tuple[Batch, Truth]:
        """The result of `load`, as a batch on the device."""
        ...


@runtime_checkable
class Examples(Batches, Protocol):
    """The training images, as processed by the frozen networks.

    Positions refer to `used`: a share of the split, without images that have no candidate pair in any cached view.
    """

    image_ids: list[int]  # of the whole split
    drawn: Int[Tensor, " n"]  # positions in the split: the share
    used: Int[Tensor, " n"]  # of these, the ones with a pair
    objects: tuple[str, ...]
    view: View
    channels: int  # of the map
    finer_channels: tuple[int, ...]  # of the detector's other maps
    token_dim: int
    pose_channels: int | None
    detector_digest: str
    pose_digest: str | None
    files: list[Path]  # that describe the cache

    def labels(self) -> Truth:
        """What is annotated in the images of the share."""
        ...

    def tested(self, split: str, annotated: Sequence[Annotation]) -> tuple[list[int], Tested]:
        """The ids of another split's images, and a function that reads them as in the test."""
        ...


class Cached:
    """Images with cached features: epoch e uses view e modulo the number of views."""

    def __init__(
        self,
        features: Path,
        annotated: list[Annotation],
        split: str,
        share: float,
        vocabulary: Vocabulary,
        pose: Path | None,
        cache: str | None = None,
    ) -> None:
        """`cache` is the split whose features hold those of all folds; None: each split has its own."""
        self._folds_in = cache
        self._cache = cached = self._load(features, split, annotated, pose)
        self._folders, self._annotated, self._vocabulary = (features, pose), annotated, vocabulary
        self.image_ids, self.objects, self.view = cached.image_ids, cached.objects, cached.view
        self.channels, self.finer_channels = cached.channels, cached.finer_channels
        self.token_dim, self.pose_channels = cached.token_dim, cached.pose_channels
        self.detector_digest, self.pose_digest = cached.detector_digest, cached.pose_digest
        self.drawn, self.used = draw(cached.image_ids, share, cached.has_pair)
        names = [cache] if cache else ["train", "val"] if split == "trainval" else [split]
        self.files = [folder / name / INDEX_FILE for folder in (features, pose) if folder for name in names]
        self._truths: dict[int, Truths] = {}
        self._truths_of(0)

    def __len__(self) -> int:
        return len(self.used)

    def labels(self) -> Truth:
        """What is annotated in the images of the share."""
        return self._truths_of(0).batch(self.drawn)

    def load(self, positions: list[int], epoch: int) -> tuple[Batch, Truth]:
        """These images in an epoch."""
        images, view = self.used[positions], epoch % self._cache.views
        return self._cache.batch(images.tolist(), view), self._truths_of(view).batch(images)

    def see(self, loaded: tuple[Batch, Truth], device: torch.device) -> tuple[Batch, Truth]:
        """The same on the device."""
        batch, truth = loaded
        return batch.to(device), truth.to(device)

    def tested(self, split: str, annotated: Sequence[Annotation]) -> tuple[list[int], Tested]:
        """The cached images of another split, in the first view, without augmentation."""
        features, pose = self._folders
        cached = self._load(features, split, annotated, pose)
        for name in ("detector_digest", "pose_digest", "view"):
            if getattr(cached, name) != getattr(self._cache, name):
                raise ValueError(f"{features / split}: its {name} differs from that of the training features")
        return cached.image_ids, lambda positions, device: cached.batch(positions).to(device)

    def _load(self, features: Path, split: str, annotated: Sequence[Annotation], pose: Path | None) -> Features:
        if self._folds_in is None:
            return Features.load(features, split, pose)
        everyone = Features.load(features, self._folds_in, pose)
        return everyone.only([annotation.image_id for annotation in annotated], features / self._folds_in)

    def _truths_of(self, view: int) -> Truths:
        if view not in self._truths:
            self._truths = {}  # only those of one epoch are kept
            annotated = annotated_views(self._annotated, self._cache.view.image, self._cache.augment, view)
            self._truths[view] = Truths(annotated, self.image_ids, self._vocabulary)
        return self._truths[view]


def draw(
    image_ids: Sequence[int], share: float, has_pair: Bool[Tensor, " n"]
) -> tuple[Int[Tensor, " k"], Int[Tensor, " m"]]:
    """Positions of a share of the images, and of those among them that have a candidate pair.

    Differs: images without an annotated pair are kept, and all their pairs are negatives. UPT drops them: 431 of
    V-COCO's 5,400.
    """
    drawn = torch.tensor(choose_share(image_ids, share), dtype=torch.long)
    return drawn, drawn[has_pair[drawn]]


def choose_share(image_ids: Sequence[int], share: float) -> list[int]:
    """Positions of a share of the images, ascending, at least one: those whose ids have the smallest hashes.

    Only the ids matter, so all variants, seeds and detectors use the same images, and a smaller share is a subset of a
    larger one. Knowledge of the classes is not reduced: the vocabulary with its possible verbs (V-COCO: those in any
    training image), and the phrases whose words are used to whiten targets.
    """
    by_hash = sorted(range(len(image_ids)), key=lambda at: hashlib.sha256(str(image_ids[at]).encode()).digest())
    return sorted(by_hash[: max(1, round(share * len(image_ids)))])
