"""How the files of the drawn world look, and what they tell."""

import json
from collections import Counter

import numpy as np
from PIL import Image

from rmlr.world.composition import RARITIES
from rmlr.world.files import (
    HICO_CLASSES,
    HICO_OBJECTS,
    HICO_VERB_NAMES,
    SPLITS,
    coco_instances,
    hicodet_rows,
    orders,
    person_keypoints,
    vcoco_actions,
    write_files,
)
from rmlr.world.joints import CROWDPOSE, CROWDPOSE_BONES
from rmlr.world.scene import (
    JOINTS,
    KINDS,
)

from .conftest import SIZE, draw_world


def content(path):
    return json.loads(path.read_text())


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


def test_a_person_file_without_pictures_has_its_joints():
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


def test_hicodet_rows_have_their_own_boxes(pictures):
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
