"""The drawn world: people who hold, throw, kick, ride, push and look at things, and the pictures of them.

A scene is made in an order that keeps the verb out of the boxes: people and things are placed first, by laws that do
not know the verb; then each person is given a verb; then a limb reaches the thing (hold, kick, push), bends up beside
it (throw) or ends as far out but beside it (nothing). So a person's box is as wide whatever the verb is, and only the
pixels where limb and thing meet tell it. Who looks at what is only in the face.

Points are complex numbers (x + 1j y, y downwards) in units of which a picture is `FIELD` wide and high.
"""

import cmath
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

Option = TypeVar("Option")
Box = tuple[float, float, float, float]  # xyxy edges

FIELD = 128.0
PERSON = "person"
KINDS = ("person", "bicycle", "ball", "kite", "bat", "bottle", "box")  # COCO's order, where COCO has them


@dataclass(frozen=True, slots=True)
class Deed:
    """What a person does, in V-COCO's terms: an action, and through which role the thing takes part."""

    action: str
    role: str


HOLD, THROW, KICK, PUSH, LOOK = (Deed(action, "obj") for action in ("hold", "throw", "kick", "push", "look"))
RIDE, SWING, HIT = Deed("ride", "instr"), Deed("hit", "instr"), Deed("hit", "obj")

# How often a thing within reach meets each deed (None: nothing). A limb's deed does not depend on where the thing is.
CUSTOMS: dict[str, dict[Deed | None, float]] = {
    "ball": {HOLD: 0.26, THROW: 0.28, KICK: 0.26, None: 0.20},
    "bottle": {HOLD: 0.34, THROW: 0.24, KICK: 0.18, None: 0.24},
    "box": {HOLD: 0.30, THROW: 0.14, KICK: 0.32, None: 0.24},
    "kite": {HOLD: 0.62, None: 0.38},
    "bat": {HOLD: 0.24, SWING: 0.34, THROW: 0.18, None: 0.24},
    "bicycle": {RIDE: 0.38, PUSH: 0.34, None: 0.28},
}
RARITIES: tuple[tuple[Deed, str], ...] = (
    (KICK, "kite"),
    (THROW, "kite"),
    (KICK, "bat"),
    (KICK, "bicycle"),
    (PUSH, "box"),
)  # never by chance: `draw_scene` is asked for them

PEOPLE = {1: 0.42, 2: 0.36, 3: 0.22}
WITHIN_REACH = {"ball": 0.24, "bottle": 0.20, "box": 0.18, "kite": 0.11, "bat": 0.10, "bicycle": 0.17}
ELSEWHERE = {"ball": 0.26, "bottle": 0.22, "box": 0.20, "kite": 0.18, "bat": 0.06, "bicycle": 0.08}
MORE_THINGS = {0: 0.34, 1: 0.36, 2: 0.2, 3: 0.1}
MOST_THINGS = 6

HEAD, ARM, LEG, HIP_HEIGHT, NECK_HEIGHT = 0.115, 0.245, 0.25, 0.46, 0.75  # in heights of a person; limbs: one segment
HAND, FOOT = 0.05, 0.055  # radii, likewise
GRIP = 1.0  # how far a limb's end lies inside what it touches
MISS = 5.5  # how far it stays off what it does not touch
GAZE_CLEAR, NO_GAZE_CLEAR = math.radians(36), math.radians(52)  # to everything not looked at; when looking at nothing

JOINTS = (
    "nose", "neck", "left_elbow", "right_elbow", "left_hand", "right_hand", "hip",
    "left_knee", "right_knee", "left_foot", "right_foot",
)  # fmt: skip
BONES = (
    ("nose", "neck"), ("neck", "hip"), ("neck", "left_elbow"), ("left_elbow", "left_hand"), ("neck", "right_elbow"),
    ("right_elbow", "right_hand"), ("hip", "left_knee"), ("left_knee", "left_foot"), ("hip", "right_knee"),
    ("right_knee", "right_foot"),
)  # fmt: skip


