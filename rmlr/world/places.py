"""Where the people and things of the drawn world are, by laws that do not know what anybody does."""

import cmath
import math
from collections.abc import Sequence
from functools import partial

from rmlr.world.chance import Dice
from rmlr.world.geometry import FIELD, Box, angle, grown, overlap, share_inside
from rmlr.world.scene import HEIGHTS, Deed, Person, Stage, Thing

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
GAZE_CLEAR = math.radians(36)  # between all that a gaze must tell apart


def place(dice: Dice, wanted: tuple[Deed, str] | None) -> Stage:
    """A stage with people and things on it. `wanted`: a thing of this kind is within reach of the first person."""
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
        if person.ball and not is_plain and (share_inside(person.ball.box) < SEEN or dice.happens(BALL_HIDDEN)):
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
        bicycle.shift(person.hip - bicycle.saddle + height * dice.between(-0.04, 0.04))
        bicycle.shift(1j * (ground.imag + bicycle.drop - bicycle.box[3]))
    elif kind:
        person.thing = thing = _new_thing(dice, kind)
        _within_reach(thing, person, side, dice)
        if is_outside:
            edge = FIELD if side > 0 else 0.0
            step = edge - thing.near.real - side * dice.between(-0.5, 2.5)
            person.ground += step
            thing.shift(step)
        if kind == "bat" and dice.happens(BALL_AT_BAT):
            person.ball = _new_thing(dice, "ball")
            corner = complex(thing.box[2 if side > 0 else 0], thing.box[1 if dice.happens(0.5) else 3])
            away = complex(0.75 * side, 0.55 if corner.imag > thing.centre.imag else -0.55)
            person.ball.shift(corner - person.ball.centre + away * (person.ball.box[2] - person.ball.box[0]) / 2)
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
    thing.shift(point - complex(thing.box[0 if side > 0 else 2], thing.centre.imag))


def _fits(person: Person, stage: Stage, is_outside: bool) -> bool:
    """Whether somebody has room: nothing covers a thing, or the middle of anybody."""
    if not 2 <= person.core[0] <= person.core[2] <= FIELD - 2:
        return False
    for thing in person.things:
        share = share_inside(thing.box)
        if thing is person.thing and is_outside:
            is_placed = share < SEEN
        elif thing is person.ball:
            is_placed = share < SEEN or share > 0.9
        else:
            is_placed = share >= (0.8 if thing.kind == "bicycle" else 1.0)
        apart = [other.core for other in stage.people] + [grown(other.box, 3.0) for other in stage.things]
        if not is_placed or any(overlap(thing.box, other) for other in apart):
            return False
    others = [grown(other.core, 1.0) for other in stage.people] + [other.box for other in stage.things]
    return not any(overlap(person.core, other) for other in others)


def _hide(thing: Thing, stage: Stage) -> None:
    """Out of sight: behind a screen, unless it is outside the picture anyway."""
    thing.hidden = True
    if share_inside(thing.box) >= SEEN:
        stage.screens.append(grown(thing.box, 1.5))


def _propose_loose(dice: Dice, stage: Stage) -> Thing | None:
    """A thing anywhere, clear of people and of other things."""
    kind = dice.pick(ELSEWHERE)
    thing = _new_thing(dice, kind)
    thing.side, thing.rises = dice.one_of((-1, 1)), dice.happens(0.5)
    width, height = thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]
    thing.shift(complex(dice.between(1.0, FIELD - 1 - width), dice.between(1.0, FIELD - 1 - height)))
    return thing if _is_clear(thing.box, stage) else None


def _propose_patch(dice: Dice, stage: Stage, sides: tuple[float, float]) -> Box | None:
    x, y = dice.between(1.0, FIELD - 1 - sides[0]), dice.between(1.0, FIELD - 1 - sides[1])
    box = (x, y, x + sides[0], y + sides[1])
    return box if _is_clear(box, stage) else None


def _is_clear(box: Box, stage: Stage) -> bool:
    wide = grown(box, 3.0)
    obstacles = [thing.box for thing in stage.things] + [person.core for person in stage.people] + stage.screens
    return not any(overlap(wide, other) for other in obstacles)


def _crowding(stage: Stage, things: Sequence[Thing], person: Person | None = None) -> int:
    """How many pairs of things, new ones among them, a gaze could not tell apart, as seen from everybody's head."""
    count = 0
    everything = [*stage.things, *things]
    for viewer in [*stage.people, person] if person else stage.people:
        directions = [cmath.phase(thing.centre - viewer.head) for thing in everything]
        first = 1 if viewer is person else max(len(stage.things), 1)  # pairs without a new part were there before
        count += sum(
            angle(directions[i], directions[j]) < GAZE_CLEAR for i in range(first, len(directions)) for j in range(i)
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
