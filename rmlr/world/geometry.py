"""Plane geometry of the drawn world.

Points are complex numbers (x + 1j y, y downwards) in units of which a picture is `FIELD` wide and high.
"""

import math

Box = tuple[float, float, float, float]  # xyxy edges

FIELD = 128.0
STRETCH = 1.98  # of a limb, in segments


def bend(root: complex, target: complex, segment: float, turn: int) -> tuple[complex, complex]:
    """Middle joint and end of a limb of two equal segments; out of reach it points there. `turn`: the way it bends."""
    target = within(root, target, STRETCH * segment)
    span = target - root
    bow = math.sqrt(max(segment**2 - abs(span) ** 2 / 4, 0.0))
    return root + span / 2 + turn * 1j * span / max(abs(span), 1e-6) * -bow, target


def within(centre: complex, point: complex, reach: float) -> complex:
    """The point, or where the way to it leaves the circle of radius `reach`."""
    away = point - centre
    return point if abs(away) <= reach else centre + away / abs(away) * reach


def angle(a: float, b: float) -> float:
    """Between two directions, 0 to pi."""
    return abs((a - b + math.pi) % (2 * math.pi) - math.pi)


def grown(box: Box, margin: float) -> Box:
    """A box with so much more on each side."""
    return (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def share_inside(box: Box) -> float:
    """The share of a box that is inside the picture."""
    x1, y1, x2, y2 = (min(max(edge, 0.0), FIELD) for edge in box)
    return (x2 - x1) * (y2 - y1) / ((box[2] - box[0]) * (box[3] - box[1]))