class Dice:
    """Chance for one picture, from PCG64: the same on every machine (no vectorised or fused arithmetic in between)."""

    def __init__(self, *key: int):
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def happens(self, probability: float) -> bool:
        return self.between(0, 1) < probability

    def pick(self, weights: dict[Option, float]) -> Option:
        left = self.between(0, sum(weights.values()))
        for option, weight in weights.items():
            left -= weight
            if left < 0:
                return option
        return next(reversed(weights))

    def one_of(self, options: Sequence[Option]) -> Option:
        return options[int(self.between(0, len(options)))]

    def best_of(
        self, tries: int, propose: Callable[[], Option | None], cost: Callable[[Option], float]
    ) -> Option | None:
        """The first proposal without cost, else the cheapest; None where every proposal was withdrawn."""
        best, least = None, math.inf
        for _ in range(tries):
            proposal = propose()
            if proposal is None:
                continue
            price = cost(proposal)
            if price < least:
                best, least = proposal, price
            if price <= 0:
                break
        return best

    def bytes(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(self._generator.bytes(math.prod(shape)), np.uint8).reshape(shape)


@dataclass
class Thing:
    """An object that is not a person."""

    kind: str
    box: Box
    side: int = 1  # where its near side is: -1 right of it, 1 left of it (as seen from the person: the way it faces)
    rises: bool = False  # a bat: its tip is up
    drop: float = 4.0  # a bicycle: how far the low pedal is above its lower edge
    hidden: bool = False  # behind a screen or outside the picture: not annotated

    @property
    def centre(self) -> complex:
        return complex((self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2)

    @property
    def near(self) -> complex:
        """Where a limb gets hold of it: the middle of its near side; a bat's handle."""
        x1, y1, x2, y2 = self.box
        x, inwards = (x1, 1) if self.side > 0 else (x2, -1)
        if self.kind == "bat":
            return complex(x + 1.5 * inwards, y2 - 1.5 if self.rises else y1 + 1.5)
        return complex(x, (y1 + y2) / 2)

    @property
    def tip(self) -> complex:
        """A bat's far end."""
        x1, y1, x2, y2 = self.box
        return complex(x2 if self.side > 0 else x1, y1 if self.rises else y2)

    # a bicycle's parts

    @property
    def wheel(self) -> float:
        return 0.235 * (self.box[2] - self.box[0])

    @property
    def saddle(self) -> complex:
        return complex(self.centre.real - self.side * 0.16 * (self.box[2] - self.box[0]), self.box[1] + 2)

    @property
    def bars(self) -> complex:
        return complex(self.centre.real + self.side * 0.25 * (self.box[2] - self.box[0]), self.box[1] + 1)

    @property
    def crank(self) -> complex:
        return complex(self.centre.real - self.side * 0.02 * (self.box[2] - self.box[0]), self.box[3] - self.wheel)

    @property
    def front_hub(self) -> complex:
        x = self.box[2] - self.wheel if self.side > 0 else self.box[0] + self.wheel
        return complex(x, self.box[3] - self.wheel)


@dataclass
class Person:
    """One of the people: where they stand, and how they are bent once `_pose` has seen to it."""

    ground: complex  # between the feet
    height: float
    side: int  # faces right (1) or left (-1)
    lean: float
    thing: Thing | None = None  # within reach
    ball: Thing | None = None  # at the tip of the bat within reach
    deed: Deed | None = None
    looks_at: "Thing | Person | None" = None
    gaze: float | None = None  # direction of the face; None: turned away
    joints: dict[str, complex] = field(default_factory=dict)
    stance: str | None = None  # "stand" or "walk"
    is_listed: bool = True
    looks: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # colours

    @property
    def hip(self) -> complex:
        return self.ground - 1j * HIP_HEIGHT * self.height

    @property
    def neck(self) -> complex:
        return self.ground - 1j * NECK_HEIGHT * self.height + self.lean

    @property
    def head(self) -> complex:
        return self.neck + self.height * (0.03 * self.side - 0.13j)

    @property
    def core(self) -> Box:
        """Head, trunk and legs at rest: what other things keep away from."""
        x = sorted([self.ground.real, self.head.real])
        spare = 0.13 * self.height
        return (x[0] - spare, self.ground.imag - self.height, x[1] + spare, self.ground.imag + FOOT * self.height)

    @property
    def box(self) -> Box:
        """Edges around all that is drawn. The nose counts as if it stood out on all sides: no gaze in the box."""
        radii = {"hand": HAND, "foot": FOOT, "knee": 0.05, "elbow": 0.035, "hip": 0.08, "neck": 0.1, "nose": 0.0}
        circles = [(point, radii[name.split("_")[-1]]) for name, point in self.joints.items()]
        circles.append((self.head, 1.12 * HEAD))
        return (
            min(p.real - r * self.height for p, r in circles),
            min(p.imag - r * self.height for p, r in circles),
            max(p.real + r * self.height for p, r in circles),
            max(p.imag + r * self.height for p, r in circles),
        )

    def at(self, forwards: float, height: float) -> complex:
        """A point by its distance in front of the person and its height above the ground, in body heights."""
        return self.ground + self.height * complex(self.side * forwards, -height)


@dataclass(frozen=True, slots=True)
class Interaction:
    """Person `person` does `deed` to entity `entity`; None: to something that cannot be seen."""

    person: int
    deed: Deed
    entity: int | None


@dataclass(frozen=True, slots=True)
class Entity:
    """Something annotated: a person or a thing, with its box in pixels."""

    kind: str
    box: Box
    is_crowd: bool = False
    is_listed: bool = False  # a person whose actions are annotated
    stance: str | None = None  # "stand", "walk": actions without a role
    joints: tuple[tuple[float, float], ...] = ()  # of a person, as in JOINTS
    is_joint_seen: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture's content: what is seen, who does what, and the picture itself."""

    seed: int
    index: int
    size: int
    entities: tuple[Entity, ...]  # people first
    interactions: tuple[Interaction, ...]
    stage: "Stage" = field(repr=False)

    def paint(self) -> Image.Image:
        """The picture, RGB, `size` x `size`."""
        return _paint(self.stage, self.size, Dice(self.seed, self.index, 1))


@dataclass
class Stage:
    """People and things on their places, before anybody counts or draws them."""

    people: list[Person] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    screens: list[Box] = field(default_factory=list)
    crowd: Box | None = None


def draw_scene(seed: int, index: int, size: int, wanted: tuple[Deed, str] | None = None) -> Scene:
    """Scene `index` of the world `seed`. `wanted`: a deed and a kind of thing that it must show, plainly."""
    dice = Dice(seed, index, 0)
    stage = _place(dice, wanted)
    for person in stage.people:
        if person.thing:
            person.deed = dice.pick(CUSTOMS[person.thing.kind])
            if person.thing.kind == "bat" and person.ball is None and person.deed == SWING:
                person.deed = HOLD
    if wanted:
        stage.people[0].deed = wanted[0]
    for person in stage.people:
        _pose(person, stage, dice)
        _turn_face(person, stage, dice)
    return _annotate(stage, seed, index, size)


# ---- places: nothing here knows a verb


def _place(dice: Dice, wanted: tuple[Deed, str] | None) -> Stage:
    stage = Stage()
    for number in range(dice.pick(PEOPLE)):
        kind = dice.pick(WITHIN_REACH) if dice.happens(0.9) else None
        if wanted and number == 0:
            kind = wanted[1]
        if len(stage.things) >= MOST_THINGS - 1:
            kind = None
        can_hide = kind not in (None, "bicycle") and not (wanted and number == 0)
        outside, screened = can_hide and dice.happens(0.08), can_hide and dice.happens(0.11)
        found = dice.best_of(
            80 if stage.people else 2000,
            lambda kind=kind, outside=outside: _propose_person(dice, stage, kind, outside),
            lambda group: _crowding([group.thing, group.ball], stage),
        )
        if found is None:
            continue
        if found.thing:
            found.thing.hidden = outside or screened
            if screened and not outside:
                stage.screens.append(_grown(found.thing.box, 1.5))
        if found.ball and not (wanted and number == 0):
            gone = _share_inside(found.ball.box) < 0.3
            found.ball.hidden = gone or dice.happens(0.2)
            if found.ball.hidden and not gone:
                stage.screens.append(_grown(found.ball.box, 1.5))
        found.is_listed = bool(wanted and number == 0) or dice.happens(0.91)
        found.looks = _colours(dice)
        stage.people.append(found)
        stage.things += [thing for thing in (found.thing, found.ball) if thing]
    spare = MOST_THINGS - len(stage.things)
    seen = any(not thing.hidden for thing in stage.things)
    more = dice.pick(MORE_THINGS) if seen or dice.happens(0.25) else 1
    for _ in range(min(spare, more)):
        thing = dice.best_of(40, lambda: _propose_loose(dice, stage), lambda it: _crowding([it], stage))
        if thing:
            stage.things.append(thing)
    if dice.happens(0.08):
        screen = dice.best_of(20, lambda: _propose_patch(dice, stage, (11, 16)), lambda _: 0)
        stage.screens += [screen] if screen else []
    if dice.happens(0.03):
        stage.crowd = dice.best_of(20, lambda: _propose_patch(dice, stage, (26, 20)), lambda _: 0)
    return stage


def _propose_person(dice: Dice, stage: Stage, kind: str | None, outside: bool) -> Person | None:
    """Somebody with a thing of this kind within reach; None where it does not fit in."""
    height = dice.between(43, 58)
    ground = complex(dice.between(0.2 * height, FIELD - 0.2 * height), dice.between(height + 2, FIELD - 5))
    person = Person(ground, height, dice.one_of((-1, 1)), 0.0)
    person.lean = person.side * height * dice.between(0.0, 0.05)
    if kind == "bicycle":
        person.lean = person.side * height * dice.between(0.05, 0.11)
        drop = height * dice.between(0.06, 0.12)
        person.thing = thing = _new_thing(dice, kind, height)
        thing.side, thing.drop = person.side, drop
        _shift(thing, person.hip - thing.saddle + height * dice.between(-0.04, 0.04))
        _shift(thing, 1j * (ground.imag + drop - thing.box[3]))
    elif kind:
        person.thing = thing = _new_thing(dice, kind)
        thing.side = person.side
        reach = person.at(dice.between(0.25, 0.37), dice.between(0.40, 0.60))
        x1, y1, x2, y2 = thing.box
        _shift(thing, reach - complex(x1 if person.side > 0 else x2, (y1 + y2) / 2))
        if outside:
            edge = FIELD if person.side > 0 else 0.0
            step = edge - reach.real - person.side * dice.between(-0.5, 2.5)
            person.ground += step
            _shift(thing, step)
        ends = [thing.near] if kind != "bat" else [complex(thing.near.real, y) for y in (thing.box[1], thing.box[3])]
        for end in ends:
            if abs(end - person.neck) > 1.95 * ARM * height or abs(end - person.hip) > 1.95 * LEG * height:
                return None
        if kind == "bat" and dice.happens(0.85):
            person.ball = ball = _new_thing(dice, "ball")
            upper = dice.happens(0.5)
            corner = complex(thing.box[2] if person.side > 0 else thing.box[0], thing.box[1 if upper else 3])
            radius = (ball.box[2] - ball.box[0]) / 2
            _shift(ball, corner - ball.centre + radius * complex(0.75 * person.side, -0.55 if upper else 0.55))
        thing.rises = dice.happens(0.5)
    new = [thing for thing in (person.thing, person.ball) if thing]
    if not 2 <= person.core[0] <= person.core[2] <= FIELD - 2:
        return None
    for thing in new:
        share = _share_inside(thing.box)
        if (thing is person.ball and 0.3 <= share < 0.9) or (thing is person.thing and (share > 0.25) == outside):
            return None
        if thing is person.thing and not outside and share < (0.8 if kind == "bicycle" else 1.0):
            return None
        if any(_overlap(_grown(thing.box, 3), other.box) for other in stage.things):
            return None
        if any(_overlap(thing.box, other.core) for other in stage.people):
            return None
    if any(_overlap(person.core, _grown(other.core, 1)) for other in stage.people):
        return None
    if any(_overlap(person.core, other.box) for other in stage.things):
        return None
    return person


def _propose_loose(dice: Dice, stage: Stage) -> Thing | None:
    """A thing anywhere, clear of people and of other things."""
    kind = dice.pick(ELSEWHERE)
    thing = _new_thing(dice, kind)
    thing.side, thing.rises = dice.one_of((-1, 1)), dice.happens(0.5)
    width, height = thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]
    _shift(thing, complex(dice.between(1, FIELD - 1 - width), dice.between(1, FIELD - 1 - height)))
    return thing if _is_clear(thing.box, stage) else None


def _propose_patch(dice: Dice, stage: Stage, sides: tuple[float, float]) -> Box | None:
    x, y = dice.between(1, FIELD - 1 - sides[0]), dice.between(1, FIELD - 1 - sides[1])
    box = (x, y, x + sides[0], y + sides[1])
    return box if _is_clear(box, stage) else None


def _is_clear(box: Box, stage: Stage) -> bool:
    wide = _grown(box, 3)
    obstacles = [thing.box for thing in stage.things] + [person.core for person in stage.people] + stage.screens
    return not any(_overlap(wide, other) for other in obstacles)


def _crowding(new: Iterable[Thing | None], stage: Stage) -> float:
    """How many things stand close together as seen from somebody's head, so that a gaze could not tell them apart."""
    count = 0
    for thing in new:
        for person in stage.people if thing else ():
            direction = cmath.phase(thing.centre - person.head)  # type: ignore[union-attr]
            others = [other for other in stage.things if other is not thing]
            count += sum(_angle(direction, cmath.phase(other.centre - person.head)) < GAZE_CLEAR for other in others)
    return count


def _new_thing(dice: Dice, kind: str, owner_height: float | None = None) -> Thing:
    """A thing at the origin."""
    if kind == "ball":
        width = height = dice.between(9, 12)
    elif kind == "bottle":
        width, height = dice.between(6, 7.5), dice.between(13, 16)
    elif kind == "box":
        width, height = dice.between(11, 15), dice.between(9, 12)
    elif kind == "kite":
        width, height = dice.between(12, 15), dice.between(13, 16)
    elif kind == "bat":
        width, height = dice.between(15, 18), dice.between(9, 11)
    else:
        height = 0.55 * (owner_height or dice.between(43, 58))
        width = 1.5 * height
    return Thing(kind, (0.0, 0.0, width, height))


def _colours(dice: Dice) -> dict[str, tuple[int, int, int]]:
    return {
        "skin": dice.one_of(((238, 190, 150), (214, 160, 118), (176, 120, 84), (246, 206, 172))),
        "hair": dice.one_of(((46, 34, 28), (84, 54, 30), (30, 30, 34), (120, 92, 48))),
        "shirt": dice.one_of(((222, 222, 226), (152, 38, 48), (40, 60, 118), (58, 58, 64), (120, 84, 130))),
        "trousers": dice.one_of(((42, 46, 66), (70, 58, 50), (54, 70, 60))),
        "shoes": dice.one_of(((20, 20, 22), (240, 240, 240))),
    }


# ---- poses: a limb reaches the thing, bends up, or ends beside it


def _pose(person: Person, stage: Stage, dice: Dice) -> None:
    """Bend arms and legs to what the person does."""
    thing, deed = person.thing, person.deed
    around = [_grown(other.box, MISS) for other in stage.things]

    def touches(point: complex) -> float:
        return sum(_inside(point, box) for box in around)

    def spread(
        forwards: tuple[float, float], height: tuple[float, float], reach_from: complex, reach: float
    ) -> complex:
        def propose() -> complex:
            point = person.at(dice.between(*forwards), dice.between(*height))
            return _within(reach_from, point, reach)

        return dice.best_of(30, propose, touches)  # type: ignore[return-value]  # it never withdraws

    arm, leg = 1.99 * ARM * person.height, 1.99 * LEG * person.height
    out = (0.3, 0.4) if thing is None else ((thing.near - person.ground).real * person.side / person.height,) * 2
    out = (out[0] - 0.02, out[1] + 0.04)  # how far out the limb ends that does nothing, on the thing's side

    def hang(side: int) -> complex:
        low, high = (-0.22, -0.06) if side < 0 else (0.06, 0.16)
        return spread((low, high), (0.33, 0.46), person.neck, arm)

    def miss_by_hand() -> complex:
        return spread(out, (0.62, 0.82), person.neck, arm)

    def miss_by_foot() -> complex:
        return spread((min(out[0], 0.34), min(out[1], 0.4)), (0.06, 0.2), person.hip, leg)

    hands = {1: hang(1), -1: hang(-1)}  # forwards, backwards
    stride = dice.between(0.14, 0.2) if dice.happens(0.5) else 0.07
    person.stance = "walk" if stride > 0.1 else "stand"
    feet = {1: person.at(stride, 0), -1: person.at(-stride, 0)}

    if thing and thing.kind == "bicycle":
        bars = thing.bars + person.side * dice.between(-0.5, 0.5)
        out = ((bars - person.ground).real * person.side / person.height - 0.03,) * 2
        out = (out[0], out[1] + 0.05)
        if deed in (RIDE, PUSH):
            hands = {1: bars, -1: bars + complex(-1.5 * person.side, 0.5)}
        else:
            hands[1] = miss_by_hand()
        if deed == RIDE:
            low = complex(thing.crank.real + person.side * dice.between(-1, 1), person.ground.imag)
            feet = {1: low, -1: 2 * thing.crank - low}
            person.stance = None
        if deed == KICK:
            feet[1], person.stance = _within(person.hip, thing.front_hub, leg), None
    elif thing:
        grip = thing.near + person.side * dice.between(0.0, 2 * GRIP)
        if deed in (HOLD, SWING):
            hands[1] = grip
        elif deed == PUSH:
            hands = {1: grip - 2j, -1: grip + 3j}
        elif deed == THROW:
            hands[1] = spread(out, (0.90, 0.98), person.neck, arm)
        elif deed == KICK:
            feet = {1: grip, -1: person.at(-0.04, 0)}
            person.stance = None
        if deed is None and dice.happens(0.5):
            point = miss_by_hand()
            if not touches(point):
                hands[1] = point
        missed = hands[1] == feet[1] or abs(hands[1] - person.neck) > 0.3 * person.height and deed is None
        if deed is None and not missed or deed in (HOLD, SWING, THROW, PUSH) and dice.happens(0.35):
            feet = {1: miss_by_foot(), -1: person.at(-0.04, 0)}
            person.stance = None
        if deed == KICK and dice.happens(0.35):
            point = miss_by_hand()
            if not touches(point):
                hands[1] = point
        if thing.kind == "bat" and person.ball:
            meets = abs(thing.tip - person.ball.centre) < (person.ball.box[2] - person.ball.box[0]) * 0.75
            if deed in (SWING, HOLD) and meets != (deed == SWING):
                thing.rises = not thing.rises
                hands[1] = thing.near
    elif dice.happens(0.25):
        hands[1] = spread((0.2, 0.36), (0.90, 0.98), person.neck, arm)
    elif dice.happens(0.5):
        hands[1] = miss_by_hand()

    names = {1: "right", -1: "left"} if person.side > 0 else {1: "left", -1: "right"}
    for way in (1, -1):
        elbow, hand = _bend(person.neck, hands[way], ARM * person.height, -person.side)
        knee, foot = _bend(person.hip, feet[way], LEG * person.height, person.side)
        person.joints |= {f"{names[way]}_elbow": elbow, f"{names[way]}_hand": hand}
        person.joints |= {f"{names[way]}_knee": knee, f"{names[way]}_foot": foot}
    person.joints |= {"neck": person.neck, "hip": person.hip}


def _turn_face(person: Person, stage: Stage, dice: Dice) -> None:
    """Choose what is looked at, and turn the nose there; or away from everything."""
    sights: list[Thing | Person] = [*stage.things, *(other for other in stage.people if other is not person)]
    directions = [cmath.phase(_middle(sight) - person.head) for sight in sights]
    clear = [
        min((_angle(own, other) for j, other in enumerate(directions) if j != i), default=math.pi) > GAZE_CLEAR
        for i, own in enumerate(directions)
    ]
    others = [sight for sight in sights if sight is not person.thing]
    where = dice.pick({"thing": 0.36, "elsewhere": 0.24, "nowhere": 0.40})
    target = person.thing if where == "thing" else dice.one_of(others) if where == "elsewhere" and others else None
    if target is not None and clear[sights.index(target)]:
        person.looks_at, person.gaze = target, directions[sights.index(target)] + math.radians(dice.between(-4, 4))
    else:
        for _ in range(30):
            gaze = dice.between(-math.pi, math.pi)
            if all(_angle(gaze, direction) > NO_GAZE_CLEAR for direction in directions):
                person.gaze = gaze
                break
    person.joints["nose"] = person.head + (cmath.rect(1.1 * HEAD * person.height, person.gaze) if person.gaze else 0)


# ---- what is annotated


def _annotate(stage: Stage, seed: int, index: int, size: int) -> Scene:
    scale = size / FIELD

    def edges(box: Box) -> Box:
        x1, y1, x2, y2 = (min(max(round(2 * edge * scale) / 2, 0.0), float(size)) for edge in box)
        return (x1, y1, x2, y2)

    entities = [
        Entity(
            PERSON,
            edges(person.box),
            is_listed=person.is_listed,
            stance=person.stance,
            joints=tuple(
                (round(person.joints[name].real * scale, 2), round(person.joints[name].imag * scale, 2))
                for name in JOINTS
            ),
            is_joint_seen=tuple(name != "nose" or person.gaze is not None for name in JOINTS),
        )
        for person in stage.people
    ]
    number = {id(person): i for i, person in enumerate(stage.people)}
    for thing in stage.things:
        if not thing.hidden:
            number[id(thing)] = len(entities)
            entities.append(Entity(thing.kind, edges(thing.box)))
    if stage.crowd:
        entities.append(Entity(PERSON, edges(stage.crowd), is_crowd=True))
    interactions = []
    for i, person in enumerate(stage.people):
        if person.deed:
            interactions.append(Interaction(i, person.deed, number.get(id(person.thing))))
        if person.deed == SWING:
            interactions.append(Interaction(i, HIT, number.get(id(person.ball))))
            interactions.append(Interaction(i, HOLD, number.get(id(person.thing))))
        if person.looks_at:
            interactions.append(Interaction(i, LOOK, number.get(id(person.looks_at))))
    return Scene(seed, index, size, tuple(entities), tuple(interactions), stage)


# ---- the picture


class _Brush:
    """Pillow on a canvas of twice the size, in our units; coordinates are whole, so the bytes are the same everywhere."""

    def __init__(self, size: int, ground: Image.Image):
        self.scale = 2 * size / FIELD
        self.canvas = ground
        self.draw = ImageDraw.Draw(ground)

    def at(self, point: complex) -> tuple[int, int]:
        return round(point.real * self.scale), round(point.imag * self.scale)

    def disc(self, centre: complex, radius: float, colour, outline=None) -> None:
        (x, y), r = self.at(centre), max(1, round(radius * self.scale))
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=outline)

    def ring(self, centre: complex, radius: float, colour, width: float) -> None:
        (x, y), r = self.at(centre), max(1, round(radius * self.scale))
        self.draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=max(1, round(width * self.scale)))

    def wedge(self, centre: complex, radius: float, start: int, end: int, colour) -> None:
        (x, y), r = self.at(centre), max(1, round(radius * self.scale))
        self.draw.pieslice((x - r, y - r, x + r, y + r), start, end, fill=colour)

    def line(self, points: Sequence[complex], colour, width: float) -> None:
        thick = max(1, round(width * self.scale))
        self.draw.line([self.at(point) for point in points], fill=colour, width=thick, joint="curve")
        if thick > 3:
            for point in points:
                self.disc(point, (width - 0.5) / 2, colour)

    def shape(self, points: Sequence[complex], colour, outline=None) -> None:
        self.draw.polygon([self.at(point) for point in points], fill=colour, outline=outline)

    def rectangle(self, box: Box, colour, outline=None) -> None:
        low, high = self.at(complex(*box[:2])), self.at(complex(*box[2:]))
        self.draw.rectangle((*low, high[0] - 1, high[1] - 1), fill=colour, outline=outline)


