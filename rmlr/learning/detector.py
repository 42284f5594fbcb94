"""Training and measuring a detector: photos with their boxes, the loop, a running average of weights, object AP."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.ops import batched_nms
from transformers import DetrForObjectDetection

from rmlr.data.augment import load_augmented
from rmlr.data.images import ImageBatch, load_annotated
from rmlr.data.loading import ahead, loader_threads
from rmlr.evaluation.objects import Scorer, find_pairs, object_ap
from rmlr.hoi import Annotation, Vocabulary
from rmlr.hoi.batch import Instances
from rmlr.learning.loops import cosine_schedule, load_resume, save_resume
from rmlr.learning.pauses import Pauses
from rmlr.model.detector import FrozenDetector, select_instances
from rmlr.model.detr import detection_loss
from rmlr.study.frozen import Detector, DetectorSchedule
from rmlr.study.nodes import DetectorNode
from rmlr.study.run import Record
from rmlr.study.settings import Augment, Features

log = logging.getLogger(__name__)

SAVES = 20  # checkpoints of one training run, for resuming
POINTS = 50  # points of the loss curve


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Photos with the targets of a detector; boxes in pixels of photos of height and width `sizes`."""

    pixels: Float[Tensor, "b 3 height width"]
    is_padding: Bool[Tensor, "b height width"]
    boxes: tuple[Float[Tensor, "_ 4"], ...]
    labels: tuple[Int[Tensor, "_"], ...]
    sizes: Int[Tensor, "b 2"]


class Photos:
    """The photos of a split with their annotated boxes, without crowds and duplicates."""

    def __init__(self, annotations: Sequence[Annotation], folder: Path, settings: Detector) -> None:
        self.annotations = annotations
        self.folder = folder
        self.truths = [distinct(annotation, settings.repeats_iou) for annotation in annotations]
        assert settings.image is not None, "who trains or measures says at which size"
        self._size = settings.image

    def __len__(self) -> int:
        return len(self.annotations)

    def load(self, indices: Sequence[int]) -> ImageBatch:
        """These photos, decoded and padded."""
        wanted = [self.annotations[index] for index in indices]
        return load_annotated(wanted, self.folder, self._size)

    def mirrored(self, indices: Sequence[int], is_mirrored: Bool[Tensor, " b"]) -> TrainingBatch:
        """These photos with their boxes, some mirrored."""
        batch = self.load(indices)
        found = [targets(self.truths[index]) for index in indices]
        for position in is_mirrored.nonzero()[:, 0].tolist():
            height, width = batch.resized[position].tolist()
            photo, box = batch.pixels[position, :, :height, :width], found[position][0]
            photo.copy_(photo.flip(-1))
            box[:, [0, 2]] = float(batch.original[position, 1]) - box[:, [2, 0]]
        boxes, labels = zip(*found, strict=True)
        return TrainingBatch(batch.pixels, batch.is_padding, boxes, labels, batch.original)

    def augmented(self, indices: Sequence[int], rule: Augment, seed: int, step: int) -> TrainingBatch:
        """These photos with their boxes, augmented at random by `rule`."""
        wanted = [self.truths[index] for index in indices]
        batch, views = load_augmented(wanted, self.folder, rule, seed=seed, view=step)
        boxes, labels = zip(*map(targets, views), strict=True)
        return TrainingBatch(batch.pixels, batch.is_padding, boxes, labels, batch.original)


def distinct(annotation: Annotation, repeats_iou: float | None) -> Annotation:
    """The record without duplicate boxes of a class, of which the first is kept, and without interactions.

    HICO-DET has separate boxes for every interaction. UPT's detector was therefore trained (and measured) on the boxes
    that remain after class-wise non-maximum suppression.
    """
    kept = np.arange(len(annotation.boxes))
    if repeats_iou is not None:
        boxes, labels = torch.from_numpy(annotation.boxes), torch.from_numpy(annotation.labels)
        group = torch.where(torch.from_numpy(annotation.is_crowd), -1 - labels, labels)
        kept = batched_nms(boxes, -torch.arange(len(boxes)).double(), group, repeats_iou).sort().values.numpy()
    parts = {name: getattr(annotation, name)[kept] for name in ("boxes", "labels", "is_crowd", "is_listed")}
    return replace(annotation, **parts, interactions=annotation.interactions[:0], actions=annotation.actions[:0])


def targets(annotation: Annotation) -> tuple[Float[Tensor, "k 4"], Int[Tensor, " k"]]:
    """Boxes and labels that are a detector's targets: no crowds, and no boxes that became empty by cropping."""
    wanted = ~annotation.is_crowd & (annotation.boxes[:, 2:] > annotation.boxes[:, :2]).all(1)
    return torch.from_numpy(annotation.boxes[wanted]).float(), torch.from_numpy(annotation.labels[wanted])


