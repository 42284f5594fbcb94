"""Pictures for people: every triplet asked for is on the page, and nothing is needed to draw none."""

import numpy as np
import pytest
from PIL import Image

from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary
from rmlr.report.pictures import (
    MAX_SIDE,
    MIN_WIDTH,
    PAIRS,
    annotated_triplets,
    draw_phrases,
    draw_triplets,
    draw_weights,
    sheet,
)


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


def colours(page) -> dict:
    return {colour: count for count, colour in page.getcolors(maxcolors=1_000_000)}


def test_two_persons_who_do_something_to_each_other_keep_both_numbers():
    boxes = np.array([[40, 40, 140, 200], [200, 40, 300, 200]], dtype=np.float32)
    black = Image.new("RGB", (360, 240))
    one = colours(draw_phrases(black, boxes[:1], boxes[1:], ["person look person"], ""))
    both = colours(draw_phrases(black, boxes, boxes[::-1], ["person look person", "person hug person"], ""))
    disc = 0.9 * np.pi * (0.55 * 13) ** 2
    for colour in PAIRS[:2]:
        assert (
            both[colour] > 2 * disc - 100
        )  # its disc on the picture, less a digit and a line, and the one in the text
    assert both[PAIRS[0]] > one[PAIRS[0]] / 2


@pytest.mark.parametrize("size", [(6000, 4000), (4000, 6000), (20, 10), (30, 3000), (3000, 30), (1, 1)])
def test_a_page_can_be_read_whatever_the_size_of_the_picture(size):
    box = np.array([[0.1, 0.1, 0.9, 0.9]]) * np.tile(size, 2)
    text = "person talk on phone with a very long name of a thing 0.50"
    page = draw_phrases(Image.new("RGB", size), box, box, [text], "a long name of a file, as cameras give them.jpg")
    map_page = draw_weights(Image.new("RGB", size), *box.tolist(), *box.tolist(), {"cue": np.ones((2, 3))},
                            (size[1] / 2, size[0] / 3), text)  # fmt: skip
    for made in (page, map_page):
        assert MIN_WIDTH <= made.width <= MAX_SIDE + 20
        assert made.height <= MAX_SIDE + 200
    assert min(colours(page).values()) >= 1
    ink = np.asarray(page.convert("L"))
    assert (ink[:, -6:] == 255).all()  # no text runs out of the page


def test_nothing_to_say_leaves_the_picture_alone():
    nothing = np.zeros((0, 4))
    page = draw_phrases(Image.new("RGB", (360, 240), (9, 9, 9)), nothing, nothing, [], "nothing")
    assert colours(page)[(9, 9, 9)] == 360 * 240


def test_the_hottest_spot_is_where_the_largest_weight_lies():
    weights = np.zeros((4, 6), dtype=np.float32)
    weights[3, 1] = 0.5
    maps, corner = {"one": weights, "two": 0 * weights}, [0.0, 0.0, 1.0, 1.0]
    page = draw_weights(Image.new("RGB", (360, 240)), corner, corner, maps, (60.0, 60.0), "")
    top = (page.height - 240) // 2  # two lines of text and two borders
    heat = np.asarray(page.convert("L"))[top : top + 240]
    one, two = heat[:, 8 : 8 + 360], heat[:, 16 + 360 : 16 + 720]
    assert one[3 * 60 + 30, 60 + 30] == one[9:, 9:].max() > two[9:, 9:].max()
    assert two[9:, 9:].min() == two[9:, 9:].max()
