"""The features stage: what the frozen detector says is what is cached, for photos of any sizes, resumed by shard."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmlr.data.augment import load_view
from rmlr.data.features import Features as Cache
from rmlr.data.images import load_batch
from rmlr.data.records import load_vocabulary, save_annotations, save_vocabulary
from rmlr.hoi import Vocabulary
from rmlr.learning import seeing as stage
from rmlr.model.anchored import build_detector
from rmlr.model.detector import FrozenDetector, load_detector, save_detector, weights_digest
from rmlr.stages.features import features
from rmlr.study.nodes import FeaturesNode
from rmlr.study.settings import Features, ImageSize, Selection

from ..photo_records import unannotated
from ..tiny_detr import tiny_detr

VOCABULARY = Vocabulary(
    dataset="vcoco", objects=("ball", "person"), person=1, verbs=("hold obj",), hois=((0, 0),), actions=("hold",)
)
PHOTOS = {5: (48, 64), 3: (64, 48), 9: (48, 48), 4: (96, 128), 8: (48, 64)}  # height, width
SIZES = tiny_detr()
IMAGE = ImageSize(shortest=48, longest=64)
RULE = Features(
    batch_size=2,
    selection=Selection(nms_iou=0.9, min_score=0.0, min_instances=1, max_instances=3),
    map="backbone",
    map_dtype="float32",
    shard_images=2,
    views=1,
)


@dataclasses.dataclass(frozen=True)
class Corner:
    """Where a test's files lie, and the stage over them."""

    root: Path

    def run(self, split: str = "train", **changes) -> Path:
        settings, out = self.root / "settings.yaml", self.root / "features" / split
        rule = RULE.model_copy(update=changes)
        settings.write_text(FeaturesNode(code="x", image=IMAGE, features=rule).dump())
        prepare, images, detector = (self.root / name for name in ("prepare", "images", "detector"))
        features(settings=settings, annotations=prepare, split=split, images=images, detector=detector, out=out)
        return out

    def load(self, split: str = "train") -> Cache:
        return Cache.load(self.root / "features", split)


@pytest.fixture
def corner(tmp_path) -> Corner:
    for name in ("prepare", "images", "detector"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    annotations = []
    for image_id, (height, width) in PHOTOS.items():
        pixels = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(tmp_path / "images" / f"{image_id}.png")
        annotations.append(unannotated(image_id, height, width))
    save_vocabulary(tmp_path / "prepare" / "vocabulary.json", VOCABULARY)
    save_annotations(tmp_path / "prepare" / "train.json", annotations)
    save_annotations(tmp_path / "prepare" / "val.json", [])
    torch.manual_seed(0)
    detr = build_detector(SIZES, ("person", "ball"), no_object_weight=0.1)
    with torch.no_grad():
        detr.class_labels_classifier.weight.normal_()
        detr.bbox_predictor.layers[-1].weight.normal_()
    save_detector(detr, tmp_path / "detector")
    return Corner(tmp_path)


def test_the_cache_equals_the_detectors_output_for_each_photo(corner):
    corner.run(batch_size=1)
    cache = corner.load()
    assert cache.image_ids == list(PHOTOS)
    frozen = FrozenDetector(load_detector(str(corner.root / "detector")), VOCABULARY.objects)
    for position, (image_id, size) in enumerate(PHOTOS.items()):
        photo = load_batch([corner.root / "images" / f"{image_id}.png"], IMAGE)
        seen = frozen(photo.pixels, photo.is_padding, photo.resized, photo.original)
        batch = cache.batch([position])
        assert torch.equal(batch.maps, seen.maps)
        assert batch.image_sizes.tolist() == [list(size)]
        assert torch.equal(batch.cell_sizes, seen.cell_sizes)
        for box, label in zip(batch.instances.boxes, batch.instances.labels, strict=True):
            query = (seen.boxes[0] == box).all(1).nonzero()[0, 0]
            assert seen.labels[0, query] == label


def test_people_come_first_and_labels_are_the_vocabularys(corner):
    corner.run()
    batch = corner.load().batch(list(range(len(PHOTOS))))
    for image in range(len(PHOTOS)):
        is_person = batch.instances.labels[batch.instance_image == image] == VOCABULARY.person
        assert is_person.tolist() == sorted(is_person.tolist(), reverse=True)
    assert 0 < (batch.instances.labels == VOCABULARY.person).sum() < len(batch.instances.labels)


def test_photos_of_many_sizes_may_share_a_batch(corner):
    corner.run(batch_size=1)
    alone = corner.load().batch(list(range(len(PHOTOS))))
    corner.run(batch_size=5, shard_images=5)
    together = corner.load().batch(list(range(len(PHOTOS))))
    assert torch.equal(alone.is_padding, together.is_padding)
    assert together.is_padding.any()
    assert torch.equal(alone.cell_sizes, together.cell_sizes)
    torch.testing.assert_close(alone.maps[:, :, :4, :4], together.maps[:, :, :4, :4])  # away from the padding


def test_looking_changes_nothing_in_the_detector(corner, monkeypatch):
    """No gradient, no dropout, and batch norms that learn nothing of the photos."""
    made = []

    class Watched(FrozenDetector):
        def __init__(self, *given):
            super().__init__(*given)
            self.before = {name: value.clone() for name, value in self.state_dict().items()}
            made.append(self)

    monkeypatch.setattr(stage, "FrozenDetector", Watched)
    corner.run()
    [watched] = made
    norms = [name for name in watched.before if "running_mean" in name]
    assert norms
    assert all(torch.equal(value, watched.before[name]) for name, value in watched.state_dict().items())
    assert not any(module.training for module in watched.modules())
    assert all(p.grad is None and not p.requires_grad for p in watched.parameters())


def test_the_cache_names_the_detector_of_its_features(corner):
    corner.run()
    cache = corner.load()
    assert cache.detector_digest == weights_digest(corner.root / "detector")
    assert cache.objects == VOCABULARY.objects
    assert (cache.channels, cache.token_dim, cache.person) == (16, 8, 1)


def test_a_split_without_images_has_a_cache_without_images(corner):
    corner.run("val")
    assert len(corner.load("val")) == 0


def test_a_killed_run_resumes_after_its_last_complete_shard(corner, monkeypatch):
    class Killed(Exception):
        pass

    read = []

    def load(annotations, *rest):
        if len(read) == 4:
            raise Killed
        read.extend(annotation.image_id for annotation in annotations)
        return load_view(annotations, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "load_view", load)
        with pytest.raises(Killed):
            corner.run()
    assert not (corner.root / "features" / "train").exists()
    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "load_view", load)
        corner.run()
    assert read == [8]  # two shards of two were whole
    resumed = corner.load().batch(list(range(len(PHOTOS))))
    corner.run()
    whole = corner.load().batch(list(range(len(PHOTOS))))
    assert torch.equal(resumed.maps, whole.maps)
    assert torch.equal(resumed.instances.boxes, whole.instances.boxes)


def test_a_detector_of_other_classes_is_refused(corner):
    vocabulary = load_vocabulary(corner.root / "prepare")
    other = dataclasses.replace(vocabulary, objects=("kite", "person"))
    save_vocabulary(corner.root / "prepare" / "vocabulary.json", other)
    with pytest.raises(ValueError, match=r"has \['ball'\] in addition, and \['kite'\] are missing"):
        corner.run()
    assert not (corner.root / "features" / "train").exists()


def test_an_unreadable_photo_is_refused_by_name(corner):
    (corner.root / "images" / "9.png").write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"9\.png: not a readable image"):
        corner.run()
    assert not (corner.root / "features" / "train").exists()
