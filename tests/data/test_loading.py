"""Loading ahead: the same things in the same order, whoever loads them."""

import threading
import time
from dataclasses import dataclass

import pytest
import torch

from rmlr.data.loading import VARIABLE, ahead, loader_threads, pinned

CPU = torch.device("cpu")


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_items_come_in_order_however_long_each_takes(threads):
    def load(item):
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(ahead(load, range(20), threads)) == [item * item for item in range(20)]
    assert list(ahead(load, [], threads)) == []


@pytest.mark.parametrize("threads", [0, 2])
def test_what_loading_raises_is_raised_at_its_items_turn(threads):
    def load(item):
        if item == 3:
            raise ValueError("photo 3 is cut off")
        return item

    source = ahead(load, range(9), threads)
    assert [next(source) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="photo 3 is cut off"):
        next(source)


def test_threads_prefetch_no_more_than_requested():
    asked, release = [], threading.Event()

    def load(item):
        asked.append(item)
        assert release.wait(10)
        return item

    source = ahead(load, range(100), 2)
    threading.Timer(0.05, release.set).start()
    assert next(source) == 0
    release.wait(10)
    source.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert 1 < len(asked) <= 4


def test_no_thread_is_left_behind():
    before = threading.active_count()
    source = ahead(abs, range(50), 3)
    assert next(source) == 0
    source.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert threading.active_count() == before


def test_the_machine_determines_the_number_of_loader_threads(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader_threads(CPU) == 0
    every = loader_threads(torch.device("cuda"))
    assert every >= 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(every))
    assert loader_threads(torch.device("cuda")) == 1
    monkeypatch.setenv(VARIABLE, "5")
    assert loader_threads(CPU) == 5
    monkeypatch.setenv(VARIABLE, "-1")
    with pytest.raises(ValueError, match="RMLR_LOADERS is '-1', expected a whole number"):
        loader_threads(CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU's driver pins memory")
def test_a_record_of_tensors_is_pinned_whole():
    @dataclass(frozen=True)
    class Record:
        tensor: torch.Tensor
        none: None

    (record, other) = pinned((Record(torch.ones(2), None), torch.zeros(1)))
    assert record.tensor.is_pinned()
    assert other.is_pinned()
    assert record.none is None
