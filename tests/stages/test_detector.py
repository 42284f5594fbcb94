"""The detector stage on a handful of drawn photos: it learns, resumes as if never killed, and measures."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from rmlr.data.records import load_annotations, load_vocabulary, save_annotations, save_vocabulary
from rmlr.hoi import Annotation, Vocabulary
from rmlr.model.detector import WEIGHTS_FILE, load_detector, save_detector
from rmlr.run import Record
from rmlr.settings import Detector, DetectorArchitecture, DetectorNode, DetectorSchedule, Features, ImageSize, Selection
from rmlr.stages import detector as stage
from rmlr.stages.detector import Average, Photos, detector

VOCABULARY = Vocabulary(
    dataset="vcoco", objects=("person", "ball"), person=0, verbs=("hold obj",), hois=((0, 1),), actions=("hold",)
)
COLOURS = {0: (220, 40, 40), 1: (40, 60, 230)}
SIZES = DetectorArchitecture(
    embedding_size=16,
    hidden_sizes=[16, 16],
    depths=[1, 1],
    layer_type="basic",
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    heads=2,
    ffn_dim=16,
    grid=2,
    sine_temperature=20.0,
)
SCHEDULE = DetectorSchedule(
    steps=10,
    batch_size=3,
    learning_rate=5e-3,
    backbone_learning_rate=5e-3,
    weight_decay=1e-4,
    warmup_steps=2,
    clip_norm=1.0,
    ema_decay=0.9,
    no_object_weight=0.1,
)
FEATURES = Features(
    batch_size=3,
    selection=Selection(nms_iou=0.5, min_score=0.2, min_instances=1, max_instances=4),
    map_dtype="float32",
    shard_images=4,
)


def draw_photo(folder: Path, image_id: int) -> Annotation:
    """A red person and a blue ball in opposite corners, held by every other person; wide and high photos take turns."""
    rng = np.random.default_rng(image_id)
    width, height = (64, 48) if image_id % 2 else (48, 64)
    left = rng.random() < 0.5
    person = np.array([4, 4, 4 + width / 3, height / 2]) + rng.integers(0, 4)
    ball = np.array([width * 0.6, height * 0.6, width * 0.9, height * 0.9]) + rng.integers(0, 3)
    boxes = np.stack([person, ball] if left else [ball, person])
    image = Image.new("RGB", (width, height), (128, 128, 128))
    for box, label in zip(boxes, (0, 1), strict=True):
        ImageDraw.Draw(image).rectangle([float(edge) for edge in box], fill=COLOURS[label])
    image.save(folder / f"{image_id}.png")
    is_held = image_id % 4 < 2
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.png",
        height=height,
        width=width,
        boxes=boxes,
        labels=np.array([0, 1]),
        interactions=np.array([[0, 0, 1]] if is_held else [], dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(2, dtype=bool),
        is_listed=np.array([True, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


@dataclasses.dataclass(frozen=True)
class Corner:
    """Where a test's files lie, and the stage over them."""

    root: Path

    def run(self, name: str, seed: int = 0, detector_: Detector | None = None, **schedule) -> Path:
        chosen = detector_ or self.scratch(**schedule)
        settings, out = self.root / f"{name}.yaml", self.root / name
        settings.write_text(DetectorNode(code="x", detector=chosen, features=FEATURES).dump())
        images, prepare = self.root / "images", self.root / "prepare"
        detector(settings=settings, annotations=prepare, images=images, seed=seed, out=out)
        return out

    def scratch(self, **schedule) -> Detector:
        return Detector(
            dataset="vcoco",
            weights=None,
            revision=None,
            seen=[],
            architecture=SIZES,
            schedule=SCHEDULE.model_copy(update=schedule),
            image=ImageSize(shortest=48, longest=64),
        )

    def given(self, weights: Path, schedule: DetectorSchedule | None) -> Detector:
        return self.scratch().model_copy(update={"weights": str(weights), "architecture": None, "schedule": schedule})


