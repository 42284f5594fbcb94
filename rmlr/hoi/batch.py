"""Batches of images as tensors: the inputs of the interaction modules from the frozen detector, and their targets.

Boxes are `xyxy`, float, 0-based edges in pixels of the original image.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue in 0..1, as in DETR


@dataclass(frozen=True, slots=True)
class Instances:
    """The frozen detector's instances, people first. For a batch: concatenated, see `Batch.instance_image`."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]  # detector confidence, in [0, 1]
    labels: Int[Tensor, " n"]  # object class, as in the Vocabulary
    tokens: Float[Tensor, "n d"]  # last decoder layer


@dataclass(frozen=True, slots=True)
class Level:
    """One map of the detector for every image of a batch, padded with zeros."""

    maps: Float[Tensor, "b c h w"]
    is_padding: Bool[Tensor, "b h w"]
    cell_sizes: Float[Tensor, "b 2"]  # height and width of one cell, in pixels of the original image

    def to(self, device) -> "Level":
        """The same level on another device."""
        return Level(*(getattr(self, k).to(device, non_blocking=True) for k in Level.__slots__))


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of the interaction modules: instances concatenated, maps padded with zeros."""

    image_ids: Int[Tensor, " b"]
    maps: Float[Tensor, "b c h w"]  # last backbone map; of a detector with several, the coarsest that is used
    is_padding: Bool[Tensor, "b h w"]
    cell_sizes: Float[Tensor, "b 2"]  # height and width of one map cell, in pixels of the original image
    image_sizes: Float[Tensor, "b 2"]  # height and width, in pixels of the original image
    instances: Instances
    instance_image: Int[Tensor, " n"]  # position in the batch, ascending
    pose: Float[Tensor, "b k h w"] | None = None  # the pose network's map over the same cells, if it is used
    finer: tuple[Level, ...] = ()  # the detector's other maps from coarse to fine, which IRE alone reads

    @property
    def levels(self) -> tuple[Level, ...]:
        """All maps of the detector from coarse to fine."""
        return (Level(self.maps, self.is_padding, self.cell_sizes), *self.finer)

    def to(self, device) -> "Batch":
        """The same batch on another device."""
        instances = Instances(*(getattr(self.instances, k).to(device, non_blocking=True) for k in Instances.__slots__))
        rest = (self.image_ids, self.maps, self.is_padding, self.cell_sizes, self.image_sizes)
        return Batch(
            *(tensor.to(device, non_blocking=True) for tensor in rest),
            instances=instances,
            instance_image=self.instance_image.to(device, non_blocking=True),
            pose=None if self.pose is None else self.pose.to(device, non_blocking=True),
            finer=tuple(level.to(device) for level in self.finer),
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """The annotated interactions of a batch that have both boxes, concatenated in annotation order."""

    human_boxes: Float[Tensor, "g 4"]
    object_boxes: Float[Tensor, "g 4"]
    verbs: Int[Tensor, " g"]
    objects: Int[Tensor, " g"]  # annotated object class; matching ignores it, the row's phrase needs it
    image: Int[Tensor, " g"]  # position in the batch, ascending

    def to(self, device) -> "Truth":
        """The same truth on another device."""
        return Truth(*(getattr(self, k).to(device, non_blocking=True) for k in Truth.__slots__))
