"""What a detector finds: AP of the objects by pycocotools, and the share of true pairs that is left to recognise."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from rmlr.batch import Instances
from rmlr.boxes import iou
from rmlr.hoi import NO_BOX, Annotation, Vocabulary


def find_pairs(instances: Instances, annotation: Annotation, person: int) -> Bool[Tensor, " m"]:
    """For each annotated interaction with two boxes: is there a pair of instances with IoU >= 0.5 on both?"""
    interactions = annotation.interactions[annotation.interactions[:, 2] != NO_BOX]
    boxes = torch.from_numpy(annotation.boxes).float()
    is_human = instances.labels == person
    human = (iou(boxes[interactions[:, 0]], instances.boxes) >= 0.5) & is_human  # m n
    object_ = iou(boxes[interactions[:, 2]], instances.boxes) >= 0.5  # m n
    is_pair = human[:, :, None] & object_[:, None] & ~torch.eye(len(is_human), dtype=torch.bool)
    return is_pair.flatten(1).any(1)


def object_ap(
    detections: Float[np.ndarray, "d 7"], annotations: Sequence[Annotation], vocabulary: Vocabulary
) -> dict[str, float]:
    """AP at IoU 0.5, and its mean over 0.50:0.95, as pycocotools computes them; empty where no box is annotated.

    `detections` are rows of (image id, x, y, width, height, score, class + 1).
    """
    boxes = [
        {
            "image_id": annotation.image_id,
            "category_id": int(label) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(is_crowd),
        }
        for annotation in annotations
        for (x1, y1, x2, y2), label, is_crowd in zip(
            annotation.boxes.tolist(), annotation.labels, annotation.is_crowd, strict=True
        )
    ]
    if not boxes:
        return {}
    truth: Any = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": a.image_id, "height": a.height, "width": a.width} for a in annotations],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(vocabulary.objects)],
        "annotations": [box | {"id": index + 1} for index, box in enumerate(boxes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"ap50": float(evaluation.stats[1]), "ap": float(evaluation.stats[0])}
