"""The detector of the study: trained from scratch, fine-tuned, or taken as it is; frozen for all that follows."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DetrForObjectDetection

from rmlr.batch import Instances
from rmlr.data.images import ImageBatch, load_annotated
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.evaluation.objects import find_pairs, object_ap
from rmlr.hoi import Annotation, Vocabulary
from rmlr.model.detector import (
    FrozenDetector,
    adapt_classes,
    build_detector,
    detection_loss,
    load_detector,
    save_detector,
    select_instances,
    thaw,
)
from rmlr.run import Record, run
from rmlr.settings import Detector, DetectorNode, DetectorSchedule, Features, ImageSize
from rmlr.training import cosine_schedule, load_resume, save_resume

log = logging.getLogger(__name__)

SAVES = 20  # resume checkpoints of one training
POINTS = 50  # points of the loss curve


def detector(*, settings: Path, annotations: Path, images: Path, seed: int, out: Path) -> None:
    """Train (or take) the DETR that every run shares, and measure it on the test split.

    An interrupted training goes on if it is called again with the same settings, seed and inputs.

    Args:
        settings: this node's settings file: from scratch, fine-tuned from given weights, or taken as it is; schedule.
        annotations: folder made by `prepare`.
        images: folder of the photos.
        seed: of initialisation, order and flips.
        out: folder to write; gets the DETR (config.json and model.safetensors, as `save_pretrained` writes them) and
            metrics.json: ap50 and ap of the objects as COCO computes them, and pair_recall.
    """
    chosen = DetectorNode.load(settings)
    with run("detector", chosen, settings=settings, out=out, inputs=[annotations, images], seed=seed) as record:
        vocabulary = load_vocabulary(annotations)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        detr = _start(chosen.detector, vocabulary)
        detr.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if chosen.detector.schedule is not None:
            train = load_annotations(annotations, "train")
            photos = Photos(train, images, chosen.detector.image)
            identity = _identity(chosen, seed, photos)
            fit(detr, photos, chosen.detector.schedule, seed=seed, record=record, identity=identity)
        save_detector(detr, record.folder)
        frozen = FrozenDetector(load_detector(str(record.folder)), vocabulary.objects).to(device)
        test = load_annotations(annotations, "test")
        metrics = measure(frozen, Photos(test, images, chosen.detector.image), vocabulary, chosen.features, record)
        (record.folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        record.log_metrics(metrics)


class Photos:
    """The photos of a split beside their annotated boxes, crowds left out."""

    def __init__(self, annotations: Sequence[Annotation], folder: Path, size: ImageSize) -> None:
        self.annotations = annotations
        self.folder = folder
        self._size = size

    def __len__(self) -> int:
        return len(self.annotations)

    def load(self, indices: Sequence[int]) -> ImageBatch:
        """These photos, decoded and padded."""
        wanted = [self.annotations[index] for index in indices]
        return load_annotated(wanted, self.folder, self._size.shortest, self._size.longest)

    def targets(self, index: int) -> tuple[Float[Tensor, "k 4"], Tensor]:
        """Boxes and labels that the detector shall find."""
        annotation = self.annotations[index]
        return (
            torch.from_numpy(annotation.boxes[~annotation.is_crowd]).float(),
            torch.from_numpy(annotation.labels[~annotation.is_crowd]),
        )


def fit(
    detr: DetrForObjectDetection,
    photos: Photos,
    schedule: DetectorSchedule,
    *,
    seed: int,
    record: Record,
    identity: str,
) -> None:
    """Train a DETR in place. Every step depends on seed and step alone, so a run that was killed ends as if it was not.

    Differs: of the augmentations of UPT's fine-tuning, only the horizontal flip.
    """
    if not len(photos):
        raise ValueError("the split 'train' has no image to train the detector on. Prepare the dataset again")
    optimizer = _optimizer(detr, schedule)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = Average(detr, schedule.ema_decay)
    checkpoint, start = record.resume / "detector.pt", 0
    if (state := load_resume(checkpoint, identity=identity)) is not None:
        detr.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.load(state["average"])
        start = state["step"]
        log.info("%s: going on from step %d", checkpoint, start)
    detr.train()
    order = _order(len(photos), schedule.batch_size, seed)
    with record.progress(schedule.steps, "detector: steps") as progress:
        for step in range(schedule.steps):
            indices = next(order)
            if step < start:
                progress.advance(note="(resumed)")
                continue
            torch.manual_seed(seed * 1_000_003 + step)  # dropout of fine-tuned detectors, and the flips
            factor = cosine_schedule(step, total=schedule.steps, warmup=schedule.warmup_steps, floor=0.01)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            loss = _loss(detr, photos, indices, torch.rand(len(indices)) < 0.5)
            if not loss.isfinite():
                ids = [photos.annotations[index].image_id for index in indices]
                raise ValueError(f"step {step}: the detector's loss is {loss.item()} on images {ids}. Lower its rate?")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(detr.parameters(), schedule.clip_norm)
            optimizer.step()
            average.update(detr, step)
            if step % max(schedule.steps // POINTS, 1) == 0:
                record.log_metrics({"loss": loss.item()}, step=step)
            progress.advance(note=f"loss {loss.item():.2f}")
            if (step + 1) % max(schedule.steps // SAVES, 1) == 0 or step + 1 == schedule.steps:
                model, rest = detr.state_dict(), optimizer.state_dict()
                state = {"identity": identity, "step": step + 1, "model": model, "optimizer": rest}
                save_resume(checkpoint, state | {"average": average.tensors})
    average.copy_to(detr)


class Average:
    """Exponential moving average of a model's weights and batch statistics."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors = [tensor.detach().clone() for tensor in _floats(model)]

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        """Move towards the model; faster in the first steps, while it is still near its random beginning."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        for own, other in zip(self.tensors, _floats(model), strict=True):
            own.lerp_(other, weight)

    def load(self, tensors: Sequence[Tensor]) -> None:
        """Take over a saved average."""
        for own, other in zip(self.tensors, tensors, strict=True):
            own.copy_(other)

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Make the model its average."""
        for own, other in zip(_floats(model), self.tensors, strict=True):
            own.copy_(other)


