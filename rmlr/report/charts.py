"""Figures for print: lines, intervals and pictures in one style, the same bytes each time.

Okabe and Ito's colours, which colour-blind readers tell apart, and for grey print dashes and markers besides. Sizes are
those of a printed page; no text is smaller than 7 pt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, YELLOW = "#E69F00", "#56B4E9", "#000000", "#F0E442"
GREY = "#777777"
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "os^Dv*Pph<>"
PAIRS = (ORANGE, GREEN, PURPLE, VERMILION, SKY, YELLOW)  # of objects; persons are blue

WIDTH = 7.0  # inches: two columns of a paper
SMALL, SIZE = 7.0, 8.0  # points
DOTS = 200  # an inch
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib ships it: the same on every machine
    "font.size": SIZE,
    "axes.titlesize": SMALL,
    "axes.labelsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "rmlr",
}
DOT = {"boxstyle": "circle,pad=0.12", "linewidth": 0}

Box = Sequence[float]  # xyxy, pixels of the picture


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One curve, perhaps with a band about it. Lines of one label look alike in all panels."""

    label: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"] | None = None
    high: Float[np.ndarray, " n"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One pair of axes with its lines; None as a range: what the lines need.

    Panels with a range upwards share it with the others of their row: only the leftmost says it.
    """

    title: str
    lines: Sequence[Line]
    x_label: str = ""
    y_label: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """A named number and how far it may be off."""

    name: str
    value: float
    low: float
    high: float
    is_clear: bool


@dataclass(frozen=True, slots=True)
class Marked:
    """Two boxes on a picture, either or both, and what is said of them beneath it."""

    human: Box | None
    object: Box | None
    texts: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture, what is marked on it, and a line over it."""

    pixels: UInt8[np.ndarray, "h w 3"]
    marked: Sequence[Marked]
    title: str = ""


def save(figure: Figure, folder: Path) -> None:
    """Write figure.png and figure.svg, without dates and versions."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / "figure.png", dpi=DOTS, metadata={"Software": None})
        figure.savefig(folder / "figure.svg", dpi=DOTS, metadata={"Date": None, "Creator": None})


def line_chart(panels: Sequence[Panel], columns: int, height: float) -> Figure:
    """Panels row by row, each row `height` inches, under one legend."""
    if not any(panel.lines for panel in panels):
        return message("There is nothing to draw.")
    rows = -(-len(panels) // columns)
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    beside = _legend_columns(labels)
    with matplotlib.rc_context(STYLE):
        figure = _blank(0.2 + 0.17 * -(-len(labels) // beside) + height * rows, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        handles = {}
        for place, (at, panel) in enumerate(zip(axes, panels, strict=False)):
            says_heights = panel.y_range is None or place % columns == 0
            for line in panel.lines:
                handles.setdefault(line.label, _draw_line(at, line, labels.index(line.label)))
            at.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label if says_heights else "")
            at.set_xlim(panel.x_range)
            at.set_ylim(panel.y_range)
            is_counted = all((line.x == line.x.round()).all() for line in panel.lines)
            at.locator_params(axis="x", nbins=4, integer=is_counted)
            at.locator_params(axis="y", nbins=4)
            at.tick_params(labelleft=says_heights)
        for at in axes[len(panels) :]:
            at.axis("off")
        figure.legend([handles[label] for label in labels], labels, loc="outside upper center", ncols=beside)
    return figure


def interval_chart(intervals: Sequence[Interval], title: str, x_label: str) -> Figure:
    """Numbers with their intervals, one beneath the other; full markers and black where 0 is left out."""
    if not intervals:
        return message("There is nothing to compare: no class has a positive.")
    with matplotlib.rc_context(STYLE):
        figure = _blank(0.8 + 0.16 * len(intervals), layout="constrained")
        at = figure.subplots()
        at.axvline(0, color=GREY, linewidth=0.8)
        for place, one in enumerate(intervals):
            colour = BLUE if one.is_clear else GREY
            if not np.isnan(one.low):
                at.plot([one.low, one.high], [place, place], color=colour, linewidth=1.6 if one.is_clear else 1.0)
            at.plot(one.value, place, "o", color=colour, markerfacecolor=colour if one.is_clear else "white")
        at.set_yticks(range(len(intervals)), [one.name for one in intervals])
        at.set_ylim(len(intervals) - 0.4, -0.6)
        at.set(title=title, xlabel=x_label)
        at.grid(visible=False, axis="y")
    return figure


def scatter_chart(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], title: str, x_label: str, y_label: str
) -> Figure:
    """A point for each pair of numbers."""
    if not len(x):
        return message("There is nothing to compare: no two verbs were seen together.")
    with matplotlib.rc_context(STYLE):
        figure = _blank(3.0, layout="constrained")
        at = figure.subplots()
        at.plot(x, y, "o", color=BLUE, markerfacecolor="none")
        at.set(title=title, xlabel=x_label, ylabel=y_label)
    return figure


def picture_sheet(rows: Sequence[tuple[str, Sequence[Picture]]], columns: int) -> Figure:
    """Named rows of pictures, what is marked on each told beneath it.

    The human's box is blue and solid, the object's dashed; a line joins the two, a number and a colour both with texts.
    """
    rows = [(name, pictures) for name, pictures in rows if pictures]
    if not rows:
        return message("There is no such picture in this split.")
    margin, gap, title, leading = 0.25, 0.08, 0.16, 0.135  # inches
    width = (WIDTH - margin) / columns - gap
    tall = [max(picture.pixels.shape[0] / picture.pixels.shape[1] for picture in row) * width for _, row in rows]
    beneath = [max(sum(len(mark.texts) for mark in picture.marked) for picture in row) for _, row in rows]
    heights = [title + high + 0.06 + leading * count + gap for high, count in zip(tall, beneath, strict=True)]
    top = whole = sum(heights)
    with matplotlib.rc_context(STYLE):
        figure = _blank(whole)

        def write(x: float, y: float, text: str, **more) -> None:
            figure.text(x / WIDTH, y / whole, text, fontsize=SMALL, **more)

        for (name, row), high, height in zip(rows, tall, heights, strict=True):
            bottom = top - title - high
            write(margin / 2, bottom + high / 2, name, rotation=90, ha="center", va="center")
            for column, picture in enumerate(row):
                left = margin + column * (width + gap)
                at = figure.add_axes((left / WIDTH, bottom / whole, width / WIDTH, high / whole))
                at.imshow(picture.pixels, interpolation="bicubic")
                at.set_anchor("N")
                at.axis("off")
                write(left, top - title + 0.03, _fit(picture.title, width))
                for place, (number, colour, text) in enumerate(_mark(at, picture, width)):
                    y, indent = bottom - 0.05 - leading * (place + 0.5), 0.16 if number else 0.0
                    if number:
                        write(left + 0.06, y, number, ha="center", va="center", bbox=DOT | {"facecolor": colour})
                    write(left + indent, y, _fit(text, width - indent), va="center_baseline")
            top -= height
    return figure


def message(text: str) -> Figure:
    """A figure that says why there is none."""
    with matplotlib.rc_context(STYLE):
        figure = _blank(1.0)
        figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    return figure


def _blank(height: float, **more) -> Figure:
    figure = Figure(figsize=(WIDTH, height), **more)
    FigureCanvasAgg(figure)
    return figure


def _legend_columns(labels: Sequence[str]) -> int:
    widest = max(TextPath((0, 0), label, size=SMALL).get_extents().width for label in labels) / 72
    return int(np.clip(WIDTH // (widest + 0.6), 1, len(labels)))


def _draw_line(at, line: Line, number: int):
    colour = LINES[number % len(LINES)]
    if line.low is not None and line.high is not None:
        at.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    every = max(1, len(line.x) // 6)
    first = number * max(1, every // 4) % every  # markers of different lines stand apart
    (handle,) = at.plot(
        line.x,
        line.y,
        color=colour,
        linestyle=DASHES[number % len(DASHES)],
        marker=MARKERS[number % len(MARKERS)],
        markevery=(first, every),
    )
    return handle


def _mark(at, picture: Picture, width: float) -> list[tuple[str, str, str]]:
    """Draw the boxes; what is to be written beneath: number, colour, text. One pair alone needs no number."""
    height_px, width_px = picture.pixels.shape[:2]
    unit = width_px / width / 72  # pixels of the picture in a point of print
    texts: list[tuple[str, str, str]] = []
    taken: list[np.ndarray] = []
    drawn: list[Box] = []
    for number, mark in enumerate(picture.marked):
        colour = PAIRS[number % len(PAIRS)]
        if mark.human is not None and mark.human not in drawn:
            _draw_box(at, mark.human, BLUE, "-")
            drawn.append(mark.human)
        if mark.object is not None:
            ring = 2.4 * unit * drawn.count(mark.object)  # one more about a box that has been drawn
            _draw_box(at, [*(edge - ring for edge in mark.object[:2]), *(edge + ring for edge in mark.object[2:])],
                      colour, (0, (3, 1.5)))  # fmt: skip
            drawn.append(mark.object)
        name = str(number + 1) if len(picture.marked) > 1 and mark.human is not None else ""
        texts += [(name, colour, text) for text in mark.texts]
        if mark.human is not None and mark.object is not None:
            ends = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (mark.human, mark.object)]
            for edge, thick in (("white", 1.8), (colour, 0.9)):
                at.plot(*zip(*ends, strict=True), color=edge, linewidth=thick)
            if not name:
                continue
            taken.append(_free_place(np.asarray(mark.human), np.asarray(mark.object), taken, 10 * unit))
            x, y = np.clip(taken[-1], 4 * unit, np.array([width_px, height_px]) - 4 * unit)
            dot = DOT | {"facecolor": colour, "edgecolor": "white", "linewidth": 0.6}
            at.text(x, y, name, fontsize=SMALL, ha="center", va="center", bbox=dot)
    at.set_xlim(-0.5, width_px - 0.5)
    at.set_ylim(height_px - 0.5, -0.5)
    return texts


def _draw_box(at, box: Box, colour: str, dash: Any) -> None:
    """A box edged in white, to be seen on any picture."""
    for edge, width, line in (("white", 2.4, "-"), (colour, 1.4, dash)):
        size = box[2] - box[0], box[3] - box[1]
        at.add_patch(Rectangle((box[0], box[1]), *size, fill=False, edgecolor=edge, linewidth=width, linestyle=line))


def _free_place(
    human: Float[np.ndarray, " 4"], thing: Float[np.ndarray, " 4"], taken: Sequence[np.ndarray], distance: float
) -> Float[np.ndarray, " 2"]:
    """Where on a pair its number hides no other: at a corner of the object, else on the line between the centres."""
    start, end = ((box[:2] + box[2:]) / 2 for box in (human, thing))
    places = [np.array([x, y]) for y in thing[[1, 3]] for x in thing[[2, 0]]]
    places += [start + (end - start) * along for along in (0.5, 0.7, 0.3)]
    room = [min((float(np.linalg.norm(place - other)) for other in taken), default=np.inf) for place in places]
    best = next((index for index, space in enumerate(room) if space >= distance), room.index(max(room)))
    return places[best]


def _fit(text: str, width: float) -> str:
    """A text no wider than so many inches: its middle left out, if need be."""
    kept, shown = len(text), text
    while kept > 2 and TextPath((0, 0), shown, size=SMALL).get_extents().width > 72 * width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return shown
