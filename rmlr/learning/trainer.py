"""The trainer: devices, precision, gradient accumulation, schedule and resuming.

It does not depend on the networks: any module that returns sums and counts of loss terms can be trained. Several
processes train together if a launcher started them (`torchrun --nproc-per-node 4 -m rmlr train ...`).

Differs: distributed training uses torch's DistributedDataParallel through Accelerate, not through Lightning, which does
the same but takes seconds to import in every process.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from rmlr.data.loading import ahead, loader_threads, pinned
from rmlr.hoi.batch import Batch, Truth
from rmlr.learning.examples import Batches
from rmlr.learning.pauses import Pauses
from rmlr.study.run import Record
from rmlr.study.settings import Losses, Train
from rmlr.study.tensors import check_finite, load_pickled, nested_tensors

log = logging.getLogger(__name__)

DAMAGED = (  # what to do about a damaged checkpoint
    "Training starts again from the beginning; to keep the epochs that were done, stop this run, put back a copy of "
    "the file and start it again"
)

# ---- shared by all training loops


def cosine_schedule(step: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Factor of the learning rate at `step` of `total`: linear warm-up, then cosine decay from 1 to `floor`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint for resuming, atomically; the folder is created if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def load_resume(path: Path, *, identity: str) -> dict[str, Any] | None:
    """The checkpoint that `save_resume` wrote with the same `identity`; None if there is none for this run.

    `identity` is stored in the state under that key: a digest of everything that must be equal for the run to resume
    (settings, seed, inputs). A damaged file counts as missing; a warning names it.
    """
    if not path.exists():
        return None
    try:
        state = load_pickled(path, DAMAGED)
        check_finite(path, nested_tensors(state), DAMAGED)
    except ValueError as error:
        log.warning("%s", error)
        return None
    return state if isinstance(state, dict) and state.get("identity") == identity else None


@contextmanager
def reproducible() -> Iterator[None]:
    """Use only deterministic algorithms, on CUDA and on several CPU threads.

    By default, torch sums gradients of indexed rows in any order. An operation without such an algorithm is a
    RuntimeError.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


