"""The scenes of the world of near-synonyms: people placed by a law that does not know the verb, then bent to it.

Whatever a person does, a hand or a foot ends at the thing's near side, as far forwards, and the hanging arm's elbow and
the foot behind are the other outermost points. So the boxes are the same for every verb.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rmlr.world.chance import Dice, Stream
from rmlr.world.composition import annotate
from rmlr.world.files import Drawn
from rmlr.world.geometry import FIELD, Box, bend, grown, overlap
from rmlr.world.lexicon import ALL_THINGS, SHAPE_OF
from rmlr.world.scene import ARM, FOOT, HAND, HEAD, LEG, Deed, Person, Stage, Thing
from rmlr.world.word_orders import Task, WordOrder

TRIES, RESTARTS = 300, 200
TALL = (52.0, 66.0)  # taller than in the other world, with larger things: there are twenty kinds of them to detect
LOOSE = {0: 0.45, 1: 0.35, 2: 0.20}  # things that nobody reaches
DEPTH = 2.0  # how far, at most, the acting limb's end lies inside the thing's near side
SIZES: tuple[tuple[tuple[float, float], tuple[float, float]], ...] = (  # by shape: width, height
    ((12.5, 15.0), (12.5, 15.0)),
    ((15.0, 18.0), (12.0, 14.5)),
    ((10.0, 12.0), (16.0, 18.5)),
    ((20.0, 23.5), (10.0, 12.5)),
    ((16.0, 19.5), (10.5, 13.0)),
)
# Where things are, from the middle of the feet, in body heights: their near side forwards, their middle upwards.
FORWARDS, UPWARDS = (0.25, 0.31), (0.50, 0.58)
RAISED, STRETCHED = (0.925, 0.955), (0.13, 0.20)  # heights of a raised hand, and of a foot of a stretched leg
HANGING, BEHIND = ((0.02, 0.08), (0.28, 0.30)), ((-0.07, 0.0), (0.36, 0.44))  # a hand: forwards, upwards


@dataclass(frozen=True, slots=True)
class Pose:
    """How a cluster of verbs is done."""

    hand: str  # where the front hand ends: "near", "low", "high" at the thing, "raised", or "hanging"
    is_elbow_up: bool = False
    foot: str = "ground"  # where the front foot is: "ground", "stretched", or "near" the thing

    @property
    def acts(self) -> str:
        """The limb with the mark."""
        return "foot" if self.hand == "hanging" else "hand"


POSES = (  # by cluster, as in the lexicon
    Pose("near"),
    Pose("near", is_elbow_up=True),
    Pose("near", foot="stretched"),
    Pose("low"),
    Pose("high"),
    Pose("raised"),
    Pose("raised", foot="stretched"),
    Pose("hanging", foot="near"),
)
IDLE = Pose("hanging", foot="stretched")


@dataclass
class Actor(Person):
    """A person of this world, with the task that decides pose and mark."""

    task: Task | None = None

    @property
    def pose(self) -> Pose:
        return POSES[self.task.verb.cluster] if self.task and self.task.verb else IDLE

    @property
    def room(self) -> Box:
        """All that person and thing could cover, whatever is done."""
        assert self.thing is not None
        back, front = self.at(-0.24, 0.0).real, self.thing.box[2 if self.side > 0 else 0]
        low, high = self.ground.imag + FOOT * self.height, self.ground.imag - 1.03 * self.height
        return (min(back, front), high, max(back, front), low)


def draw_words(seed: int, size: int, order: WordOrder) -> Drawn:
    """The picture that an order asks for: every one of its people does what they should."""
    dice = Dice(seed, order.image_id, Stream.SCENE)
    stage = _place(order.tasks, dice)
    return Drawn(order.split, order.image_id, order.file_name, annotate(stage, seed, order.image_id, size))


def _place(tasks: Sequence[Task], dice: Dice) -> Stage:
    stage, actors = Stage(), _people(tasks, dice)
    for actor in actors:
        _bend(actor, dice)
        stage.people.append(actor)
        stage.things += actor.things
    for _ in range(dice.pick(LOOSE)):
        rooms = [actor.room for actor in actors] + [thing.box for thing in stage.things]
        loose = dice.best_of(40, partial(_propose_loose, rooms, dice), lambda _: 0)
        stage.things += [loose] if loose else []
    return stage


def _people(tasks: Sequence[Task], dice: Dice) -> list[Actor]:
    """Everybody at their place; from the beginning again where somebody finds no room."""
    for _ in range(RESTARTS):
        actors: list[Actor] = []
        for task in tasks:
            actor = dice.best_of(TRIES, partial(_propose, task, actors, dice), lambda _: 0)
            actors += [actor] if actor else []
        if len(actors) == len(tasks):
            return actors
    raise AssertionError(f"{len(tasks)} people were not placed in {RESTARTS} trials: is there room for them?")


def _propose(task: Task, actors: Sequence[Actor], dice: Dice) -> Actor | None:
    """Somebody with the thing within reach of every limb; None where that does not fit in."""
    height, side = dice.between(*TALL), dice.one_of((-1, 1))
    ground = complex(dice.between(0.0, FIELD), dice.between(height + 3, FIELD - 5))
    actor = Actor(ground, height, side, side * height * dice.between(0.0, 0.04), task=task)
    actor.thing = thing = _new_thing(task.thing, dice)
    thing.side = side
    near = actor.at(dice.between(*FORWARDS), dice.between(*UPWARDS))
    thing.shift(near - complex(thing.box[0 if side > 0 else 2], thing.centre.imag))
    actor.deed = Deed(task.verb.name, "obj") if task.verb else None
    actor.is_listed = True
    x1, y1, x2, y2 = actor.room
    if min(x1, y1) < 1 or max(x2, y2) > FIELD - 1:
        return None
    if any(overlap(grown(actor.room, 1.5), other.room) for other in actors):
        return None
    points = _ends(actor, DEPTH, 0.0)
    hands = [points[name] for name in ("near", "low", "high", "raised")]
    feet = [points[name] for name in ("near", "stretched")]
    can = all(actor.can_reach("hand", end) for end in hands) and all(actor.can_reach("foot", end) for end in feet)
    return actor if can else None


def _ends(actor: Actor, depth: float, share: float) -> dict[str, complex]:
    """Where a limb could end, all as far forwards; `share` of the way from the lowest to the highest of a range."""
    thing = actor.thing
    assert thing is not None
    x, (_, y1, _, y2) = thing.near.real + actor.side * depth, thing.box

    def between(heights: tuple[float, float]) -> float:
        return actor.at(0.0, heights[0] + share * (heights[1] - heights[0])).imag

    return {
        "near": complex(x, thing.centre.imag),
        "low": complex(x, y2 + 1.5),
        "high": complex(x, y1 - 1.5),
        "raised": complex(x, between(RAISED)),
        "stretched": complex(x, between(STRETCHED)),
    }


def _bend(actor: Actor, dice: Dice) -> None:
    """Arms and legs, by the same throws of the dice whatever is done."""
    pose, ends = actor.pose, _ends(actor, dice.between(0.0, DEPTH), dice.between(0.0, 1.0))
    hanging, behind = (actor.at(dice.between(*x), dice.between(*y)) for x, y in (HANGING, BEHIND))
    hand = ends.get(pose.hand, hanging)
    foot = actor.at(0.07, 0.0)
    if pose.foot != "ground":  # shoes are wider than hands, and end as far forwards
        foot = ends[pose.foot] - actor.side * (FOOT - HAND) * actor.height
    turn = actor.side if pose.is_elbow_up else -actor.side
    near, far = ("right", "left") if actor.side > 0 else ("left", "right")
    arm, leg = ARM * actor.height, LEG * actor.height
    for name, end, way in ((near, hand, turn), (far, behind, -actor.side)):
        elbow, wrist = bend(actor.neck, end, arm, way)
        actor.joints |= {f"{name}_elbow": elbow, f"{name}_hand": wrist}
    for name, end in ((near, foot), (far, actor.at(-0.07, 0.0))):
        knee, ankle = bend(actor.hip, end, leg, actor.side)
        actor.joints |= {f"{name}_knee": knee, f"{name}_foot": ankle}
    actor.gaze = dice.between(-0.6, 0.6) + (0.0 if actor.side > 0 else math.pi)
    nose = complex(1.1 * HEAD * actor.height * actor.side, 0.0)
    actor.joints |= {"neck": actor.neck, "hip": actor.hip, "nose": actor.head + nose}


def _new_thing(kind: str, dice: Dice) -> Thing:
    """A thing at the origin."""
    width, height = (dice.between(*sizes) for sizes in SIZES[SHAPE_OF[kind]])
    return Thing(kind, (0.0, 0.0, width, height))


def _propose_loose(rooms: Sequence[Box], dice: Dice) -> Thing | None:
    thing = _new_thing(dice.one_of(ALL_THINGS), dice)
    thing.side = dice.one_of((-1, 1))
    thing.shift(complex(dice.between(1.0, FIELD - 1 - thing.box[2]), dice.between(1.0, FIELD - 1 - thing.box[3])))
    return None if any(overlap(grown(thing.box, 2.5), room) for room in rooms) else thing
