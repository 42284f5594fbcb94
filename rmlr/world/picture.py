"""How the drawn world looks: a scene -> its picture.

Each kind of thing has its hue on greyish noise, so that a detector learns it in minutes. What people do is not in the
colours: a hand's skin, a shoe or a nose is a few pixels.
"""

import cmath
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rmlr.world.chance import Dice, Stream
from rmlr.world.geometry import FIELD, Box
from rmlr.world.scene import FOOT, HAND, HEAD, RIDE, Person, Scene, Thing

Colour = tuple[int, int, int]
Looks = dict[str, Colour]  # of one person
LOOKS: dict[str, tuple[Colour, ...]] = {
    "skin": ((238, 190, 150), (214, 160, 118), (176, 120, 84), (246, 206, 172)),
    "hair": ((46, 34, 28), (84, 54, 30), (30, 30, 34), (120, 92, 48)),
    "shirt": ((222, 222, 226), (152, 38, 48), (40, 60, 118), (58, 58, 64), (120, 84, 130)),
    "trousers": ((42, 46, 66), (70, 58, 50), (54, 70, 60)),
    "shoes": ((20, 20, 22), (240, 240, 240)),
}


class Brush:
    """Pillow on a canvas of twice the size, in our units; whole coordinates, so the bytes are the same everywhere."""

    def __init__(self, size: int, ground: Image.Image):
        self.scale = 2 * size / FIELD
        self.canvas = ground
        self.draw = ImageDraw.Draw(ground)

    @classmethod
    def on_blotches(cls, size: int, dice: Dice) -> "Brush":
        """A brush on a ground of large grey blotches."""
        blotches = 128 + (dice.bytes((6, 6)).astype(np.int16) - 128) // 3
        ground = Image.fromarray(blotches.astype(np.uint8)).resize((2 * size, 2 * size), Image.Resampling.BICUBIC)
        return cls(size, ground.convert("RGB"))

    def noisy(self, size: int, dice: Dice) -> Image.Image:
        """What was painted, reduced to `size` x `size` pixels and made noisy."""
        pixels = np.asarray(self.canvas.reduce(2)).astype(np.int16)
        grey, hue = (dice.bytes((size, size, channels)).astype(np.int16) for channels in (1, 3))
        noise = (grey - 128) // 8 + (hue - 128) // 32
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))

    def at(self, point: complex) -> tuple[int, int]:
        return round(point.real * self.scale), round(point.imag * self.scale)

    def disc(self, centre: complex, radius: float, colour: Colour, outline: Colour | None = None) -> None:
        (x, y), r = self.at(centre), max(1, round(radius * self.scale))
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=outline)

    def ring(self, centre: complex, radius: float, colour: Colour, width: float) -> None:
        (x, y), r = self.at(centre), max(1, round(radius * self.scale))
        self.draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=max(1, round(width * self.scale)))

    def wedge(self, centre: complex, radius: float, start: int, end: int, colour: Colour) -> None:
        (x, y), r = self.at(centre), max(1, round(radius * self.scale))
        self.draw.pieslice((x - r, y - r, x + r, y + r), start, end, fill=colour)

    def line(self, points: Sequence[complex], colour: Colour, width: float) -> None:
        thick = max(1, round(width * self.scale))
        self.draw.line([self.at(point) for point in points], fill=colour, width=thick, joint="curve")
        if thick > 3:
            for point in points:
                self.disc(point, (width - 0.5) / 2, colour)

    def shape(self, points: Sequence[complex], colour: Colour, outline: Colour | None = None) -> None:
        self.draw.polygon([self.at(point) for point in points], fill=colour, outline=outline)

    def rectangle(self, box: Box, colour: Colour, outline: Colour | None = None) -> None:
        low, high = self.at(complex(*box[:2])), self.at(complex(*box[2:]))
        self.draw.rectangle((*low, high[0] - 1, high[1] - 1), fill=colour, outline=outline)


