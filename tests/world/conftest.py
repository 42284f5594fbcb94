"""Scenes and pictures that several tests of the drawn world share."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
import yaml

from rmlr.stages.draw import draw
from rmlr.world.composition import draw_scene
from rmlr.world.files import (
    SPLITS,
    draw_picture,
    orders,
    write_files,
)

SIZE = 128


@pytest.fixture(scope="module")
def elsewhere():
    """A process where shapes and types are not checked at every call: thirty times as fast."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def scenes(elsewhere):
    return list(elsewhere.map(partial(draw_scene, 3, size=SIZE), range(1500), chunksize=500))


@pytest.fixture(scope="module")
def pictures(elsewhere):
    """A small world, not painted: 600 pictures of train, 60 of val, 200 of test."""
    draw_order = partial(draw_picture, 0, SIZE)
    counts = {"train": 600, "val": 60, "test": 200}
    return {split: list(elsewhere.map(draw_order, orders(split, counts[split]), chunksize=300)) for split in SPLITS}


@pytest.fixture(scope="module")
def written(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_files(folder, [picture for split in SPLITS for picture in pictures[split]])
    return folder


def draw_world(folder, name, **world):
    settings = folder / f"{name}.yaml"
    settings.write_text(yaml.safe_dump({"code": "", "world": {"seed": 0, "size": SIZE} | world}))
    draw(settings=settings, out=folder / name)
    return folder / name
