"""Figures for print."""

import hashlib

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from rmlr.report.charts import (
    SMALL,
    Interval,
    Line,
    Marked,
    Panel,
    Picture,
    interval_chart,
    line_chart,
    picture_sheet,
    save,
)

STEPS = np.arange(1.0, 8.0)
PIXELS = np.full((30, 40, 3), 90, dtype=np.uint8)
BOXES = [1.0, 2.0, 12.0, 28.0], [20.0, 10.0, 30.0, 18.0]


def lines(count: int) -> list[Line]:
    return [Line(f"run {number}", STEPS, STEPS / (number + 1)) for number in range(count)]


def sheet(texts: list[str], human=BOXES[0], thing=BOXES[1]) -> Figure:
    return picture_sheet([("annotated", [Picture(PIXELS, [Marked(human, thing, texts)], "image 1")])], columns=4)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


DRAWN = {
    "lines": lambda: line_chart([Panel("loss", lines(8)), Panel("spread", lines(2))], columns=2, height=1.5),
    "bands": lambda: line_chart([Panel("", [Line("a", STEPS, STEPS, STEPS - 1.0, STEPS + 1.0)])], 1, 1.5),
    "intervals": lambda: interval_chart([Interval("hold", 1.0, 0.5, 2.0, True)], "A less B", "points"),
    "pictures": lambda: sheet(["hold ball 0.93", "kick ball 0.50"]),
    "no lines": lambda: line_chart([Panel("loss", [])], columns=1, height=1.5),
    "no intervals": lambda: interval_chart([], "A less B", "points"),
    "no pictures": lambda: picture_sheet([("annotated", [])], columns=4),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_a_figure_is_the_same_bytes_each_time_and_carries_no_date(kind, tmp_path):
    digests = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        save(DRAWN[kind](), tmp_path / name)
        files = [tmp_path / name / "figure.png", tmp_path / name / "figure.svg"]
        assert "<dc:date>" not in files[1].read_text()
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("kind", DRAWN)
def test_no_text_is_smaller_than_seven_points(kind):
    figure = DRAWN[kind]()
    figure.draw_without_rendering()
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert sizes
    assert min(sizes) >= SMALL


def test_lines_of_one_label_look_alike_in_all_panels_and_others_differ_without_colours():
    figure = line_chart([Panel("", lines(8)), Panel("", lines(8)[3:5])], columns=2, height=1.5)
    first, second = (axes.get_lines() for axes in figure.axes)

    def look(line) -> tuple:
        return line.get_color(), line.get_linestyle(), line.get_marker()

    assert [look(line) for line in second] == [look(line) for line in first[3:5]]
    assert len({look(line)[1:] for line in first}) == 8
    assert len({look(line)[0] for line in first}) == 8


def test_a_figure_of_nothing_says_so():
    assert words(DRAWN["no lines"]()) == ["There is nothing to draw."]
    assert "nothing to compare" in words(DRAWN["no intervals"]())[0]
    assert "no such picture" in words(DRAWN["no pictures"]())[0]


def test_an_interval_of_unknown_ends_is_a_mark_alone():
    figure = interval_chart([Interval("hold", 1.0, np.nan, np.nan, False)], "", "")
    assert [len(line.get_xdata()) for line in figure.axes[0].get_lines()] == [2, 1]  # the zero line, the mark


def test_two_pairs_are_numbered_and_one_alone_is_not():
    two = [Marked(*BOXES, ["hold ball"]), Marked(BOXES[1], BOXES[0], ["look person"])]
    numbered = words(picture_sheet([("", [Picture(PIXELS, two)])], columns=1))
    assert numbered.count("1") == 2, "on the picture and beneath it"
    assert numbered.count("2") == 2
    assert "1" not in words(sheet(["hold ball"]))


def test_a_text_that_is_too_wide_loses_its_middle():
    long = next(text for text in words(sheet([f"hold {'very ' * 30}ball 0.93"])) if text.startswith("hold"))
    assert "..." in long
    assert long.endswith("0.93")


def test_a_human_without_an_object_and_a_text_without_boxes_are_shown():
    assert "walk" in words(sheet(["walk"], thing=None))
    assert "and 3 more" in words(sheet(["and 3 more"], human=None, thing=None))
