"""What people do in a video: a table with a row for each triplet of each frame, and the video with its boxes drawn."""

import csv
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from rmlr.data.video import Frame, video_writer
from rmlr.learning.answers import COLUMNS
from rmlr.learning.inference import Model

COLUMNS_OF_FRAMES = {"frame": int, "seconds": float} | COLUMNS


def watch(
    model: Model,
    frames: Iterator[Frame],
    table: Path,
    film: Path,
    *,
    title: str,
    min_score: float,
    top: int,
    batch_size: int,
    rounded: Callable[[dict], dict],
    advance: Callable[[int], None],
) -> int:
    """Write the table (CSV) and the drawn video (MP4); how many triplets there are. `batch_size` frames are in memory.

    Args:
        model: what looks at them.
        frames: of the video, in order.
        table: file to write; `frame` counts from 0, `seconds` from the first frame.
        film: file to write: each frame with its `top` strongest triplets, at its time.
        title: above each frame, with its time.
        min_score: triplets below are neither written nor drawn.
        top: how many triplets are drawn.
        batch_size: frames that are seen together.
        rounded: how numbers are written.
        advance: is told how many frames are done.
    """
    found = 0
    with table.open("w", newline="", encoding="utf-8") as file, video_writer(film) as add:
        writer = csv.DictWriter(file, fieldnames=list(COLUMNS_OF_FRAMES))
        writer.writeheader()
        while chunk := list(islice(frames, batch_size)):
            answers = model.many((frame.picture for frame in chunk), min_score=min_score, batch_size=batch_size)
            for frame, answer in zip(chunk, answers, strict=True):
                place = {"frame": frame.number, "seconds": round(frame.seconds, 3)}
                writer.writerows(place | rounded(triplet.row()) for triplet in answer)
                add(frame.seconds, answer.draw(top, title=f"{title} {frame.seconds:.2f} s", lines=top))
                found += len(answer)
            advance(len(chunk))
    return found
