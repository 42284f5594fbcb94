"""The drawn world: people who hold, throw, kick, ride, push and look at things, and the pictures of them.

A scene is made in an order that keeps the verb out of the boxes: people and things are placed first, by laws that do
not know the verb; then each person is given a verb; then a limb reaches the thing (hold, kick, push), bends up beside
it (throw) or ends as far out but beside it (nothing). So a person's box is as wide whatever the verb is, and only the
pixels where limb and thing meet tell it. Who looks at what is only in the face.

Points are complex numbers (x + 1j y, y downwards) in units of which a picture is `FIELD` wide and high.
"""

import cmath
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")
Box = tuple[float, float, float, float]  # xyxy edges

FIELD = 128.0
PERSON = "person"
KINDS: tuple[str, ...] = (
    "person",
    "bicycle",
    "ball",
    "kite",
    "bat",
    "bottle",
    "box",
)  # COCO's order, where COCO has them


@dataclass(frozen=True, slots=True)
class Deed:
    """What a person does, in V-COCO's terms: an action, and through which role the thing takes part."""

    action: str
    role: str


HOLD, THROW, KICK, PUSH, LOOK = (Deed(action, "obj") for action in ("hold", "throw", "kick", "push", "look"))
RIDE, SWING, HIT = Deed("ride", "instr"), Deed("hit", "instr"), Deed("hit", "obj")

# How often a thing within reach meets each deed (None: nothing). A limb's deed does not depend on where the thing is.
CUSTOMS: dict[str, dict[Deed | None, float]] = {
    "ball": {HOLD: 0.26, THROW: 0.28, KICK: 0.28, None: 0.18},
    "bottle": {HOLD: 0.34, THROW: 0.26, KICK: 0.22, None: 0.18},
    "box": {HOLD: 0.30, THROW: 0.18, KICK: 0.34, None: 0.18},
    "kite": {HOLD: 0.66, None: 0.34},
    "bat": {HOLD: 0.24, SWING: 0.42, THROW: 0.18, None: 0.16},
    "bicycle": {RIDE: 0.38, PUSH: 0.38, None: 0.24},
}
RARITIES: dict[tuple[Deed, str], float] = {
    (KICK, "kite"): 0.55,
    (KICK, "bat"): 0.9,
    (KICK, "bicycle"): 1.2,
    (PUSH, "box"): 1.5,
    (THROW, "kite"): 3.0,
    (PUSH, "bottle"): 7.0,
}  # never by chance but on request (`draw_scene`): in so many of a thousand pictures

PEOPLE = {1: 0.40, 2: 0.37, 3: 0.23}
WITHIN_REACH = {"ball": 0.22, "bottle": 0.19, "box": 0.17, "kite": 0.11, "bat": 0.12, "bicycle": 0.16, None: 0.04}
LYING = {"ball": 0.28, "bottle": 0.26, "box": 0.24, "kite": 0.22}
ELSEWHERE = {"ball": 0.26, "bottle": 0.22, "box": 0.20, "kite": 0.18, "bat": 0.06, "bicycle": 0.08}
MORE_THINGS = {0: 0.65, 1: 0.25, 2: 0.07, 3: 0.03}  # elsewhere
MOST_THINGS = 6
BEHIND = 0.40  # chance of a thing within reach that nobody minds
BALL_AT_BAT = 0.85
HIDDEN = (0.08, 0.11)  # chances that the thing within reach is outside the picture, or behind a screen
BALL_HIDDEN = 0.2
SEEN = 0.3  # a thing of which less is inside the picture is not annotated
NOTHING = 0.75  # chance that a picture without any visible thing stays so
LONE_SCREEN, CROWD = 0.08, 0.03
LISTED = 0.91  # chance that V-COCO's annotators took a person