def _paint(stage: Stage, size: int, dice: Dice) -> Image.Image:
    blotches = 128 + (dice.bytes((6, 6)).astype(np.int16) - 128) // 3
    ground = Image.fromarray(blotches.astype(np.uint8)).resize((2 * size, 2 * size), Image.Resampling.BICUBIC)
    brush = _Brush(size, ground.convert("RGB"))
    if stage.crowd:
        _paint_crowd(brush, stage.crowd, dice)
    worn = {id(person.thing) for person in stage.people if person.thing and person.thing.kind == "bicycle"}
    for thing in stage.things:
        if id(thing) not in worn:
            _paint_thing(brush, thing)
    for person in sorted(stage.people, key=lambda someone: someone.ground.imag):
        _paint_person(brush, person)
    for screen in stage.screens:
        brush.rectangle(screen, (112, 112, 116), outline=(70, 70, 74))
        x1, y1, x2, y2 = screen
        brush.line([complex(x1 + 1, (y1 + y2) / 2), complex(x2 - 1, (y1 + y2) / 2)], (84, 84, 88), 0.5)
        brush.line([complex((x1 + x2) / 2, y1 + 1), complex((x1 + x2) / 2, y2 - 1)], (84, 84, 88), 0.5)
    pixels = np.asarray(brush.canvas.reduce(2)).astype(np.int16)
    noise = (
        dice.bytes((size, size, 1)).astype(np.int16) // 8 - 16 + dice.bytes((size, size, 3)).astype(np.int16) // 16 - 8
    )
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _paint_thing(brush: _Brush, thing: Thing) -> None:
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
        brush.line([handle, tip + inwards * 8], (150, 96, 40), 1.6)
        brush.line([tip + inwards * 9, tip + inwards * 1.8], (222, 170, 84), 3.6)
    else:
        _paint_bicycle(brush, thing)


