"""The context of every stage: output folder, lock, seed and device, `run.json`, tracking."""

import hashlib
import json
import logging
import os
import platform
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rmlr.study import provenance
from rmlr.study.content import digest
from rmlr.study.device import processes, take_device
from rmlr.study.files import write_whole
from rmlr.study.folder import begin, discard, finish, naming, only_writer, publish, recover
from rmlr.study.made import ABOUT, Made, is_finished, read_about
from rmlr.study.output import beside, claim
from rmlr.study.provenance import Meter
from rmlr.study.section import Section
from rmlr.study.threads import computing
from rmlr.study.tracking import Tracker

log = logging.getLogger(__name__)

SAY_EVERY = 5.0  # seconds between two lines of progress
MAX_SEED = 2**32  # what NumPy takes
SCHEDULER = Path(".snakemake/rmlr.lock")  # holds the process id of the running Snakemake


@dataclass
class Record:
    """A running stage. It writes its files below `folder`, which is renamed to `out` when the stage has succeeded."""

    stage: str
    folder: Path
    resume: Path  # kept after kill -9 and after success: the next attempt resumes from it
    metrics: dict[str, float] = field(default_factory=dict)
    tracker: Tracker | None = None
    is_kept_aside: bool = False  # when it is finished, until the next attempt: its job fails, which removes outputs

    def log_metrics(self, metrics: dict[str, float], *, step: int | None = None) -> None:
        """Log numbers of this stage: with a step, a point of a curve; without one, a result for run.json."""
        if step is None:
            self.metrics.update(metrics)
        if self.tracker is not None:
            self.tracker.add(metrics, step)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator["Progress"]:
        """A counter for `total` units of work; logs progress and remaining time every few seconds."""
        yield Progress(total, what)