HEIGHTS = (43.0, 58.0)
HEAD, ARM, LEG, HIP_HEIGHT, NECK_HEIGHT = 0.115, 0.245, 0.25, 0.46, 0.75  # in body heights; limbs: one of two segments
HAND, FOOT = 0.05, 0.055  # radii, likewise
STRETCH = 1.98  # of a limb, in segments
BESIDE, RAISED, BELOW = (0.60, 0.78), (0.925, 0.958), (0.08, 0.24)  # heights of ends that touch nothing, likewise
GRIP = 1.0  # how far a limb's end lies inside what it touches
MISS = 5.5  # how far it stays off what it does not touch
IDLE = 0.35  # chance that a limb that does nothing ends beside the thing all the same
GAZE_CLEAR, NO_GAZE_CLEAR = math.radians(36), math.radians(52)  # to all that is not looked at; when looking at nothing
FACES = 0.5  # of these is enough beside people, who stand close to their things
LOOKS = {"thing": 0.40, "elsewhere": 0.34, "nowhere": 0.26}  # at the thing within reach, or at anything else

JOINTS = (
    "nose", "neck", "left_elbow", "right_elbow", "left_hand", "right_hand", "hip",
    "left_knee", "right_knee", "left_foot", "right_foot",
)  # fmt: skip
BONES = (
    ("nose", "neck"), ("neck", "hip"), ("neck", "left_elbow"), ("left_elbow", "left_hand"), ("neck", "right_elbow"),
    ("right_elbow", "right_hand"), ("hip", "left_knee"), ("left_knee", "left_foot"), ("hip", "right_knee"),
    ("right_knee", "right_foot"),
)  # fmt: skip


class Stream(IntEnum):
    """What chance decides in one picture: each has a stream of its own, so that a change of one leaves the others."""

    SCENE = 0
    PICTURE = 1
    HICODET_BOXES = 2


class Dice:
    """Chance for one picture, from PCG64: the same on every machine (no vectorised or fused arithmetic in between)."""

    def __init__(self, seed: int, index: int, stream: Stream):
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, stream))))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def happens(self, probability: float) -> bool:
        return self.between(0.0, 1.0) < probability

    def pick(self, weights: dict[Option, float]) -> Option:
        left = self.between(0.0, sum(weights.values()))
        for option, weight in weights.items():
            left -= weight
            if left < 0:
                return option
        return next(reversed(weights))

    def one_of(self, options: Sequence[Option]) -> Option:
        return options[int(self.between(0.0, float(len(options))))]

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
    behind: Thing | None = None  # within reach on the other side, but nobody minds it
    deed: Deed | None = None
    looks_at: "Thing | Person | None" = None
    gaze: float | None = None  # direction of the face; None: turned away
    joints: dict[str, complex] = field(default_factory=dict)
    stance: str | None = None  # "stand" or "walk"
    is_listed: bool = True

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

    @property
    def things(self) -> list[Thing]:
        """What stands around this person."""
        return [thing for thing in (self.thing, self.ball, self.behind) if thing]

    def can_reach(self, limb: str, point: complex) -> bool:
        """Whether a hand or a foot can get there."""
        root, segment = (self.neck, ARM) if limb == "hand" else (self.hip, LEG)
        return abs(point - root) <= STRETCH * segment * self.height

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
    """One picture's content: what is seen, and who does what. `world_picture.paint` shows it."""

    seed: int
    index: int
    size: int
    entities: tuple[Entity, ...]  # people first
    interactions: tuple[Interaction, ...]
    stage: "Stage" = field(repr=False)


@dataclass
class Stage:
    """People and things on their places, before anybody counts or draws them."""

    people: list[Person] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    screens: list[Box] = field(default_factory=list)
    crowd: Box | None = None