def paint(scene: Scene) -> Image.Image:
    """The picture of a scene, RGB, `size` x `size`: drawn at twice the size, reduced, and made noisy."""
    stage, size, dice = scene.stage, scene.size, Dice(scene.seed, scene.index, Stream.PICTURE)
    brush = Brush.on_blotches(size, dice)
    if stage.crowd:
        _paint_crowd(brush, stage.crowd, dice)
    used = {id(person.thing) for person in stage.people if person.thing and person.thing.kind == "bicycle"}
    for thing in stage.things:
        if id(thing) not in used:
            _paint_thing(brush, thing)
    for person in sorted(stage.people, key=lambda someone: someone.ground.imag):
        paint_person(brush, person, dress(dice))
    for screen in stage.screens:
        brush.rectangle(screen, (92, 94, 102), outline=(52, 52, 58))
        x1, y1, x2, y2 = screen
        brush.line([complex(x1 + 1, (y1 + y2) / 2), complex(x2 - 1, (y1 + y2) / 2)], (64, 66, 72), 0.5)
        brush.line([complex((x1 + x2) / 2, y1 + 1), complex((x1 + x2) / 2, y2 - 1)], (64, 66, 72), 0.5)
    return brush.noisy(size, dice)


def _paint_thing(brush: Brush, thing: Thing) -> None:
    x1, y1, x2, y2 = thing.box
    width, height, middle = x2 - x1, y2 - y1, thing.centre
    if thing.kind == "ball":
        brush.disc(middle, width / 2 - 0.3, (236, 110, 24), outline=(150, 60, 8))
        brush.line([middle - width * 0.42, middle + width * 0.42], (150, 60, 8), 0.6)
        brush.line([middle - 1j * width * 0.42, middle + 1j * width * 0.42], (150, 60, 8), 0.6)
    elif thing.kind == "bottle":
        neck = width * 0.2
        brush.rectangle((middle.real - neck, y1, middle.real + neck, y1 + height * 0.4), (40, 150, 62))
        brush.rectangle((x1, y1 + height * 0.32, x2, y2), (40, 150, 62))
        brush.rectangle((x1, y1 + height * 0.52, x2, y1 + height * 0.76), (226, 240, 220))
        brush.rectangle((middle.real - neck, y1, middle.real + neck, y1 + 1.6), (20, 84, 34))
    elif thing.kind == "box":
        brush.rectangle(thing.box, (196, 152, 60), outline=(120, 86, 24))
        brush.rectangle((x1 + width * 0.42, y1, x1 + width * 0.58, y2), (236, 212, 140))
    elif thing.kind == "kite":
        corners = [complex(middle.real, y1), complex(x2, y1 + height * 0.5), complex(middle.real, y2)]
        corners.append(complex(x1, y1 + height * 0.5))
        brush.shape(corners, (214, 40, 160), outline=(120, 10, 90))
        brush.line([corners[0], corners[2]], (250, 220, 240), 0.7)
        brush.line([corners[1], corners[3]], (250, 220, 240), 0.7)
    elif thing.kind == "bat":
        handle, tip = thing.near, thing.tip
        inwards = (handle - tip) / abs(handle - tip)
        brush.line([handle, tip + inwards * 8], (150, 96, 40), 1.8)
        brush.line([tip + inwards * 9, tip + inwards * 1.8], (222, 170, 84), 4.0)
    else:
        _paint_bicycle(brush, thing)


def _paint_bicycle(brush: Brush, bicycle: Thing) -> None:
    frame, tyre = (20, 130, 214), (24, 26, 34)
    front, crank, saddle, bars = bicycle.front_hub, bicycle.crank, bicycle.saddle, bicycle.bars
    back = complex(2 * bicycle.centre.real - front.real, front.imag)
    for hub in (front, back):
        brush.ring(hub, bicycle.wheel, tyre, 1.5)
        brush.disc(hub, 1.0, (180, 184, 190))
    head = bars + (front - bars) * 0.25
    seat = saddle + (crank - saddle) * 0.15
    brush.line([back, seat, crank, back], frame, 1.6)
    brush.line([seat, head, crank], frame, 1.6)
    brush.line([front, bars], frame, 1.6)
    brush.line([bars - 2.5 * bicycle.side, bars + 1.5 * bicycle.side], tyre, 1.6)
    brush.line([saddle - 2.5, saddle + 2.5], tyre, 2.2)
    low = complex(crank.real, bicycle.box[3] - bicycle.drop)
    brush.line([low, 2 * crank - low], (180, 184, 190), 1.0)


