"""Records of photos for tests."""

import numpy as np

from rmlr.hoi import Annotation


def unannotated(image_id: int, height: int, width: int, suffix: str = ".png") -> Annotation:
    """The record of a photo in which nothing is annotated."""
    nothing = np.zeros(0, dtype=np.int64)
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}{suffix}",
        height=height,
        width=width,
        boxes=np.zeros((0, 4)),
        labels=nothing,
        interactions=nothing.reshape(0, 3),
        is_crowd=nothing.astype(bool),
        is_listed=nothing.astype(bool),
        actions=nothing.reshape(0, 2),
    )
