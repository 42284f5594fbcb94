"""Augmented views: cached, or drawn anew while training; truth moves with the photo, and resuming changes nothing."""

import logging
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rmlr.data.features
from rmlr.data.augment import CACHED_SEED, draw_plan, load_augmented, load_view
from rmlr.data.features import Features as Cache
from rmlr.data.images import load_annotated
from rmlr.data.loading import VARIABLE
from rmlr.data.records import load_annotations, save_annotations, save_vocabulary
from rmlr.hoi import Annotation, Vocabulary
from rmlr.learning import seeing
from rmlr.learning.inference import load as load_model
from rmlr.learning.photos import Photos
from rmlr.model.anchored import build_detector
from rmlr.model.checkpoint import load_card
from rmlr.model.detector import FrozenDetector, load_detector, save_detector
from rmlr.stages import features as features_stage
from rmlr.stages.features import features
from rmlr.stages.train import train
from rmlr.study.nodes import FeaturesNode, TrainNode
from rmlr.study.settings import (
    Alignment,
    AskedView,
    Augment,
    Features,
    ImageSize,
    Losses,
    Network,
    Online,
    Selection,
    Train,
    TransformerSizes,
    Variant,
    View,
)

from ..tiny_detr import tiny_detr

VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=("person", "ball"),
    person=0,
    verbs=("hold obj",),
    hois=((0, 0), (0, 1)),
    actions=("hold",),
)
PHOTOS = {5: (48, 64), 3: (64, 48), 9: (48, 48), 4: (96, 128), 8: (48, 64), 6: (48, 64)}  # height, width
BOXES = np.array([[4.0, 4.0, 24.0, 40.0], [26.0, 10.0, 44.0, 30.0]])
IMAGE = ImageSize(shortest=48, longest=64)
AUGMENT = Augment(
    flip=0.5, jitter=0.4, shortest=[32, 40, 48], longest=64,
    crop=0.5, crop_from=[40, 48], crop_smallest=24, crop_largest=48,
)  # fmt: skip
SELECTION = Selection(nms_iou=0.99, min_score=0.0, min_instances=1, max_instances=3)
RULE = Features(batch_size=2, selection=SELECTION, map="backbone", map_dtype="float32", shard_images=2, views=1)
SIZES = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=0.1)
DETR = tiny_detr()


def record(image_id: int) -> Annotation:
    height, width = PHOTOS[image_id]
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.png",
        height=height,
        width=width,
        boxes=BOXES,
        labels=np.array([0, 1]),
        interactions=np.array([[0, 0, 1]]),
        is_crowd=np.zeros(2, dtype=bool),
        is_listed=np.array([True, False]),
        actions=np.array([[0, 0]]),
    )


@dataclass(frozen=True)
class Corner:
    """Where a test's files lie, and the stages over them."""

    root: Path

    def cache(self, split: str = "train", **changes) -> Cache:
        settings, out = self.root / "features.yaml", self.root / "features" / split
        settings.write_text(FeaturesNode(code="", image=IMAGE, features=RULE.model_copy(update=changes)).dump())
        features(settings=settings, annotations=self.root / "prepare", split=split, out=out, **self.seen)
        return Cache.load(self.root / "features", split)

    @property
    def seen(self) -> dict[str, Any]:
        return {"images": self.root / "images", "detector": self.root / "detector"}

    def train(self, out: str, *, online: bool = True, **given) -> Path:
        settings = self.root / f"{out}.yaml"
        settings.write_text(train_node(online).dump())
        given = given or self.seen
        paths = {"annotations": self.root / "prepare", "text": self.root, "out": self.root / out}
        train(settings=settings, seed=3, **paths, **given)
        return self.root / out

    def photos(self, **changes) -> Photos:
        online = train_node(True).online
        assert online is not None
        annotated = load_annotations(self.root / "prepare", "train")
        given = {
            "annotated": annotated,
            "online": online,
            "share": 1.0,
            "vocabulary": VOCABULARY,
            "pose": None,
            "seed": 3,
        }
        return Photos(**self.seen, **(given | changes))


