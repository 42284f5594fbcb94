"""Annotated interactions as tensors, collected once, so that a batch is a slice."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rmlr.hoi import NO_BOX, Annotation, Vocabulary
from rmlr.hoi.batch import Truth


class Truths:
    """The true interactions of many images: those with both boxes and a scored verb."""

    def __init__(self, annotations: Sequence[Annotation], image_ids: Sequence[int], vocabulary: Vocabulary):
        """`image_ids` is the order of images; each must be annotated."""
        by_id = {annotation.image_id: annotation for annotation in annotations}
        if missing := [image_id for image_id in image_ids if image_id not in by_id]:
            raise ValueError(
                f"{len(missing)} image(s) have features but no annotation, e.g. {missing[:5]}. Are both of one dataset "
                "and split?"
            )
        images = [by_id[image_id] for image_id in image_ids]
        rows = [image.interactions for image in images]
        rows = [row[(row[:, 1] < len(vocabulary.verbs)) & (row[:, 2] != NO_BOX)] for row in rows]
        self.offsets: Int[Tensor, " images1"] = torch.tensor([0, *map(len, rows)]).cumsum(0)

        def joined(parts: list[np.ndarray], *width: int) -> Tensor:
            return torch.from_numpy(np.concatenate([np.zeros((0, *width)), *parts]))

        pairs = list(zip(images, rows, strict=True))
        self.human_boxes: Float[Tensor, "g 4"] = joined([image.boxes[row[:, 0]] for image, row in pairs], 4).float()
        self.object_boxes: Float[Tensor, "g 4"] = joined([image.boxes[row[:, 2]] for image, row in pairs], 4).float()
        self.verbs: Int[Tensor, " g"] = joined([row[:, 1] for row in rows]).long()
        self.objects: Int[Tensor, " g"] = joined([image.labels[row[:, 2]] for image, row in pairs]).long()

    def batch(self, indices: Int[Tensor, " b"]) -> Truth:
        """The interactions of these images (positions in `image_ids`), in this order."""
        start, count = self.offsets[indices], self.offsets[indices + 1] - self.offsets[indices]
        image = torch.repeat_interleave(torch.arange(len(indices)), count)
        before = count.cumsum(0) - count
        rows = torch.arange(len(image)) + (start - before)[image]
        columns = (self.human_boxes, self.object_boxes, self.verbs, self.objects)
        return Truth(*(column[rows] for column in columns), image=image)
