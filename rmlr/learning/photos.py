"""Examples without caches: photos, augmented in every epoch, and processed on-line by the frozen networks.

UPT trains in the same way, but keeps its frozen detector in training mode, with dropout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from rmlr.data.augment import load_augmented
from rmlr.data.images import ImageBatch, load_annotated
from rmlr.data.truth import Truths
from rmlr.hoi import Annotation, Vocabulary
from rmlr.hoi.batch import Batch, Truth
from rmlr.learning.examples import Tested, draw
from rmlr.learning.loops import counting_cells
from rmlr.model.detector import FrozenDetector, as_batch, load_detector, weights_digest
from rmlr.model.pose import PoseNetwork, load_pose_network, pose_digest
from rmlr.study.settings import Online


class Photos:
    """Images as photos: augmented at random in every epoch, then processed by the frozen detector."""

    def __init__(
        self,
        images: Path,
        detector: Path,
        annotated: list[Annotation],
        online: Online,
        share: float,
        vocabulary: Vocabulary,
        pose: Path | None,
        seed: int,
    ) -> None:
        self._images, self._annotated, self._online, self._seed = images, annotated, online, seed
        self._vocabulary, self._device = vocabulary, torch.device("cpu")
        asked = online.view
        self._frozen = FrozenDetector(load_detector(str(detector)), vocabulary.objects, asked.map, asked.strides)
        self._pose = None if pose is None else load_pose_network(pose)
        self.image_ids, self.objects = [item.image_id for item in annotated], vocabulary.objects
        self.view = asked.at(self._frozen.size(asked.image))
        self.channels, self.token_dim = self._frozen.channels, self._frozen.token_dim
        self.finer_channels = self._frozen.finer_channels
        self.pose_channels = self._pose and self._pose.channels
        self.detector_digest, self.pose_digest = weights_digest(detector), pose and pose_digest(pose)
        everyone = torch.ones(len(annotated), dtype=torch.bool)  # pairs are known only after detection
        self.drawn, self.used = draw(self.image_ids, share, everyone)
        self.files: list[Path] = []

    def __len__(self) -> int:
        return len(self.used)

    def labels(self) -> Truth:
        """The annotations of the photos of the share, without augmentation."""
        return Truths(self._annotated, self.image_ids, self._vocabulary).batch(self.drawn)

    def load(self, positions: list[int], epoch: int) -> tuple[Tensor, ImageBatch, Truth]:
        """These photos in an epoch."""
        items = [self._annotated[index] for index in self.used[positions].tolist()]
        rule, image = self._online.augment, self.view.image
        batch, views = load_augmented(items, self._images, rule, seed=self._seed, view=epoch, image=image)
        ids = torch.tensor([item.image_id for item in items])
        truth = Truths(views, ids.tolist(), self._vocabulary).batch(torch.arange(len(views)))
        return ids, batch, truth

    def see(self, loaded: tuple[Tensor, ImageBatch, Truth], device: torch.device) -> tuple[Batch, Truth]:
        """The outputs of the frozen networks for them."""
        ids, photos, truth = loaded
        return self._seen(ids, photos, device), truth.to(device)

    def tested(self, split: str, annotated: Sequence[Annotation]) -> tuple[list[int], Tested]:
        """The photos of another split, without augmentation."""

        def read(positions: Sequence[int], device: torch.device) -> Batch:
            items = [annotated[position] for position in positions]
            photos = load_annotated(items, self._images, self.view.image)
            return self._seen(torch.tensor([item.image_id for item in items]), photos, device)

        return [item.image_id for item in annotated], read

    def _seen(self, image_ids: Int[Tensor, " b"], photos: ImageBatch, device: torch.device) -> Batch:
        """The outputs of the frozen networks for some photos."""
        image_ids, photos = image_ids.to(device), photos.to(device)
        if self._device != device:
            self._device = device
            self._frozen.to(device)
            if self._pose is not None:
                self._pose.to(device)
        with torch.no_grad(), counting_cells():
            detections = self._frozen(photos.pixels, photos.is_padding, photos.resized, photos.original)
            rule, person = self._online.view.selection, self._vocabulary.person
            batch = as_batch(detections, image_ids, photos.original, person, rule)
            if self._pose is not None:
                batch = replace(batch, pose=torch.cat(list(self._pose_maps(self._pose, photos, *batch.maps.shape[2:]))))
        return batch

    def _pose_maps(self, network: PoseNetwork, photos: ImageBatch, rows: int, columns: int) -> Iterator[Tensor]:
        """One photo at a time, as in the stage `pose`: no map depends on padding."""
        stride = self._frozen.strides[0]
        for photo, (height, width) in zip(photos.pixels, photos.resized.tolist(), strict=True):
            within = -(-height // stride), -(-width // stride)
            maps = network.onto_cells(network(photo[None, :, :height, :width]), stride, *within)
            yield nn.functional.pad(maps, (0, columns - within[1], 0, rows - within[0]))
