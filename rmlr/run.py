"""What surrounds every stage: seed, provenance, atomic output, device, MLflow."""

import json
import logging
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rmlr.settings import Section

log = logging.getLogger(__name__)


@dataclass
class Record:
    """One stage at work. Whatever it makes goes under `folder`, which becomes `out` when the stage has succeeded."""

    stage: str
    folder: Path
    resume: Path  # survives kill -9 and success: what the next attempt goes on from
    metrics: dict[str, float] = field(default_factory=dict)

    def log_metrics(self, metrics: dict[str, float], *, step: int | None = None) -> None:
        """Numbers of this stage: with a step a point of a curve, without one a result for run.json."""
        if step is None:
            self.metrics.update(metrics)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator["Progress"]:
        """Count `total` units of work; says how far it is and how much time is left, every few seconds."""
        yield Progress(total, what)


@dataclass
class Progress:
    """How far a loop is. Lines go to the log, at most one every few seconds."""

    total: int
    what: str
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    said: float = 0.0

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done."""
        self.done += count
        now = time.monotonic()
        if now - self.said < 5 and self.done < self.total:
            return
        self.said = now
        left = (now - self.started) / self.done * (self.total - self.done)
        log.info("%s %d/%d, %.0f s left %s", self.what, self.done, self.total, left, note)


@contextmanager
def run(
    stage: str,
    node: Section,
    *,
    settings: Path,
    out: Path,
    inputs: Sequence[Path] = (),
    seed: int | None = None,
) -> Iterator[Record]:
    """Surround a stage's work: lock, seed, and an output folder that appears whole or not at all."""
    for path in inputs:
        if not path.exists():
            raise ValueError(f"{path}: input of '{stage}' does not exist. Run the stage that makes it first")
    if seed is not None:
        seed_everything(seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.part"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    record = Record(stage, folder, out.parent / f".{out.name}.resume")
    yield record
    shutil.copyfile(settings, folder / "settings.yaml")
    (folder / "run.json").write_text(json.dumps({"stage": stage, "seed": seed, "metrics": record.metrics}, indent=2))
    shutil.rmtree(out, ignore_errors=True)
    os.replace(folder, out)


def seed_everything(seed: int) -> None:
    """Fix Python's, NumPy's and torch's generators, those that are loaded."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
