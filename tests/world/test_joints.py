"""Where the joints of the drawn people are."""

from collections import Counter

from rmlr.world.joints import CROWDPOSE, crowdpose_joints
from rmlr.world.scene import (
    JOINTS,
)

from .conftest import SIZE


def test_crowdposes_joints_are_those_that_are_drawn(scenes):
    same = {"left_wrist": "left_hand", "right_ankle": "right_foot", "left_elbow": "left_elbow", "neck": "neck"}
    for s in scenes:
        people = [entity for entity in s.entities if entity.kind == "person" and not entity.is_crowd]
        for entity, joints in zip(people, crowdpose_joints(s), strict=True):
            placed = dict(zip(CROWDPOSE, joints, strict=True))
            for theirs, ours in same.items():
                x, y = entity.joints[JOINTS.index(ours)]
                is_inside = 0 <= x < SIZE and 0 <= y < SIZE
                assert placed[theirs][:2] == ((x, y) if is_inside else (0, 0))
                assert (placed[theirs][2] > 0) == is_inside
            for x, y, flag in joints:
                box = entity.box
                assert not flag or (box[0] - 1 <= x <= box[2] + 1 and box[1] - 1 <= y <= box[3] + 1)
            if placed["top_head"][2] and placed["neck"][2] and placed["left_hip"][2]:
                assert placed["top_head"][1] < placed["neck"][1] < placed["left_hip"][1]


def test_who_faces_right_shows_the_right_side(scenes):
    """The near wrist is never behind one's own trunk, the far one is at times; so it is for shoulders, always."""
    hidden = Counter()
    for s in scenes:
        for person, joints in zip(s.stage.people, crowdpose_joints(s), strict=True):
            alone = len(s.stage.people) == 1 and not s.stage.screens
            near, far = ("right", "left") if person.side > 0 else ("left", "right")
            flags = {name: flag for name, (_, _, flag) in zip(CROWDPOSE, joints, strict=True)}
            for part in ("wrist", "elbow", "shoulder"):
                assert not alone or flags[f"{near}_{part}"] != 1
                hidden[part] += flags[f"{far}_{part}"] == 1
    assert 0 < hidden["elbow"] < hidden["shoulder"]


def test_what_a_screen_or_somebody_nearer_covers_is_hidden(scenes):
    def covered_by(s, x1, y1, x2, y2):
        points = [point for joints in crowdpose_joints(s) for point in joints if point[2]]
        return [flag for x, y, flag in points if x1 + 0.1 < x < x2 - 0.1 and y1 + 0.1 < y < y2 - 0.1]

    flags = [flag for s in scenes for screen in s.stage.screens for flag in covered_by(s, *screen)]
    assert flags
    assert set(flags) == {1}