def _paint_bicycle(brush: _Brush, bicycle: Thing) -> None:
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


def _paint_person(brush: _Brush, person: Person) -> None:
    near, far = ("right", "left") if person.side > 0 else ("left", "right")
    bicycle = person.thing if person.thing and person.thing.kind == "bicycle" else None
    _paint_leg(brush, person, far)
    if bicycle and person.deed == RIDE:
        _paint_bicycle(brush, bicycle)
    _paint_arm(brush, person, far)
    _paint_leg(brush, person, near)
    shoulder, hip, height = person.neck + 0.02j * person.height, person.hip, person.height
    trunk = [shoulder - 0.085 * height, shoulder + 0.085 * height, hip + 0.07 * height, hip - 0.07 * height]
    brush.shape(trunk, person.looks["shirt"])
    brush.line([shoulder - 0.06 * height, shoulder + 0.06 * height], person.looks["shirt"], 0.07 * height)
    if bicycle and person.deed != RIDE:
        _paint_bicycle(brush, bicycle)
    _paint_head(brush, person)
    _paint_arm(brush, person, near)


def _paint_leg(brush: _Brush, person: Person, side: str) -> None:
    knee, foot = person.joints[f"{side}_knee"], person.joints[f"{side}_foot"]
    brush.line([person.hip, knee, foot], person.looks["trousers"], 0.085 * person.height)
    brush.disc(foot, FOOT * person.height, person.looks["shoes"])