@dataclass
class Progress:
    """The progress of a loop, logged at most once every few seconds."""

    total: int
    what: str
    done: int = 0
    said: float = 0.0
    pace: deque[tuple[float, int]] = field(default_factory=lambda: deque([(time.monotonic(), 0)], maxlen=6))

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done."""
        self.done += count
        now = time.monotonic()
        if now - self.said < SAY_EVERY and self.done < self.total:
            return
        self.said = now
        since, before = self.pace[0]  # of the last half minute: resumed work took no time
        left = (now - since) / max(self.done - before, 1) * (self.total - self.done)
        self.pace.append((now, self.done))
        log.info("%s %d/%d, %.0f s left%s", self.what, self.done, self.total, left, f", {note}" if note else "")


@contextmanager
def run(
    stage: str,
    node: Section,
    *,
    settings: Path | None,
    out: Path,
    inputs: Sequence[Path] = (),
    seed: int | None = None,
) -> Iterator[Record]:
    """The context of a stage's work: one process per folder, a seed, a device, and an output that is written
    atomically.

    In addition to the stage's files, `out` gets `run.json` and `settings.yaml` (a copy of the file `settings`, or the
    node if there is no file). Work in progress is in hidden folders next to `out`: `.NAME.part` (removed by the next
    attempt) and `.NAME.resume` (kept).

    ValueError, before any work, if an input is missing or `out` may not be written (rmlr/study/output.py). SystemExit
    with status 0 if the command line requests a result that exists already.
    """
    work = Work(stage, node, settings, out, inputs, seed)
    work.check()
    if int(os.environ.get("RANK", "0")):  # a further process of a distributed run: the first one writes
        with tempfile.TemporaryDirectory() as scratch:
            yield Record(stage, Path(scratch), beside(out.resolve(), "resume"))
        return
    with work.reserved() as is_made:
        if is_made:
            raise SystemExit(0)
        with take_device(stage) as device, computing(stage), work.recorded(device) as record:
            yield record


class Work:
    """A stage's work, step by step: `check`, `reserved`, `recorded`. `run` is all of it.

    One process may do several at once (`rmlr together`): on one device, each with its own folder, lock and tracker.
    """

    def __init__(
        self,
        stage: str,
        node: Section,
        settings: Path | None,
        out: Path,
        inputs: Sequence[Path] = (),
        seed: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """`command` is the one that does this work alone; None: that of this process."""
        self.stage, self.node, self.out, self.inputs, self.seed = stage, node, out, inputs, seed
        self._settings, self._command = settings, command
        self._meter, self._began, self._scheduler = Meter(), datetime.now(UTC), _scheduler()
        self._used, self._identity = "", None
        self.place = out

    def check(self) -> None:
        """ValueError if the seed is invalid, an input is missing, or `out` may not be written. Nothing is changed."""
        if self.seed is not None and not 0 <= self.seed < MAX_SEED:
            raise ValueError(f"--seed {self.seed}: expected a whole number from 0 to {MAX_SEED - 1}")
        for path in self.inputs:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise ValueError(
                    f"{path}: input of '{self.stage}' is a pipe or a device. Write its content to a file first"
                )
            if not path.exists():
                raise ValueError(
                    f"{path}: input of '{self.stage}' does not exist. Check the path, or run the stage that makes it "
                    "first"
                )
        if not int(os.environ.get("RANK", "0")):
            self.place = claim(self.out, self.stage, self.inputs)

    @contextmanager
    def reserved(self) -> Iterator[bool]:
        """Holds the folder's lock, after waiting for it; whether the command line requests a result that exists."""
        with naming(self.out):
            self.place.parent.mkdir(parents=True, exist_ok=True)
            with only_writer(self.place):
                claim(self.out, self.stage, self.inputs)  # again, after waiting for the lock
                recover(self.place, self.stage)
                self._used = self._settings.read_text() if self._settings else self.node.dump()
                apart = [self.place, *([self._settings] if self._settings else [])]
                numbers = self.node.model_dump(mode="json")
                self._identity = provenance.identity(
                    self.stage, self.seed, self._used, numbers, self.inputs, apart, self._command
                )
                is_made = (
                    self._identity is not None and processes() == 1 and _is_made(self.place, self.stage, self._identity)
                )
                if is_made:
                    log.info(
                        "%s: exists already, made from the same settings and inputs. Remove it to make it again",
                        self.out,
                    )
                yield is_made

    @contextmanager
    def recorded(self, device: str, **more: Any) -> Iterator[Record]:
        """A record to fill, within `reserved`. At the end its folder is renamed to `out`, with `run.json`, which also
        has `more`.
        """
        stage, seed, numbers = self.stage, self.seed, self.node.model_dump(mode="json")
        about = {"stage": stage, "seed": seed, "settings": numbers, "identity": self._identity}
        about |= {"began": self._began.isoformat(timespec="seconds"), "device": device}
        if seed is not None:
            seed_everything(seed)
        digests = {str(path): digest(path) for path in self.inputs}
        folder, code = begin(self.place, stage), provenance.commit()
        record = Record(stage, folder, beside(self.place, "resume"))
        try:
            tracker = record.tracker = Tracker.of_stage(
                stage,
                numbers,
                out=self.out,
                note=beside(self.place, "mlflow"),
                seed=seed,
                identity=hashlib.sha256(json.dumps([self._used, seed, list(digests.values())]).encode()).hexdigest(),
                settings=self._used,
                inputs=digests,
                code=code,
            )
            try:
                yield record
            except BaseException as error:
                tracker.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", folder)
                raise
            tracker.close("FINISHED", folder)
            (folder / "settings.yaml").write_text(self._used)
            finish(folder, stage)
            about |= {"inputs": digests, "metrics": record.metrics, **self._meter.read(), **more, **_machine()}
            about |= {"code": code, "mlflow_run_id": tracker.run_id}
            write_whole(folder / ABOUT, json.dumps(about, indent=2) + "\n")
            if self._is_kept_aside(record):
                return
            publish(folder, self.place, stage)
        finally:
            if not is_finished(folder):
                discard(folder)

    def _is_kept_aside(self, record: Record) -> bool:
        """Whether the finished folder keeps its hidden name, since the outputs would be removed."""
        if self._scheduler is not None and self._scheduler not in _ancestors():
            why = "Snakemake was killed"
        elif record.is_kept_aside:
            why = "another run of this job failed"
        else:
            return False
        log.warning("%s: is finished, and kept in %s: %s. The next call will use it", self.out, record.folder, why)
        return True


def _machine() -> dict[str, Any]:
    return {
        "processes": processes(),
        "threads": provenance.threads(),
        "host": provenance.host(),
        "versions": {"python": platform.python_version(), **provenance.versions()},
    }


def _is_made(place: Path, stage: str, identity: str) -> bool:
    """Whether a finished result is complete, and its run.json records the same work."""
    made = Made.read(place, stage)
    return read_about(place).get("identity") == identity and made.is_marked and all(map(made.has, made.sizes))


def _scheduler() -> int | None:
    """The process id of the Snakemake that started this process, or None."""
    try:
        process = int(SCHEDULER.read_text())
    except (OSError, ValueError):
        return None
    return process if process in _ancestors() else None


def _ancestors() -> list[int]:
    """Process ids of the ancestors of this process, nearest first; empty without /proc."""
    found, process = [], os.getpid()
    try:
        while process > 1:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            found.append(process)
    except (OSError, ValueError):
        return found
    return found


def seed_everything(seed: int) -> None:
    """Seed the random generators of Python, NumPy and torch, as far as they are loaded."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