class Learner(nn.Module):
    """A DETR and its loss as one module, for data-parallel training."""

    def __init__(self, detr: DetrForObjectDetection) -> None:
        super().__init__()
        self.detr = detr

    def forward(self, batch: TrainingBatch) -> Float[Tensor, ""]:
        """The loss on a batch, which is moved to the device of the DETR."""
        device = self.detr.device
        pixels, is_padding, sizes = (x.to(device) for x in (batch.pixels, batch.is_padding, batch.sizes))
        boxes, labels = ([x.to(device) for x in part] for part in (batch.boxes, batch.labels))
        return detection_loss(self.detr, pixels, is_padding, boxes, labels, sizes)


def fit(
    detr: DetrForObjectDetection,
    photos: Photos,
    schedule: DetectorSchedule,
    *,
    seed: int,
    record: Record,
    identity: str,
) -> None:
    """Train a DETR in place. Every step depends only on seed and step: a killed run resumes with equal results.

    Differs: the loss of a batch is the mean over its parts, micro-batches and processes; DETR also averages over
    processes, but divides box losses by the total number of boxes.
    """
    if not len(photos):
        raise ValueError("the split 'train' has no image to train the detector on. Prepare the dataset again")
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
    processes, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    micro = schedule.micro_batch_size or max(schedule.batch_size // processes, 1)
    if schedule.batch_size % (processes * micro):
        raise ValueError(
            f"batch_size {schedule.batch_size} is not a multiple of {processes} process(es) x micro_batch_size {micro}"
            ". Change batch_size, micro_batch_size, or the number of processes"
        )
    accumulation = schedule.batch_size // (processes * micro)
    detr.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = _optimizer(detr, schedule)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = Average(detr, schedule.ema_decay)
    checkpoint, start = record.resume / "detector.pt", 0
    if (state := load_resume(checkpoint, identity=identity)) is not None:
        detr.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.load(state["average"])
        start = state["step"]
        log.info("%s: resuming from step %d", checkpoint, start)
    detr.train()
    parallel = accelerator.prepare(Learner(detr))
    steps = schedule.steps or max((schedule.epochs or 1) * len(photos) // schedule.batch_size, 1)
    every = max(steps // max(SAVES, schedule.epochs or 0), 1)

    def load(part: tuple[int, list[int], Tensor]) -> tuple[list[int], TrainingBatch]:
        step, indices, is_mirrored = part
        image_ids = [photos.annotations[index].image_id for index in indices]
        if schedule.augment is None:
            return image_ids, photos.mirrored(indices, is_mirrored)
        return image_ids, photos.augmented(indices, schedule.augment, seed, step)

    drawn = islice(_batches(len(photos), schedule.batch_size, seed), start, steps)
    parts = (part for batch in drawn for part in _shares(batch, rank, processes, micro))
    batches = ahead(load, parts, loader_threads(device))
    pauses = Pauses()
    with record.progress(steps, "detector: steps") as progress, pauses.watching():
        if start:
            progress.advance(start, note="(resumed)")
        for step in range(start, steps):
            torch.manual_seed(_step_seed(seed, step) + rank)  # dropout of fine-tuned detectors
            factor = _factor(schedule, step, steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad()
            wishes = pauses.is_due, pauses.is_ending
            total, (is_due, is_ending) = _backward(accelerator, parallel, batches, accumulation, step, wishes)
            pauses.is_ending |= is_ending  # a signal may have come since
            torch.nn.utils.clip_grad_norm_(detr.parameters(), schedule.clip_norm)
            optimizer.step()
            average.update(detr, step)
            if step % max(steps // POINTS, 1) == 0:
                record.log_metrics({"loss": total}, step=step)
            progress.advance(note=f"loss {total:.2f}")
            if (step + 1) % every == 0 or step + 1 == steps or is_due:
                if accelerator.is_main_process:
                    model, rest = detr.state_dict(), optimizer.state_dict()
                    state = {"identity": identity, "step": step + 1, "model": model, "optimizer": rest}
                    save_resume(checkpoint, state | {"average": average.tensors})
                pauses.saved()
    average.copy_to(detr)
    if processes > 1:
        accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()  # without it, NCCL warns at exit


def _backward(
    accelerator: Accelerator,
    parallel: nn.Module,
    batches: Iterator[tuple[list[int], TrainingBatch]],
    number: int,
    step: int,
    wishes: Sequence[bool],
) -> tuple[float, list[bool]]:
    """Add the gradients of micro-batches; returns the loss of this process, and whether any process has each wish.

    ValueError in all processes if a loss is not finite.
    """
    total, said = 0.0, [0] * len(wishes)
    for position in range(number):
        image_ids, batch = next(batches)
        with accelerator.no_sync(parallel) if position + 1 < number else nullcontext():
            loss = parallel(batch) / number
            here = torch.tensor([0, *wishes], dtype=torch.int32, device=loss.device)
            here[0] = ~loss.detach().isfinite()
            bad, *said = cast(Tensor, accelerator.reduce(here, "sum")).tolist()
            if bad:
                raise ValueError(
                    f"step {step}: the detector's loss is {loss.item()} on images {image_ids}. Lower the learning rate?"
                )
            loss.backward()
            total += loss.item()
    return total, [count > 0 for count in said]


def _step_seed(seed: int, step: int) -> int:
    return seed * 1_000_003 + step


def _factor(schedule: DetectorSchedule, step: int, steps: int) -> float:
    """The factor of the learning rates at a step."""
    if schedule.decay == "cosine":
        return cosine_schedule(step, total=steps, warmup=schedule.warmup_steps, floor=0.01)
    return min((step + 1) / (schedule.warmup_steps + 1), 1.0)


class Average:
    """Exponential moving average of a model's weights and batch statistics."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors = [tensor.detach().clone() for tensor in _floats(model)]

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        """Update towards the model, faster in the first steps, when it is still close to its initialisation."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        for own, other in zip(self.tensors, _floats(model), strict=True):
            own.lerp_(other, weight)

    def load(self, tensors: Sequence[Tensor]) -> None:
        """Load a saved average."""
        for own, other in zip(self.tensors, tensors, strict=True):
            own.copy_(other)

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Copy the average into the model."""
        for own, other in zip(_floats(model), self.tensors, strict=True):
            own.copy_(other)


def _floats(model: torch.nn.Module) -> list[Tensor]:
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def training_identity(chosen: DetectorNode, seed: int, photos: Photos) -> str:
    """Digest of everything that a training run depends on."""
    parts = hashlib.sha256(json.dumps([chosen.code, chosen.detector.model_dump(exclude={"object_ap"}), seed]).encode())
    for index, annotation in enumerate(photos.annotations):
        path, (box, label) = photos.folder / annotation.file_name, targets(photos.truths[index])
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


def _batches(count: int, batch_size: int, seed: int) -> Iterator[tuple[int, list[int], Tensor]]:
    """An endless sequence of batches: step, photos, and which of them are mirrored.

    Every photo is used once, in random order, before any is used again.
    """
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    for step in count_from(0):
        while len(waiting) < batch_size:
            waiting += torch.randperm(count, generator=generator).tolist()
        dice = torch.Generator().manual_seed(_step_seed(seed, step))
        yield step, waiting[:batch_size], torch.rand(batch_size, generator=dice) < 0.5
        waiting = waiting[batch_size:]


def _shares(
    batch: tuple[int, list[int], Tensor], rank: int, processes: int, micro: int
) -> Iterator[tuple[int, list[int], Tensor]]:
    """The micro-batches of a batch that belong to a process."""
    step, indices, is_mirrored = batch
    for first in range(rank * micro, len(indices), processes * micro):
        yield step, indices[first : first + micro], is_mirrored[first : first + micro]


def measure(
    frozen: FrozenDetector,
    photos: Photos,
    vocabulary: Vocabulary,
    features: Features,
    scorer: Scorer,
    record: Record,
) -> dict[str, float]:
    """COCO's object AP over all queries, and pair recall over the selected instances.

    `pair_recall` is the share of annotated interactions with two boxes that have a candidate pair with IoU >= 0.5 on
    both. It is the upper bound for any network on these features. A metric without any case is left out.
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
                is_found = detections.scores[position] >= 0
                low, high = (
                    detections.boxes[position, is_found].double().cpu().numpy().reshape(-1, 2, 2).transpose(1, 0, 2)
                )
                ids = np.full((len(low), 1), annotation.image_id)
                score = detections.scores[position, is_found, None].double().cpu().numpy()
                label = detections.labels[position, is_found, None].cpu().numpy()
                rows.append(np.concatenate([ids, low, high - low, score, label + 1], axis=1))
                own = Instances(*(getattr(instances, name)[image == position].cpu() for name in Instances.__slots__))
                found.append(find_pairs(own, annotation, vocabulary.person))
            progress.advance(len(indices))
    metrics = object_ap(np.concatenate(rows), photos.truths, vocabulary, scorer) if rows else {}
    if pairs := torch.cat([torch.zeros(0, dtype=torch.bool), *found]).tolist():
        metrics["pair_recall"] = sum(pairs) / len(pairs)
    return metrics
