"""The provenance of a result: digests of inputs, versions, time and memory."""

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmlr.study.device import processes

PACKAGES = ("rmlr", "torch", "transformers", "numpy")  # their versions are recorded in run.json
PACKAGE = Path(__file__).parents[1]


command: list[str] | None = None
"""The arguments of the command `rmlr`, which sets this: the process is then one stage, and imports are timed, too."""


class Meter:
    """Measures the cost of a stage, including its child processes."""

    def __init__(self) -> None:
        now, cpu = time.time(), _cpu_seconds()
        self._since = (_process_start(), 0.0) if command is not None else (now, cpu)

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
    """The start time of this process, in seconds since the epoch."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):  # no /proc
        return time.time() - time.process_time()


def visible_files(path: Path) -> list[Path]:
    """All files of a folder, or the file `path` itself, without hidden ones, sorted by name."""
    if path.is_file():
        return [] if path.name.startswith(".") else [path]
    found = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in found if not any(name.startswith(".") for name in file.relative_to(path).parts))


def identity(
    stage: str,
    seed: int | None,
    settings: str,
    node: Mapping[str, Any],
    inputs: Sequence[Path],
    apart: Sequence[Path],
    instead: Sequence[str] | None = None,
) -> str | None:
    """A digest that is equal if this call of `rmlr` would repeat an earlier one; None outside of the command `rmlr`.

    In doubt it differs, and the work is repeated. It covers the command with its folder, seed, settings, our code,
    versions, and the name, size and times of change of every file that the command, the settings or `inputs` name, or
    that is below such a folder. Any edit changes these times. Paths in `apart` are left out (the output, and the
    settings file, whose times are set by the planning). `instead` is the command that does this part of the process'
    work alone, where it does more.
    """
    if command is None:
        return None
    called = list(command if instead is None else instead)
    about = [stage, seed, called, str(Path.cwd()), settings, processes(), versions(), platform.python_version()]
    found = hashlib.sha256(json.dumps(about).encode())
    for file in sorted(PACKAGE.rglob("*.py")):
        found.update(f"{file.relative_to(PACKAGE)}\0".encode() + file.read_bytes())
    named = [part for argument in called for part in (argument, argument.partition("=")[2])]
    paths = {path.resolve() for path in (*inputs, *(Path(text) for text in [*named, *_texts(node)] if _is_path(text)))}
    away = [path.resolve() for path in apart]
    for path in sorted(paths):
        for file in [path] if path.is_file() else visible_files(path):
            if not any(file.is_relative_to(one) for one in away):
                state = file.stat()
                times = f"\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n"
                found.update(os.fsencode(file) + times.encode())
    return found.hexdigest()


def _texts(value: Any) -> Iterator[str]:
    """All texts of nested settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _is_path(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long for one
        return False


def threads() -> int:
    """The number of computing threads."""
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def host() -> dict[str, Any]:
    """The machine. Floating-point sums depend on its processor and on the vector instructions that torch uses there."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    found = {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()}
    found["processor"] = model or platform.processor()
    if "torch" in sys.modules:
        found["instructions"] = sys.modules["torch"].backends.cpu.get_cpu_capability()
    return found


def versions() -> dict[str, str]:
    """The installed versions of the packages that numbers depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any] | None:
    """The commit of the running code, and whether files but results differ from it; None outside of git."""
    git = ["git", "-C", str(PACKAGE)]
    try:
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = [*git, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results"]
        dirty = bool(subprocess.run(changes, capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": found, "dirty": dirty}
