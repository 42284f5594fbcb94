"""One run's part of a training: its network and objective, optimiser, random numbers, sums and checkpoints.

Several learners may share one pass over the examples (`rmlr.learning.trainer`); none knows of the others.
"""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from rmlr.hoi.batch import Batch, Truth
from rmlr.learning.loops import cosine_schedule, load_resume, save_resume
from rmlr.learning.pauses import Pauses
from rmlr.study.run import Record
from rmlr.study.settings import Losses, Train

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What one run trains, and with what."""

    network: nn.Module
    objective: nn.Module
    text: Any
    schedule: Train
    weights: Losses
    means: Callable[[Mapping[str, float]], dict[str, float]]  # an epoch's sums -> its logged values
    record: Record
    identity: str  # of the run's checkpoints
    held_out: Scores | None = None


class Learner:
    """A head in training. It counts the steps that it has taken, and takes each once: also after a resumption."""

    def __init__(self, head: Head, accelerator: Accelerator, seed: int, steps: int) -> None:
        """`steps` are those of an epoch. Resumes from the head's last checkpoint, if there is one."""
        self.head, self.rows = head, list[dict[str, float]]()  # one for each epoch that it has completed
        self.first = 0  # step of the next epoch that it has not taken
        self.error: ValueError | None = None  # why it takes no further step
        self._accelerator, self._seed, self._steps = accelerator, seed, steps
        schedule = head.schedule
        precision = torch.bfloat16 if schedule.precision == "bf16" else None
        self._task = Task(head.network, head.objective, head.text, precision)
        self._parallel = accelerator.prepare(self._task)
        self._parameters = [parameter for parameter in self._task.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
        )
        self._path = head.record.resume / "epoch.pt"
        self._sums: dict[str, Tensor] = {}
        self._norms = torch.zeros((), device=accelerator.device)
        self._random: dict[str, Tensor] = {}  # the state of its random numbers
        self._begun: dict[str, Any] | None = None  # the state within an epoch, of a checkpoint
        self._resume()

    def _resume(self) -> None:
        state = load_resume(self._path, identity=self.head.identity)
        if state is None:
            return
        self._task.load_state_dict(state["task"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.rows, part = state["rows"], state.get("part")
        within = ""
        if part:
            self._begun, self.first = part, part["step"]
            within = f" and {self.first} of {self._steps} steps of the next"
        epochs = self.head.schedule.epochs
        log.info("%s: resuming after epoch %d of %d%s", self._path, len(self.rows), epochs, within)
        for epoch, row in enumerate(self.rows, start=1):
            self.head.record.log_metrics(row, step=epoch)

    @property
    def name(self) -> str:
        """The folder of its checkpoints, for messages."""
        return str(self.head.record.resume)

    @property
    def is_scored(self) -> bool:
        """Whether the held-out split is scored after the epoch at hand."""
        every, done = self.head.schedule.validate_every, len(self.rows) + 1
        is_due = every > 0 and (done % every == 0 or done == self.head.schedule.epochs)
        return is_due and self.head.held_out is not None

    def begin_epoch(self) -> None:
        """Begin the next epoch, or continue one that was begun: order and dropout depend on seed and epoch alone."""
        torch.manual_seed(seed_of(self._seed, len(self.rows), self._accelerator.process_index))
        self._task.train()
        self._sums, self._norms = {}, torch.zeros((), device=self._accelerator.device)
        if self._begun is not None:
            self._norms = self._begun["norms"].to(self._norms.device)
            self._sums = {name: value.to(self._norms.device) for name, value in self._own(self._begun["sums"]).items()}
            self._restore(self._begun["random"])
            self._begun = None
        self._random = self._random_numbers()

    def take(self, step: int, micro_batches: list[tuple[Batch, Truth]], pauses: Pauses) -> bool:
        """Take a step of the epoch; whether a checkpoint is due, in any process.

        Raises ValueError, in all processes and without a change of weights, if a loss or the gradient is not finite.
        """
        schedule, epoch, accelerator = self.head.schedule, len(self.rows), self._accelerator
        factor = cosine_schedule(epoch * self._steps + step, total=schedule.epochs * self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = schedule.learning_rate * factor
        self._set_random_numbers(self._random)
        losses = _backward(
            accelerator, self._parallel, self.head.objective, micro_batches, self.head.weights, self._sums
        )
        self._random = self._random_numbers()
        norm = nn.utils.clip_grad_norm_(self._parameters, schedule.clip_norm)
        is_due, is_ending = _check_finite(accelerator, losses, norm, micro_batches, pauses.is_due, pauses.is_ending)
        pauses.is_ending |= is_ending  # a signal may have come since
        self._optimiser.step()
        self._optimiser.zero_grad()
        self._norms += norm
        self.first = step + 1
        return is_due

    def save_part(self) -> None:
        """Write a checkpoint within the epoch."""
        here = {name: value.cpu() for name, value in self._sums.items()}
        everyone = {"sums": gather_object([here]), "random": gather_object([self._random])}
        self._save({"step": self.first, "norms": self._norms, **everyone})

    def end_epoch(self, pauses: Pauses) -> None:
        """The epoch's row, with the held-out split's metrics if it `is_scored`; a checkpoint after it."""
        accelerator, is_scored, names = self._accelerator, self.is_scored, sorted(self._sums)
        totals = _over_processes(accelerator, torch.stack([self._sums[name] for name in names])).tolist()
        row = self.head.means(dict(zip(names, totals, strict=True)))
        self.rows.append(row | {"gradient_norm": float(self._norms) / self._steps})
        self.first = 0
        if accelerator.is_main_process and self.head.held_out is not None and is_scored:
            self.head.network.eval()
            with pauses.at_once():  # which may take minutes; the epoch is kept
                self.rows[-1] |= self.head.held_out(self.head.network, accelerator.device)
        self._save(None)
        self.head.record.log_metrics(self.rows[-1], step=len(self.rows))

    def _save(self, part: dict[str, Any] | None) -> None:
        """Write a checkpoint, in the first process."""
        if self._accelerator.is_main_process:
            state = {"task": self._task.state_dict(), "optimiser": self._optimiser.state_dict()}
            save_resume(self._path, {"identity": self.head.identity, **state, "rows": self.rows, "part": part})

    def _random_numbers(self) -> dict[str, Tensor]:
        """The present state of torch's random numbers."""
        state = {"cpu": torch.get_rng_state()}
        if self._accelerator.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._accelerator.device)
        return state

    def _set_random_numbers(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self._accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._accelerator.device)

    def _own(self, sums: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """This process' share of the sums of all, which may have been other processes."""
        if len(sums) == self._accelerator.num_processes:
            return sums[self._accelerator.process_index]
        if not self._accelerator.is_main_process:
            return {name: torch.zeros_like(value) for name, value in sums[0].items()}
        return {name: torch.stack([one[name] for one in sums]).sum(0) for name in sums[0]}

    def _restore(self, random: list[dict[str, Tensor]]) -> None:
        """Continue the random numbers; with another number of processes, new ones."""
        rank = self._accelerator.process_index
        if len(random) != self._accelerator.num_processes:
            torch.manual_seed(seed_of(self._seed, len(self.rows), rank, self.first))
            return
        self._set_random_numbers(random[rank])


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


def seed_of(*parts: int) -> int:
    """A seed from several numbers, all of which matter."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
