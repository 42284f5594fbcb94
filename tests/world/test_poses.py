"""Limbs and faces tell what the drawn people do."""

import numpy as np

from rmlr.world.scene import (
    HOLD,
    KICK,
    PUSH,
    RIDE,
    SWING,
)


def share(items):
    items = list(items)
    return sum(items) / len(items)


def gap(point, box):
    """Distance of a point to a box, 0 inside."""
    return np.hypot(max(box[0] - point.real, 0, point.real - box[2]), max(box[1] - point.imag, 0, point.imag - box[3]))


def ends(person):
    """Hands and feet: (limb, front or back) -> point."""
    front, back = ("right", "left") if person.side > 0 else ("left", "right")
    return {
        (limb, way): person.joints[f"{name}_{limb}"]
        for limb in ("hand", "foot")
        for way, name in ((1, front), (-1, back))
    }


ACTING = {
    HOLD: {("hand", 1)},
    SWING: {("hand", 1)},
    KICK: {("foot", 1)},
    PUSH: {("hand", 1), ("hand", -1)},
    RIDE: {("hand", 1), ("hand", -1)},
}


def test_limbs_touch_what_they_act_on(scenes):
    for person in (person for s in scenes for person in s.stage.people):
        for limb in ACTING.get(person.deed, ()):
            assert gap(ends(person)[limb], person.thing.box) < 1.5


def test_other_limbs_keep_off_things(scenes):
    touches = []
    for s in scenes:
        for person in s.stage.people:
            for limb, point in ends(person).items():
                for thing in s.stage.things:
                    is_own_bicycle = thing is person.thing and thing.kind == "bicycle"
                    if thing is person.thing and (limb in ACTING.get(person.deed, ()) or is_own_bicycle):
                        continue
                    touches.append(gap(point, thing.box) < 2.5)
    assert share(touches) < 0.001


def test_a_swung_bat_meets_its_ball_and_a_held_one_does_not(scenes):
    for person in (person for s in scenes for person in s.stage.people):
        if person.ball and person.deed in (SWING, HOLD):
            radius = (person.ball.box[2] - person.ball.box[0]) / 2
            assert (abs(person.thing.tip - person.ball.centre) < radius + 2) == (person.deed == SWING)


def test_a_nose_points_at_one_thing_only(scenes):
    def turn(person, target):
        at = getattr(target, "head", None) or target.centre
        return abs(np.angle((person.joints["nose"] - person.head) / (at - person.head), deg=True))

    for s in scenes:
        for person in s.stage.people:
            if person.gaze is None:
                continue
            for thing in s.stage.things:
                if thing is person.looks_at:
                    assert turn(person, thing) < 5
                else:
                    assert turn(person, thing) > (50 if person.looks_at is None else 13)
