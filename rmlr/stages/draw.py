"""The drawn world -> pictures, and their annotations in V-COCO's and HICO-DET's official layouts."""

import io
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from rmlr.data.world import HOLD, RARITIES, Deed, draw_scene
from rmlr.data.world_files import SPLITS, Drawn, file_name, image_id, write_files
from rmlr.run import run
from rmlr.settings import DrawNode, World

CHUNK = 50  # pictures that one process draws at a time
JPEG_QUALITY = 95
RARE_PICTURES = {"train": 5, "val": 1, "test": 3}  # for each rare class
SPACE = 40  # ordinary pictures that a split has, at least, for each such one

Job = tuple[str, int, tuple[Deed, str] | None]  # split, position in it, what must be seen


def draw(*, settings: Path, out: Path) -> None:
    """Draw the world's pictures, and annotate them as V-COCO and HICO-DET do."""
    chosen = DrawNode.load(settings)
    with run("draw", chosen, settings=settings, out=out, seed=chosen.world.seed) as record:
        images = record.folder / "images"
        images.mkdir()
        jobs = [job for split in SPLITS for job in _jobs(split, getattr(chosen.world, split))]
        chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
        pictures: list[Drawn] = []
        with record.progress(len(jobs), "pictures drawn") as progress:
            for drawn in _each(partial(_draw_chunk, chosen.world, images), chunks):
                pictures += drawn
                progress.advance(len(drawn))
        write_files(record.folder, pictures)
        interactions = sum(len(picture.scene.interactions) for picture in pictures)
        record.log_metrics({"pictures": len(pictures), "interactions": interactions})


def _jobs(split: str, count: int) -> list[Job]:
    """One job a picture. The first must show an interaction, and some, spread evenly, a rare one."""
    wanted: dict[int, tuple[Deed, str]] = {0: (HOLD, "ball")}
    copies = min(RARE_PICTURES[split], count // (SPACE * len(RARITIES)))
    for number in range(copies * len(RARITIES)):
        wanted[1 + number * (count - 1) // (copies * len(RARITIES))] = RARITIES[number % len(RARITIES)]
    return [(split, position, wanted.get(position)) for position in range(count)]


def _each(task: partial, chunks: list[list[Job]]) -> Iterator[list[Drawn]]:
    """Chunks done, in order; by as many processes as there are threads to use."""
    workers = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    if min(workers, len(chunks)) < 2:
        yield from map(task, chunks)
        return
    with ProcessPoolExecutor(min(workers, len(chunks)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(task, chunks)


def _draw_chunk(world: World, images: Path, jobs: list[Job]) -> list[Drawn]:
    drawn = []
    for split, position, wanted in jobs:
        number = image_id(split, position)
        picture = Drawn(split, number, file_name(split, number), draw_scene(world.seed, number, world.size, wanted))
        data = io.BytesIO()
        picture.scene.paint().save(data, "JPEG", quality=JPEG_QUALITY)
        (images / picture.file_name).write_bytes(data.getvalue())
        drawn.append(picture)
    return drawn