def draw_scene(seed: int, index: int, size: int, wanted: tuple[Deed, str] | None = None) -> Scene:
    """Scene `index` of the world `seed`. `wanted`: a deed and a kind of thing that it must show, plainly."""
    dice = Dice(seed, index, Stream.SCENE)
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
        ordered = wanted if number == 0 else None
        is_plain = ordered is not None
        kind = ordered[1] if ordered else dice.pick(WITHIN_REACH)
        if len(stage.things) > MOST_THINGS - 3:
            kind = None
        is_outside, is_screened = (
            dice.happens(chance) and kind not in (None, "bicycle") and not is_plain for chance in HIDDEN
        )
        person = dice.best_of(
            80 if stage.people else 2000,
            partial(_propose_person, dice, stage, kind, is_outside),
            lambda one: _crowding(stage, one.things, one) - (one.ball is not None),  # bat and ball do stand close
        )
        if person is None:
            continue
        if person.thing and (is_outside or is_screened):
            _hide(person.thing, stage)
        if person.ball and not is_plain and (_share_inside(person.ball.box) < SEEN or dice.happens(BALL_HIDDEN)):
            _hide(person.ball, stage)
        person.is_listed = dice.happens(LISTED) or is_plain
        stage.people.append(person)
        stage.things += person.things
    is_anything_seen = any(not thing.hidden for thing in stage.things)
    more = dice.pick(MORE_THINGS) if is_anything_seen or dice.happens(NOTHING) else 1
    for _ in range(min(more, MOST_THINGS - len(stage.things))):
        thing = dice.best_of(40, partial(_propose_loose, dice, stage), lambda it: _crowding(stage, [it]))
        stage.things += [thing] if thing else []
    if dice.happens(LONE_SCREEN):
        screen = dice.best_of(20, partial(_propose_patch, dice, stage, (11.0, 16.0)), lambda _: 0)
        stage.screens += [screen] if screen else []
    if dice.happens(CROWD):
        stage.crowd = dice.best_of(20, partial(_propose_patch, dice, stage, (26.0, 20.0)), lambda _: 0)
    return stage


def _propose_person(dice: Dice, stage: Stage, kind: str | None, is_outside: bool) -> Person | None:
    """Somebody with a thing of this kind within reach; None where it does not fit in."""
    height = dice.between(*HEIGHTS)
    ground = complex(dice.between(0.2 * height, FIELD - 0.2 * height), dice.between(height + 2, FIELD - 5))
    side = dice.one_of((-1, 1))
    person = Person(ground, height, side, side * height * dice.between(0.0, 0.05))
    if kind == "bicycle":
        person.lean = side * height * dice.between(0.05, 0.11)
        person.thing = bicycle = _new_thing(dice, kind, height)
        bicycle.side, bicycle.drop = side, height * dice.between(0.06, 0.12)
        _shift(bicycle, person.hip - bicycle.saddle + height * dice.between(-0.04, 0.04))
        _shift(bicycle, 1j * (ground.imag + bicycle.drop - bicycle.box[3]))
    elif kind:
        person.thing = thing = _new_thing(dice, kind)
        _within_reach(thing, person, side, dice)
        if is_outside:
            edge = FIELD if side > 0 else 0.0
            step = edge - thing.near.real - side * dice.between(-0.5, 2.5)
            person.ground += step
            _shift(thing, step)
        if kind == "bat" and dice.happens(BALL_AT_BAT):
            person.ball = _new_thing(dice, "ball")
            corner = complex(thing.box[2 if side > 0 else 0], thing.box[1 if dice.happens(0.5) else 3])
            away = complex(0.75 * side, 0.55 if corner.imag > thing.centre.imag else -0.55)
            _shift(person.ball, corner - person.ball.centre + away * (person.ball.box[2] - person.ball.box[0]) / 2)
        ends = [complex(thing.near.real, y) for y in thing.box[1::2]] if kind == "bat" else [thing.near]
        if not all(person.can_reach(limb, end) for limb in ("hand", "foot") for end in ends):
            return None
    if kind not in (None, "bicycle") and dice.happens(BEHIND):
        person.behind = _new_thing(dice, dice.pick(LYING))
        _within_reach(person.behind, person, -side, dice)
    return person if _fits(person, stage, is_outside) else None


def _within_reach(thing: Thing, person: Person, side: int, dice: Dice) -> None:
    """Put it where hand and foot can get at it, on one side."""
    thing.side, thing.rises = side, dice.happens(0.5)
    point = person.ground + person.height * complex(side * dice.between(0.25, 0.37), -dice.between(0.40, 0.60))
    _shift(thing, point - complex(thing.box[0 if side > 0 else 2], thing.centre.imag))