def train_node(online: bool, **changes) -> TrainNode:
    off = dict.fromkeys(("ire_sentence", "ire_word", "irm_sentence", "irm_word", "pose"), False)
    schedule = {"split": "train", "share": 1.0, "epochs": 3, "batch_size": 2, "micro_batch_size": 1, "clip_norm": 0.1}
    schedule |= {"learning_rate": 1e-2, "weight_decay": 1e-4, "precision": "fp32"}
    weights = dict.fromkeys(("hoi", "irm_sentence", "irm_word", "ire_sentence", "ire_word"), 1.0)
    return TrainNode(
        code="",
        variant=Variant.model_validate({"network": "rmlr", "global_context": True, "ire": True} | off),
        network=Network(pool="covered", feature_dim=8, ire=SIZES, pair_dim=8, irm=SIZES),
        alignment=Alignment(form="anchored", residual=False, whiten=True, stack=SIZES),
        losses=Losses.model_validate({"focal_balance": 0.5, "focal_gamma": 0.2} | weights),
        train=Train.model_validate(schedule | changes),
        online=Online(view=AskedView(image=IMAGE, selection=SELECTION, map="backbone"), augment=AUGMENT)
        if online
        else None,
        tags={},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Photos, their records and a detector of random weights that calls some queries persons and some balls."""
    root = tmp_path_factory.mktemp("views")
    for name in ("prepare", "images", "detector"):
        (root / name).mkdir()
    random = np.random.default_rng(0)
    for image_id, (height, width) in PHOTOS.items():
        pixels = random.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(root / "images" / f"{image_id}.png")
    save_vocabulary(root / "prepare" / "vocabulary.json", VOCABULARY)
    save_annotations(root / "prepare" / "train.json", [record(image_id) for image_id in PHOTOS])
    save_annotations(root / "prepare" / "val.json", [])
    torch.manual_seed(0)
    detr = build_detector(DETR, VOCABULARY.objects, no_object_weight=0.1)
    with torch.no_grad():
        detr.class_labels_classifier.weight.normal_()
        detr.bbox_predictor.layers[-1].weight.normal_()
    save_detector(detr, root / "detector")
    return root


@pytest.fixture
def corner(made, tmp_path) -> Corner:
    shutil.copytree(made, tmp_path / "corner")
    return Corner(tmp_path / "corner")


def frozen(corner, **more) -> FrozenDetector:
    return FrozenDetector(load_detector(str(corner.root / "detector")), VOCABULARY.objects, **more)


# ---- cached views


def test_each_view_equals_the_detectors_output_for_it(corner):
    cache = corner.cache(views=3, augment=AUGMENT, batch_size=1)
    assert (cache.views, cache.augment, len(cache)) == (3, AUGMENT, len(PHOTOS))
    detector = frozen(corner)
    for view in range(3):
        for position, image_id in enumerate(PHOTOS):
            item = [record(image_id)]
            if view == 0:
                photo = load_annotated(item, corner.root / "images", IMAGE)
            else:
                photo, _ = load_augmented(item, corner.root / "images", AUGMENT, seed=CACHED_SEED, view=view)
            said = detector(photo.pixels, photo.is_padding, photo.resized, photo.original)
            batch = cache.batch([position], view)
            assert torch.equal(batch.maps, said.maps)
            assert torch.equal(batch.cell_sizes, said.cell_sizes)
            assert batch.image_sizes.tolist() == photo.original.tolist()
            assert batch.image_ids.tolist() == [image_id]


def test_the_first_view_does_not_depend_on_how_many_follow(corner):
    several = corner.cache(views=2, augment=AUGMENT).batch(range(6))
    alone = corner.cache().batch(range(6))
    assert torch.equal(several.maps, alone.maps)
    assert torch.equal(several.instances.boxes, alone.instances.boxes)


def test_what_is_cached_does_not_depend_on_threads(corner, monkeypatch):
    before = corner.cache(views=2, augment=AUGMENT).batch(range(6), 1)
    monkeypatch.setenv(VARIABLE, "3")
    after = corner.cache(views=2, augment=AUGMENT).batch(range(6), 1)
    assert torch.equal(before.maps, after.maps)
    assert torch.equal(before.instances.tokens, after.instances.tokens)


def test_a_split_without_images_has_views_without_images(corner):
    assert len(corner.cache("val", views=2, augment=AUGMENT).batch([], 1).maps) == 0


def test_a_killed_run_of_several_views_resumes_after_its_last_complete_shard(corner, monkeypatch):
    seen = []

    def load(items, *given):
        seen.append(given[-1])
        if len(seen) == 5:
            raise KeyboardInterrupt
        return load_view(items, *given)

    monkeypatch.setattr(seeing, "load_view", load)
    with pytest.raises(KeyboardInterrupt):
        corner.cache(views=3, augment=AUGMENT)
    resumed = corner.cache(views=3, augment=AUGMENT).batch(range(6), 2)
    assert seen == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]  # three shards a view, of one batch each; that of the fifth was lost
    shutil.rmtree(corner.root / "features")
    assert torch.equal(resumed.maps, corner.cache(views=3, augment=AUGMENT).batch(range(6), 2).maps)


KILLED = """
import os, signal, sys
from rmlr.__main__ import main
from rmlr.learning import seeing as stage

at, whole, calls = int(sys.argv[1]), stage.load_view, []

def load(*given):
    calls.append(given)
    if len(calls) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given)

