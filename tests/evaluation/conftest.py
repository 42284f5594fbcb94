"""The smallest worlds to score."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rmlr.hoi import Annotation, Triplets

NAN = (np.nan,) * 4


def annotation(
    image_id: int,
    boxes: Sequence = (),
    labels: Sequence[int] = (),
    interactions: Sequence = (),
    *,
    listed: Sequence[int] | None = None,
    size: tuple[int, int] = (100, 100),
) -> Annotation:
    """An image of (box, label) and (human box, verb, object box); all boxes are listed unless some are named."""
    is_listed = np.zeros(len(boxes), dtype=bool)
    is_listed[list(range(len(boxes)) if listed is None else listed)] = True
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=size[0],
        width=size[1],
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        interactions=np.array(interactions, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(len(boxes), dtype=bool),
        is_listed=is_listed,
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def table(*rows: tuple) -> Triplets:
    """Rows (image id, human box, verb, object class, object box or None, score)."""
    return Triplets(
        image_id=np.array([row[0] for row in rows], dtype=np.int64),
        human_boxes=np.array([row[1] for row in rows], dtype=np.float32).reshape(-1, 4),
        object_boxes=np.array([NAN if row[4] is None else row[4] for row in rows], dtype=np.float32).reshape(-1, 4),
        object_category=np.array([row[3] for row in rows], dtype=np.int64),
        verb=np.array([row[2] for row in rows], dtype=np.int64),
        score=np.array([row[5] for row in rows], dtype=np.float32),
    )


@pytest.fixture(scope="session")
def build_image() -> Callable[..., Annotation]:
    return annotation


@pytest.fixture(scope="session")
def build_table() -> Callable[..., Triplets]:
    return table
