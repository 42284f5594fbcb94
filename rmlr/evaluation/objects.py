"""Metrics of a detector: COCO's object AP, and the share of true pairs among its detections."""

import logging
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rmlr.evaluation.matching import MIN_IOU
from rmlr.hoi import NO_BOX, Annotation, Vocabulary
from rmlr.hoi.batch import Instances
from rmlr.hoi.boxes import iou

log = logging.getLogger(__name__)


def find_pairs(instances: Instances, annotation: Annotation, person: int) -> Bool[Tensor, " m"]:
    """For each annotated interaction with two boxes: whether a pair of instances has an IoU >= 0.5 with both."""
    interactions = annotation.interactions[annotation.interactions[:, 2] != NO_BOX]
    boxes = torch.from_numpy(annotation.boxes).float()
    is_human = instances.labels == person
    human = (iou(boxes[interactions[:, 0]], instances.boxes) >= MIN_IOU) & is_human  # m n
    object_ = iou(boxes[interactions[:, 2]], instances.boxes) >= MIN_IOU  # m n
    is_pair = human[:, :, None] & object_[:, None] & ~torch.eye(len(is_human), dtype=torch.bool)
    return is_pair.flatten(1).any(1)


@dataclass(frozen=True, slots=True)
class Scorer:
    """COCO's evaluation in one of its libraries: the class of annotations and the class of evaluation."""

    coco: Callable[[], Any]
    evaluation: Callable[..., Any]


def load_scorer(name: Literal["pycocotools", "faster-coco-eval"]) -> Scorer:
    """One of the libraries, which return equal values. ValueError if it is not installed."""
    try:
        if name == "faster-coco-eval":
            from faster_coco_eval import COCO, COCOeval_faster

            return Scorer(COCO, partial(COCOeval_faster, print_function=log.debug))
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        hint = (
            "pip install 'rmlr[fast]', or set object_ap: pycocotools"
            if name == "faster-coco-eval"
            else f"pip install {name}"
        )
        raise ValueError(f"object AP is to be scored by {name}, which cannot be imported ({error}): {hint}") from error
    return Scorer(COCO, COCOeval)


def object_ap(
    detections: Float[np.ndarray, "d 7"], annotations: Sequence[Annotation], vocabulary: Vocabulary, scorer: Scorer
) -> dict[str, float]:
    """AP at IoU 0.5, and its mean over 0.50:0.95, computed by COCO's own program; empty if no box counts.

    `detections` are rows of (image id, x, y, width, height, score, class + 1). Crowds are no positives; detections in
    them are ignored.
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
    if all(box["iscrowd"] for box in boxes):
        return {}
    if not len(detections):  # pycocotools does not take an empty list
        return {"ap50": 0.0, "ap": 0.0}
    with redirect_stdout(StringIO()) as said:
        truth = scorer.coco()
        truth.dataset = {
            "info": {},
            "images": [{"id": a.image_id, "height": a.height, "width": a.width} for a in annotations],
            "categories": [{"id": index + 1, "name": name} for index, name in enumerate(vocabulary.objects)],
            "annotations": [box | {"id": index + 1} for index, box in enumerate(boxes)],
        }
        truth.createIndex()
        evaluation = scorer.evaluation(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    log.debug("%s", said.getvalue())
    return {"ap50": float(evaluation.stats[1]), "ap": float(evaluation.stats[0])}
