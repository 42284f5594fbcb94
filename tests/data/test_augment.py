"""Augmented views: boxes go where their pixels go, and every view depends on seed, view and image alone."""

import os
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from rmlr.data.augment import draw_plan, load_augmented
from rmlr.hoi import NO_BOX, Annotation
from rmlr.study.settings import Augment

UPT = Augment(
    flip=0.5,
    jitter=0.4,
    shortest=list(range(480, 801, 32)),
    longest=1333,
    crop=0.5,
    crop_from=[400, 500, 600],
    crop_smallest=384,
    crop_largest=600,
)
SMALL = Augment(
    flip=0.5,
    jitter=0.4,
    shortest=[48, 64],
    longest=107,
    crop=0.5,
    crop_from=[40, 50],
    crop_smallest=20,
    crop_largest=40,
)
PLAIN = SMALL.model_copy(update={"flip": 0.0, "jitter": 0.0, "crop": 0.0})


def record(image_id=7, height=60, width=80, boxes=((10, 10, 30, 40), (50, 20, 70, 50)), **more):
    """A photo on which box 0 does verb 3 to box 1, and verb 4 to something without a box; both boxes are listed."""
    number = len(boxes)
    rows = [(0, 3, 1), (0, 4, NO_BOX)] if number else []
    fields = {
        "file_name": f"{image_id}.png",
        "boxes": np.array(boxes, dtype=np.float64).reshape(-1, 4),
        "labels": np.zeros(number, dtype=np.int64),
        "interactions": np.array(rows, dtype=np.int64).reshape(-1, 3),
        "is_crowd": np.zeros(number, dtype=bool),
        "is_listed": np.ones(number, dtype=bool),
        "actions": np.array([(index, 2) for index in range(number)], dtype=np.int64).reshape(-1, 2),
    }
    return Annotation(image_id=image_id, height=height, width=width, **(fields | more))


