"""The trainer: devices, precision, accumulation, schedule and resume for all that learns.

It knows nothing of networks: whatever gives sums and counts of loss terms can be trained. Several processes train
together wherever a launcher started them (`torchrun --nproc-per-node 4 -m rmlr train ...`), else one does.

Differs: distributed training is torch's DistributedDataParallel through Accelerate, not through Lightning, which does
the same and takes seconds to import, in every process.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from rmlr.data.loading import ahead, loader_threads, pinned
from rmlr.hoi.batch import Batch, Truth
from rmlr.study.run import Record
from rmlr.study.settings import Losses, Train
from rmlr.study.tensors import check_finite, load_pickled, nested_tensors

log = logging.getLogger(__name__)

# ---- what all training loops share


def cosine_schedule(step: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Factor of the learning rate at `step` of `total`: linear warm-up, then half a cosine from 1 down to `floor`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Write what an interrupted run goes on from, whole or not at all; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def load_resume(path: Path, *, identity: str) -> dict[str, Any] | None:
    """What `save_resume` wrote under the same `identity`; None where there is none of this run.

    `identity` stands in the state under that key: a digest of everything that must be equal for the run to go on
    (settings, seed, inputs). A damaged file is as good as none, and is told.
    """
    if not path.exists():
        return None
    try:
        state = load_pickled(path, "Training begins anew")
        check_finite(path, nested_tensors(state), "Training begins anew")
    except ValueError as error:
        log.warning("%s", error)
        return None
    return state if isinstance(state, dict) and state.get("identity") == identity else None


@contextmanager
def reproducible() -> Iterator[None]:
    """Only algorithms that give the same numbers every time, on CUDA as well as on several threads of a CPU.

    Torch adds up gradients of indexed rows in any order by default. What has no such algorithm is a RuntimeError.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


@contextmanager
def counting_cells() -> Iterator[None]:
    """Within `reproducible`, on CUDA: lets DETR count its cells by `cumsum`, for which torch has no other algorithm.

    It sums ones and zeros in float32, whose order does not matter; torch refuses any such sum of floats.
    """
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn" if mode else "default")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="cumsum_cuda_kernel does not have a deterministic")
            yield
    finally:
        torch.set_deterministic_debug_mode(mode)


# ---- the heads


@runtime_checkable
class Terms(Protocol):
    """What an objective gives for a micro-batch (`rmlr.model.losses.LossTerms`)."""

    counts: Any  # .positives and .rows

    def total(self, weights: Losses, positives: float, rows: float) -> Tensor:
        """The loss, its terms over the given numbers."""
        ...

    def sums(self) -> dict[str, Tensor]:
        """What is added up over an epoch for its log."""
        ...


class Task(nn.Module):
    """Network and objective as one module, so that data-parallel training sees every parameter."""

    def __init__(self, network: nn.Module, objective: nn.Module, text: Any, precision: torch.dtype | None):
        super().__init__()
        self.network, self.objective = network, objective
        self._text, self._precision = text, precision

    def forward(self, batch: Batch, truth: Truth) -> Terms:
        """The terms of one micro-batch; the network in the given precision, the losses in float32."""
        device = batch.maps.device.type
        with torch.autocast(device, self._precision) if self._precision else nullcontext():
            output = self.network(batch)
        return self.objective(output, batch, truth, self._text)


def to_device(loaded: tuple[Batch, Truth], device: torch.device) -> tuple[Batch, Truth]:
    """What was loaded as it is learnt from, on the device."""
    batch, truth = loaded
    return batch.to(device), truth.to(device)


