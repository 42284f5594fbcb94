"""The trainer: one pass over the examples, from which one network learns, or several with the same examples.

It does not depend on the networks: any module that returns sums and counts of loss terms can be trained. Several
processes train one network if a launcher started them (`torchrun --nproc-per-node 4 -m rmlr train ...`).

Differs: distributed training uses torch's DistributedDataParallel through Accelerate, not through Lightning, which does
the same but takes seconds to import in every process.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from rmlr.data.loading import ahead, loader_threads, pinned
from rmlr.learning.examples import Batches
from rmlr.learning.learner import Head, Learner
from rmlr.learning.loops import reproducible
from rmlr.learning.pauses import Pauses
from rmlr.study.settings import Train

log = logging.getLogger(__name__)


def fit(head: Head, examples: Batches, *, seed: int) -> list[dict[str, float]]:
    """Train one head (`fit_together`); the curve of every epoch, one row each. Its error is raised."""
    [learner] = fit_together([head], examples, seed=seed)
    if learner.error is not None:
        raise learner.error
    return learner.rows


def fit_together(heads: Sequence[Head], examples: Batches, *, seed: int) -> list[Learner]:
    """Train the networks and objectives of all heads in place; returns a learner for each, with its curve.

    The images of a step are loaded and processed once, and every head learns from them: with its own optimiser, losses
    and dropout, so that its numbers are those that it would have alone. `means` of a head converts an epoch's sums into
    logged values. AdamW, cosine decay to 0, gradient clipping. Every `schedule.validate_every` epochs, and after the
    last, the rows also have the metrics of `held_out`, which do not affect training.

    A run that resumes from its last checkpoint (in `record.resume`, if the `identity` is the same) has the same result
    as an uninterrupted one: order and dropout of an epoch depend only on seed and epoch. A checkpoint is written after
    every epoch, and within an epoch as `rmlr.learning.pauses` says, with the state of the random numbers. With another
    number of processes, the rest of such an epoch has other dropout. The pass begins where the head with the fewest
    steps is; a head that is ahead waits until its next step is due.

    Differs: the paper has Adam; AdamW, its weight decay and clipping are UPT's.

    Losses are normalised by the counts of the whole effective batch, over processes and micro-batches: the gradient is
    that of one process with the whole batch (model specification, section 7). The last batch of an epoch is padded with
    its first images, so that every process always has work. The first process writes and validates.

    A loss or gradient that is not finite is the `error` of its learner, which takes no further step; the others do.
    Raises ValueError if the effective batch size cannot be reached, there is no image, several processes are to train
    several heads, or heads differ in batch sizes or epochs; ConnectionResetError if another process has died. The
    process group is destroyed at the end.
    """
    shared = _Pass(heads, examples, seed)
    accelerator, learners, pauses = shared.accelerator, shared.learners, shared.pauses
    epochs, steps = heads[0].schedule.epochs, shared.steps
    begun = min(len(learner.rows) for learner in learners)
    number = epochs * steps - min(len(learner.rows) * steps + learner.first for learner in learners)
    processes = accelerator.num_processes
    with reproducible(), _company(processes), heads[0].record.progress(number, "training") as bar, pauses.watching():
        for epoch in range(begun, epochs):
            if not shared.at_work(learners):
                break
            note = f"epoch {epoch + 1} of {epochs}"
            for learner in shared.run_epoch(epoch, lambda note=note: bar.advance(1, note)):
                learner.end_epoch(pauses)
            accelerator.wait_for_everyone()
            pauses.saved()
    if processes > 1 and not any(learner.error for learner in learners):
        torch.distributed.destroy_process_group()  # without it, NCCL warns at exit
    return learners


class _Pass:
    """The learners, and the examples that they share."""

    def __init__(self, heads: Sequence[Head], examples: Batches, seed: int) -> None:
        has_none = not torch.accelerator.is_available()
        self.accelerator = Accelerator(cpu=has_none, mixed_precision="no")  # the launcher's setting does not apply
        schedule = self._schedule = heads[0].schedule
        for head in heads:
            for name in ("epochs", "batch_size", "micro_batch_size"):
                if (found := getattr(head.schedule, name)) != (wanted := getattr(schedule, name)):
                    raise ValueError(f"runs that are trained together have the same {name}; got {wanted} and {found}")
        self._accumulation = _accumulation(schedule, self.accelerator.num_processes)
        if self.accelerator.num_processes > 1 and len(heads) > 1:
            raise ValueError(
                f"{len(heads)} runs were to be trained together by {self.accelerator.num_processes} processes. Train "
                "them together in one process, without torchrun, or one run in several"
            )
        if not len(examples):
            raise ValueError(
                "no image to train on: none has a candidate pair. Does the detector find people and objects?"
            )
        self._examples, self._seed = examples, seed
        self.pauses = Pauses()
        self.steps = math.ceil(len(examples) / schedule.batch_size)  # of an epoch
        self.learners = [Learner(head, self.accelerator, seed, self.steps) for head in heads]

    def run_epoch(self, epoch: int, advance: Callable[[], None]) -> list[Learner]:
        """All steps of an epoch that a learner has not taken; returns the learners that have then taken all of them.

        Checkpoints are written when it is time for one and, if the epoch is to be scored, after its last step.
        """
        learners = self.at_work(learner for learner in self.learners if len(learner.rows) == epoch)
        if not learners:
            return []
        for learner in learners:
            learner.begin_epoch()
        device, first = self.accelerator.device, min(learner.first for learner in learners)
        order = islice(self._order(epoch), first * self._accumulation, None)
        loaded = ahead(lambda positions: self._load(positions, epoch), order, loader_threads(device))
        for step, parts in enumerate(zip(*[loaded] * self._accumulation, strict=True), start=first):
            micro_batches = [self._examples.see(part, device) for part in parts]
            taking = [learner for learner in learners if learner.first == step]
            wishes = [self._take(learner, step, micro_batches) for learner in taking]
            learners, taking = self.at_work(learners), self.at_work(taking)
            if not learners:
                break
            advance()
            if any(wishes) or (step + 1 == self.steps and any(learner.is_scored for learner in taking)):
                for learner in taking:
                    learner.save_part()
                self.accelerator.wait_for_everyone()
                self.pauses.saved()
        return learners

    def _take(self, learner: Learner, step: int, micro_batches: list[Any]) -> bool:
        """A learner's step; whether a checkpoint is due. An error is the learner's."""
        try:
            return learner.take(step, micro_batches, self.pauses)
        except ValueError as error:
            learner.error = error
            if len(self.learners) > 1:
                log.error("%s: takes no further step, the others do: %s", learner.name, error)
            return False

    @staticmethod
    def at_work(learners: Iterable[Learner]) -> list[Learner]:
        """Those that had no error."""
        return [learner for learner in learners if learner.error is None]

    def _order(self, epoch: int) -> Iterator[list[int]]:
        """This process' share of an epoch's images, in micro-batches."""
        micro, processes = self._schedule.micro_batch_size, self.accelerator.num_processes
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))
        order = np.resize(order, (self.steps, self._accumulation, processes, micro))
        yield from order[:, :, self.accelerator.process_index].reshape(-1, micro).tolist()

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