def _fits(person: Person, stage: Stage, is_outside: bool) -> bool:
    """Whether somebody has room: nothing covers a thing, or the middle of anybody."""
    if not 2 <= person.core[0] <= person.core[2] <= FIELD - 2:
        return False
    for thing in person.things:
        share = _share_inside(thing.box)
        if thing is person.thing and is_outside:
            is_placed = share < SEEN
        elif thing is person.ball:
            is_placed = share < SEEN or share > 0.9
        else:
            is_placed = share >= (0.8 if thing.kind == "bicycle" else 1.0)
        apart = [other.core for other in stage.people] + [_grown(other.box, 3.0) for other in stage.things]
        if not is_placed or any(_overlap(thing.box, other) for other in apart):
            return False
    others = [_grown(other.core, 1.0) for other in stage.people] + [other.box for other in stage.things]
    return not any(_overlap(person.core, other) for other in others)


def _hide(thing: Thing, stage: Stage) -> None:
    """Out of sight: behind a screen, unless it is outside the picture anyway."""
    thing.hidden = True
    if _share_inside(thing.box) >= SEEN:
        stage.screens.append(_grown(thing.box, 1.5))


def _propose_loose(dice: Dice, stage: Stage) -> Thing | None:
    """A thing anywhere, clear of people and of other things."""
    kind = dice.pick(ELSEWHERE)
    thing = _new_thing(dice, kind)
    thing.side, thing.rises = dice.one_of((-1, 1)), dice.happens(0.5)
    width, height = thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]
    _shift(thing, complex(dice.between(1.0, FIELD - 1 - width), dice.between(1.0, FIELD - 1 - height)))
    return thing if _is_clear(thing.box, stage) else None


def _propose_patch(dice: Dice, stage: Stage, sides: tuple[float, float]) -> Box | None:
    x, y = dice.between(1.0, FIELD - 1 - sides[0]), dice.between(1.0, FIELD - 1 - sides[1])
    box = (x, y, x + sides[0], y + sides[1])
    return box if _is_clear(box, stage) else None


def _is_clear(box: Box, stage: Stage) -> bool:
    wide = _grown(box, 3.0)
    obstacles = [thing.box for thing in stage.things] + [person.core for person in stage.people] + stage.screens
    return not any(_overlap(wide, other) for other in obstacles)


def _crowding(stage: Stage, things: Sequence[Thing], person: Person | None = None) -> int:
    """How many pairs of things, new ones among them, a gaze could not tell apart, as seen from everybody's head."""
    count = 0
    everything = [*stage.things, *things]
    for viewer in [*stage.people, person] if person else stage.people:
        directions = [cmath.phase(thing.centre - viewer.head) for thing in everything]
        first = 1 if viewer is person else max(len(stage.things), 1)  # pairs without a new part were there before
        count += sum(
            _angle(directions[i], directions[j]) < GAZE_CLEAR for i in range(first, len(directions)) for j in range(i)
        )
    return count


def _new_thing(dice: Dice, kind: str, owner_height: float | None = None) -> Thing:
    """A thing at the origin."""
    if kind == "ball":
        width = height = dice.between(9.0, 12.0)
    elif kind == "bottle":
        width, height = dice.between(6.0, 7.5), dice.between(13.0, 16.0)
    elif kind == "box":
        width, height = dice.between(11.0, 15.0), dice.between(9.0, 12.0)
    elif kind == "kite":
        width, height = dice.between(12.0, 15.0), dice.between(13.0, 16.0)
    elif kind == "bat":
        width, height = dice.between(15.0, 18.0), dice.between(9.0, 11.0)
    else:
        height = 0.55 * (owner_height or dice.between(*HEIGHTS))
        width = 1.5 * height
    return Thing(kind, (0.0, 0.0, width, height))


# ---- poses: a limb reaches the thing, bends up, or ends beside it


