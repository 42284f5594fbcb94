"""Shared by all training loops: schedule, checkpoints for resuming, deterministic algorithms."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rmlr.study.tensors import check_finite, load_pickled, nested_tensors

log = logging.getLogger(__name__)

DAMAGED = (  # what to do about a damaged checkpoint
    "Training starts again from the beginning; to keep the epochs that were done, stop this run, put back a copy of "
    "the file and start it again"
)


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
