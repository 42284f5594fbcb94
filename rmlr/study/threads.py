"""The number of computing threads of each stage. It affects results, since it changes the order of sums.

So it is the same on every machine, whatever number of cores Snakemake is given. Threads that load photos do not compute
(`rmlr.data.loading`). `draw` and `cost` are not listed: `draw` makes the same pictures with any number, and `cost`
measures time.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

THREADS = {
    "prepare": 1,
    "detector": 2,
    "features": 2,
    "joints": 1,
    "pose": 2,
    "text": 1,
    "train": 1,
    "predict": 1,
    "evaluate": 1,
    "table": 1,
    "separation": 1,
    "figure": 1,
    "statement": 1,
}
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read once, when a library is loaded

# How often GNU OpenMP looks for the end of another thread's work before it sleeps: some 0.01 ms, in place of 4 ms. On a
# busy machine the other thread often waits for a core, and two threads of a detector took six times the CPU time.
SPIN = {"GOMP_SPINCOUNT": "1000"}


def fix_threads(stage: str) -> None:
    """Set the number of threads of a stage's libraries, before any of them is loaded."""
    for name, value in SPIN.items():
        os.environ.setdefault(name, value)
    if stage in THREADS:
        os.environ.update(dict.fromkeys(VARIABLES, str(THREADS[stage])))


@contextmanager
def computing(stage: str) -> Iterator[None]:
    """While a stage runs, also inside a process that does other work: set torch's number of threads."""
    if stage not in THREADS or "torch" not in sys.modules:
        yield
        return
    torch = sys.modules["torch"]
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS[stage])
    try:
        yield
    finally:
        torch.set_num_threads(before)
