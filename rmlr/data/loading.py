"""What comes next is loaded while the caller works: by threads, and into memory from which a GPU fetches it."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
VARIABLE = "RMLR_LOADERS"


def loader_threads(device: torch.device) -> int:
    """Threads that load: RMLR_LOADERS, else a process' share of the cores where a GPU waits, none where cores compute.

    A matter of the machine, not of the study: what is loaded does not depend on it.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        if not given.isdecimal():
            raise ValueError(f"{VARIABLE} is '{given}', expected a whole number of loader threads, such as 0 or 8")
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if device.type == "cpu" else max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def ahead(load: Callable[[Item], Loaded], items: Iterable[Item], threads: int) -> Iterator[Loaded]:
    """`load` of every item, in order; up to `threads` + 1 of those to come are already asked for.

    Photos are decoded, resized and recoloured outside of Python's lock, so threads do it side by side. What `load`
    raises is raised here, at its item's turn.
    """
    if not threads:
        yield from map(load, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    waiting: deque[Future[Loaded]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(load, item))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def pinned(record: Any) -> Any:
    """The same record of tensors, in tuples and dataclasses, in memory that a GPU fetches while others compute."""
    if isinstance(record, Tensor):
        return record.pin_memory()
    if isinstance(record, tuple):
        return tuple(map(pinned, record))
    if is_dataclass(record) and not isinstance(record, type):
        return type(record)(*(pinned(getattr(record, field.name)) for field in fields(record)))
    return record