class _Limbs:
    """Where the hands and feet of one person end; 1 is the front one, -1 the back one."""

    def __init__(self, person: Person, stage: Stage, dice: Dice):
        self.person, self.dice = person, dice
        self.around = [_grown(thing.box, MISS) for thing in stage.things]
        self.hands = {1: self.hang((0.06, 0.16)), -1: self.hang((-0.22, -0.06))}
        stride = dice.between(0.14, 0.2)
        wide = {way: person.at(way * stride, 0.0) for way in (1, -1)}
        self.is_walking = dice.happens(0.5) and not any(map(self.touches, wide.values()))
        self.feet = wide if self.is_walking else {way: person.at(way * 0.07, 0.0) for way in (1, -1)}
        self.is_standing = not self.is_walking

    def touches(self, point: complex) -> bool:
        """Whether it comes too close to a thing."""
        return any(box[0] < point.real < box[2] and box[1] < point.imag < box[3] for box in self.around)

    def free(self, limb: str, forwards: tuple[float, float], height: tuple[float, float]) -> complex | None:
        """An end of a limb that touches nothing; None where none is found."""
        for _ in range(40):
            point = self.person.at(self.dice.between(*forwards), self.dice.between(*height))
            if self.person.can_reach(limb, point) and not self.touches(point):
                return point
        return None

    def hang(self, forwards: tuple[float, float]) -> complex:
        """A hand that hangs, or rests on the hip."""
        return self.free("hand", forwards, (0.33, 0.46)) or self.person.at(sum(forwards) / 4, 0.5)

    def beside(self, limb: str, way: int, near: complex, height: tuple[float, float]) -> complex | None:
        """An end as far out as if it touched what is `near`, but above or below it."""
        out = (near - self.person.ground).real * self.person.side / self.person.height
        return self.free(limb, (out, out + way * 2 * GRIP / self.person.height), height)

    def stand_on_one_leg(self, foot: complex) -> None:
        self.feet = {1: foot, -1: self.person.at(-0.04, 0.0)}
        self.is_standing = self.is_walking = False


def _pose(person: Person, stage: Stage, dice: Dice) -> None:
    """Bend arms and legs to what the person does."""
    limbs = _Limbs(person, stage, dice)
    thing, behind = person.thing, person.behind
    if thing is None:
        _wave(person, limbs, dice)
    elif thing.kind == "bicycle":
        _handle_bicycle(person, thing, limbs, dice)
    else:
        _handle_thing(person, thing, limbs, dice)
    if behind:
        hand = limbs.beside("hand", -1, behind.near, BESIDE)
        foot = limbs.beside("foot", -1, behind.near, BELOW)
        if hand:
            limbs.hands[-1] = hand
        elif foot and (limbs.is_standing or limbs.is_walking):
            limbs.stand_on_one_leg(person.at(0.04, 0.0))
            limbs.feet[-1] = foot
    person.stance = "walk" if limbs.is_walking else "stand" if limbs.is_standing else None
    names = {1: "right", -1: "left"} if person.side > 0 else {1: "left", -1: "right"}
    for way, name in names.items():
        elbow, hand = _bend(person.neck, limbs.hands[way], ARM * person.height, -person.side)
        knee, foot = _bend(person.hip, limbs.feet[way], LEG * person.height, person.side)
        person.joints |= {f"{name}_elbow": elbow, f"{name}_hand": hand, f"{name}_knee": knee, f"{name}_foot": foot}
    person.joints |= {"neck": person.neck, "hip": person.hip}


def _handle_thing(person: Person, thing: Thing, limbs: _Limbs, dice: Dice) -> None:
    """Hold, throw, kick, push, swing it, or nothing of all that; a limb ends as far out in any case."""
    if person.ball and person.deed in (SWING, HOLD):
        meets = (thing.tip.imag > thing.centre.imag) == (person.ball.centre.imag > thing.centre.imag)
        thing.rises ^= meets != (person.deed == SWING)
    grip = thing.near + person.side * dice.between(0.0, 2 * GRIP)
    hand, foot = limbs.beside("hand", 1, thing.near, BESIDE), limbs.beside("foot", 1, thing.near, BELOW)
    is_foot_idle = foot is not None and dice.happens(IDLE)
    is_hand_idle = hand is not None and dice.happens(IDLE)
    if person.deed is None:
        is_hand_idle = hand is not None and (foot is None or dice.happens(0.5))
        is_foot_idle = foot is not None and not is_hand_idle
    elif person.deed in (HOLD, SWING):
        limbs.hands[1], is_hand_idle = grip, False
    elif person.deed == PUSH:
        limbs.hands, is_hand_idle = {1: grip - 2j, -1: grip + 3j}, False
    elif person.deed == THROW:
        up = limbs.beside("hand", 1, thing.near, RAISED)
        limbs.hands[1], is_hand_idle = up or person.at(0.2, 0.95), False
    elif person.deed == KICK:
        limbs.stand_on_one_leg(grip)
        is_foot_idle = False
    if is_hand_idle and hand:
        limbs.hands[1] = hand
    if is_foot_idle and foot:
        limbs.stand_on_one_leg(foot)


