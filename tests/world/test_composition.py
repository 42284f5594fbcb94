"""Scenes of the drawn world: the same everywhere, as crowded as specified, and their boxes give no verb away."""

import hashlib
import json
from collections import Counter
from functools import partial
from statistics import mean

import numpy as np
import pytest

from rmlr.study.made import MADE
from rmlr.world.chance import Dice, Stream
from rmlr.world.composition import CUSTOMS, RARITIES, draw_scene
from rmlr.world.files import (
    SPLITS,
    draw_picture,
    orders,
    write_files,
)
from rmlr.world.picture import paint
from rmlr.world.scene import (
    HIT,
    HOLD,
    JOINTS,
    KICK,
    LOOK,
    PUSH,
    RIDE,
    SWING,
    THROW,
)

from .conftest import SIZE, draw_world


def digests(folder):
    files = (
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("run.json", "log.txt", MADE)
    )
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def share(items):
    items = list(items)
    return sum(items) / len(items)


# ---- the same everywhere


def test_a_seed_fixes_every_byte_however_many_processes_draw(tmp_path, monkeypatch):
    monkeypatch.setattr("rmlr.stages.draw.CHUNK", 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = draw_world(tmp_path, "alone", train=6, val=2, test=2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    together = draw_world(tmp_path, "together", train=6, val=2, test=2)
    assert digests(alone) == digests(together)


def test_another_seed_draws_another_world():
    assert draw_scene(0, 1, SIZE).entities != draw_scene(1, 1, SIZE).entities


def test_chance_is_the_same_on_every_machine():
    dice = Dice(0, 1, Stream.HICODET_BOXES)
    assert [dice.between(0.0, 1.0) for _ in range(3)] == [0.8817035384837327, 0.28917661385918403, 0.8710360723907997]


def test_a_scene_is_the_same_on_every_machine():
    told = json.dumps([[(e.kind, e.box, e.joints) for e in draw_scene(0, index, SIZE).entities] for index in range(20)])
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "ae60710452f2b5fe"


def test_the_world_is_the_one_that_was_published(tmp_path):
    """Pictures, and annotation files but those of the joints: whoever changes them changes every result."""
    pictures = [draw_picture(0, SIZE, order) for split in SPLITS for order in orders(split, 4)]
    write_files(tmp_path, pictures)
    files = {name: digest for name, digest in digests(tmp_path).items() if "person_keypoints" not in name}
    assert len(files) == 10
    assert hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16] == "2970df83317d8497"
    painted = b"".join(paint(picture.scene).tobytes() for picture in pictures)
    assert hashlib.sha256(painted).hexdigest()[:16] == "cbea73d8cb0daf55"


@pytest.mark.parametrize(
    ("seed", "told"),
    [(0, "94cd19dd3f15a81e"), (1, "fd303248e350fd3b"), (7, "aa38dc7d9f4a79bc"), (2023, "b9faab560511bf03")],
)
def test_every_seed_gives_the_recorded_files_and_pixels(tmp_path, elsewhere, seed, told):
    sizes = {"train": 128, "val": 64, "test": 96}
    pictures = [
        picture
        for split, size in sizes.items()
        for picture in elsewhere.map(partial(draw_picture, seed, size), orders(split, 25), chunksize=25)
    ]
    write_files(tmp_path, pictures)
    found = hashlib.sha256()
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        found.update(path.read_bytes())
    for image in elsewhere.map(paint, [picture.scene for picture in pictures[::4]], chunksize=25):
        found.update(image.tobytes())
    assert found.hexdigest()[:16] == told


def test_a_picture_does_not_depend_on_how_many_are_drawn():
    few, many = orders("val", 5), orders("val", 50)
    assert [order.image_id for order in few] == [order.image_id for order in many[:5]]


def test_a_picture_is_coloured_and_as_large_as_asked():
    picture = paint(draw_scene(0, 1, 64))
    assert (picture.size, picture.mode) == ((64, 64), "RGB")
    assert np.asarray(picture).std(axis=(0, 1)).min() > 5


def test_a_scene_scales_with_the_picture():
    small, large = draw_scene(0, 1, 64), draw_scene(0, 1, 256)
    for a, b in zip(small.entities, large.entities, strict=True):
        assert a.kind == b.kind
        assert np.array(a.box) * 4 == pytest.approx(np.array(b.box), abs=2)


# ---- what happens


def test_scenes_are_as_crowded_as_specified(scenes):
    people = [sum(e.kind == "person" and not e.is_crowd for e in s.entities) for s in scenes]
    things = [sum(e.kind != "person" for e in s.entities) for s in scenes]
    assert set(people) == {1, 2, 3}
    assert max(things) <= 6
    assert 4.0 < mean(people) + mean(things) < 4.6
    assert 4.4 < mean(p * t for p, t in zip(people, things, strict=True)) < 5.2


def test_positive_pairs_are_as_frequent_as_specified(scenes):
    deeds = [Counter((it.person, it.entity) for it in s.interactions if it.entity is not None) for s in scenes]
    assert 1.45 < mean(map(len, deeds)) < 1.85
    assert 0.2 < share(count > 1 for pairs in deeds for count in pairs.values()) < 0.32
    assert 0.02 < share(not s.interactions for s in scenes) < 0.12


def test_every_verb_is_frequent_enough_to_be_learnt(scenes):
    counts = Counter(it.deed for s in scenes for it in s.interactions)
    assert min(counts[deed] for deed in (HOLD, THROW, KICK, RIDE, PUSH, LOOK, SWING, HIT)) > len(scenes) * 0.03


def test_some_objects_of_true_verbs_cannot_be_seen(scenes):
    unseen = Counter(it.deed for s in scenes for it in s.interactions if it.entity is None)
    assert 0.1 < unseen.total() / sum(len(s.interactions) for s in scenes) < 0.2
    assert {HOLD, THROW, KICK, LOOK, SWING, HIT} <= set(unseen)


def test_some_people_were_not_asked(scenes):
    people = [e for s in scenes for e in s.entities if e.kind == "person" and not e.is_crowd]
    assert 0.05 < share(not person.is_listed for person in people) < 0.13


def test_crowds_are_few_and_never_act(scenes):
    assert 0.01 < share(any(e.is_crowd for e in s.entities) for s in scenes) < 0.06
    for s in scenes:
        crowds = {number for number, entity in enumerate(s.entities) if entity.is_crowd}
        assert not crowds & {number for it in s.interactions for number in (it.person, it.entity)}
        assert not any(s.entities[number].is_listed for number in crowds)


def test_nobody_does_one_thing_to_two_objects(scenes):
    for s in scenes:
        assert max(Counter((it.person, it.deed) for it in s.interactions).values(), default=1) == 1


def test_boxes_are_inside_the_picture(scenes):
    for s in scenes:
        for entity in s.entities:
            x1, y1, x2, y2 = entity.box
            assert 0 <= x1 < x2 <= SIZE
            assert 0 <= y1 < y2 <= SIZE


def test_joints_lie_in_their_persons_box(scenes):
    for s in scenes:
        for entity in s.entities:
            if entity.kind == "person" and not entity.is_crowd:
                assert len(entity.joints) == len(entity.is_joint_seen) == len(JOINTS)
                for x, y in entity.joints:
                    outside = not (0 <= x <= SIZE and 0 <= y <= SIZE)
                    inside = entity.box[0] - 1 <= x <= entity.box[2] + 1 and entity.box[1] - 1 <= y <= entity.box[3] + 1
                    assert outside or inside


@pytest.mark.parametrize("combination", RARITIES, ids=lambda c: f"{c[0].action} {c[1]}")
def test_what_is_asked_for_is_shown_plainly(combination):
    deed, kind = combination
    for index in range(10):
        scene = draw_scene(0, index, SIZE, combination)
        shown = [it for it in scene.interactions if it.deed == deed and it.person == 0]
        assert [scene.entities[it.entity].kind for it in shown if it.entity is not None] == [kind]
        assert scene.entities[0].is_listed


# ---- boxes do not


def spans(scenes, kinds):
    """deed -> how far each person's box reaches to front (beyond the thing), back and top, and where the thing is."""
    found = {}
    for person in (person for s in scenes for person in s.stage.people):
        thing = person.thing
        if thing and thing.kind in kinds and not thing.hidden:
            x1, y1, x2, y2 = person.box
            front, back = (x2, x1) if person.side > 0 else (x1, x2)
            near = thing.box[0 if person.side > 0 else 2]
            row = [person.side * (front - near), person.side * (person.ground.real - back)]
            row += [person.ground.imag - y1, y2 - person.ground.imag]
            row += [person.side * (near - person.ground.real), person.ground.imag - thing.centre.imag]
            found.setdefault(person.deed, []).append([value / person.height for value in row])
    return {deed: np.array(rows) for deed, rows in found.items()}


@pytest.mark.parametrize("kinds", [("ball", "bottle", "box"), ("bicycle",)])
def test_boxes_of_all_verbs_share_one_distribution(scenes, kinds):
    by_deed = spans(scenes, kinds)
    everything = np.concatenate(list(by_deed.values()))
    assert len(by_deed) >= 3
    for rows in by_deed.values():
        assert len(rows) > 80
        apart = np.abs(rows.mean(axis=0) - everything.mean(axis=0))
        assert (apart < 0.02).all()
        assert (np.abs(rows.std(axis=0) - everything.std(axis=0)) < 0.02).all()


def test_no_kind_of_thing_reveals_its_verb():
    for kind, deeds in CUSTOMS.items():
        assert sum(deeds.values()) == pytest.approx(1)
        assert max(deeds.values()) < 0.7, kind
