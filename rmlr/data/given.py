"""Features from another framework, in a folder: one file for each image, and one that describes them all.

`rmlr features --from FOLDER` reads them (docs/detectors.md shows the form), checks them, and writes a cache.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rmlr.data.images import size_within
from rmlr.hoi import Annotation
from rmlr.hoi.batch import Instances
from rmlr.study.files import PositiveInt, read_json
from rmlr.study.section import Section
from rmlr.study.settings import PictureSize
from rmlr.study.tensors import Form, TensorFile

ABOUT_FILE = "about.json"
OUTSIDE = 1.0  # pixels that a box may lie outside of its image, for rounding
REAL, WHOLE = torch.float32, torch.int64


class About(Section):
    """about.json: the properties that the files of all images share."""

    detector: str  # its name and version; features of different detectors are never mixed
    objects: list[str]  # classes, in the order of the labels
    image: PictureSize  # size of its input
    stride: PositiveInt  # pixels of that size for each cell of the map
    channels: PositiveInt  # of the map
    token_dim: PositiveInt


@dataclass(frozen=True, slots=True)
class GivenImage:
    """The features of one image."""

    instances: Instances  # all detections, boxes clipped to the image
    maps: Float[Tensor, "c h w"]
    cell_size: Float[Tensor, " 2"]  # height and width in pixels of the image
    size: Int[Tensor, " 2"]  # height and width of the image


class GivenFeatures:
    """A folder of features: about.json, and IMAGE_ID.safetensors for each image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = read_json(folder / ABOUT_FILE, About, "docs/detectors.md shows its form")
        a = self.about
        self._forms = {
            "boxes": Form(REAL, ("instances", 4)),
            "scores": Form(REAL, ("instances",), low=0, high=1),
            "labels": Form(WHOLE, ("instances",), low=0, high=len(a.objects) - 1),
            "tokens": Form(REAL, ("instances", a.token_dim)),
            "map": Form(REAL, (a.channels, "rows", "columns")),
        }

    def path(self, annotation: Annotation) -> Path:
        """The file of an image."""
        return self.folder / f"{annotation.image_id}.safetensors"

    def read(self, annotation: Annotation) -> GivenImage:
        """The features of an image, checked; ValueError names the file, the tensor and the expected values."""
        file = TensorFile(self.path(annotation), "Write it again; docs/detectors.md shows its form", self._forms)
        height, width = annotation.height, annotation.width
        seen = size_within(height, width, self.about.image)
        for side, cells in zip(seen, file["map"].shape[1:], strict=True):
            if cells not in (side // self.about.stride, -(-side // self.about.stride)):
                raise file.error(
                    "map",
                    f"has {tuple(file['map'].shape[1:])} cells, but {ABOUT_FILE} says cells of {self.about.stride} "
                    f"pixels of {seen[0]} x {seen[1]} (height, width)",
                )
        boxes, edges = file["boxes"], torch.tensor([width, height], dtype=REAL)
        low, high = boxes[:, :2], boxes[:, 2:]
        is_wrong = ((low < -OUTSIDE) | (high > edges + OUTSIDE) | (high < low)).any(1)
        if is_wrong.any():
            index = int(is_wrong.nonzero()[0])
            raise file.error(
                "boxes",
                f"holds {boxes[index].tolist()} at [{index}]: expected x1, y1, x2, y2 in pixels of the image, which is "
                f"{height} x {width} (height, width)",
            )
        clipped = torch.cat([low.clamp(min=0).minimum(edges), high.clamp(min=0).minimum(edges)], dim=1)
        return GivenImage(
            instances=Instances(clipped, file["scores"], file["labels"], file["tokens"]),
            maps=file["map"],
            cell_size=torch.tensor([self.about.stride * height / seen[0], self.about.stride * width / seen[1]]),
            size=torch.tensor([height, width]),
        )
