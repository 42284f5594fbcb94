"""What surrounds every stage: lock, seed, device, atomic output, provenance, MLflow.

Tracking by MLflow is a notebook, never the source of a number: it is off where mlflow is not installed or where
RMLR_TRACKING=off, and a failing tracker stops nothing. Its store is MLFLOW_TRACKING_URI, else `mlflow.db` where the
command is run.
"""

import hashlib
import importlib.metadata
import importlib.util
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rmlr.settings import Section

log = logging.getLogger(__name__)

GPU_STAGES = ("detector", "features", "pose", "text", "train", "predict")
PACKAGES = ("rmlr", "torch", "transformers", "numpy")  # whose versions run.json keeps
SMALL_FILE = 1 << 20  # bytes: larger inputs are known by name and size alone
SAY_EVERY = 5.0  # seconds between two lines of progress
POINTS_AT_ONCE = 25  # of a curve, to the tracker
SEND_EVERY = 10.0  # seconds, at most, that points wait
MLFLOW_DEFAULTS = {  # no telemetry; a server that is gone is given up within a minute, not within five
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass
class Record:
    """One stage at work. Whatever it makes goes under `folder`, which becomes `out` when the stage has succeeded."""

    stage: str
    folder: Path
    resume: Path  # survives kill -9 and success: what the next attempt goes on from
    metrics: dict[str, float] = field(default_factory=dict)
    tracker: "Tracker | None" = None

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
        record = Record(stage, folder, resume)
        try:
            with tracked(record, node, out=out, seed=seed, identity=identity, settings=used) as tracker:
                record.tracker = tracker
                yield record
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
                "code": _commit(),
                "mlflow_run_id": tracker.run_id if tracker else None,
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


# ---- MLflow


@contextmanager
def tracked(
    record: Record, node: Section, *, out: Path, seed: int | None, identity: str, settings: str
) -> Iterator["Tracker | None"]:
    """The MLflow run that a stage belongs to: `train` opens it, `evaluate` adds to the one of the `train` beside it."""
    tracker = None
    if os.environ.get("RMLR_TRACKING", "on") != "off" and importlib.util.find_spec("mlflow") is not None:
        if record.stage == "train":
            tracker = Tracker.open(node.model_dump(mode="json"), seed, identity, _beside(out, "mlflow"), settings)
        elif record.stage == "evaluate" and (beside := out.parent / "train" / "run.json").is_file():
            tracker = Tracker.join(beside)
    if tracker is None:
        yield None
        return
    try:
        yield tracker
    except BaseException as error:
        tracker.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.close("FINISHED")


class Tracker:
    """One run in MLflow. Whatever fails here is said once, as a warning, and ends the tracking, not the stage."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._client: Any = None
        self._opened = self._lost = False
        self._points: list[tuple[str, float, int, int]] = []  # key, value, milliseconds, step
        self._sent = time.monotonic()

    @classmethod
    def open(cls, node: dict[str, Any], seed: int | None, identity: str, note: Path, settings: str) -> "Tracker":
        """A new run of these settings, or the one of an interrupted attempt, whose id `note` keeps."""
        tracker = cls()
        tracker._opened = True
        tags = {**node["tags"], "seed": str(seed)}

        def begin() -> None:
            with _connected() as client:
                tracker._client = client
                name = f"rmlr-{tags['profile']}"
                experiment = client.get_experiment_by_name(name)
                place = experiment.experiment_id if experiment else client.create_experiment(name)
                kept = json.loads(note.read_text()) if note.is_file() else {}
                if kept.get("identity") == identity and _knows(client, kept["run_id"]):
                    tracker.run_id = kept["run_id"]
                    client.update_run(tracker.run_id, status="RUNNING")
                    return
                code = _commit()
                more = {"mlflow.source.git.commit": code["commit"]} if code else {}
                title = f"{tags['run']} seed {seed}"
                tracker.run_id = client.create_run(place, tags={**tags, **more}, run_name=title).info.run_id
                note.write_text(json.dumps({"identity": identity, "run_id": tracker.run_id}))
            from mlflow.entities import Param

            numbers = {key: value for key, value in node.items() if key not in ("tags", "code")} | {"seed": seed}
            params = [Param(key, str(value)) for key, value in _flat(numbers)]
            client.log_batch(tracker.run_id, params=params)
            client.log_text(tracker.run_id, settings, "settings.yaml")

        tracker._attempt("opening a run", begin)
        return tracker

    @classmethod
    def join(cls, trained: Path) -> "Tracker":
        """The run that a training's run.json names, to add results to; none where that was not tracked."""
        tracker = cls()

        def begin() -> None:
            run_id = json.loads(trained.read_text())["mlflow_run_id"]
            if run_id is None:
                tracker._lost = True
                return
            with _connected() as client:
                client.get_run(run_id)
                tracker._client, tracker.run_id = client, run_id

        tracker._attempt("finding the run", begin)
        return tracker

    def add(self, metrics: dict[str, float], step: int) -> None:
        """Numbers of a step; sent a few at once, as a database wants them."""
        now = time.time_ns() // 1_000_000
        self._points += [(key, float(value), now, step) for key, value in metrics.items()]
        if len(self._points) >= POINTS_AT_ONCE or time.monotonic() - self._sent > SEND_EVERY:
            self._attempt("sending metrics", self._send)

    def close(self, status: str) -> None:
        """Send what waits; whoever opened the run also says how it ended."""
        self._attempt("sending metrics", self._send)
        if self._opened:
            self._attempt("closing the run", lambda: self._client.set_terminated(self.run_id, status))

    def _send(self) -> None:
        from mlflow.entities import Metric

        points, self._points, self._sent = self._points, [], time.monotonic()
        for start in range(0, len(points), 1000):  # MLflow's limit
            self._client.log_batch(self.run_id, metrics=[Metric(*point) for point in points[start : start + 1000]])

    def _attempt(self, doing: str, action: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            action()
        except Exception as error:
            self._lost = True
            log.warning("MLflow: %s failed, this stage goes on untracked (its numbers are in files): %s", doing, error)


def tracking_uri() -> str:
    """The user's tracking server, else `mlflow.db` here; call it before mlflow is imported, whose defaults it sets."""
    for name, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


@contextmanager
def _connected() -> Iterator[Any]:
    """A client of the user's tracking server, else of `mlflow.db` here."""
    uri = tracking_uri()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not uri.startswith("sqlite:///"):
        yield MlflowClient(tracking_uri=uri)
        return
    # One process at a time, for those that start together would make the same tables; and a new database is made aside,
    # for one that was killed half-way could not be used again.
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    with FileLock(f"{path}.lock"):
        if not path.exists():
            aside = path.with_name(f"{path.name}.part")
            for left in path.parent.glob(f"{aside.name}*"):
                left.unlink()
            MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments()
            aside.replace(path)
        yield MlflowClient(tracking_uri=uri)


def _knows(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


def _flat(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
