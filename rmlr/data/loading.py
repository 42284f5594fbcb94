"""Prefetching: items are loaded by threads while the caller works, into pinned memory for a GPU."""

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
    """Number of loader threads: RMLR_LOADERS, or a process' share of the cores with a GPU, none without one.

    It depends on the machine and has no effect on results.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        if not given.isdecimal():
            raise ValueError(f"{VARIABLE} is '{given}', expected a whole number of loader threads, such as 0 or 8")
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if device.type == "cpu" else max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def ahead(load: Callable[[Item], Loaded], items: Iterable[Item], threads: int) -> Iterator[Loaded]:
    """`load` of every item, in order, with up to `threads` + 1 items in advance.

    Photos are decoded, resized and augmented outside of Python's global lock, so threads run in parallel. An error of
    `load` is raised here, when its item is due.
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
    """The same record of tensors, in tuples and dataclasses, in pinned memory for asynchronous transfer to a GPU."""
    if isinstance(record, Tensor):
        return record.pin_memory()
    if isinstance(record, tuple):
        return tuple(map(pinned, record))
    if is_dataclass(record) and not isinstance(record, type):
        return type(record)(*(pinned(getattr(record, field.name)) for field in fields(record)))
    return record
