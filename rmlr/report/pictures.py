"""A picture with its strongest triplets, or with maps of weights, drawn on it."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from rmlr.hoi import Annotation, Triplets, Vocabulary

# Okabe and Ito's palette, which colour-blind readers can tell apart; persons are blue, objects have the pair's colour
PERSON = (0, 114, 178)
PAIRS = ((230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66))
COLD, HOT = (48, 18, 59), ((122, 4, 90), (220, 60, 30), (255, 170, 0), (255, 250, 160))  # of weights: 0, up to 1
BORDER = 8  # pixels around the picture
MIN_WIDTH, MAX_SIDE = 360, 1280  # pixels; other pictures are enlarged or reduced, so that labels stay legible


def annotated_triplets(annotation: Annotation) -> Triplets:
    """The annotated interactions that have both boxes, as triplets of score 1."""
    rows = annotation.interactions[annotation.interactions[:, 2] >= 0]
    return Triplets(
        image_id=np.full(len(rows), annotation.image_id, dtype=np.int64),
        human_boxes=annotation.boxes[rows[:, 0]].astype(np.float32),
        object_boxes=annotation.boxes[rows[:, 2]].astype(np.float32),
        object_category=annotation.labels[rows[:, 2]].astype(np.int64),
        verb=rows[:, 1].astype(np.int64),
        score=np.ones(len(rows), dtype=np.float32),
    )


def draw_triplets(
    picture: Image.Image, triplets: Triplets, vocabulary: Vocabulary, limit: int, title: str
) -> Image.Image:
    """One picture, the boxes of its `limit` strongest triplets, and beneath it their phrases and scores.

    `triplets` are those of this picture.
    """
    strongest = np.argsort(-triplets.score, kind="stable")[:limit]
    texts = []
    for row in strongest:
        label = int(triplets.object_category[row])  # -1 in V-COCO's official form, which has no object classes
        phrase = vocabulary.phrase(int(triplets.verb[row]), label if label >= 0 else None)
        texts.append(f"{phrase} {triplets.score[row]:.2f}")
    boxes = triplets.human_boxes[strongest], triplets.object_boxes[strongest]
    return draw_phrases(picture, *boxes, texts, title, lines=limit)


def draw_phrases(
    picture: Image.Image,
    human_boxes: Float[np.ndarray, "t 4"],
    object_boxes: Float[np.ndarray, "t 4"],
    texts: Sequence[str],
    title: str,
    *,
    lines: int = 0,
) -> Image.Image:
    """One picture with pairs of boxes, and beneath it a text for each, with space for at least `lines` lines.

    Texts of one pair share a number, a line and a colour. A box that is already drawn, as a person or as the object of
    another pair, gets one more ring.
    """
    canvas, scale = _scaled(picture, MIN_WIDTH, MAX_SIDE)
    pairs: dict[tuple[float, ...], list[str]] = {}
    for human, object_, text in zip(human_boxes, object_boxes, texts, strict=True):
        pairs.setdefault((*human.tolist(), *object_.tolist()), []).append(text)

    page, pen, font, line_height = _page([canvas], title, max(lines, len(texts)))
    size, stroke = font.size, max(2, canvas.width // 200)
    place = np.tile([BORDER, BORDER + line_height], 2)
    corners = [np.asarray(pair).reshape(2, 4) * scale + place for pair in pairs]
    drawn = Counter({tuple(human): 1 for human, _ in corners})
    for human in drawn:
        _draw_box(pen, np.array(human), PERSON, stroke)
    labels: list[np.ndarray] = []
    for number, (human, object_) in enumerate(corners):
        _draw_box(pen, object_, _colour(number), stroke, ring=drawn[tuple(object_)])
        drawn[tuple(object_)] += 1
        _draw_line(pen, human, object_, _colour(number), stroke)
        labels.append(_free_place(human, object_, labels, 1.2 * size))
    for number, centre in enumerate(labels):
        _label(pen, centre, str(number + 1), _colour(number), font, 0.55 * size)
    height = canvas.height + BORDER + line_height
    for number, said in enumerate(pairs.values()):
        for text in said:
            _label(pen, (BORDER + size * 0.6, height + size * 0.6), str(number + 1), _colour(number), font, 0.55 * size)
            shown = _fit(text, font, round(page.width - 2 * BORDER - 1.5 * size))
            pen.text((BORDER + size * 1.5, height), shown, fill="black", font=font)
            height += line_height
    return page


def draw_weights(
    picture: Image.Image,
    human_box: Sequence[float],
    object_box: Sequence[float],
    maps: Mapping[str, Float[np.ndarray, "h w"]],
    cell_size: tuple[float, float],
    title: str,
) -> Image.Image:
    """One picture for each map of weights, side by side, its name beneath: a heat map on the picture in grey.

    A map's cells lie on the picture from its top left corner, `cell_size` (height and width) pixels each. Its largest
    weight has the hottest colour.
    """
    canvas, scale = _scaled(picture, MIN_WIDTH, MAX_SIDE // 2)
    stroke = max(2, canvas.width // 250)
    panels = []
    for weights in maps.values():
        panel = _heated(canvas, weights, (cell_size[0] * scale, cell_size[1] * scale))
        for box, colour in ((human_box, PERSON), (object_box, PAIRS[0])):
            _draw_box(ImageDraw.Draw(panel), np.asarray(box) * scale, colour, stroke)
        panels.append(panel)
    page, pen, font, line_height = _page(panels, title, 1)
    for position, name in enumerate(maps):
        place = BORDER + position * (canvas.width + BORDER), canvas.height + BORDER + line_height
        pen.text(place, _fit(name, font, canvas.width), fill="black", font=font)
    return page


def sheet(pages: list[Image.Image], columns: int) -> Image.Image:
    """Pages side by side, row by row, on white."""
    width, height = max(page.width for page in pages), max(page.height for page in pages)
    rows = -(-len(pages) // columns)
    whole = Image.new("RGB", (width * min(columns, len(pages)), height * rows), "white")
    for position, page in enumerate(pages):
        whole.paste(page, (position % columns * width, position // columns * height))
    return whole


def _scaled(picture: Image.Image, min_width: int, max_side: int) -> tuple[Image.Image, float]:
    """A picture at a size at which lines and numbers can be read, and the factor by which it was scaled."""
    scale = min(max(1.0, min_width / picture.width), max_side / max(picture.size))
    sides = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(sides, Image.Resampling.BICUBIC), scale


def _page(panels: Sequence[Image.Image], title: str, lines: int):
    """A white page, panels side by side beneath a title with space for lines of text; pen, font, height of a line."""
    inner = max(sum(panel.width + BORDER for panel in panels) - BORDER, MIN_WIDTH)
    font = ImageFont.load_default(size=min(max(round(panels[0].width / 28), 13), 28))
    assert isinstance(font, ImageFont.FreeTypeFont)
    line_height = round(font.size * 1.35)
    height = panels[0].height + 2 * BORDER + line_height * (1 + lines)
    page = Image.new("RGB", (inner + 2 * BORDER, height), "white")
    left = BORDER
    for panel in panels:
        page.paste(panel, (left, BORDER + line_height))
        left += panel.width + BORDER
    pen = ImageDraw.Draw(page)
    pen.text((BORDER, 2), _fit(title, font, inner), fill="black", font=font)
    return page, pen, font, line_height


def _draw_box(
    pen: ImageDraw.ImageDraw, box: Float[np.ndarray, " 4"], colour: tuple[int, int, int], stroke: int, ring: int = 0
) -> None:
    """A box with a white edge, visible on any picture; ring 0 is the box itself, each further one lies around it."""
    for edge, fill in ((1, (255, 255, 255)), (0, colour)):
        margin = edge + ring * (stroke + 2)
        pen.rectangle([*(box[:2] - margin), *(box[2:] + margin)], outline=fill, width=stroke + 2 * edge)


def _draw_line(
    pen: ImageDraw.ImageDraw,
    human: Float[np.ndarray, " 4"],
    object_: Float[np.ndarray, " 4"],
    colour: tuple[int, int, int],
    stroke: int,
) -> None:
    """A line from the centre of one box to that of the other, with a white edge."""
    ends = [tuple(((box[:2] + box[2:]) / 2).tolist()) for box in (human, object_)]
    for edge, fill in ((1, (255, 255, 255)), (0, colour)):
        pen.line(ends, fill=fill, width=stroke + 2 * edge)


def _free_place(
    human_box: Float[np.ndarray, " 4"],
    object_box: Float[np.ndarray, " 4"],
    taken: Sequence[np.ndarray],
    distance: float,
) -> np.ndarray:
    """Where the number of a pair covers no other: near the middle of the line, else at a corner of the object."""
    human, object_ = ((box[:2] + box[2:]) / 2 for box in (human_box, object_box))
    places = [human + (object_ - human) * along for along in (0.5, 0.7, 0.3, 0.9, 0.1)]
    places += [np.array([x, y]) for y in object_box[[1, 3]] for x in object_box[[0, 2]]]
    room = [min((float(np.linalg.norm(place - other)) for other in taken), default=np.inf) for place in places]
    best = next((index for index, space in enumerate(room) if space >= distance), room.index(max(room)))
    return places[best]


def _heated(canvas: Image.Image, weights: Float[np.ndarray, "h w"], cell: tuple[float, float]) -> Image.Image:
    """A picture in grey under a map of weights; `cell` is the height and width of its cells in pixels."""
    height, width = weights.shape
    share = Image.fromarray((weights / max(weights.max(), 1e-12)).astype(np.float32))
    box = (0, 0, min(canvas.width / cell[1], width), min(canvas.height / cell[0], height))
    heat = np.asarray(share.resize(canvas.size, Image.Resampling.BILINEAR, box=box))[..., None]
    grey = np.asarray(canvas.convert("L"), dtype=np.float32)[..., None]
    steps = np.linspace(0, 1, 1 + len(HOT))
    colour = np.concatenate([np.interp(heat, steps, channel) for channel in zip(COLD, *HOT, strict=True)], axis=-1)
    cover = 0.2 + 0.55 * heat
    mixed = (1 - cover) * grey + cover * colour
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A text that is at most `width` pixels wide: its middle is left out where it is too long."""
    kept = len(text)
    shown = text
    while kept > 2 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return shown


def _colour(number: int) -> tuple[int, int, int]:
    return PAIRS[number % len(PAIRS)]


def _label(pen: ImageDraw.ImageDraw, centre, text: str, colour: tuple[int, int, int], font, radius: float) -> None:
    """A number on a disc."""
    x, y = (float(value) for value in centre)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    pen.text((x, y), text, fill="black", font=font, anchor="mm")
