"""Pictures for people: every triplet asked for is on the page, and nothing is needed to draw none."""

import numpy as np
import pytest
from PIL import Image

from rmlr.data.pictures import annotated_triplets, draw_triplets, sheet
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(
        dataset="vcoco",
        objects=("person", "ball"),
        person=0,
        verbs=("hold obj", "hit instr"),
        hois=((0, 1), (1, 1)),
    )


def triplets(rows: int) -> Triplets:
    return Triplets(
        image_id=np.zeros(rows, dtype=np.int64),
        human_boxes=np.tile(np.array([10, 10, 40, 90], dtype=np.float32), (rows, 1)),
        object_boxes=np.tile(np.array([50, 20, 80, 50], dtype=np.float32), (rows, 1)),
        object_category=np.ones(rows, dtype=np.int64),
        verb=np.zeros(rows, dtype=np.int64),
        score=np.linspace(0.9, 0.1, rows, dtype=np.float32),
    )


def test_a_page_shows_both_boxes_in_their_colours(vocabulary):
    page = draw_triplets(Image.new("RGB", (360, 240)), triplets(1), vocabulary, limit=3, title="one")
    colours = {colour for _, colour in page.getcolors(maxcolors=100_000)}
    assert (0, 114, 178) in colours  # the person
    assert (230, 159, 0) in colours  # the object of the first pair


def test_a_picture_without_triplets_keeps_its_pixels(vocabulary):
    page = draw_triplets(Image.new("RGB", (360, 240), (9, 9, 9)), triplets(0), vocabulary, limit=3, title="")
    assert page.getpixel((100, 100)) == (9, 9, 9)


def test_pages_of_a_sheet_do_not_overlap(vocabulary):
    pages = [Image.new("RGB", (10, 20), colour) for colour in ("red", "green", "blue")]
    whole = sheet(pages, columns=2)
    assert whole.size == (20, 40)
    assert whole.getpixel((5, 30)) == (0, 0, 255)


def test_annotated_interactions_without_a_box_are_not_drawn():
    annotation = Annotation(
        image_id=7,
        file_name="a.jpg",
        height=100,
        width=100,
        boxes=np.array([[0, 0, 10, 10], [20, 20, 30, 30]], dtype=np.float64),
        labels=np.array([0, 1]),
        interactions=np.array([[0, 0, 1], [0, 1, NO_BOX]]),
        is_crowd=np.zeros(2, dtype=bool),
        is_listed=np.array([True, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )
    drawn = annotated_triplets(annotation)
    assert drawn.verb.tolist() == [0]
    assert drawn.image_id.tolist() == [7]
