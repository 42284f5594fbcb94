"""What surrounds every stage: lock, seed, device, atomic output, provenance, the tracker."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import random
import resource
import shutil
import subprocess
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

from filelock import FileLock, Timeout

from rmlr.study.section import Section
from rmlr.study.tracking import Tracker

log = logging.getLogger(__name__)

GPU_STAGES = ("detector", "features", "joints", "pose", "text", "train", "predict", "separation")
PACKAGES = ("rmlr", "torch", "transformers", "numpy")  # whose versions run.json keeps
SMALL_FILE = 1 << 20  # bytes: larger inputs are known by name and size alone
SAY_EVERY = 5.0  # seconds between two lines of progress


@dataclass
class Record:
    """One stage at work. Whatever it makes goes under `folder`, which becomes `out` when the stage has succeeded."""

    stage: str
    folder: Path
    resume: Path  # survives kill -9 and success: what the next attempt goes on from
    metrics: dict[str, float] = field(default_factory=dict)
    tracker: Tracker | None = None

    def log_metrics(self, metrics: dict[str, float], *, step: int | None = None) -> None:
        """Numbers of this stage: with a step a point of a curve, without one a result for run.json."""
        if step is None:
            self.metrics.update(metrics)
        if self.tracker is not None:
            self.tracker.add(metrics, step or 0)

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
    said: float = 0.0
    pace: deque[tuple[float, int]] = field(default_factory=lambda: deque([(time.monotonic(), 0)], maxlen=6))

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done."""
        self.done += count
        now = time.monotonic()
        if now - self.said < SAY_EVERY and self.done < self.total:
            return
        self.said = now
        since, before = self.pace[0]  # of the last half minute: what was resumed took no time
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
    """Surround a stage's work: one process a folder, a seed, a device, and an output that appears whole or not at all.

    Beside the stage's files `out` gets `run.json` and `settings.yaml`: a copy of the file `settings`, or for want of it
    the node. Work in progress is in hidden folders beside `out`: `.NAME.part` (removed by the next attempt) and
    `.NAME.resume` (kept).
    """
    for path in inputs:
        if not path.exists():
            raise ValueError(f"{path}: input of '{stage}' does not exist. Run the stage that makes it first")
    if int(os.environ.get("RANK", "0")):  # a helper of a distributed run: the first process writes
        with tempfile.TemporaryDirectory() as scratch:
            yield Record(stage, Path(scratch), _beside(out, "resume"))
        return
    meter, began = Meter(), datetime.now(UTC)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(out), _device(stage) as device:
        if seed is not None:
            seed_everything(seed)
        digests = {str(path): digest(path) for path in inputs}
        used = settings.read_text() if settings else node.dump()
        identity = hashlib.sha256(json.dumps([used, seed, list(digests.values())]).encode()).hexdigest()
        folder, resume = _beside(out, "part"), _beside(out, "resume")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        record, code = Record(stage, folder, resume), _commit()
        try:
            tracker = record.tracker = Tracker.of_stage(
                stage,
                node.model_dump(mode="json"),
                out=out,
                note=_beside(out, "mlflow"),
                seed=seed,
                identity=identity,
                settings=used,
                inputs=digests,
                code=code,
            )
            try:
                yield record
            except BaseException as error:
                tracker.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", folder)
                raise
            tracker.close("FINISHED", folder)
            (folder / "settings.yaml").write_text(used)
            about = {
                "stage": stage,
                "seed": seed,
                "settings": node.model_dump(mode="json"),
                "inputs": digests,
                "metrics": record.metrics,
                "began": began.isoformat(timespec="seconds"),
                **meter.read(),
                "processes": processes(),
                "threads": _threads(),
                "device": device,
                "host": {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()},
                "versions": {"python": platform.python_version(), **_versions()},
                "code": code,
                "mlflow_run_id": tracker.run_id,
            }
            (folder / "run.json").write_text(json.dumps(about, indent=2) + "\n")
            _swap(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def seed_everything(seed: int) -> None:
    """Fix Python's, NumPy's and torch's generators, those that are loaded."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


# ---- the output folder


def _beside(out: Path, what: str) -> Path:
    return out.parent / f".{out.name}.{what}"


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Hold the folder's lock; wait for another process that writes it, such as one whose scheduler was killed."""
    lock = FileLock(_beside(out, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is making it; waiting for its end", out)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _swap(folder: Path, out: Path) -> None:
    """Put a finished folder in the place of an older one; at every moment what stands there is whole, or nothing."""
    old = _beside(out, "old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


# ---- device


@contextmanager
def _device(stage: str) -> Iterator[str]:
    """Take a GPU for oneself, or wait for one; on a machine without any, or for a stage that needs none, the CPU.

    CUDA_VISIBLE_DEVICES set from outside says which may be taken. Processes of one distributed run (`torchrun`) share
    what is visible, one each, and lock nothing: whoever launches several means these.
    """
    gpus = visible_gpus() if stage in GPU_STAGES else []
    if not gpus or processes() > 1:
        yield ", ".join(gpus[: processes()]) or "cpu"
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpu, lock = take_one(gpus, Path(tempfile.gettempdir()))
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield gpu
    finally:
        lock.release()
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def processes() -> int:
    """How many work on this stage together: one, but for a launcher's."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def visible_gpus() -> list[str]:
    """The GPUs that CUDA may use here, by unique id, in order; found without starting CUDA."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    every = [line.strip() for line in found.stdout.splitlines() if line.strip()] if found.returncode == 0 else []
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return every
    visible = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        if name.isdigit() and int(name) < len(every):
            visible.append(every[int(name)])
        elif name.startswith(("GPU-", "MIG-")):
            visible.append(name)
        else:
            break  # as CUDA does: what follows a device that does not exist is not seen
    return visible


def take_one(gpus: Sequence[str], folder: Path) -> tuple[str, FileLock]:
    """The first GPU that no other process of ours holds, locked; waits until one is free."""
    waiting = False
    while True:
        for gpu in gpus:
            lock = FileLock(folder / f"rmlr-{os.getuid()}-{gpu}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return gpu, lock
        if not waiting:
            log.info("every GPU is taken (%s); waiting for one", ", ".join(gpus))
            waiting = True
        time.sleep(0.5)


# ---- provenance


whole_process = False
"""Set by the command line, where a process is one stage: what the imports cost counts as well."""


class Meter:
    """What a stage costs, its child processes included."""

    def __init__(self) -> None:
        now, cpu = time.time(), _cpu_seconds()
        self._since = (_process_start(), 0.0) if whole_process else (now, cpu)

    def read(self) -> dict[str, float]:
        """Seconds since the start, and the largest memory of any process so far."""
        since, cpu = self._since
        kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "wall_seconds": round(time.time() - since, 2),
            "cpu_seconds": round(_cpu_seconds() - cpu, 2),
            "peak_memory_mb": round(kilobytes / (1024 if sys.platform != "darwin" else 1 << 20), 1),
        }


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _process_start() -> float:
    """When this process began, in seconds since the epoch."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):  # no /proc
        return time.time() - time.process_time()


def digest(path: Path) -> dict[str, Any]:
    """What an input is, cheaply: names and sizes of all its files, and the content of small ones that say what made it.

    `run.json` is left out, for it says when. Pictures and weights are known by name and size.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in files if file.name != "run.json" and not file.name.startswith(".")]
    found, size = hashlib.sha256(), 0
    for file in files:
        length = file.stat().st_size
        size += length
        found.update(f"{file.relative_to(path.parent)}\0{length}\n".encode())
        if length <= SMALL_FILE and (file == path or file.suffix in (".json", ".yaml", ".csv", ".ids")):
            found.update(file.read_bytes())
    return {"files": len(files), "bytes": size, "sha256": found.hexdigest()}


def _threads() -> int:
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> dict[str, Any] | None:
    """Commit of the code at work, and whether files differ from it; None outside of git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = [*git, "status", "--porcelain", "--untracked-files=no"]
        dirty = bool(subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": dirty}
