"""A picture with its strongest triplets drawn on it, for people."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rmlr.hoi import Annotation, Triplets, Vocabulary

# Okabe and Ito's palette, told apart by colour-blind readers; persons are blue, objects take the pair's colour
PERSON = (0, 114, 178)
PAIRS = ((230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66))
BORDER = 8  # pixels around the picture
MIN_WIDTH = 360  # pixels; smaller pictures are enlarged, so that labels stay legible


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
    """One picture, the boxes of its `limit` strongest triplets, and beneath it what they say.

    Triplets of one pair share a number, a line and a colour. `triplets` are those of this picture.
    """
    scale = max(1.0, MIN_WIDTH / picture.width)
    canvas = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    strongest = np.argsort(-triplets.score, kind="stable")[:limit]
    pairs: dict[tuple[float, ...], list[str]] = {}
    for row in strongest:
        pair = (*triplets.human_boxes[row].tolist(), *triplets.object_boxes[row].tolist())
        phrase = vocabulary.phrase(int(triplets.verb[row]), int(triplets.object_category[row]))
        pairs.setdefault(pair, []).append(f"{phrase} {triplets.score[row]:.2f}")

    size = max(13, round(canvas.width / 28))
    font = ImageFont.load_default(size=size)
    line_height = round(size * 1.35)
    lines = [(number, text) for number, texts in enumerate(pairs.values(), 1) for text in texts]
    page_size = (canvas.width + 2 * BORDER, canvas.height + 2 * BORDER + line_height * (1 + limit))
    page = Image.new("RGB", page_size, "white")
    page.paste(canvas, (BORDER, BORDER + line_height))
    pen = ImageDraw.Draw(page)
    pen.text((BORDER, 2), title, fill="black", font=font)
    stroke = max(2, canvas.width // 200)
    for number, pair in enumerate(pairs, 1):
        colour = PAIRS[(number - 1) % len(PAIRS)]
        corners = np.asarray(pair).reshape(2, 4) * scale + np.tile([BORDER, BORDER + line_height], 2)
        pen.rectangle(corners[0].tolist(), outline=PERSON, width=stroke)
        pen.rectangle(corners[1].tolist(), outline=colour, width=stroke)
        middle = (corners[:, :2] + corners[:, 2:]) / 2
        pen.line([tuple(point) for point in middle.tolist()], fill=colour, width=stroke)
        _label(pen, middle.mean(axis=0), str(number), colour, font, 0.55 * size)
    for row, (number, text) in enumerate(lines):
        height = page.height - BORDER - line_height * (limit - row)
        colour = PAIRS[(number - 1) % len(PAIRS)]
        _label(pen, (BORDER + size * 0.6, height + size * 0.6), str(number), colour, font, 0.55 * size)
        pen.text((BORDER + size * 1.5, height), text, fill="black", font=font)
    return page


def sheet(pages: list[Image.Image], columns: int) -> Image.Image:
    """Pages side by side, row by row, on white."""
    width, height = max(page.width for page in pages), max(page.height for page in pages)
    rows = -(-len(pages) // columns)
    whole = Image.new("RGB", (width * min(columns, len(pages)), height * rows), "white")
    for position, page in enumerate(pages):
        whole.paste(page, (position % columns * width, position // columns * height))
    return whole


def _label(pen: ImageDraw.ImageDraw, centre, text: str, colour: tuple[int, int, int], font, radius: float) -> None:
    """A number on a disc."""
    x, y = (float(value) for value in centre)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    pen.text((x, y), text, fill="black", font=font, anchor="mm")