def _floats(model: torch.nn.Module) -> list[Tensor]:
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def _start(settings: Detector, vocabulary: Vocabulary) -> DetrForObjectDetection:
    """The DETR that training starts from, or the one that is taken as it is."""
    if settings.weights is not None:
        detr = load_detector(settings.weights, settings.revision)
        if settings.schedule is not None:
            adapt_classes(detr, vocabulary.objects)
        return detr
    assert settings.architecture is not None
    assert settings.schedule is not None
    detr = build_detector(settings.architecture, vocabulary.objects, settings.schedule.no_object_weight)
    thaw(detr)
    return detr


def _identity(chosen: DetectorNode, seed: int, photos: Photos) -> str:
    """Digest of everything that a training depends on."""
    parts = hashlib.sha256(json.dumps([chosen.code, chosen.detector.model_dump(), seed]).encode())
    for index, annotation in enumerate(photos.annotations):
        path, (box, label) = photos.folder / annotation.file_name, photos.targets(index)
        size = path.stat().st_size if path.exists() else -1
        parts.update(f"{path.name} {size}".encode() + box.numpy().tobytes() + label.numpy().tobytes())
    return parts.hexdigest()


def _optimizer(detr: DetrForObjectDetection, schedule: DetectorSchedule) -> torch.optim.AdamW:
    backbone = [p for p in detr.model.backbone.parameters() if p.requires_grad]
    own = {id(parameter) for parameter in detr.model.backbone.parameters()}
    rest = [p for p in detr.parameters() if p.requires_grad and id(p) not in own]
    groups = [
        {"params": rest, "lr": schedule.learning_rate},
        {"params": backbone, "lr": schedule.backbone_learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=schedule.weight_decay, fused=True)


def _order(count: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Batches without end: every image once, in an order of its own, before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch_size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def _loss(
    detr: DetrForObjectDetection, photos: Photos, indices: Sequence[int], is_flipped: Bool[Tensor, " b"]
) -> Float[Tensor, ""]:
    batch = photos.load(indices)
    boxes, labels = [], []
    for position, index in enumerate(indices):
        box, label = photos.targets(index)
        if is_flipped[position]:
            height, width = batch.resized[position].tolist()
            photo = batch.pixels[position, :, :height, :width]
            photo.copy_(photo.flip(-1))
            box[:, [0, 2]] = float(batch.original[position, 1]) - box[:, [2, 0]]
        boxes.append(box.to(detr.device))
        labels.append(label.to(detr.device))
    pixels, is_padding = batch.pixels.to(detr.device), batch.is_padding.to(detr.device)
    return detection_loss(detr, pixels, is_padding, boxes, labels, batch.original.to(detr.device))


def measure(
    frozen: FrozenDetector, photos: Photos, vocabulary: Vocabulary, features: Features, record: Record
) -> dict[str, float]:
    """COCO's object AP over all queries, and pair recall over what the selection keeps.

    `pair_recall` is the share of annotated interactions with two boxes that have a candidate pair with IoU >= 0.5 on
    both, the most that any network over these features can find. A metric without a case is left out.
    """
    rows, found = [], []
    with record.progress(len(photos), "detector: test images") as progress:
        for first in range(0, len(photos), features.batch_size):
            indices = range(first, min(first + features.batch_size, len(photos)))
            batch = photos.load(indices)
            parts = (batch.pixels, batch.is_padding, batch.resized, batch.original)
            detections = frozen(*(part.to(frozen.device) for part in parts))
            instances, image = select_instances(detections, vocabulary.person, features.selection)
            for position, index in enumerate(indices):
                annotation = photos.annotations[index]
                low, high = detections.boxes[position].double().cpu().numpy().reshape(-1, 2, 2).transpose(1, 0, 2)
                ids = np.full((len(low), 1), annotation.image_id)
                score = detections.scores[position, :, None].double().cpu().numpy()
                label = detections.labels[position, :, None].cpu().numpy()
                rows.append(np.concatenate([ids, low, high - low, score, label + 1], axis=1))
                own = Instances(*(getattr(instances, name)[image == position].cpu() for name in Instances.__slots__))
                found.append(find_pairs(own, annotation, vocabulary.person))
            progress.advance(len(indices))
    metrics = object_ap(np.concatenate(rows), photos.annotations, vocabulary) if rows else {}
    if pairs := torch.cat([torch.zeros(0, dtype=torch.bool), *found]).tolist():
        metrics["pair_recall"] = sum(pairs) / len(pairs)
    return metrics
