"""The detector stage on a handful of drawn photos: it learns, resumes as if never killed, and measures."""

import dataclasses
import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from rmlr.data.coco import read_coco_without
from rmlr.data.records import load_annotations, load_vocabulary, save_annotations, save_vocabulary
from rmlr.hoi import Annotation, Vocabulary
from rmlr.learning import detector as learning
from rmlr.learning.detector import Photos, TrainingBatch, targets
from rmlr.model.detector import WEIGHTS_FILE, load_detector, save_detector
from rmlr.stages.detector import detector
from rmlr.study.frozen import Detector, DetectorSchedule
from rmlr.study.nodes import DetectorNode
from rmlr.study.run import Record
from rmlr.study.settings import Augment, Features, ImageSize, Selection

from ..tiny_detr import tiny_detr
from .conftest import launch

VOCABULARY = Vocabulary(
    dataset="vcoco", objects=("person", "ball"), person=0, verbs=("hold obj",), hois=((0, 1),), actions=("hold",)
)
COLOURS = {0: (220, 40, 40), 1: (40, 60, 230)}
SIZES = tiny_detr(d_model=16, ffn_dim=16, grid=2)
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
AUGMENT = Augment(
    flip=0.5,
    jitter=0.4,
    shortest=[48, 56, 64],
    longest=96,
    crop=0.5,
    crop_from=[48],
    crop_smallest=24,
    crop_largest=48,
)
FEATURES = Features(
    batch_size=3,
    selection=Selection(nms_iou=0.5, min_score=0.2, min_instances=1, max_instances=4),
    map="backbone",
    map_dtype="float32",
    shard_images=4,
    views=1,
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

    def run(
        self, name: str, seed: int = 0, detector_: Detector | None = None, coco: Path | None = None, **schedule
    ) -> Path:
        chosen = detector_ or self.scratch(**schedule)
        settings, out = self.root / f"{name}.yaml", self.root / name
        settings.write_text(DetectorNode(code="x", detector=chosen, features=FEATURES).dump())
        images, prepare = self.root / "images", self.root / "prepare"
        detector(settings=settings, annotations=prepare, images=images, seed=seed, out=out, coco=coco)
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
    real = learning.detection_loss

    def loss(*given, count=[0]):  # noqa: B006
        count[0] += 1
        if count[0] > last:
            raise Killed
        return real(*given)

    monkeypatch.setattr(learning, "detection_loss", loss)


def test_a_detector_from_scratch_learns_two_colours(corner):
    out = corner.run("learnt", steps=250)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["ap50"] > 0.8
    assert metrics["pair_recall"] > 0.8
    assert metrics | {"train_images": 8} == json.loads((out / "run.json").read_text())["metrics"]


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


def test_a_training_that_is_asked_to_end_keeps_the_step_at_hand(corner, monkeypatch):
    """Of 40 steps 25 are done, which is no regular checkpoint's number."""
    whole, real, number = corner.run("whole", steps=40), learning.detection_loss, iter(range(1, 99))

    def loss(*given):
        if next(number) == 25:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(learning, "SAVES", 2)
        patch.setattr(learning, "detection_loss", loss)
        with pytest.raises(KeyboardInterrupt):
            corner.run("ended", steps=40)
    assert not (corner.root / "ended").exists()
    with monkeypatch.context() as patch:
        killed_at(patch, 15)  # so many steps are left
        assert_equal_weights(whole, corner.run("ended", steps=40))


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
    monkeypatch.setattr(learning, "detection_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ValueError, match=r"step 0: the detector's loss is nan on images \[\d, \d, \d\]"):
        corner.run("refused")


def test_no_photo_to_train_on_is_an_error(corner):
    save_annotations(corner.root / "prepare" / "train.json", [])
    with pytest.raises(ValueError, match="the split 'train' has no image"):
        corner.run("refused")


def test_no_photo_to_measure_on_gives_no_metric(corner):
    save_annotations(corner.root / "prepare" / "test.json", [])
    metrics = json.loads((corner.run("out") / "metrics.json").read_text())
    assert metrics == {"has_seen_vcoco_test": 0}


def photos_of(corner, split="train", **changes) -> Photos:
    records = load_annotations(corner.root / "prepare", split)
    return Photos(records, corner.root / "images", corner.scratch().model_copy(update=changes))


def test_a_mirrored_photo_has_mirrored_boxes_also_in_a_batch_with_a_larger_one(corner):
    photos = photos_of(corner)
    seen, plain = photos.mirrored([0, 1], torch.tensor([True, False])), photos.load([0, 1])
    assert torch.equal(seen.pixels[0, :, :64, :48], plain.pixels[0, :, :64, :48].flip(-1))
    assert torch.equal(seen.pixels[1], plain.pixels[1])
    check_colours(seen)


def check_colours(batch: TrainingBatch) -> None:
    """Red is a person, blue a ball, where their boxes are."""
    for pixels, boxes, labels in zip(batch.pixels, batch.boxes, batch.labels, strict=True):
        for box, label in zip(boxes.round().int().tolist(), labels.tolist(), strict=True):
            channel = pixels[:, (box[1] + box[3]) // 2, (box[0] + box[2]) // 2]
            assert (channel[0] > channel[2]) == (label == 0)


def test_augmented_photos_have_their_boxes_with_them_and_differ_from_step_to_step(corner):
    photos = photos_of(corner)
    batches = [photos.augmented(range(8), AUGMENT, 0, step) for step in range(8)]
    for batch in batches:
        check_colours(batch)
        assert all(len(boxes) == len(labels) for boxes, labels in zip(batch.boxes, batch.labels, strict=True))
    again = photos.augmented([3, 5], AUGMENT, 0, 2)
    height, width = again.sizes[0].tolist()
    assert torch.equal(again.pixels[0, :, :height, :width], batches[2].pixels[3, :, :height, :width])
    assert torch.equal(again.boxes[1], batches[2].boxes[5])
    assert len({tuple(batch.sizes[0].tolist()) for batch in batches}) > 1
    assert {len(boxes) for batch in batches for boxes in batch.boxes} >= {1, 2}, "a crop leaves some boxes out"


def torchrun_detector(corner, name: str, **schedule) -> subprocess.CompletedProcess:
    """`rmlr detector` in two processes."""
    settings = corner.root / f"{name}.yaml"
    node = DetectorNode(code="x", detector=corner.scratch(**schedule), features=FEATURES)
    settings.write_text(node.dump())
    given = {"settings": settings.name, "annotations": "prepare", "images": "images", "out": name}
    flags = [text for flag, value in given.items() for text in (f"--{flag}", str(corner.root / value))]
    return launch("-m", "rmlr", "detector", *flags, "--seed", "0")


def far_apart(one: Path, other: Path) -> float:
    """Share of the trained numbers that differ; running statistics left out, each process has those of its share."""
    first, second = ({k: v for k, v in weights_of(x).items() if "running_" not in k} for x in (one, other))
    assert first.keys() == second.keys()
    return torch.cat([(first[name] - second[name]).abs().flatten() > 1e-5 for name in first]).float().mean().item()


def test_two_processes_train_the_detector_that_one_trains_from_parts_of_batches(corner):
    """One step: AdamW makes whole steps of the rounding of gradients near 0, more with every step."""
    done = torchrun_detector(corner, "two", steps=1, batch_size=4)
    assert done.returncode == 0, done.stderr
    two, one = corner.root / "two", corner.run("one", steps=1, batch_size=4, micro_batch_size=2)
    assert far_apart(one, two) < 0.01
    assert far_apart(corner.run("half", steps=1, batch_size=2), two) > 0.05
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert json.loads((two / "run.json").read_text())["processes"] == 2


def test_what_ends_the_detector_in_two_processes_is_said_once(corner):
    (corner.root / "images" / "1.png").unlink()
    done = torchrun_detector(corner, "ended", steps=6, batch_size=8)
    assert done.returncode != 0
    assert not (corner.root / "ended").exists()
    [said] = [line for line in done.stderr.splitlines() if line.startswith("rmlr: ")]
    assert "1.png" in said


def test_crowds_are_no_targets_nor_is_what_a_crop_left_nothing_of(corner):
    train = load_annotations(corner.root / "prepare", "train")
    crowd = dataclasses.replace(train[0], is_crowd=np.array([True, False]))
    boxes, labels = targets(crowd)
    assert boxes.shape == (1, 4)
    assert labels.tolist() == [1]
    flat = train[0].boxes.copy()
    flat[1, 2] = flat[1, 0]
    assert targets(dataclasses.replace(train[0], boxes=flat))[1].tolist() == [0]


def published(corner) -> Path:
    """Weights as given: a DETR of ours, trained a little, its backbone's norms frozen as in any that is published."""
    return corner.run("given", steps=5)


def test_given_weights_learn_above_the_first_stage_at_two_rates(corner, monkeypatch):
    """DETR's own way: stem, first stage and batch norms stay; the losses of all decoder layers count."""
    given, seen = published(corner), {}
    original = learning._optimizer

    def look(detr, schedule):
        optimizer = original(detr, schedule)
        seen.update(rates=[group["lr"] for group in optimizer.param_groups], config=detr.config)
        return optimizer

    monkeypatch.setattr(learning, "_optimizer", look)
    schedule = SCHEDULE.model_copy(update={"steps": 3, "backbone_learning_rate": 1e-4, "no_object_weight": 0.2})
    before, after = weights_of(given), weights_of(corner.run("tuned", detector_=corner.given(given, schedule=schedule)))
    assert seen["rates"] == [5e-3, 1e-4]
    assert seen["config"].auxiliary_loss
    assert seen["config"].eos_coefficient == 0.2
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trunk = {name for name in before if name.startswith("model.backbone")}
    assert {name for name in trunk if "stages.1" in name and "convolution" in name} == changed & trunk
    assert before.keys() - trunk == changed - trunk


FACTOR = learning._factor


def test_epochs_are_passes_over_the_photos_and_rates_may_stay(corner, monkeypatch):
    points = []
    monkeypatch.setattr(Record, "log_metrics", lambda _, metrics, step=None: points.append((step, metrics)))
    rates = []
    monkeypatch.setattr(learning, "_factor", lambda *given: rates.append(FACTOR(*given)) or rates[-1])
    corner.run("out", steps=None, epochs=3, batch_size=4, decay="none", warmup_steps=1)
    assert [step for step, metrics in points if "loss" in metrics] == list(range(6))
    assert rates == [0.5, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("augment", [None, AUGMENT], ids=["mirrored", "augmented"])
def test_micro_batches_add_up_and_a_killed_fine_tuning_resumes(corner, monkeypatch, augment):
    sizes = []
    loss = learning.detection_loss
    monkeypatch.setattr(learning, "detection_loss", lambda *given: sizes.append(len(given[1])) or loss(*given))
    schedule = {"steps": 4, "batch_size": 4, "micro_batch_size": 2, "augment": augment}
    whole = weights_of(corner.run("whole", **schedule))
    assert sizes == [2] * 8

    def dies(*given):
        if len(sizes) == 8 + 5:  # in the midst of the third batch
            raise KeyboardInterrupt
        return sizes.append(0) or loss(*given)

    with monkeypatch.context() as patch:
        patch.setattr(learning, "detection_loss", dies)
        with pytest.raises(KeyboardInterrupt):
            corner.run("killed", **schedule)
    sizes.clear()
    again = weights_of(corner.run("killed", **schedule))
    assert len(sizes) == 4
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_batch_that_micro_batches_do_not_fill_is_refused(corner):
    with pytest.raises(ValueError, match=r"batch_size 4 is not a multiple of 1 process\(es\) x micro_batch_size 3"):
        corner.run("refused", batch_size=4, micro_batch_size=3)


def test_a_detector_says_whether_it_has_seen_the_test_photos(corner):
    first = corner.run("first")
    public = corner.given(first, schedule=None).model_copy(update={"seen": ["coco"]})
    metrics = json.loads((corner.run("taken", detector_=public) / "metrics.json").read_text())
    assert metrics["has_seen_vcoco_test"] == 1
    made = json.loads((corner.root / "taken" / "run.json").read_text())
    assert made["metrics"]["has_seen_vcoco_test"] == 1
    assert made["settings"]["detector"]["seen"] == ["coco"]


# ---- all of COCO but the test photos


def write_coco(corner) -> Path:
    """COCO's two files: the training and test photos, and one of neither split."""
    folder = corner.root / "coco"
    folder.mkdir()
    records = [load_annotations(corner.root / "prepare", split) for split in ("train", "test")]
    records[1] = [*records[1], draw_photo(corner.root / "images", 20)]
    for name, images in zip(("train", "val"), records, strict=True):
        boxes = [(image, index) for image in images for index in range(len(image.boxes))]
        content = {
            "images": [
                {"id": image.image_id, "file_name": image.file_name, "height": image.height, "width": image.width}
                for image in images
            ],
            "categories": [{"id": 3, "name": "person"}, {"id": 5, "name": "ball"}],
            "annotations": [
                {
                    "id": 100 * image.image_id + index + 1,
                    "image_id": image.image_id,
                    "category_id": [3, 5][image.labels[index]],
                    "bbox": [*image.boxes[index, :2], *(image.boxes[index, 2:] - image.boxes[index, :2])],
                    "area": 100.0,
                    "iscrowd": 0,
                }
                for image, index in boxes
            ],
        }
        (folder / f"instances_{name}2014.json").write_text(json.dumps(content))
    return folder


def test_a_detector_is_trained_on_all_of_coco_except_the_test_photos(corner, monkeypatch):
    learnt = set()
    mirrored = Photos.mirrored

    def look(photos, indices, flips):
        learnt.update(photos.annotations[index].image_id for index in indices)
        return mirrored(photos, indices, flips)

    monkeypatch.setattr(Photos, "mirrored", look)
    chosen = corner.scratch(steps=9).model_copy(update={"all_of_coco": True})
    out = corner.run("out", detector_=chosen, coco=write_coco(corner))
    assert learnt == {*range(8), 20}
    assert json.loads((out / "run.json").read_text())["metrics"]["train_images"] == 9


def test_test_photos_that_coco_does_not_know_are_an_error(corner):
    folder = write_coco(corner)
    content = json.loads((folder / "instances_val2014.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] != 9]
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] != 9]
    (folder / "instances_val2014.json").write_text(json.dumps(content))
    chosen = corner.scratch().model_copy(update={"all_of_coco": True})
    with pytest.raises(ValueError, match=r"1 of the 4 images to leave out are not in COCO, such as \[9\]"):
        corner.run("refused", detector_=chosen, coco=folder)


def test_half_of_coco_and_other_classes_are_errors(corner):
    folder = write_coco(corner)
    with pytest.raises(ValueError, match=r"classes are \['person', 'ball'\], expected V-COCO's: \['ball'\]"):
        read_coco_without(folder, set(), ["ball"])
    (folder / "instances_val2014.json").unlink()
    with pytest.raises(ValueError, match=r"instances_val2014\.json: does not exist. All of COCO 2014"):
        read_coco_without(folder, set(), ["person", "ball"])


def test_only_all_of_coco_takes_its_folder_and_requires_it(corner):
    chosen = corner.scratch().model_copy(update={"all_of_coco": True})
    with pytest.raises(ValueError, match=r"is trained on all of COCO: give --coco"):
        corner.run("refused", detector_=chosen)
    with pytest.raises(ValueError, match=r"--coco .*: this detector is trained on the training split only"):
        corner.run("refused", coco=write_coco(corner))


def test_test_photos_among_the_training_photos_stop_the_training(corner):
    train = load_annotations(corner.root / "prepare", "train")
    save_annotations(
        corner.root / "prepare" / "train.json", [*train, *load_annotations(corner.root / "prepare", "test")]
    )
    with pytest.raises(ValueError, match=r"4 test photos are in the training set, such as \[8, 9, 10, 11\]"):
        corner.run("refused")


def test_the_vocabulary_of_the_photos_is_that_of_the_detector(corner):
    other = dataclasses.replace(load_vocabulary(corner.root / "prepare"), objects=("person", "kite"))
    first = corner.run("first")
    save_vocabulary(corner.root / "prepare" / "vocabulary.json", other)
    with pytest.raises(ValueError, match=r"has \['ball'\] in addition, and \['kite'\] are missing"):
        corner.run("taken", detector_=corner.given(first, schedule=None))


def test_curves_are_points_of_the_loss(corner, monkeypatch):
    points = []
    monkeypatch.setattr(Record, "log_metrics", lambda _, metrics, step=None: points.append((step, metrics)))
    corner.run("out", steps=100)
    assert [step for step, metrics in points if "loss" in metrics] == list(range(0, 100, 2))
