"""The prepare stage: a raw folder in, our records out, whole or not at all."""

import json
import logging

import pytest
import yaml

from rmlr.data.records import load_annotations, load_image_objects, load_vocabulary
from rmlr.stages.prepare import prepare


@pytest.fixture
def settings(tmp_path):
    """Writes the settings of a dataset and gives their path."""

    def write(dataset, unscored_roles=("point instr",), release="drawn"):
        path = tmp_path / "prepare.yaml"
        node = {
            "code": "",
            "dataset": dataset,
            "vcoco": {"release": release if dataset == "vcoco" else "drawn", "unscored_roles": list(unscored_roles)},
            "hicodet": {"release": release if dataset == "hicodet" else "drawn", "val_images": 1},
        }
        path.write_text(yaml.safe_dump(node))
        return path

    return write


def metrics(out):
    """The numbers that the stage recorded."""
    return json.loads((out / "run.json").read_text())["metrics"]


def test_vcoco_becomes_records_with_their_counts(tiny_vcoco_raw, settings, tmp_path):
    out = tmp_path / "prepare"
    prepare(settings=settings("vcoco"), raw=tiny_vcoco_raw, out=out)
    assert {path.name for path in out.iterdir()} >= {"vocabulary.json", "train.json", "val.json", "test.json"}
    assert load_vocabulary(out).dataset == "vcoco"
    assert [image.image_id for image in load_annotations(out, "trainval")] == [12, 11, 20]
    numbers = metrics(out)
    assert (numbers["train_images"], numbers["train_interactions_without_box"]) == (2, 1)
    assert (numbers["train_unlisted_persons"], numbers["train_dropped_boxes"], numbers["test_from_pairs"]) == (2, 2, 0)


def test_hicodet_becomes_records_with_their_counts(tiny_hicodet_raw, settings, tmp_path):
    out = tmp_path / "prepare"
    prepare(settings=settings("hicodet"), raw=tiny_hicodet_raw, out=out)
    assert load_vocabulary(out).rare == (1,)
    assert [image.image_id for image in load_annotations(out, "val")] == [7]
    numbers = metrics(out)
    assert (numbers["train_images"], numbers["train_interactions"], numbers["trainval_dropped_rows"]) == (3, 3, 0)


def test_labels_of_whole_images_are_stored_while_there_are_any(tiny_hicodet_raw, write_tiny_anno, settings, tmp_path):
    out = tmp_path / "prepare"
    write_tiny_anno()
    prepare(settings=settings("hicodet"), raw=tiny_hicodet_raw, out=out)
    assert load_image_objects(out, "test") == {1: [1], 3: [0]}
    assert load_image_objects(out, "val") == {7: [0]}
    assert metrics(out)["trainval_unlabelled_objects"] == 0
    (tiny_hicodet_raw / "hicodet" / "anno.mat").unlink()
    prepare(settings=settings("hicodet"), raw=tiny_hicodet_raw, out=out)
    assert load_image_objects(out, "test") is None


def test_anno_bbox_mat_alone_is_enough(tiny_hicodet_raw, write_anno_bbox, settings, tmp_path, caplog):
    write_anno_bbox(invisible={("train", "HICO_train2015_00000005.jpg"): [1, 3]})
    for path in (tiny_hicodet_raw / "hicodet").glob("*.json"):
        path.unlink()
    with caplog.at_level(logging.INFO):
        prepare(settings=settings("hicodet"), raw=tiny_hicodet_raw, out=tmp_path / "prepare")
    assert metrics(tmp_path / "prepare")["trainval_invisible_classes"] == 2
    assert "trainval: 2 classes of an image left out: marked `invis`, they have no boxes" in caplog.text


