"""The drawn world: what happens in it, what its boxes give away, and how its files look."""

import hashlib
import json
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import mean

import numpy as np
import pytest
import yaml
from PIL import Image

from rmlr.stages.draw import draw
from rmlr.study.made import MADE
from rmlr.world.chance import Dice, Stream
from rmlr.world.composition import CUSTOMS, RARITIES, draw_scene
from rmlr.world.files import (
    HICO_CLASSES,
    HICO_OBJECTS,
    HICO_VERB_NAMES,
    SPLITS,
    coco_instances,
    draw_picture,
    hicodet_rows,
    orders,
    person_keypoints,
    vcoco_actions,
    write_files,
)
from rmlr.world.joints import CROWDPOSE, CROWDPOSE_BONES, crowdpose_joints
from rmlr.world.picture import paint
from rmlr.world.scene import (
    HIT,
    HOLD,
    JOINTS,
    KICK,
    KINDS,
    LOOK,
    PUSH,
    RIDE,
    SWING,
    THROW,
)

SIZE = 128


@pytest.fixture(scope="module")
def elsewhere():
    """A process where shapes and types are not checked at every call: thirty times as fast."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def scenes(elsewhere):
    return list(elsewhere.map(partial(draw_scene, 3, size=SIZE), range(1500), chunksize=500))


@pytest.fixture(scope="module")
def pictures(elsewhere):
    """A small world, not painted: 600 pictures of train, 60 of val, 200 of test."""
    draw_order = partial(draw_picture, 0, SIZE)
    counts = {"train": 600, "val": 60, "test": 200}
    return {split: list(elsewhere.map(draw_order, orders(split, counts[split]), chunksize=300)) for split in SPLITS}


@pytest.fixture(scope="module")
def written(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_files(folder, [picture for split in SPLITS for picture in pictures[split]])
    return folder


def content(path):
    return json.loads(path.read_text())


def draw_world(folder, name, **world):
    settings = folder / f"{name}.yaml"
    settings.write_text(yaml.safe_dump({"code": "", "world": {"seed": 0, "size": SIZE} | world}))
    draw(settings=settings, out=folder / name)
    return folder / name


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
def test_every_seed_gives_the_same_files_and_pixels_as_ever(tmp_path, elsewhere, seed, told):
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


@pytest.mark.parametrize("combination", RARITIES, ids=lambda c: f"{c[0].action} {c[1]}")
def test_what_is_asked_for_is_shown_plainly(combination):
    deed, kind = combination
    for index in range(10):
        scene = draw_scene(0, index, SIZE, combination)
        shown = [it for it in scene.interactions if it.deed == deed and it.person == 0]
        assert [scene.entities[it.entity].kind for it in shown if it.entity is not None] == [kind]
        assert scene.entities[0].is_listed


# ---- limbs tell the verb


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


def test_no_kind_of_thing_gives_its_verb_away():
    for kind, deeds in CUSTOMS.items():
        assert sum(deeds.values()) == pytest.approx(1)
        assert max(deeds.values()) < 0.7, kind


# ---- files


def test_small_worlds_have_an_interaction_in_every_split(tmp_path):
    folder = draw_world(tmp_path, "tiny", train=1, val=1, test=1)
    for split in SPLITS:
        assert sum(sum(action["label"]) for action in content(folder / f"vcoco/vcoco_{split}.json")) > 0
    for split, count in (("train", 2), ("test", 1)):
        hico = content(folder / f"hicodet/instances_{split}2015.json")
        assert len(hico["filenames"]) == count
        for name, size in zip(hico["filenames"], hico["size"], strict=True):
            with Image.open(folder / "images" / name) as picture:
                assert list(picture.size) == size


def test_image_ids_are_unique_and_are_the_digits_of_the_file(pictures):
    everything = [picture for split in SPLITS for picture in pictures[split]]
    assert len({picture.image_id for picture in everything}) == len(everything)
    for picture in everything:
        assert int(picture.file_name.rsplit("_", 1)[1].removesuffix(".jpg")) == picture.image_id


def test_coco_files_hold_train_with_val_and_test(written, pictures):
    for name, splits in (("train", ("train", "val")), ("val", ("test",))):
        images = [image["id"] for image in content(written / f"coco/instances_{name}2014.json")["images"]]
        assert images == [picture.image_id for split in splits for picture in pictures[split]]


def test_coco_annotations_are_sound(pictures):
    file = coco_instances(pictures["train"])
    ids = [category["id"] for category in file["categories"]]
    assert ids != list(range(1, len(KINDS) + 1))  # not contiguous, as in COCO
    assert len({annotation["id"] for annotation in file["annotations"]}) == len(file["annotations"])
    images = {image["id"] for image in file["images"]}
    for annotation in file["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert annotation["image_id"] in images
        assert annotation["category_id"] in ids
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= SIZE
        assert annotation["area"] == width * height > 0
        if "keypoints" in annotation:
            assert len(annotation["keypoints"]) == 3 * len(JOINTS)
            assert annotation["num_keypoints"] == sum(seen > 0 for seen in annotation["keypoints"][2::3])


def test_person_files_hold_the_people_of_the_instances_with_joints_of_crowdpose(written, pictures):
    for name, splits in (("train", ("train", "val")), ("val", ("test",))):
        instances = content(written / f"coco/instances_{name}2014.json")
        file = content(written / f"coco/person_keypoints_{name}2014.json")
        assert file["images"] == instances["images"]
        (category,) = file["categories"]
        assert tuple(category["keypoints"]) == CROWDPOSE
        assert [(CROWDPOSE[a - 1], CROWDPOSE[b - 1]) for a, b in category["skeleton"]] == list(CROWDPOSE_BONES)
        people = [annotation for annotation in instances["annotations"] if annotation["category_id"] == category["id"]]
        assert len(people) == len(file["annotations"]) > sum(len(pictures[split]) for split in splits)
        same = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
        for annotation, person in zip(file["annotations"], people, strict=True):
            assert all(annotation[key] == person[key] for key in same)
            flags = annotation["keypoints"][2::3]
            assert len(annotation["keypoints"]) == 3 * len(CROWDPOSE)
            assert annotation["num_keypoints"] == sum(flag > 0 for flag in flags)
            assert set(flags) <= {0, 1, 2}
            assert not any(flags) or not annotation["iscrowd"]


def test_a_person_file_without_pictures_knows_its_joints():
    file = person_keypoints([])
    assert (file["images"], file["annotations"]) == ([], [])
    assert file["categories"][0]["keypoints"] == list(CROWDPOSE)


def test_vcoco_roles_point_at_objects_of_their_image(pictures):
    owner = {a["id"]: a["image_id"] for a in coco_instances(pictures["train"])["annotations"]}
    unseen = 0
    for action in vcoco_actions(pictures["train"]):
        rows = len(action["image_id"])
        assert len(action["role_object_id"]) == rows * len(action["role_name"])
        columns = np.reshape(action["role_object_id"], (len(action["role_name"]), rows))
        assert columns[0].tolist() == action["ann_id"]
        for role in columns[1:]:
            for image, target, label in zip(action["image_id"], role.tolist(), action["label"], strict=True):
                assert target == 0 or owner[target] == image
                assert label or target == 0
                unseen += label and not target
    assert unseen > 0


def test_vcoco_lists_the_same_persons_under_every_action(pictures):
    actions = vcoco_actions(pictures["train"])
    assert len({tuple(action["ann_id"]) for action in actions}) == 1
    people = [e for p in pictures["train"] for e in p.scene.entities if e.kind == "person"]
    assert len(actions[0]["ann_id"]) == sum(person.is_listed for person in people) < len(people)


def test_hit_has_two_roles_and_standing_none(pictures):
    roles = {action["action_name"]: action["role_name"] for action in vcoco_actions(pictures["train"])}
    assert roles["hit"] == ["agent", "instr", "obj"]
    assert roles["stand"] == roles["walk"] == ["agent"]


def test_files_have_the_keys_of_the_real_ones(written, real_data):
    ours, theirs = content(written / "vcoco/vcoco_train.json"), content(real_data / "annotations/vcoco_train.json")
    assert type(ours) is type(theirs)
    for action in ours:
        assert set(action) == set(theirs[0])
        for key, value in theirs[0].items():
            assert type(action[key]) is type(value)
            assert type(action[key][0]) is type(value[0])
    ours = content(written / "hicodet/instances_test2015.json")
    theirs = content(real_data / "annotations/instances_test2015.json")
    assert list(ours) == list(theirs)
    first = next(rows for rows in ours["annotation"] if rows["hoi"])
    for key, value in theirs["annotation"][0].items():
        assert type(first[key][0]) is type(value[0])
    assert type(first["boxes_h"][0][0]) is float
    for ids in ("splits/vcoco_train.ids", "splits/vcoco_val.ids"):
        text, real = (written / "vcoco" / ids).read_text(), (real_data / "annotations" / ids).read_text()
        assert text.endswith("\n") == real.endswith("\n")
        numbers = [int(line) for line in text.splitlines()]
        assert numbers == sorted(numbers)


def test_hicodet_boxes_are_one_based_and_inclusive(pictures):
    for picture in pictures["test"]:
        rows = hicodet_rows(picture)
        for box in rows["boxes_h"] + rows["boxes_o"]:
            assert box == [int(edge) for edge in box]
            assert 1 <= box[0] < box[2] <= SIZE
            assert 1 <= box[1] < box[3] <= SIZE


def test_hicodet_rows_are_drawn_anew(pictures):
    humans = Counter()
    for picture in pictures["train"]:
        rows = hicodet_rows(picture)
        people = sum(e.kind == "person" and not e.is_crowd for e in picture.scene.entities)
        humans[len({tuple(box) for box in rows["boxes_h"]}) > people] += 1
    assert humans[True] > humans[False]


def test_hicodet_lists_are_ordered_as_officially(written):
    file = content(written / "hicodet/instances_train2015.json")
    assert file["objects"] == sorted(file["objects"]) == HICO_OBJECTS
    assert file["verbs"] == sorted(file["verbs"]) == HICO_VERB_NAMES
    assert [hoi for hoi, _, _ in file["correspondence"]] == list(range(len(HICO_CLASSES)))
    objects = [kind for _, kind, _ in file["correspondence"]]
    assert objects == sorted(objects)  # grouped by object
    none = file["verbs"].index("no_interaction")
    assert {kind for _, kind, verb in file["correspondence"] if verb == none} == set(range(len(KINDS)))


def test_hicodet_rows_agree_with_their_classes(written):
    for split in ("train", "test"):
        file = content(written / f"hicodet/instances_{split}2015.json")
        for rows in file["annotation"]:
            assert len({len(column) for column in rows.values()}) == 1
            for hoi, kind, verb in zip(rows["hoi"], rows["object"], rows["verb"], strict=True):
                assert file["correspondence"][hoi] == [hoi, kind, verb]
        assert file["empty"] == [n for n, rows in enumerate(file["annotation"]) if not rows["hoi"]]


def test_rare_classes_are_those_with_few_training_rows(written):
    train, test = (content(written / f"hicodet/instances_{split}2015.json") for split in ("train", "test"))
    rows = Counter(hoi for annotation in train["annotation"] for hoi in annotation["hoi"])
    assert train["rare"] == test["rare"] == [hoi for hoi in range(len(HICO_CLASSES)) if rows[hoi] < 10]
    assert sorted(train["rare"] + train["non_rare"]) == list(range(len(HICO_CLASSES)))
    tested = {hoi for annotation in test["annotation"] for hoi in annotation["hoi"]}
    assert tested == set(range(len(HICO_CLASSES)))


def test_the_demo_world_has_rare_classes_and_a_tail():
    asked = Counter(order.wanted for split, n in (("train", 5200), ("val", 800)) for order in orders(split, n))
    counts = sorted(asked[combination] for combination in RARITIES)
    assert counts[0] >= 3
    assert sum(count < 10 for count in counts) >= 4
    assert counts[-1] > 30
    assert min(Counter(order.wanted for order in orders("test", 800))[combination] for combination in RARITIES) >= 3


def test_a_world_without_pictures_writes_empty_files(tmp_path):
    write_files(tmp_path, [])
    assert content(tmp_path / "coco/instances_val2014.json")["images"] == []
    assert [sum(action["label"]) for action in content(tmp_path / "vcoco/vcoco_test.json")] == [0] * 9
    assert content(tmp_path / "hicodet/instances_test2015.json")["annotation"] == []