@pytest.fixture
def corner(tmp_path) -> Corner:
    (tmp_path / "images").mkdir()
    (tmp_path / "prepare").mkdir()
    save_vocabulary(tmp_path / "prepare" / "vocabulary.json", VOCABULARY)
    for split, ids in {"train": range(8), "val": range(0), "test": range(8, 12)}.items():
        annotations = [draw_photo(tmp_path / "images", image_id) for image_id in ids]
        save_annotations(tmp_path / "prepare" / f"{split}.json", annotations)
    return Corner(tmp_path)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def assert_equal_weights(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


class Killed(Exception):
    pass


def killed_at(monkeypatch, last: int) -> None:
    """The process dies in the step after `last`, as by kill -9: nothing is tidied up."""
    real = stage._loss

    def loss(detr, photos, indices, is_flipped, count=[0]):  # noqa: B006
        count[0] += 1
        if count[0] > last:
            raise Killed
        return real(detr, photos, indices, is_flipped)

    monkeypatch.setattr(stage, "_loss", loss)


def test_a_detector_from_scratch_learns_two_colours(corner):
    out = corner.run("learnt", steps=250)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["ap50"] > 0.8
    assert metrics["pair_recall"] > 0.8
    assert metrics == json.loads((out / "run.json").read_text())["metrics"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(corner):
    one, same, other = corner.run("one"), corner.run("same"), corner.run("other", seed=1)
    assert_equal_weights(one, same)
    changed = weights_of(other)["bbox_predictor.anchors"]
    assert not torch.equal(weights_of(one)["bbox_predictor.anchors"], changed)


def test_a_killed_training_ends_as_if_it_was_not(corner, monkeypatch):
    whole = corner.run("whole", steps=40)
    with monkeypatch.context() as patch:
        killed_at(patch, 25)
        with pytest.raises(Killed):
            corner.run("killed", steps=40)
    assert not (corner.root / "killed").exists()
    with monkeypatch.context() as patch:
        killed_at(patch, 20)  # so many steps are left: it does not begin anew
        assert_equal_weights(whole, corner.run("killed", steps=40))


def test_a_resume_file_of_other_settings_is_not_taken(corner, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(Killed):
            corner.run("same_place")
    whole = corner.run("elsewhere", learning_rate=1e-3)
    assert_equal_weights(whole, corner.run("same_place", learning_rate=1e-3))


def test_a_resume_file_of_other_photos_is_not_taken(corner, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(Killed):
            corner.run("same_place")
    Image.new("RGB", (48, 64), (1, 2, 3)).save(corner.root / "images" / "0.png")
    whole = corner.run("elsewhere")
    assert_equal_weights(whole, corner.run("same_place"))


def test_given_weights_are_taken_as_they_are(corner):
    first = corner.run("first")
    taken = corner.run("taken", detector_=corner.given(first, schedule=None))
    assert_equal_weights(first, taken)
    assert (first / "metrics.json").read_text() == (taken / "metrics.json").read_text()


def test_given_weights_are_fine_tuned_and_their_batch_norms_stay(corner):
    first = corner.run("first")
    tuned = corner.run("tuned", detector_=corner.given(first, schedule=SCHEDULE))
    before, after = weights_of(first), weights_of(tuned)
    assert not torch.equal(before["bbox_predictor.anchors"], after["bbox_predictor.anchors"])
    for name in before:
        if "normalization.running_" in name:
            assert torch.equal(before[name], after[name]), name


def test_weights_with_another_order_of_classes_are_fine_tuned_in_ours(corner):
    first = corner.run("first", steps=100)
    detr = load_detector(str(first))
    detr.config.id2label = {0: "N/A", 1: "ball", 2: "person"}
    head = torch.nn.Linear(16, 4)
    with torch.no_grad():
        head.weight.copy_(detr.class_labels_classifier.weight[[1, 1, 0, 2]])
        head.bias.copy_(detr.class_labels_classifier.bias[[1, 1, 0, 2]])
    detr.class_labels_classifier = head
    save_detector(detr, corner.root / "foreign")
    still = SCHEDULE.model_copy(update={"steps": 1, "learning_rate": 1e-9, "backbone_learning_rate": 1e-9})
    tuned = corner.run("tuned", detector_=corner.given(corner.root / "foreign", schedule=still))
    torch.testing.assert_close(
        weights_of(tuned)["class_labels_classifier.weight"], weights_of(first)["class_labels_classifier.weight"]
    )


def test_a_photo_of_another_size_than_annotated_is_refused_by_name(corner):
    Image.new("RGB", (30, 30)).save(corner.root / "images" / "3.png")
    with pytest.raises(ValueError, match=r"3\.png: is 30 x 30 pixels .* image 3 is annotated as 48 x 64"):
        corner.run("refused")
    assert not (corner.root / "refused").exists()


def test_a_missing_photo_is_refused_by_name(corner):
    (corner.root / "images" / "5.png").unlink()
    with pytest.raises(ValueError, match=r"5\.png"):
        corner.run("refused")


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_images(corner, monkeypatch):
    monkeypatch.setattr(stage, "detection_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ValueError, match=r"step 0: the detector's loss is nan on images \[\d, \d, \d\]"):
        corner.run("refused")


def test_no_photo_to_train_on_is_an_error(corner):
    save_annotations(corner.root / "prepare" / "train.json", [])
    with pytest.raises(ValueError, match="the split 'train' has no image"):
        corner.run("refused")


def test_no_photo_to_measure_on_gives_no_metric(corner):
    save_annotations(corner.root / "prepare" / "test.json", [])
    assert json.loads((corner.run("out") / "metrics.json").read_text()) == {}


def test_a_flipped_photo_has_flipped_boxes_also_beside_a_larger_one(corner, monkeypatch):
    seen = {}

    def look(_detr, pixels, is_padding, boxes, labels, _sizes):
        seen.update(pixels=pixels, boxes=boxes, labels=labels, is_padding=is_padding)
        return torch.zeros(())

    detr = load_detector(str(corner.run("any")))
    monkeypatch.setattr(stage, "detection_loss", look)
    train = load_annotations(corner.root / "prepare", "train")
    photos = Photos(train, corner.root / "images", ImageSize(shortest=48, longest=64))
    stage._loss(detr, photos, [0, 1], torch.tensor([True, False]))
    plain = photos.load([0, 1])
    assert torch.equal(seen["pixels"][0, :, :64, :48], plain.pixels[0, :, :64, :48].flip(-1))
    assert torch.equal(seen["pixels"][1], plain.pixels[1])
    for box, label in zip(seen["boxes"][0].round().int().tolist(), seen["labels"][0].tolist(), strict=True):
        x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
        channel = seen["pixels"][0, :, y, x]
        assert (channel[0] > channel[2]) == (label == 0)  # red is a person, blue a ball


def test_crowds_are_no_targets(corner):
    train = load_annotations(corner.root / "prepare", "train")
    crowd = dataclasses.replace(train[0], is_crowd=np.array([True, False]))
    boxes, labels = Photos([crowd], corner.root / "images", ImageSize(shortest=48, longest=64)).targets(0)
    assert boxes.shape == (1, 4)
    assert labels.tolist() == [1]


def test_every_image_comes_once_before_any_comes_again():
    order = stage._order(5, 3, seed=0)
    drawn = [index for _ in range(10) for index in next(order)]
    assert all(sorted(drawn[at : at + 5]) == [0, 1, 2, 3, 4] for at in range(0, 30, 5))
    assert drawn[:5] != drawn[5:10]


def test_a_batch_may_be_larger_than_the_split():
    assert sorted(next(stage._order(2, 6, seed=0))) == [0, 0, 0, 1, 1, 1]


def test_the_average_follows_the_weights_and_leaves_whole_numbers_alone():
    model = torch.nn.BatchNorm1d(1)
    average = Average(model, decay=0.75)
    with torch.no_grad():
        model.weight.fill_(5.0)
        model.num_batches_tracked.fill_(7)
    average.update(model, step=1000)
    average.copy_to(model)
    assert model.weight.item() == pytest.approx(0.75 * 1.0 + 0.25 * 5.0)
    assert model.num_batches_tracked.item() == 7


def test_the_vocabulary_of_the_photos_is_that_of_the_detector(corner):
    other = dataclasses.replace(load_vocabulary(corner.root / "prepare"), objects=("person", "kite"))
    first = corner.run("first")
    save_vocabulary(corner.root / "prepare" / "vocabulary.json", other)
    with pytest.raises(ValueError, match=r"knows \['ball'\] in addition and lacks \['kite'\]"):
        corner.run("taken", detector_=corner.given(first, schedule=None))


def test_curves_are_points_of_the_loss(corner, monkeypatch):
    points = []
    monkeypatch.setattr(Record, "log_metrics", lambda _, metrics, step=None: points.append((step, metrics)))
    corner.run("out", steps=100)
    assert [step for step, metrics in points if "loss" in metrics] == list(range(0, 100, 2))