def test_what_was_read_and_left_out_is_a_line_each(tiny_vcoco_raw, settings, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        prepare(settings=settings("vcoco"), raw=tiny_vcoco_raw, out=tmp_path / "prepare")
    said = [record.getMessage() for record in caplog.records]
    assert "train: 2 images, 1 images with pair, 5 boxes, 3 persons, 2 unlisted persons, 3 interactions, 1 " in said[0]
    assert "train: 2 COCO annotations left out: without area, or marked `ignore`, as in the official program" in said
    assert "train: 1 listed persons left out with their actions: no ground truth in COCO" in said
    assert "classes: 3 verbs, 3 objects, 3 interactions" in said


@pytest.mark.parametrize("dataset", ["vcoco", "hicodet"])
def test_own_data_are_prepared(tiny_vcoco_raw, tiny_hicodet_raw, settings, tmp_path, dataset):
    prepare(settings=settings(dataset, release="own"), raw=tiny_vcoco_raw, out=tmp_path / "prepare")
    assert load_vocabulary(tmp_path / "prepare").dataset == dataset


def test_own_data_that_do_not_do_leave_no_output(tiny_vcoco_raw, settings, tmp_path):
    (tiny_vcoco_raw / "images").mkdir()
    with pytest.raises(
        ValueError, match=r"images: 4 of 4 annotated photos are missing:\n  COCO_train2014_000000000012\.jpg is"
    ):
        prepare(settings=settings("vcoco", release="own"), raw=tiny_vcoco_raw, out=tmp_path / "prepare")
    assert not (tmp_path / "prepare").exists()


@pytest.mark.parametrize(("dataset", "release"), [("vcoco", "vcoco-2015"), ("hicodet", "hicodet-2016")])
def test_other_data_are_not_taken_for_a_published_release(
    tiny_vcoco_raw, tiny_hicodet_raw, settings, tmp_path, dataset, release
):
    with pytest.raises(ValueError, match=f"not those of the release {release}.*\n  .* expected, .* found"):
        prepare(settings=settings(dataset, release=release), raw=tiny_vcoco_raw, out=tmp_path / "prepare")
    assert not (tmp_path / "prepare").exists()


def test_preparing_twice_gives_the_same_bytes(tiny_vcoco_raw, settings, tmp_path):
    for name in ("first", "second"):
        prepare(settings=settings("vcoco"), raw=tiny_vcoco_raw, out=tmp_path / name)
    for name in ("vocabulary.json", "train.json", "val.json", "test.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_split_that_is_refused_leaves_no_output(tiny_vcoco_raw, settings, tmp_path):
    path = tiny_vcoco_raw / "vcoco" / "vcoco_test.json"
    path.write_text(path.read_text()[:-3])
    with pytest.raises(ValueError, match=r"vcoco_test.json: Invalid JSON"):
        prepare(settings=settings("vcoco"), raw=tiny_vcoco_raw, out=tmp_path / "prepare")
    assert not (tmp_path / "prepare").exists()


def test_a_box_with_corners_out_of_order_is_refused(tiny_vcoco_raw, settings, tmp_path):
    path = tiny_vcoco_raw / "coco" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [10, 10, -5, 40]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"train2014\.json: image 11: bbox of annotation 101 is \[10\.0, 10\.0, -5"):
        prepare(settings=settings("vcoco"), raw=tiny_vcoco_raw, out=tmp_path / "prepare")
    assert not (tmp_path / "prepare").exists()


def test_a_raw_folder_without_the_dataset_is_refused(tiny_hicodet_raw, settings, tmp_path):
    with pytest.raises(ValueError, match=r"raw/vcoco: .* does not exist"):
        prepare(settings=settings("vcoco"), raw=tiny_hicodet_raw, out=tmp_path / "prepare")


def test_the_real_photos_are_prepared(real_vcoco_raw, settings, tmp_path):
    out = tmp_path / "prepare"
    prepare(settings=settings("vcoco"), raw=real_vcoco_raw, out=out)
    assert len(load_vocabulary(out).verbs) == 24
    assert len(load_annotations(out, "trainval")) + len(load_annotations(out, "test")) == 12
    assert (metrics(out)["train_from_pairs"], metrics(out)["test_from_pairs"]) == (0, 1)
