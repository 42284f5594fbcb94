"""The trainer: devices, precision, accumulation, schedule and resume for all that learns."""

import math
import os
from pathlib import Path
from typing import Any

import torch


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
    (settings, seed, inputs).
    """
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state if state.get("identity") == identity else None
