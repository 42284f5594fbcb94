"""How the people of the drawn world are bent to what they do, and where their faces are turned.

A limb reaches the thing (hold, kick, push), bends up beside it (throw) or ends as far out but beside it (nothing).
"""

import cmath
import math

from rmlr.world.chance import Dice
from rmlr.world.geometry import angle, bend, grown
from rmlr.world.places import GAZE_CLEAR
from rmlr.world.scene import ARM, HEAD, HOLD, KICK, LEG, PUSH, RIDE, SWING, THROW, Person, Stage, Thing

BESIDE, RAISED, BELOW = (0.60, 0.78), (0.925, 0.958), (0.08, 0.24)  # of ends that touch nothing, in body heights
GRIP = 1.0  # how far a limb's end lies inside what it touches
MISS = 5.5  # how far it stays off what it does not touch
IDLE = 0.35  # chance that a limb that does nothing ends beside the thing all the same
NO_GAZE_CLEAR = math.radians(52)  # to all that is not looked at, when looking at nothing; else `GAZE_CLEAR`
FACES = 0.5  # of these is enough beside people, who stand close to their things
LOOKS = {"thing": 0.40, "elsewhere": 0.34, "nowhere": 0.26}  # at the thing within reach, or at anything else


class _Limbs:
    """Where the hands and feet of one person end; 1 is the front one, -1 the back one."""

    def __init__(self, person: Person, stage: Stage, dice: Dice):
        self.person, self.dice = person, dice
        self.around = [grown(thing.box, MISS) for thing in stage.things]
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


def pose(person: Person, stage: Stage, dice: Dice) -> None:
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
        elbow, hand = bend(person.neck, limbs.hands[way], ARM * person.height, -person.side)
        knee, foot = bend(person.hip, limbs.feet[way], LEG * person.height, person.side)
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


def turn_face(person: Person, stage: Stage, dice: Dice) -> None:
    """Choose what is looked at, and turn the nose there; or away from everything."""
    sights: list[Thing | Person] = [*stage.things, *(other for other in stage.people if other is not person)]
    directions = [cmath.phase(_middle(sight) - person.head) for sight in sights]

    def is_clear(gaze: float, target: Thing | Person | None) -> bool:
        needed = NO_GAZE_CLEAR if target is None else GAZE_CLEAR
        return all(
            angle(gaze, direction) > needed * (FACES if Person in (type(sight), type(target)) else 1)
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


def _middle(sight: Thing | Person) -> complex:
    return sight.head if isinstance(sight, Person) else sight.centre
