"""People and their joints, as COCO's person files have them, and crops around them."""

import json

import numpy as np
import pytest
from PIL import Image

from rmlr.data.images import DEVIATION, MEAN
from rmlr.data.keypoints import Crop, Posed, load_crops, load_people, mirrored

NAMES = ["left_wrist", "right_wrist", "neck"]


def person(image_id: int, keypoints: list[float], box=(10, 20, 30, 40), **more) -> dict:
    found = sum(flag > 0 for flag in keypoints[2::3])
    values = {"image_id": image_id, "category_id": 1, "bbox": list(box), "iscrowd": 0, "num_keypoints": found}
    return values | {"id": 1, "keypoints": keypoints, "area": 1.0, "segmentation": []} | more


def write(path, annotations, images=(5, 7)):
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": NAMES, "skeleton": [[1, 3]]}
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 70, "width": 100, "license": 0} for n in images],
        "annotations": annotations,
        "categories": [category],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def posed() -> Posed:
    return Posed(
        file_name="photo.png",
        height=20,
        width=30,
        box=np.array([10.0, 4.0, 18.0, 12.0]),
        joints=np.array([[11.0, 5.0], [17.0, 11.0]]),
        is_known=np.array([True, True]),
    )


def test_people_come_with_their_boxes_and_known_joints_and_crowds_are_left_out(tmp_path):
    known = person(7, [1, 2, 2, 3, 4, 1, 0, 0, 0])
    others = [person(5, [0] * 9), person(5, [1] * 9, iscrowd=1), person(5, [1] * 9, box=(1, 1, 0, 5))]
    names, people = load_people(write(tmp_path / "file.json", [others[0], known, *others[1:]]))
    assert names == tuple(NAMES)
    (one,) = people
    assert (one.file_name, one.height, one.width) == ("7.png", 70, 100)
    assert one.box.tolist() == [10, 20, 40, 60]
    assert one.is_known.tolist() == [True, True, False]
    assert one.joints.tolist() == [[1, 2], [3, 4], [0, 0]]


def test_a_file_without_people_has_none(tmp_path):
    assert load_people(write(tmp_path / "file.json", [], images=())) == (tuple(NAMES), [])


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (person(6, [1] * 9), r"annotations\[1\] is of image 6, which `images` does not list"),
        (person(5, [1] * 8), r"annotations\[1\]\.keypoints: expected 3 numbers for each of 3 joints, got 8 numbers"),
        (person(5, [1] * 9, bbox=[1, 2, 3]), r"annotations\.1\.bbox"),
    ],
)
def test_what_does_not_belong_together_is_an_error(tmp_path, annotation, said):
    path = write(tmp_path / "file.json", [person(5, [1] * 9), annotation])
    with pytest.raises(ValueError, match=rf"file\.json: .*{said}"):
        load_people(path)


def test_a_duplicate_image_is_an_error(tmp_path):
    path = write(tmp_path / "file.json", [person(5, [1] * 9)])
    content = json.loads(path.read_text())
    content["images"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"file\.json: image id 5 is listed twice"):
        load_people(path)


def test_left_and_right_change_places_in_a_mirror():
    assert mirrored(NAMES) == [1, 0, 2]
    assert mirrored(["nose", "left_eye"]) == [0, 1], "a left one whose twin is not annotated stays"
    assert mirrored([]) == []


def test_a_crop_is_a_square_around_the_middle_of_a_person(posed):
    crop = Crop.around(posed, 1.25)
    assert (crop.left, crop.top, crop.side) == (9.0, 3.0, 10.0)
    moved = Crop.around(posed, 1.25, (0.1, -0.2), 2.0)
    assert (moved.left, moved.top, moved.side) == (6.0, -6.0, 20.0)


@pytest.mark.parametrize("is_flipped", [False, True])
def test_a_joint_is_where_its_pixel_is(posed, tmp_path, is_flipped):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[5, 11] = 255  # its centre is at 11.5, 5.5
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    crop = Crop(9.0, 3.0, 10.0, is_flipped)
    batch = load_crops([posed], [crop], tmp_path, 10)
    assert batch.pixels.shape == (1, 3, 10, 10)
    hottest = int(batch.pixels[0, 0].argmax())
    x, y = (hottest % 10 + 0.5) / 10, (hottest // 10 + 0.5) / 10
    np.testing.assert_allclose(crop.place(np.array([[11.5, 5.5]])), [[x, y]])
    np.testing.assert_allclose(crop.lift(crop.place(posed.joints)), posed.joints)


def test_beyond_the_photo_a_crop_is_black(posed, tmp_path):
    Image.new("RGB", (30, 20), (255, 255, 255)).save(tmp_path / "photo.png")
    seen = load_crops([posed], [Crop(-10.0, 0.0, 20.0)], tmp_path, 20).pixels[0, 0]
    black, white = -MEAN[0] / DEVIATION[0], (1 - MEAN[0]) / DEVIATION[0]
    np.testing.assert_allclose(seen[:, :9], black, rtol=1e-5)
    np.testing.assert_allclose(seen[:, 11:], white, rtol=1e-5)


def test_no_crops_are_an_empty_batch(tmp_path):
    assert load_crops([], [], tmp_path, 16).pixels.shape[0] == 0


def test_a_photo_of_another_size_is_refused(posed, tmp_path):
    Image.new("RGB", (31, 20)).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo\.png: is 20 x 31 pixels .*annotated as 20 x 30"):
        load_crops([posed], [Crop.around(posed, 1.0)], tmp_path, 16)