def _paint_arm(brush: _Brush, person: Person, side: str) -> None:
    elbow, hand = person.joints[f"{side}_elbow"], person.joints[f"{side}_hand"]
    shoulder = person.neck + 0.02j * person.height
    brush.line([shoulder, elbow, hand], person.looks["skin"], 0.055 * person.height)
    brush.line([shoulder, shoulder + (elbow - shoulder) * 0.6], person.looks["shirt"], 0.07 * person.height)
    brush.disc(hand, HAND * person.height, person.looks["skin"])


def _paint_head(brush: _Brush, person: Person) -> None:
    centre, radius = person.head, HEAD * person.height
    brush.line([person.neck, centre], person.looks["skin"], 0.07 * person.height)
    brush.disc(centre, radius, person.looks["hair"])
    if person.gaze is None:
        return
    degrees = round(math.degrees(person.gaze))
    brush.wedge(centre, radius, degrees - 70, degrees + 70, person.looks["skin"])
    tip = centre + cmath.rect(1.3 * radius, person.gaze)
    brush.shape(
        [tip, *(centre + cmath.rect(0.75 * radius, person.gaze + turn) for turn in (-0.5, 0.5))], (250, 246, 120)
    )


def _paint_crowd(brush: _Brush, box: Box, dice: Dice) -> None:
    """Many small people close together."""
    x1, y1, x2, y2 = box
    for row in range(2):
        for column in range(5):
            looks = _colours(dice)
            at = complex(x1 + (column + 0.5 + 0.3 * row) * (x2 - x1) / 5.6, y1 + 4 + row * (y2 - y1) * 0.3)
            brush.line([at + 3j, at + 8j], looks["shirt"], 3.6)
            brush.line([at + 8j, complex(at.real, min(at.imag + 13, y2))], looks["trousers"], 2.6)
            brush.disc(at, 2.2, looks["skin"])


