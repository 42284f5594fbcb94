"""The scenes of the drawn world: people who hold, throw, kick, ride, push and look at things.

A scene is made in an order that keeps the verb out of the boxes: people and things are placed first, by laws that do
not know the verb; then each person is given a verb; then a limb reaches the thing (hold, kick, push), bends up beside
it (throw) or ends as far out but beside it (nothing). So a person's box is as wide whatever the verb is, and only the
pixels where limb and thing meet tell it. Who looks at what is only in the face.
"""

from rmlr.world.chance import Dice, Stream
from rmlr.world.geometry import FIELD, Box
from rmlr.world.places import place
from rmlr.world.poses import pose, turn_face
from rmlr.world.scene import (
    HIT,
    HOLD,
    JOINTS,
    KICK,
    LOOK,
    PERSON,
    PUSH,
    RIDE,
    SWING,
    THROW,
    Deed,
    Entity,
    Interaction,
    Scene,
    Stage,
)

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


def draw_scene(seed: int, index: int, size: int, wanted: tuple[Deed, str] | None = None) -> Scene:
    """Scene `index` of the world `seed`. `wanted`: a deed and a kind of thing that it must show, plainly."""
    dice = Dice(seed, index, Stream.SCENE)
    stage = place(dice, wanted)
    for person in stage.people:
        if person.thing:
            person.deed = dice.pick(CUSTOMS[person.thing.kind])
            if person.thing.kind == "bat" and person.ball is None and person.deed == SWING:
                person.deed = HOLD
    if wanted:
        stage.people[0].deed = wanted[0]
    for person in stage.people:
        pose(person, stage, dice)
        turn_face(person, stage, dice)
    return annotate(stage, seed, index, size)


def annotate(stage: Stage, seed: int, index: int, size: int) -> Scene:
    """What can be seen on a stage, in pixels: half pixels for boxes, hundredths for joints."""
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