def fit(
    network: nn.Module,
    objective: nn.Module,
    load: Callable[[list[int], int], Any],
    number: int,
    *,
    see: Callable[[Any, torch.device], tuple[Batch, Truth]] = to_device,
    text: Any,
    schedule: Train,
    weights: Losses,
    means: Callable[[Mapping[str, float]], dict[str, float]],
    seed: int,
    record: Record,
    identity: str,
) -> list[dict[str, float]]:
    """Train network and objective in place on `number` images; the curve of every epoch, one row each.

    `load` gives the images at some positions in an epoch, from threads that work ahead (`rmlr.data.loading`); `see`
    makes of what it gave a batch on the device. `means` turns an epoch's sums into what is logged. AdamW, cosine decay
    to 0, gradients clipped. Order and dropout of an epoch depend on seed and epoch alone, so a run that goes on from
    its last whole epoch (in `record.resume`, if it was left there under the same `identity`) ends where it would have.

    Over processes and micro-batches, losses are normalised by what the whole effective batch holds: the gradient is
    that of one process with the whole batch (model specification, section 7). The last batch of an epoch is filled up
    with its first images, so that every process always has work. The first process writes.

    Raises ValueError where the effective batch cannot be reached, and, in all processes alike, on a loss or gradient
    that is not finite; ConnectionResetError where another process is gone. Several processes train once, then part.
    """
    has_none = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=has_none, mixed_precision="no")  # the launcher's is not ours
    processes, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    accumulation, left = divmod(schedule.batch_size, processes * schedule.micro_batch_size)
    if left or not accumulation:
        raise ValueError(
            f"batch_size {schedule.batch_size} is not a multiple of {processes} process(es) x micro_batch_size "
            f"{schedule.micro_batch_size}. Change batch_size, micro_batch_size, or the number of processes"
        )
    if not number:
        raise ValueError("no image to train on: none has a candidate pair. Does the detector find people and objects?")
    task = Task(network, objective, text, torch.bfloat16 if schedule.precision == "bf16" else None)
    parallel = accelerator.prepare(task)
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    path, first = record.resume / "epoch.pt", 0
    rows: list[dict[str, float]] = []
    if state := load_resume(path, identity=identity):
        task.load_state_dict(state["task"])
        optimiser.load_state_dict(state["optimiser"])
        rows, first = state["rows"], len(state["rows"])
        log.info("%s: going on after epoch %d of %d", path, first, schedule.epochs)
    for epoch, row in enumerate(rows):
        record.log_metrics(row, step=epoch + 1)
    steps = math.ceil(number / schedule.batch_size)
    threads = loader_threads(device)

    def load_from(wanted: tuple[int, list[int]]) -> Any:
        epoch, positions = wanted
        loaded = load(positions, epoch)
        return pinned(loaded) if device.type == "cuda" else loaded

    progress = record.progress((schedule.epochs - first) * steps, "training")
    with reproducible(), _company(processes), progress as bar:
        for epoch in range(first, schedule.epochs):
            note = f"epoch {epoch + 1} of {schedule.epochs}"
            torch.manual_seed(_seed(seed, epoch, rank))
            task.train()
            order = np.random.default_rng([seed, epoch]).permutation(number)
            order = np.resize(order, (steps, accumulation, processes, schedule.micro_batch_size))[:, :, rank]
            sums: dict[str, Tensor] = {}
            norms = torch.zeros((), device=device)
            wanted = ((epoch, positions) for positions in order.reshape(-1, schedule.micro_batch_size).tolist())
            loaded = ahead(load_from, wanted, threads)
            for step, parts in enumerate(zip(*[loaded] * accumulation, strict=True)):
                factor = cosine_schedule(epoch * steps + step, total=schedule.epochs * steps)
                for group in optimiser.param_groups:
                    group["lr"] = schedule.learning_rate * factor
                micro_batches = [see(part, device) for part in parts]
                losses = _backward(accelerator, parallel, objective, micro_batches, weights, sums)
                norm = nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
                _check_finite(accelerator, losses, norm, micro_batches)
                optimiser.step()
                optimiser.zero_grad()
                norms += norm
                bar.advance(1, note)
            names = sorted(sums)
            totals = _over_processes(accelerator, torch.stack([sums[name] for name in names])).tolist()
            rows.append(means(dict(zip(names, totals, strict=True))) | {"gradient_norm": float(norms) / steps})
            record.log_metrics(rows[-1], step=epoch + 1)
            if accelerator.is_main_process:
                state = {"task": task.state_dict(), "optimiser": optimiser.state_dict(), "rows": rows}
                save_resume(path, {"identity": identity, **state})
            accelerator.wait_for_everyone()
    if processes > 1:
        torch.distributed.destroy_process_group()  # else NCCL complains at the end
    return rows


def _backward(
    accelerator: Accelerator,
    parallel: nn.Module,
    objective: Any,
    micro_batches: list[tuple[Batch, Truth]],
    weights: Losses,
    sums: dict[str, Tensor],
) -> list[Tensor]:
    """Add the gradient of one effective batch to the parameters, and its log's numbers to `sums`; gives the losses.

    What terms are divided by must be known before the first backward pass: one micro-batch counts as it goes, several
    are counted beforehand.
    """
    scale, losses = None, []
    if len(micro_batches) > 1:
        scale = _scale(accelerator, [objective.count(batch, truth) for batch, truth in micro_batches])
    for number, (batch, truth) in enumerate(micro_batches):
        is_last = number == len(micro_batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(parallel):
            terms: Terms = parallel(batch, truth)
            scale = scale or _scale(accelerator, [terms.counts])
            loss = terms.total(weights, *scale)
            loss.backward()
        losses.append(loss.detach())
        for name, value in terms.sums().items():
            sums[name] = sums[name] + value if name in sums else value
    return losses


def _scale(accelerator: Accelerator, counts: list[Any]) -> tuple[float, float]:
    """Positives and rows of the effective batch, at least 1, by process: gradients are averaged over processes."""
    here = torch.stack([torch.stack([count.positives, count.rows]) for count in counts]).sum(0)
    positives, rows = _over_processes(accelerator, here).clamp(min=1).tolist()
    return positives / accelerator.num_processes, rows / accelerator.num_processes


def _over_processes(accelerator: Accelerator, here: Tensor) -> Tensor:
    """The sum over all processes."""
    return cast(Tensor, accelerator.reduce(here, "sum"))


def _check_finite(
    accelerator: Accelerator, losses: list[Tensor], norm: Tensor, micro_batches: list[tuple[Batch, Truth]]
) -> None:
    """ValueError in every process if a loss of any, or the gradient, is not finite."""
    is_bad = ~torch.stack([norm, *losses]).isfinite().all()
    if not _over_processes(accelerator, is_bad.int()):
        return
    shares = [(loss.item(), batch.image_ids.tolist()) for loss, (batch, _) in zip(losses, micro_batches, strict=True)]
    shares = cast(list[tuple[float, list[int]]], gather_object(shares))
    what, found = "loss", [(loss, images) for loss, images in shares if not math.isfinite(loss)]
    if not found:
        what, found = "gradient", [(norm.item(), images) for _, images in shares]
    raise ValueError(
        f"the {what} is {found[0][0]} on images {[image for _, images in found for image in images]}. Look at their "
        "features and annotations, or lower the learning rate"
    )


@contextmanager
def _company(processes: int) -> Iterator[None]:
    """ConnectionResetError in place of what torch says when another process of the run is gone."""
    try:
        yield
    except RuntimeError as error:
        if processes > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise ConnectionResetError(
                "another process of this run is gone; what it said, or its launcher, tells why"
            ) from error
        raise


def _seed(*parts: int) -> int:
    """A seed from several numbers, none of which hides another."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