stage.load_view = load
try:
    main(sys.argv[2:])
finally:
    print(len(calls))
"""


def test_a_process_killed_outright_leaves_whole_shards_that_the_next_one_takes(corner):
    expected = corner.cache(views=2, augment=AUGMENT).batch(range(6), 1)
    shutil.rmtree(corner.root / "features")
    flags = {"settings": "features.yaml", "annotations": "prepare", "split": "train", "out": "features/train"}
    flags |= {"images": "images", "detector": "detector"}
    command = ["features", *(text for name, value in flags.items() for text in (f"--{name}", value))]

    def start(at: int) -> subprocess.CompletedProcess:
        given = [sys.executable, "-c", KILLED, str(at), *command]
        return subprocess.run(given, cwd=corner.root, check=False, stdout=subprocess.PIPE, text=True, timeout=120)

    assert start(4).returncode == -signal.SIGKILL
    assert not (corner.root / "features" / "train").exists()
    assert start(0).stdout == "3\n"  # of six shards three were whole
    assert torch.equal(Cache.load(corner.root / "features", "train").batch(range(6), 1).maps, expected.maps)


def test_another_augmentation_rebuilds_the_cache(corner):
    corner.cache(views=2, augment=AUGMENT)
    corner.cache(views=2, augment=AUGMENT.model_copy(update={"flip": 1.0}))
    index = Cache.load(corner.root / "features", "train").indices[0]
    assert index.augment is not None
    assert index.augment.flip == 1.0


def test_epochs_use_the_views_in_turn_with_their_truth(corner, monkeypatch):
    corner.cache(views=2, augment=AUGMENT)
    taken, whole = [], Cache.batch

    def batch(self, positions, view):
        taken.append(view)
        return whole(self, positions, view)

    monkeypatch.setattr(Cache, "batch", batch)
    corner.train("cached", online=False, features=corner.root / "features")
    assert taken == [0] * 6 + [1] * 6 + [0] * 6


def test_splits_of_different_views_are_not_read_as_one(corner):
    corner.cache(views=2, augment=AUGMENT)
    corner.cache("val")
    with pytest.raises(ValueError, match="of another detector or view"):
        Cache.load(corner.root / "features", "trainval")


# ---- disk


def test_the_size_is_told_before_and_after_the_first_shard(corner, caplog):
    with caplog.at_level(logging.INFO, logger="rmlr"):
        corner.cache(views=2, augment=AUGMENT, map_dtype="float16")
    said = [line for line in caplog.messages if "the features need about" in line]
    assert len(said) == 2
    assert "still to be written" in said[1]


@pytest.mark.parametrize(("views", "map"), [(1, "backbone"), (2, "projected")])
def test_what_is_written_is_a_little_less_than_told(corner, monkeypatch, views, map):
    told = []
    monkeypatch.setattr(features_stage, "check_space", lambda folder, size, written=0: told.append(size))
    corner.cache(views=views, augment=AUGMENT if views > 1 else None, map=map)
    written = sum(path.stat().st_size for path in (corner.root / "features" / "train").glob("shard-*"))
    assert 0.5 * told[0] < written < 1.5 * told[0] + 6000  # what a file says of itself counts little but here


def test_a_full_disk_is_told_before_anything_is_written(corner, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(rmlr.data.features.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(ValueError, match=r"the features need about .* GB are free\. Make room"):
        corner.cache()
    assert not list(corner.root.glob("features/**/shard-*"))


# ---- which map


def test_the_projected_map_is_what_detrs_encoder_is_given(corner):
    corner.cache(batch_size=1, map="projected")
    cache = Cache.load(corner.root / "features", "train")
    assert (cache.channels, cache.view.map) == (8, "projected")
    detector = frozen(corner)
    photo = load_annotated([record(5)], corner.root / "images", IMAGE)
    said = detector(photo.pixels, photo.is_padding, photo.resized, photo.original)
    assert torch.equal(cache.batch([0]).maps, detector.adapter.detr.model.input_projection(said.maps))


def test_a_run_of_projected_maps_looks_at_photos_likewise(corner):
    corner.cache(map="projected")
    folder = corner.train("cached", online=False, features=corner.root / "features")
    model = load_model(folder, detector=corner.root / "detector", prior_power=1.0)
    assert model.card.view.map == "projected"
    assert model(corner.root / "images" / "5.png", min_score=0.0)


# ---- on-line


def test_what_a_run_learns_from_photos_is_the_view_of_seed_and_epoch(corner):
    photos, detector = corner.photos(), frozen(corner)
    ids, pixels, truth = photos.load([3, 0], 2)
    batch, truth = photos.see((ids, pixels, truth), torch.device("cpu"))
    items = [record(4), record(5)]
    photo, views = load_augmented(items, corner.root / "images", AUGMENT, seed=3, view=2)
    said = detector(photo.pixels, photo.is_padding, photo.resized, photo.original)
    assert torch.equal(batch.maps, said.maps.masked_fill(said.is_padding[:, None], 0))
    assert batch.image_ids.tolist() == [4, 5]
    assert batch.image_sizes.tolist() == photo.original.tolist()
    expected = [view.boxes[0] for view in views if len(view.interactions)]
    np.testing.assert_allclose(truth.human_boxes, np.array(expected).reshape(-1, 4), rtol=1e-6)


def test_photos_that_are_held_out_are_seen_as_they_are_cached(corner):
    cached = corner.cache()
    image_ids, read = corner.photos().tested("train", [record(image_id) for image_id in cached.image_ids])
    assert image_ids == cached.image_ids
    batch, expected = read([0, 1], torch.device("cpu")), cached.batch([0, 1])
    assert torch.equal(batch.image_ids, expected.image_ids)
    torch.testing.assert_close(batch.maps, expected.maps)
    torch.testing.assert_close(batch.instances.boxes, expected.instances.boxes)
    torch.testing.assert_close(batch.instances.tokens, expected.instances.tokens)


def test_truth_that_a_crop_took_is_not_asked_for(corner):
    rule = AUGMENT.model_copy(update={"crop": 1.0, "crop_smallest": 12, "crop_largest": 14})
    node = train_node(True).online
    assert node is not None
    photos = corner.photos(online=node.model_copy(update={"augment": rule}))
    lost = 0
    for epoch in range(10):
        _, _, truth = photos.load(list(range(len(PHOTOS))), epoch)
        plans = [draw_plan(*PHOTOS[image_id], image_id, rule, seed=3, view=epoch) for image_id in PHOTOS]
        left = [bool(plan.boxes(BOXES)[1].all()) for plan in plans]
        assert truth.image.tolist() == [at for at, is_left in enumerate(left) if is_left]
        lost += left.count(False)
    assert lost


def test_an_interrupted_run_on_photos_has_the_same_bytes_with_any_loader(corner, monkeypatch):
    whole = corner.train("whole")
    calls, see = [], Photos.see

    def stopped(self, loaded, device):
        calls.append(loaded[0].tolist())
        if len(calls) == 15:  # of six micro-batches an epoch: in the third
            raise KeyboardInterrupt
        return see(self, loaded, device)

    monkeypatch.setattr(Photos, "see", stopped)
    with pytest.raises(KeyboardInterrupt):
        corner.train("broken")
    monkeypatch.setenv(VARIABLE, "3")
    again = corner.train("broken")
    assert len(calls) == 15 + 6
    for name in ("weights.safetensors", "curves.csv"):
        assert (whole / name).read_bytes() == (again / name).read_bytes()


def test_another_seed_sees_other_views(corner):
    one, other = (corner.photos(seed=seed).load(list(range(6)), 0)[1] for seed in (3, 4))
    assert one.pixels.shape != other.pixels.shape or not torch.equal(one.pixels, other.pixels)


def test_the_detector_stays_as_it_was(corner, monkeypatch):
    kept, see = [], Photos.see

    def watched(self, loaded, device):
        kept.append(self)
        batch, truth = see(self, loaded, device)
        assert not batch.maps.requires_grad
        assert not batch.instances.tokens.requires_grad
        return batch, truth

    monkeypatch.setattr(Photos, "see", watched)
    folder = corner.train("online")
    before, after = frozen(corner).state_dict(), kept[-1]._frozen
    assert all(torch.equal(value, before[name]) for name, value in after.state_dict().items())
    assert not any(module.training for module in after.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in after.parameters())
    assert not any("detr" in name for name in torch.load(folder.parent / ".online.resume/epoch.pt")["task"])


def test_the_checkpoint_of_a_run_on_photos_describes_the_detectors_view(corner):
    folder = corner.train("online")
    card = load_card(folder)
    assert card.view == View(image=IMAGE, selection=SELECTION, map="backbone")
    model = load_model(folder, prior_power=1.0)  # finds the detector by what training read
    assert model(corner.root / "images" / "5.png", min_score=0.0)


def test_a_run_names_its_missing_inputs(corner):
    with pytest.raises(ValueError, match=r"is trained on photos .*Give --detector"):
        corner.train("online", images=corner.root / "images")
    with pytest.raises(ValueError, match=r"is trained on cached features.*Give --features"):
        corner.train("cached", online=False, **corner.seen)


def test_a_photo_that_is_gone_is_named(corner):
    (corner.root / "images" / "9.png").unlink()
    with pytest.raises(ValueError, match=r"9\.png: not a readable image"):
        corner.train("online")


# ---- settings


@pytest.mark.parametrize(
    ("views", "augment", "said"),
    [(0, None, "views 0 needs `augment`"), (3, None, "views 3 needs"), (1, AUGMENT, "views 1 takes no `augment`")],
)
def test_views_and_augmentation_go_together(views, augment, said):
    content = RULE.model_dump() | {"views": views, "augment": augment and augment.model_dump()}
    with pytest.raises(ValueError, match=said):
        Features.check(content, "here")
