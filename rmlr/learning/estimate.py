"""Estimates the time, memory and disk space of a training run from some of its steps."""

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import torch

from rmlr.learning.assembly import Assembly, Given, assemble
from rmlr.learning.learner import Task, Terms
from rmlr.model.cost import counting
from rmlr.study import run
from rmlr.study.nodes import TrainNode
from rmlr.study.provenance import Meter

log = logging.getLogger(__name__)

SEVERAL = 24  # runs, as an example of training them together
SETTLING = 2  # warm-up steps, not counted


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated cost of a training run, from some of its steps."""

    variant: str
    epochs: int
    steps: int  # of the whole run
    timed_steps: int
    seconds_a_step: float  # mean
    shortest_step: float
    longest_step: float
    startup_seconds: float  # up to the first step's end
    hours: float
    memory_gb: float  # at most
    memory_of: str  # the GPU, if there is one, else the process, including mapped pages of features
    weights_mb: float
    resume_mb: float  # the checkpoint from which an interrupted run resumes
    features_gb: float  # of all splits
    shared_macs_g: float  # of a photo in training, billions: of frozen networks, which runs can share (`rmlr together`)
    own_macs_g: float  # of the run's own network and losses, forward and backward

    def __str__(self) -> str:
        return (
            f"{self.variant}: {self.steps} steps in {self.epochs} epochs\n"
            f"a step   {self.seconds_a_step:.3g} s ({self.shortest_step:.3g} to {self.longest_step:.3g}, "
            f"{self.timed_steps} timed), {self.startup_seconds:.3g} s up to the end of the first\n"
            f"in all   {self.hours:.2g} hours ({60 * self.hours:.2g} minutes)\n"
            f"memory   {self.memory_gb:.2f} GB of the {self.memory_of} at most\n"
            f"disk     {self.weights_mb:.1f} MB of weights, {self.resume_mb:.1f} MB to resume from while it runs; "
            f"{self.features_gb:.3g} GB of features are read\n"
            f"{self._together()}"
        )

    def _together(self) -> str:
        """What runs that are trained together cost, by count; decoding and augmenting photos is not counted."""
        shared, own = self.shared_macs_g, self.own_macs_g
        if not shared:
            return f"together {own:.3g} GMAC a photo for each run, and no frozen network: features are cached"
        several = (shared + SEVERAL * own) / (shared + own)
        return (
            f"together N runs cost {shared:.3g} + N x {own:.3g} GMAC a photo, apart N x {shared + own:.3g}: {SEVERAL} "
            f"runs as much as {several:.2g}"
        )


def estimate(train: Callable[..., None], settings: Path, inputs: Mapping[str, Path], steps: int) -> Estimate:
    """Run some training steps and extrapolate. `train` is the stage, `inputs` its inputs, by flag."""
    chosen = TrainNode.load(settings)
    given = Given(**inputs).needed(chosen, settings)
    for path in given.paths(chosen):
        if not path.exists():
            raise ValueError(
                f"{path}: input of training does not exist. Check the path, or run the stage that makes it first"
            )
    log.info("%s: running %d steps", settings, steps)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # to measure its memory alone
        try:
            total, times, memory = pool.submit(rehearse, train, settings, given, steps).result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"{settings}: the training was killed by another process or the system. Is there enough memory?"
            ) from error
    laps = [end - start for start, end in pairwise(times)]
    counted = laps[1 + SETTLING :] or laps[1:] or laps
    mean = statistics.fmean(counted)
    ready = assemble(chosen, given, seed=0)
    weights, resume = _checkpoint_bytes(ready)
    shared, own = _macs(ready, chosen)
    files = [file for file in given.features.rglob("*") if file.is_file()] if given.features else []
    return Estimate(
        variant=chosen.tags.get("variant", chosen.variant.network),
        epochs=chosen.train.epochs,
        steps=total,
        timed_steps=len(counted),
        seconds_a_step=mean,
        shortest_step=min(counted),
        longest_step=max(counted),
        startup_seconds=laps[0],
        hours=(laps[0] + (total - 1) * mean) / 3600,
        memory_gb=memory / 1e9,
        memory_of="GPU" if torch.cuda.is_available() else "process",
        weights_mb=weights / 1e6,
        resume_mb=resume / 1e6,
        features_gb=sum(file.stat().st_size for file in files) / 1e9,
        shared_macs_g=shared / 1e9,
        own_macs_g=own / 1e9,
    )


def rehearse(train: Callable[..., None], settings: Path, given: Given, steps: int) -> tuple[int, list[float], float]:
    """Run `rmlr train` unchanged, in a temporary folder, until `steps` are done. To be called in a separate process.

    Returns the number of steps of the whole run, the time at the start and after every step, and the peak memory in
    bytes.
    """
    times, totals = [time.perf_counter()], [0]

    class Stopwatch(run.Progress):
        def advance(self, count: int = 1, note: str = "") -> None:
            times.append(time.perf_counter())
            totals.append(self.total)
            if len(times) > steps:
                raise _EnoughError

    run.Progress = Stopwatch
    os.environ["RMLR_TRACKING"] = "off"
    with tempfile.TemporaryDirectory() as folder, suppress(_EnoughError):
        train(settings=settings, **asdict(given), seed=0, out=Path(folder, "train"))
    if torch.cuda.is_available():
        return totals[-1], times, torch.cuda.max_memory_allocated()
    return totals[-1], times, 1e6 * Meter().read()["peak_memory_mb"]


class _EnoughError(Exception):
    """Ends the training after the timed steps."""


def _checkpoint_bytes(ready: Assembly) -> tuple[int, int]:
    """Size of a run's weights, and of its checkpoint, which also has AdamW's two moments."""
    modules = ready.network, ready.objective
    weights = sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
    return weights, weights + 2 * sum(one.nbytes for module in modules for one in module.parameters())


def _macs(ready: Assembly, chosen: TrainNode) -> tuple[float, float]:
    """MACs of a photo, by the first micro-batch: of the frozen networks, and of the run's training step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    positions = list(range(min(chosen.train.micro_batch_size, len(ready.examples))))
    task = Task(ready.network, ready.objective, ready.text, None).to(device)
    loaded = ready.examples.load(positions, 0)
    with counting() as frozen:
        batch, truth = ready.examples.see(loaded, device)
    with counting() as own:
        terms: Terms = task(batch, truth)
        terms.total(chosen.losses, 1.0, 1.0).backward()
    photos = 2 * len(positions)  # two operations are a MAC
    return frozen.get_total_flops() / photos, own.get_total_flops() / photos