def paint_person(brush: Brush, person: Person, looks: Looks) -> None:
    near, far = ("right", "left") if person.side > 0 else ("left", "right")
    bicycle = person.thing if person.thing and person.thing.kind == "bicycle" else None
    _paint_leg(brush, person, far, looks)
    if bicycle and person.deed == RIDE:
        _paint_bicycle(brush, bicycle)
    _paint_arm(brush, person, far, looks)
    _paint_leg(brush, person, near, looks)
    shoulder, hip, height = person.neck + 0.02j * person.height, person.hip, person.height
    trunk = [shoulder - 0.085 * height, shoulder + 0.085 * height, hip + 0.07 * height, hip - 0.07 * height]
    brush.shape(trunk, looks["shirt"])
    brush.line([shoulder - 0.06 * height, shoulder + 0.06 * height], looks["shirt"], 0.07 * height)
    if bicycle and person.deed != RIDE:
        _paint_bicycle(brush, bicycle)
    _paint_head(brush, person, looks)
    _paint_arm(brush, person, near, looks)


def _paint_leg(brush: Brush, person: Person, side: str, looks: Looks) -> None:
    knee, foot = person.joints[f"{side}_knee"], person.joints[f"{side}_foot"]
    brush.line([person.hip, knee, foot], looks["trousers"], 0.085 * person.height)
    brush.disc(foot, FOOT * person.height, looks["shoes"])


def _paint_arm(brush: Brush, person: Person, side: str, looks: Looks) -> None:
    elbow, hand = person.joints[f"{side}_elbow"], person.joints[f"{side}_hand"]
    shoulder = person.neck + 0.02j * person.height
    brush.line([shoulder, elbow, hand], looks["skin"], 0.055 * person.height)
    brush.line([shoulder, shoulder + (elbow - shoulder) * 0.6], looks["shirt"], 0.07 * person.height)
    brush.disc(hand, HAND * person.height, looks["skin"])


def _paint_head(brush: Brush, person: Person, looks: Looks) -> None:
    centre, radius = person.head, HEAD * person.height
    brush.line([person.neck, centre], looks["skin"], 0.07 * person.height)
    brush.disc(centre, radius, looks["hair"])
    if person.gaze is None:
        return
    degrees = round(math.degrees(person.gaze))
    brush.wedge(centre, radius, degrees - 70, degrees + 70, looks["skin"])
    tip = centre + cmath.rect(1.3 * radius, person.gaze)
    brush.shape(
        [tip, *(centre + cmath.rect(0.75 * radius, person.gaze + turn) for turn in (-0.5, 0.5))], (250, 246, 120)
    )


def dress(dice: Dice) -> Looks:
    return {part: dice.one_of(colours) for part, colours in LOOKS.items()}


def _paint_crowd(brush: Brush, box: Box, dice: Dice) -> None:
    """Many small people close together."""
    x1, y1, x2, y2 = box
    for row in range(2):
        for column in range(5):
            looks = dress(dice)
            at = complex(x1 + (column + 0.5 + 0.3 * row) * (x2 - x1) / 5.6, y1 + 4 + row * (y2 - y1) * 0.3)
            brush.line([at + 3j, at + 8j], looks["shirt"], 3.6)
            brush.line([at + 8j, complex(at.real, min(at.imag + 13, y2))], looks["trousers"], 2.6)
            brush.disc(at, 2.2, looks["skin"])