@contextmanager
def counting_cells() -> Iterator[None]:
    """Within `reproducible`, on CUDA: allows DETR's `cumsum` over its cells, which torch has no deterministic version
    of.

    It sums ones and zeros in float32, so the order does not matter; torch refuses every such sum of floats.
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
    """The result of an objective for a micro-batch (`rmlr.model.losses.LossTerms`)."""

    counts: Any  # .positives and .rows

    def total(self, weights: Losses, positives: float, rows: float) -> Tensor:
        """The loss, with its terms divided by the given numbers."""
        ...

    def sums(self) -> dict[str, Tensor]:
        """The values that are summed over an epoch for its log."""
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


Scores = Callable[[nn.Module, torch.device], dict[str, float]]  # a network in evaluation mode -> its AP


def fit(
    network: nn.Module,
    objective: nn.Module,
    examples: Batches,
    *,
    text: Any,
    schedule: Train,
    weights: Losses,
    means: Callable[[Mapping[str, float]], dict[str, float]],
    seed: int,
    record: Record,
    identity: str,
    held_out: Scores | None = None,
) -> list[dict[str, float]]:
    """Train network and objective in place; the curve of every epoch, one row each.

    `means` converts an epoch's sums into logged values. AdamW, cosine decay to 0, gradient clipping. Every
    `schedule.validate_every` epochs, and after the last, the rows also have the metrics of `held_out`, which do not
    affect training.

    A run that resumes from its last checkpoint (in `record.resume`, if the `identity` is the same) has the same result
    as an uninterrupted one: order and dropout of an epoch depend only on seed and epoch. A checkpoint is written after
    every epoch, and within an epoch as `rmlr.learning.pauses` says, with the state of the random numbers. With another
    number of processes, the rest of such an epoch has other dropout.

    Differs: the paper has Adam; AdamW, its weight decay and clipping are UPT's.

    Losses are normalised by the counts of the whole effective batch, over processes and micro-batches: the gradient is
    that of one process with the whole batch (model specification, section 7). The last batch of an epoch is padded with
    its first images, so that every process always has work. The first process writes and validates.

    Raises ValueError if the effective batch size cannot be reached, and, in all processes, on a loss or gradient that
    is not finite; ConnectionResetError if another process has died. The process group is destroyed at the end.
    """
    loop, path = _Loop(network, objective, examples, text, schedule, weights, seed), record.resume / "epoch.pt"
    rows, begun = loop.resume(path, identity)
    for epoch, row in enumerate(rows):
        record.log_metrics(row, step=epoch + 1)
    accelerator, processes = loop.accelerator, loop.accelerator.num_processes

    def save(part: dict[str, Any] | None) -> None:
        if accelerator.is_main_process:
            save_resume(path, {"identity": identity, **loop.state(), "rows": rows, "part": part})

    left = range(len(rows), schedule.epochs)
    number = len(left) * loop.steps - (begun["step"] if begun else 0)
    with reproducible(), _company(processes), record.progress(number, "training") as bar, loop.pauses.watching():
        for epoch in left:
            is_scored = held_out is not None and _is_validated(epoch, schedule)
            rows.append(loop.run_epoch(epoch, means, lambda note: bar.advance(1, note), begun, save, is_scored))
            begun = None
            if accelerator.is_main_process and held_out is not None and is_scored:
                network.eval()
                with loop.pauses.at_once():  # which may take minutes; the epoch is kept
                    rows[-1] |= held_out(network, accelerator.device)
            save(None)
            record.log_metrics(rows[-1], step=epoch + 1)
            accelerator.wait_for_everyone()
            loop.pauses.saved()
    if processes > 1:
        torch.distributed.destroy_process_group()  # without it, NCCL warns at exit
    return rows


def _is_validated(epoch: int, schedule: Train) -> bool:
    """Whether the held-out split is scored after this epoch, counted from 0."""
    every, done = schedule.validate_every, epoch + 1
    return every > 0 and (done % every == 0 or done == schedule.epochs)


class _Loop:
    """The modules that are trained, their optimiser, and one pass over the examples."""

    def __init__(
        self,
        network: nn.Module,
        objective: nn.Module,
        examples: Batches,
        text: Any,
        schedule: Train,
        weights: Losses,
        seed: int,
    ) -> None:
        has_none = not torch.accelerator.is_available()
        self.accelerator = Accelerator(cpu=has_none, mixed_precision="no")  # the launcher's setting does not apply
        self._accumulation = _accumulation(schedule, self.accelerator.num_processes)
        if not len(examples):
            raise ValueError(
                "no image to train on: none has a candidate pair. Does the detector find people and objects?"
            )
        self._examples, self._schedule, self._weights, self._seed = examples, schedule, weights, seed
        self._objective = objective
        self.pauses = Pauses()
        self._task = Task(network, objective, text, torch.bfloat16 if schedule.precision == "bf16" else None)
        self._parallel = self.accelerator.prepare(self._task)
        self._parameters = [parameter for parameter in self._task.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
        )
        self.steps = math.ceil(len(examples) / schedule.batch_size)  # of an epoch

    def resume(self, path: Path, identity: str) -> tuple[list[dict[str, float]], dict[str, Any] | None]:
        """Resume from the checkpoint at `path`, if there is one.

        Returns the rows of the completed epochs, and the state within the next one, if it was begun.
        """
        state = load_resume(path, identity=identity)
        if state is None:
            return [], None
        self._task.load_state_dict(state["task"])
        self._optimiser.load_state_dict(state["optimiser"])
        part = state.get("part")
        within = f" and {part['step']} of {self.steps} steps of the next" if part else ""
        log.info("%s: resuming after epoch %d of %d%s", path, len(state["rows"]), self._schedule.epochs, within)
        return state["rows"], part

    def state(self) -> dict[str, Any]:
        """The state of a checkpoint, without its rows."""
        return {"task": self._task.state_dict(), "optimiser": self._optimiser.state_dict()}

    def run_epoch(
        self,
        epoch: int,
        means: Callable[[Mapping[str, float]], dict[str, float]],
        advance: Callable[[str], None],
        begun: dict[str, Any] | None,
        save: Callable[[dict[str, Any]], None],
        is_kept: bool,
    ) -> dict[str, float]:
        """Train for one epoch, or the rest of one that was begun; returns its means, and the mean norm of the gradient.

        `save` gets the state within the epoch when it is time for a checkpoint and, if `is_kept`, after the last step.
        """
        schedule, steps, device = self._schedule, self.steps, self.accelerator.device
        torch.manual_seed(_seed(self._seed, epoch, self.accelerator.process_index))
        self._task.train()
        sums: dict[str, Tensor] = {}
        norms, first = torch.zeros((), device=device), 0
        if begun is not None:
            first, norms = begun["step"], begun["norms"].to(device)
            sums = {name: value.to(device) for name, value in self._own(begun["sums"]).items()}
            self._restore(begun["random"], epoch, first)
        order = islice(self._order(epoch), first * self._accumulation, None)
        loaded = ahead(lambda positions: self._load(positions, epoch), order, loader_threads(device))
        for step, parts in enumerate(zip(*[loaded] * self._accumulation, strict=True), start=first):
            factor = cosine_schedule(epoch * steps + step, total=schedule.epochs * steps)
            for group in self._optimiser.param_groups:
                group["lr"] = schedule.learning_rate * factor
            micro_batches = [self._examples.see(part, device) for part in parts]
            losses = _backward(self.accelerator, self._parallel, self._objective, micro_batches, self._weights, sums)
            norm = nn.utils.clip_grad_norm_(self._parameters, schedule.clip_norm)
            pauses = self.pauses
            is_due, is_ending = _check_finite(
                self.accelerator, losses, norm, micro_batches, pauses.is_due, pauses.is_ending
            )
            pauses.is_ending |= is_ending  # a signal may have come since
            self._optimiser.step()
            self._optimiser.zero_grad()
            norms += norm
            advance(f"epoch {epoch + 1} of {schedule.epochs}")
            if is_due or (is_kept and step + 1 == steps):
                save({"step": step + 1, "norms": norms, **self._of_all_processes(sums)})
                self.accelerator.wait_for_everyone()
                pauses.saved()
        names = sorted(sums)
        totals = _over_processes(self.accelerator, torch.stack([sums[name] for name in names])).tolist()
        return means(dict(zip(names, totals, strict=True))) | {"gradient_norm": float(norms) / steps}

    def _order(self, epoch: int) -> Iterator[list[int]]:
        """This process' share of an epoch's images, in micro-batches."""
        micro, processes = self._schedule.micro_batch_size, self.accelerator.num_processes
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))
        order = np.resize(order, (self.steps, self._accumulation, processes, micro))
        yield from order[:, :, self.accelerator.process_index].reshape(-1, micro).tolist()

    def _of_all_processes(self, sums: dict[str, Tensor]) -> dict[str, list[Any]]:
        """Sums and the state of the random numbers, of each process."""
        random = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        here = {name: value.cpu() for name, value in sums.items()}
        return {"sums": gather_object([here]), "random": gather_object([random])}

    def _own(self, sums: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """This process' share of the sums of all, which may have been other processes."""
        if len(sums) == self.accelerator.num_processes:
            return sums[self.accelerator.process_index]
        if not self.accelerator.is_main_process:
            return {name: torch.zeros_like(value) for name, value in sums[0].items()}
        return {name: torch.stack([one[name] for one in sums]).sum(0) for name in sums[0]}

    def _restore(self, random: list[dict[str, Tensor]], epoch: int, step: int) -> None:
        """Continue the random numbers; with another number of processes, new ones."""
        rank = self.accelerator.process_index
        if len(random) != self.accelerator.num_processes:
            torch.manual_seed(_seed(self._seed, epoch, rank, step))
            return
        torch.set_rng_state(random[rank]["cpu"])
        if "cuda" in random[rank] and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(random[rank]["cuda"], self.accelerator.device)

    def _load(self, positions: list[int], epoch: int) -> Any:
        loaded = self._examples.load(positions, epoch)
        return pinned(loaded) if self.accelerator.device.type == "cuda" else loaded