def noise(height, width, seed=0):
    """A picture in which every place is like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def drawn(rule, number=200, height=60, width=80, **key):
    """Plans of many images of one size."""
    return [draw_plan(height, width, image_id, rule, **({"seed": 0, "view": 0} | key)) for image_id in range(number)]


# ---- where boxes go


def test_boxes_follow_their_pixels_through_flip_crop_and_resizing():
    box = (24.0, 16.0, 48.0, 40.0)
    photo = np.zeros((60, 80, 3), dtype=np.uint8)
    photo[16:40, 24:48] = 255
    seen = Counter()
    for plan in drawn(SMALL.model_copy(update={"jitter": 0.0, "crop": 0.7})):
        view = np.asarray(plan.photo(Image.fromarray(photo)))[..., 0] > 127
        (moved,), (is_left,) = plan.boxes(np.array([box]))
        assert view.shape == plan.size
        seen[plan.is_flipped, plan.before_crop is not None] += 1
        if not view.any():
            assert not is_left or min(moved[2] - moved[0], moved[3] - moved[1]) < 1.5
            continue
        rows, columns = view.any(1).nonzero()[0], view.any(0).nonzero()[0]
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert is_left
        np.testing.assert_allclose(moved, found, atol=1.6)
    assert len(seen) == 4


def test_a_flip_mirrors_boxes_about_the_middle():
    plan = draw_plan(60, 80, 7, PLAIN.model_copy(update={"flip": 1.0, "shortest": [60]}), seed=0, view=0)
    moved, is_left = plan.boxes(np.array([[10.0, 5.0, 30.0, 40.0]]))
    assert moved.tolist() == [[50, 5, 70, 40]]
    assert is_left.tolist() == [True]


def test_without_a_crop_boxes_are_not_clipped_and_none_vanishes():
    plan = draw_plan(60, 80, 7, PLAIN.model_copy(update={"shortest": [60]}), seed=0, view=0)
    boxes = np.array([[-2.0, 5.0, 90.0, 40.0], [5.0, 5.0, 5.0, 5.0]])
    moved, is_left = plan.boxes(boxes)
    np.testing.assert_array_equal(moved, boxes)
    assert is_left.all()


def test_no_boxes_stay_no_boxes():
    for plan in drawn(SMALL, 20):
        moved, is_left = plan.boxes(np.zeros((0, 4)))
        assert (moved.shape, is_left.shape) == ((0, 4), (0,))


# ---- what is annotated in a view


def test_an_interaction_goes_with_either_of_its_boxes():
    item = record(height=600, width=800, boxes=[(0, 0, 60, 60), (730, 530, 800, 600)])
    rule = UPT.model_copy(update={"flip": 0.0, "crop": 1.0})
    seen = set()
    for plan in drawn(rule, 100, 600, 800):
        view, (_, is_left) = plan.annotation(item), plan.boxes(item.boxes)
        seen.add(tuple(is_left.tolist()))
        expected = [(0, 3, 1)] * int(is_left.all()) + [(0, 4, NO_BOX)] * int(is_left[0])
        assert list(map(tuple, view.interactions.tolist())) == expected
        assert view.is_listed.tolist() == is_left.tolist()
        assert view.actions[:, 0].tolist() == is_left.nonzero()[0].tolist()
        assert (view.height, view.width) == plan.size
        assert len(view.boxes) == 2
        sides = view.boxes[:, 2:] - view.boxes[:, :2]
        assert ((sides > 0).all(1) == is_left).all()
    assert {(True, False), (False, True), (False, False)} <= seen


def test_an_image_without_annotation_has_none_in_its_views():
    for plan in drawn(SMALL, 20):
        view = plan.annotation(record(boxes=[]))
        assert [len(view.boxes), len(view.interactions), len(view.actions)] == [0, 0, 0]


# ---- what is drawn


def test_a_plan_depends_on_seed_view_and_image_and_on_nothing_else():
    def key(**other):
        return draw_plan(480, 640, rule=UPT, **({"image_id": 7, "seed": 1, "view": 2} | other))

    np.random.default_rng().random()
    torch.rand(3)
    assert key() == key()
    assert len({key(), key(image_id=8), key(seed=2), key(view=1), key(image_id=-7)}) == 5


def test_drawn_numbers_are_upts():
    plans = drawn(UPT, 2000, 480, 640)
    cropped = [plan for plan in plans if plan.before_crop is not None]
    assert abs(sum(plan.is_flipped for plan in plans) - 1000) < 110
    assert abs(len(cropped) - 1000) < 110
    assert {min(plan.before_crop) for plan in cropped} == {400, 500, 600}
    sides = [side for plan in cropped for side in (plan.crop[2] - plan.crop[0], plan.crop[3] - plan.crop[1])]
    assert (min(sides), max(sides)) == (384, 600)
    for plan in cropped:
        left, top, right, bottom = plan.crop
        assert 0 <= left < right <= plan.before_crop[1]
        assert 0 <= top < bottom <= plan.before_crop[0]
    assert {min(plan.size) for plan in plans} == set(UPT.shortest)
    assert max(max(plan.size) for plan in plans) <= 1333
    assert len({tuple(index for index, _ in plan.colours) for plan in plans}) == 6
    factors = np.array([factor for plan in plans for _, factor in plan.colours])
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4


def test_no_side_is_larger_than_the_longest_one_allowed():
    assert all(max(plan.size) <= 1333 for plan in drawn(UPT, 200, 300, 1200))


def test_a_photo_smaller_than_the_smallest_crop_keeps_that_side_whole():
    rule = SMALL.model_copy(update={"crop": 1.0, "crop_from": [10]})
    plan = draw_plan(60, 80, 7, rule, seed=0, view=0)
    assert (plan.crop[1], plan.crop[3]) == (0, 10)


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (3000, 1)])
def test_a_strip_is_never_enlarged_to_gigabytes(height, width):
    plans = drawn(UPT, 30, height, width)
    assert {plan.before_crop for plan in plans} == {None}
    assert all(min(plan.size) >= 1 and max(plan.size) <= 2 * UPT.longest for plan in plans)
    assert plans[0].photo(Image.new("RGB", (width, height))).size == plans[0].size[::-1]


def test_colours_change_and_a_photo_without_jitter_does_not():
    photo = noise(60, 80)
    plain = PLAIN.model_copy(update={"shortest": [60]})
    same = draw_plan(60, 80, 7, plain, seed=0, view=0).photo(photo)
    other = draw_plan(60, 80, 7, plain.model_copy(update={"jitter": 0.4}), seed=0, view=0).photo(photo)
    np.testing.assert_array_equal(np.asarray(same), np.asarray(photo))
    assert (np.asarray(other) != np.asarray(photo)).any()


def test_settings_whose_smallest_crop_exceeds_the_largest_are_refused():
    with pytest.raises(ValueError, match="crop_smallest 50 is larger than crop_largest 40"):
        Augment.check(SMALL.model_dump() | {"crop_smallest": 50}, "here")


# ---- from files


@pytest.fixture
def folder(tmp_path):
    """Four stored photos of two sizes."""
    for image_id, (height, width) in enumerate([(60, 80), (60, 80), (90, 50), (60, 80)]):
        noise(height, width, image_id).save(tmp_path / f"{image_id}.png")
    return tmp_path


def stored():
    return [record(image_id, *size) for image_id, size in enumerate([(60, 80), (60, 80), (90, 50), (60, 80)])]


def test_a_view_is_the_same_in_any_order_and_company(folder):
    together, items = load_augmented(stored(), folder, SMALL, seed=3, view=1)
    for index in (2, 0, 3, 1):
        alone, (item,) = load_augmented(stored()[index : index + 1], folder, SMALL, seed=3, view=1)
        height, width = alone.resized[0].tolist()
        assert torch.equal(alone.pixels[0], together.pixels[index, :, :height, :width])
        assert together.is_padding[index].sum() == together.is_padding[index].numel() - height * width
        np.testing.assert_array_equal(item.boxes, items[index].boxes)


def test_boxes_of_a_view_refer_to_its_own_pixels(folder):
    batch, items = load_augmented(stored(), folder, SMALL, seed=0, view=0)
    assert torch.equal(batch.original, batch.resized)
    assert batch.original.tolist() == [[item.height, item.width] for item in items]


def test_a_view_of_no_photos_is_empty(folder):
    batch, items = load_augmented([], folder, SMALL, seed=0, view=0)
    assert (len(batch.pixels), items) == (0, [])


def test_a_photo_of_another_size_than_annotated_is_refused(folder):
    item = replace(stored()[0], height=61)
    with pytest.raises(ValueError, match=r"is 60 x 80 pixels .* annotated as 61 x 80"):
        load_augmented([item], folder, SMALL, seed=0, view=0)


# ---- against DETR's own transforms, which UPT uses


@pytest.fixture
def detr_transforms(monkeypatch):
    """DETR's module of transforms, as QPIC carries it (RMLR_PEERS)."""
    peers = os.environ.get("RMLR_PEERS")
    if not peers or not (Path(peers) / "qpic" / "datasets" / "transforms.py").is_file():
        pytest.skip("RMLR_PEERS does not name a folder that holds qpic")
    for name in (
        "util",
        "util.misc",
        "util.box_ops",
    ):  # none of it is used here
        monkeypatch.setitem(sys.modules, name, MagicMock())
    spec = spec_from_file_location("detr_transforms", Path(peers) / "qpic" / "datasets" / "transforms.py")
    transforms = module_from_spec(spec)
    spec.loader.exec_module(transforms)
    return transforms


