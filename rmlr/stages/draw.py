"""The synthetic data: pictures, and their annotations in V-COCO's and HICO-DET's official formats."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from rmlr.study.nodes import DrawNode
from rmlr.study.run import run
from rmlr.study.settings import World
from rmlr.world.files import SPLITS, Drawn, Order, draw_picture, orders, write_files
from rmlr.world.picture import paint
from rmlr.world.word_files import write_word_files
from rmlr.world.word_orders import WordOrder, word_orders
from rmlr.world.word_picture import paint_words
from rmlr.world.word_scene import draw_words

CHUNK = 50  # pictures per task of a process
AnyOrder = Order | WordOrder
JPEG = {"quality": 95, "subsampling": 0}  # high quality: a face is a few pixels


def draw(*, settings: Path, out: Path) -> None:
    """Draw the synthetic pictures, and annotate them in the formats of V-COCO and HICO-DET.

    With `words`, the world of near-synonyms (docs/words.md), in V-COCO's format alone.

    Args:
        settings: this node's settings file: seed, size of a picture, and number of pictures in each split.
        out: folder to write; gets images/, and coco/, vcoco/ and hicodet/ in the layout of the official files.
    """
    chosen = DrawNode.load(settings)
    with run("draw", chosen, settings=settings, out=out, seed=chosen.world.seed) as record:
        images = record.folder / "images"
        images.mkdir()
        wanted = [order for split in SPLITS for order in _orders(chosen.world, split)]
        chunks = [wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK)]
        pictures: list[Drawn] = []
        with record.progress(len(wanted), "pictures drawn") as progress:
            for drawn in _in_order(partial(_draw_chunk, chosen.world, images), chunks):
                pictures += drawn
                progress.advance(len(drawn))
        write = write_word_files if chosen.world.words else write_files
        write(record.folder, pictures)
        interactions = sum(len(picture.scene.interactions) for picture in pictures)
        record.log_metrics({"pictures": float(len(pictures)), "interactions": float(interactions)})


def _orders(world: World, split: str) -> list[AnyOrder]:
    count = getattr(world, split)
    if world.words is not None:
        return [*word_orders(split, count, world.seed, world.words)]
    return [*orders(split, count)]


def _in_order(task: Callable[[list[AnyOrder]], list[Drawn]], chunks: list[list[AnyOrder]]) -> Iterator[list[Drawn]]:
    """The results of `task` for each chunk, in order, from as many processes as there are threads to use."""
    workers = min(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1), len(chunks))
    if workers < 2:
        yield from map(task, chunks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(task, chunks)


def _draw_chunk(world: World, images: Path, chunk: list[AnyOrder]) -> list[Drawn]:
    drawn = [
        draw_words(world.seed, world.size, order)
        if isinstance(order, WordOrder)
        else draw_picture(world.seed, world.size, order)
        for order in chunk
    ]
    for picture in drawn:
        painted = paint_words(picture.scene) if world.words else paint(picture.scene)
        painted.save(images / picture.file_name, "JPEG", **JPEG)
    return drawn