def _accumulation(schedule: Train, processes: int) -> int:
    """The number of micro-batches per process and step; ValueError if the batch size cannot be reached."""
    number, left = divmod(schedule.batch_size, processes * schedule.micro_batch_size)
    if left or not number:
        raise ValueError(
            f"batch_size {schedule.batch_size} is not a multiple of {processes} process(es) x micro_batch_size "
            f"{schedule.micro_batch_size}. Change batch_size, micro_batch_size, or the number of processes"
        )
    return number


def _backward(
    accelerator: Accelerator,
    parallel: nn.Module,
    objective: Any,
    micro_batches: list[tuple[Batch, Truth]],
    weights: Losses,
    sums: dict[str, Tensor],
) -> list[Tensor]:
    """Add the gradient of one effective batch to the parameters, and its logged values to `sums`; returns the losses.

    The divisors of the terms must be known before the first backward pass: one micro-batch is counted on the way,
    several are counted in advance.
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
    """Positives and rows of the effective batch, at least 1, per process: gradients are averaged over processes."""
    here = torch.stack([torch.stack([count.positives, count.rows]) for count in counts]).sum(0)
    positives, rows = _over_processes(accelerator, here).clamp(min=1).tolist()
    return positives / accelerator.num_processes, rows / accelerator.num_processes


def _over_processes(accelerator: Accelerator, here: Tensor) -> Tensor:
    """The sum over all processes."""
    return cast(Tensor, accelerator.reduce(here, "sum"))


def _check_finite(
    accelerator: Accelerator,
    losses: list[Tensor],
    norm: Tensor,
    micro_batches: list[tuple[Batch, Truth]],
    *wishes: bool,
) -> list[bool]:
    """ValueError in every process if a loss of any, or the gradient, is not finite; whether any process has a wish."""
    is_bad = ~torch.stack([norm, *losses]).isfinite().all()
    said = torch.cat([is_bad.int()[None], torch.tensor(wishes, dtype=torch.int32, device=norm.device)])
    bad, *wished = _over_processes(accelerator, said).tolist()
    if not bad:
        return [number > 0 for number in wished]
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
    """ConnectionResetError in place of torch's error when another process of the run has died."""
    try:
        yield
    except RuntimeError as error:
        if processes > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise ConnectionResetError(
                "another process of this run has died; see its messages, or those of its launcher"
            ) from error
        raise


def _seed(*parts: int) -> int:
    """A seed from several numbers, all of which matter."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