# ---- plane geometry


def _bend(root: complex, target: complex, segment: float, turn: int) -> tuple[complex, complex]:
    """Middle joint and end of a limb of two equal segments; a target out of reach is pointed at. `turn`: where it bends."""
    target = _within(root, target, 1.99 * segment)
    span = target - root
    bow = math.sqrt(max(segment**2 - abs(span) ** 2 / 4, 0.0))
    return root + span / 2 + turn * 1j * span / max(abs(span), 1e-6) * -bow, target


def _within(centre: complex, point: complex, reach: float) -> complex:
    away = point - centre
    return point if abs(away) <= reach else centre + away / abs(away) * reach


def _angle(a: float, b: float) -> float:
    return abs((a - b + math.pi) % (2 * math.pi) - math.pi)


def _middle(sight: Thing | Person) -> complex:
    return sight.head if isinstance(sight, Person) else sight.centre


def _shift(thing: Thing, step: complex) -> None:
    x1, y1, x2, y2 = thing.box
    thing.box = (x1 + step.real, y1 + step.imag, x2 + step.real, y2 + step.imag)


def _grown(box: Box, margin: float) -> Box:
    return (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)


def _inside(point: complex, box: Box) -> bool:
    return box[0] < point.real < box[2] and box[1] < point.imag < box[3]


def _overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _share_inside(box: Box) -> float:
    x1, y1, x2, y2 = (min(max(edge, 0.0), FIELD) for edge in box)
    return (x2 - x1) * (y2 - y1) / ((box[2] - box[0]) * (box[3] - box[1]))
