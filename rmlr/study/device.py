"""The device of a stage: an exclusive GPU, or the CPU."""

import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

GPU_STAGES = ("detector", "features", "joints", "pose", "text", "train", "predict", "separation")


@contextmanager
def take_device(stage: str) -> Iterator[str]:
    """Lock a GPU for this process, or wait for one; without a GPU, or for a stage that needs none, use the CPU.

    CUDA_VISIBLE_DEVICES, if set, restricts the choice. The processes of one distributed run (`torchrun`) use one
    visible GPU each and lock nothing, since the user has assigned these GPUs to the run.
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
    """The number of processes of this stage: one, unless a launcher started several."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def visible_gpus() -> list[str]:
    """The unique ids of the GPUs that CUDA may use here, in order; found without initialising CUDA."""
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
            break  # as in CUDA: devices listed after an invalid one are not visible
    return visible


def take_one(gpus: Sequence[str], folder: Path) -> tuple[str, FileLock]:
    """Lock and return the first GPU that no other stage holds; waits until one is free."""
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
            log.info("all GPUs are in use (%s); waiting for one", ", ".join(gpus))
            waiting = True
        time.sleep(0.5)