def test_photo_and_boxes_become_what_detr_makes_of_them(detr_transforms):
    import torchvision.transforms.functional as F

    enhance = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    boxes = np.array([[10, 20, 200, 300], [500, 100, 640, 480], [0, 0, 30, 40.5]])
    photo = noise(480, 640)
    seen = set()
    for image_id in range(12):
        plan = draw_plan(480, 640, image_id, UPT, seed=0, view=0)
        names = ("labels", "area", "iscrowd")
        picture, target = photo, {"boxes": torch.tensor(boxes)} | {name: torch.arange(3.0) for name in names}
        if plan.is_flipped:
            picture, target = detr_transforms.hflip(picture, target)
        for index, factor in plan.colours:
            picture = enhance[index](picture, factor)
        if plan.before_crop is not None:
            left, top, right, bottom = plan.crop
            picture, target = detr_transforms.resize(picture, target, min(plan.before_crop))
            picture, target = detr_transforms.crop(picture, target, (top, left, bottom - top, right - left))
        picture, target = detr_transforms.resize(picture, target, min(plan.size), 1333)
        moved, is_left = plan.boxes(boxes)
        np.testing.assert_array_equal(np.asarray(plan.photo(photo)), np.asarray(picture))
        np.testing.assert_allclose(moved[is_left], target["boxes"].numpy(), atol=1e-3)
        assert target["labels"].tolist() == is_left.nonzero()[0].tolist()
        seen.add((plan.is_flipped, plan.before_crop is not None, bool(is_left.all())))
    assert len(seen) >= 4