def _handle_bicycle(person: Person, bicycle: Thing, limbs: _Limbs, dice: Dice) -> None:
    """Ride, push or kick it, or stand there; nothing is further back than a rider's trunk, nor out than the bars."""
    limbs.feet[-1] = person.at(dice.between(-0.02, 0.01), 0.0)
    grip = bicycle.bars + person.side * dice.between(0.0, 2 * GRIP)
    if person.deed in (RIDE, PUSH):
        limbs.hands = {1: grip, -1: grip + complex(-1.5 * person.side, 0.5)}
    else:
        hand = limbs.beside("hand", 1, bicycle.bars, BESIDE)
        limbs.hands = {1: hand or limbs.hands[1], -1: limbs.free("hand", (0.24, 0.36), BESIDE) or person.at(0.3, 0.75)}
    if person.deed == RIDE:
        low = complex(bicycle.crank.real + person.side * dice.between(-1.0, 1.0), person.ground.imag)
        limbs.stand_on_one_leg(low)
        limbs.feet[-1] = 2 * bicycle.crank - low
    elif person.deed == KICK:
        limbs.stand_on_one_leg(bicycle.front_hub)


def _wave(person: Person, limbs: _Limbs, dice: Dice) -> None:
    """Nothing is within reach: arms hang, stretch out or up."""
    gesture = dice.pick({"hang": 0.4, "stretch": 0.35, "raise": 0.25})
    if gesture != "hang":
        hand = limbs.free("hand", (0.2, 0.42), BESIDE if gesture == "stretch" else RAISED)
        limbs.hands[1] = hand or limbs.hands[1]


def _turn_face(person: Person, stage: Stage, dice: Dice) -> None:
    """Choose what is looked at, and turn the nose there; or away from everything."""
    sights: list[Thing | Person] = [*stage.things, *(other for other in stage.people if other is not person)]
    directions = [cmath.phase(_middle(sight) - person.head) for sight in sights]

    def is_clear(gaze: float, target: Thing | Person | None) -> bool:
        needed = NO_GAZE_CLEAR if target is None else GAZE_CLEAR
        return all(
            _angle(gaze, direction) > needed * (FACES if Person in (type(sight), type(target)) else 1)
            for sight, direction in zip(sights, directions, strict=True)
            if sight is not target
        )

    others = [sight for sight in sights if sight is not person.thing]
    where = dice.pick(LOOKS)
    target = person.thing if where == "thing" else dice.one_of(others) if where == "elsewhere" and others else None
    straight = directions[sights.index(target)] if target else 0.0
    if target and is_clear(straight, target):
        person.looks_at, person.gaze = target, straight + math.radians(dice.between(-4.0, 4.0))
    else:
        gazes = [dice.between(-math.pi, math.pi) for _ in range(30)]
        person.gaze = next((gaze for gaze in gazes if is_clear(gaze, None)), None)
    nose = 0 if person.gaze is None else cmath.rect(1.1 * HEAD * person.height, person.gaze)
    person.joints["nose"] = person.head + nose


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


# ---- plane geometry


def _bend(root: complex, target: complex, segment: float, turn: int) -> tuple[complex, complex]:
    """Middle joint and end of a limb of two equal segments; out of reach it points there. `turn`: the way it bends."""
    target = _within(root, target, STRETCH * segment)
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


def _shift(thing: Thing, step: complex | float) -> None:
    x1, y1, x2, y2 = thing.box
    thing.box = (x1 + step.real, y1 + step.imag, x2 + step.real, y2 + step.imag)


def _grown(box: Box, margin: float) -> Box:
    return (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)


def _overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _share_inside(box: Box) -> float:
    x1, y1, x2, y2 = (min(max(edge, 0.0), FIELD) for edge in box)
    return (x2 - x1) * (y2 - y1) / ((box[2] - box[0]) * (box[3] - box[1]))
