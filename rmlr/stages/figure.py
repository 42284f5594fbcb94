"""Test pictures with a run's strongest triplets, beside what was annotated."""

from pathlib import Path

import numpy as np

from rmlr.data.images import read_image
from rmlr.data.pictures import annotated_triplets, draw_triplets, sheet
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.data.triplets import load_triplets
from rmlr.hoi import Triplets
from rmlr.run import run
from rmlr.settings import FigureNode


def figure(*, settings: Path, annotations: Path, images: Path, triplets: Path, out: Path) -> None:
    """Draw test pictures with their strongest predicted triplets beside the annotated ones.

    The pictures are taken evenly over those with an annotated interaction, not chosen for their scores.

    Args:
        settings: this figure's settings file: how many pictures, and how many triplets on each.
        annotations: folder made by `prepare`.
        images: folder of the photos.
        triplets: Parquet table of scored triplets, made by `predict`.
        out: folder to write; gets figure.png.
    """
    chosen = FigureNode.load(settings)
    with run("figure", chosen, settings=settings, out=out, inputs=[annotations, images, triplets]) as record:
        vocabulary, predicted = load_vocabulary(annotations), load_triplets(triplets)
        shown = [item for item in load_annotations(annotations, "test") if len(annotated_triplets(item).verb)]
        taken = np.linspace(0, len(shown) - 1, min(chosen.figure.images, len(shown))).round().astype(int)
        pages = []
        for item in (shown[index] for index in taken):
            picture = read_image(images / item.file_name)
            rows = np.flatnonzero(predicted.image_id == item.image_id)
            of_image = Triplets(*(getattr(predicted, name)[rows] for name in Triplets.__slots__))
            limit = chosen.figure.triplets
            pages.append(
                draw_triplets(picture, annotated_triplets(item), vocabulary, limit, f"{item.image_id} annotated")
            )
            pages.append(draw_triplets(picture, of_image, vocabulary, limit, f"{item.image_id} predicted"))
        sheet(pages, 2 * chosen.figure.columns).save(record.folder / "figure.png")
