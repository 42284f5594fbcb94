"""A published release is known by its counts; one's own data must have what a study needs."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from rmlr.data.hicodet import read_hicodet
from rmlr.data.records import Corpus
from rmlr.data.release import CAUSES, COUNTS, check_counts, check_own, count_overhanging, in_folders, of_val2017
from rmlr.data.vcoco import read_vcoco
from rmlr.hoi import NO_BOX, Annotation, Vocabulary
from rmlr.study.settings import Folds

# ---- published releases


@pytest.fixture(scope="module")
def hicodet(real_data, tmp_path_factory) -> Corpus:
    """HICO-DET's real test split behind as many training images as the release has, without rows."""
    raw = tmp_path_factory.mktemp("raw")
    (raw / "hicodet").mkdir()
    content = json.loads((real_data / "annotations" / "instances_test2015.json").read_text())
    nothing = {key: [] for key in ("boxes_h", "boxes_o", "hoi", "object", "verb")}
    train = {"annotation": [nothing] * 2, "size": [[9, 9]] * 2, "filenames": ["1.jpg", "2.jpg"]}
    for name, file in (("train", content | train), ("test", content)):
        (raw / "hicodet" / f"instances_{name}2015.json").write_text(json.dumps(file))
    corpus = read_hicodet(raw, 1)
    assert corpus.notes["rare_against_rows"] == 600 - 138, "by rows, every class of so small a train split is rare"
    many = {"train": corpus.splits["train"] * 35118, "val": corpus.splits["val"] * 3000}
    return Corpus(corpus.vocabulary, corpus.splits | many, corpus.notes | {"rare_against_rows": 0})


def test_the_real_test_split_has_the_counts_of_the_release(hicodet, caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        check_counts(tmp_path, "hicodet-2016", hicodet)
    assert f"all {len(COUNTS['hicodet-2016'])} known counts of hicodet-2016 are right" in caplog.text


def test_every_wrong_number_is_told_with_what_was_expected_and_why(hicodet, tmp_path):
    shown = [image for image in hicodet.splits["test"] if len(image.boxes)]
    wrong = Corpus(hicodet.vocabulary, hicodet.splits | {"test": shown, "val": []}, hicodet.notes)
    with pytest.raises(ValueError, match="not those of the release hicodet-2016") as error:
        check_counts(tmp_path, "hicodet-2016", wrong)
    lines = str(error.value).splitlines()[1:-1]
    assert lines == [
        "  trainval_images: 38,118 expected, 35,118 found",
        "  test_images: 9,658 expected, 9,546 found (these are the images with a visible pair; all 9,658 are scored)",
    ]
    assert "hicodet.release the value own" in str(error.value)


def test_rare_classes_that_do_not_fit_the_rows_of_train_are_told(hicodet, tmp_path):
    wrong = replace(hicodet, notes=hicodet.notes | {"rare_against_rows": 3})
    with pytest.raises(ValueError, match=r"rare_against_rows: 0 expected, 3 found \(the rare classes listed"):
        check_counts(tmp_path, "hicodet-2016", wrong)


def test_a_number_that_was_not_counted_is_reported_as_none(hicodet, tmp_path):
    notes = {name: number for name, number in hicodet.notes.items() if name != "rare_against_rows"}
    with pytest.raises(ValueError, match="rare_against_rows: 0 expected, none found"):
        check_counts(tmp_path, "hicodet-2016", replace(hicodet, notes=notes))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("COCO_train2014_000000000009.jpg", "train2014/"),
        ("COCO_val2014_000000000042.jpg", "val2014/"),
        ("HICO_test2015_00000001.jpg", "test2015/"),
        ("000000000009.jpg", ""),
    ],
)
def test_photos_of_a_release_lie_in_the_folders_of_its_archives(name, folder):
    (placed,) = in_folders([replace(image(1), file_name=name)])
    assert placed.file_name == folder + name
    assert in_folders([]) == []


def test_images_of_val2017_get_their_names_there_and_the_others_go(tmp_path, monkeypatch):
    monkeypatch.setattr("rmlr.data.release.OF_VAL2017", 2)
    words = Vocabulary(dataset="vcoco", objects=("person", "ball"), person=0, verbs=("hit obj",), hois=())
    corpus = Corpus(words, {"train": [image(1)], "val": [], "test": [image(9), image(2), image(7)]}, {})
    folder = tmp_path / "val2017"
    folder.mkdir()
    for number in (7, 9, 1234):
        (folder / f"{number:012d}.jpg").touch()
    found = of_val2017(tmp_path, corpus).splits
    assert [one.file_name for one in found["test"]] == ["val2017/000000000009.jpg", "val2017/000000000007.jpg"]
    assert found["train"] == found["val"] == []
    (folder / "000000000001.jpg").touch()
    with pytest.raises(ValueError, match=r"val2017: of V-COCO's .*'train': 1.*rmlr fetch coco-val2017"):
        of_val2017(tmp_path, corpus)


def test_causes_are_of_known_counts():
    known = {name for counts in COUNTS.values() for name in counts}
    assert {name.split("=")[0] for name in CAUSES} <= known


# ---- one's own data: a 20 x 10 photo of a person and a ball, many times


def image(number: int, *verbs: int, ball: tuple = (5.0, 5.0, 9.0, 9.0), thing: int = 1) -> Annotation:
    """What a person does to the ball (or to nothing that has a box)."""
    return Annotation(
        image_id=number,
        file_name=f"{number}.jpg",
        height=10,
        width=20,
        boxes=np.array([[0.0, 0.0, 4.0, 9.0], ball]),
        labels=np.array([0, 1]),
        interactions=np.array([[0, verb, thing] for verb in verbs], dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(2, dtype=bool),
        is_listed=np.array([True, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def own(**splits: list[Annotation]) -> Corpus:
    verbs = {"verbs": ("hold obj", "kick obj"), "unscored_verbs": ("see obj",), "actions": ("hold", "kick", "see")}
    vocabulary = Vocabulary("vcoco", ("person", "ball"), 0, hois=((0, 1), (1, 1)), **verbs)
    right = {"train": [image(1, 0), image(2)], "val": [image(3, 1)], "test": [image(4, 0)]}
    return Corpus(vocabulary, right | splits, {})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": []}, "vcoco: split 'train' has no image"),
        ({"val": []}, r"vcoco: split 'val' has no image.*val_images"),
        ({"test": []}, "vcoco: split 'test' has no image"),
        ({"test": [image(1, 0)]}, r"test, image 1 \(1.jpg\): is in split 'train', too"),
        (
            {"val": [image(3, 1, ball=(5.0, 5.0, 22.0, 9.0))]},
            r"val, image 3 \(3.jpg\): box \[5.0, 5.0, 22.0, 9.0\] .* 20 wide and 10 high",
        ),
        ({"val": [image(3, 1, ball=(-1.5, 5.0, 9.0, 9.0))]}, r"val, image 3 .*: box \[-1.5, 5.0"),
        ({"val": [image(3, 1, ball=(5.0, 5.0, 9.0, 12.0))]}, r"val, image 3 .*: box \[5.0, 5.0, 9.0, 12.0"),
        (
            {"val": [image(3, 1, ball=(5.0, 5.0, 5.0, 9.0))]},
            r"val, image 3 \(3.jpg\): box \[5.0, 5.0, 5.0, 9.0\] .* no width or no height",
        ),
        ({"val": [image(3, 1, ball=(5.0, 9.0, 9.0, 9.0))]}, "no width or no height"),
        (
            {"train": [image(1, 0), replace(image(2), file_name="1.jpg")]},
            r"train, image 2 \(1.jpg\): is the photo of image 1, too",
        ),
        ({"val": [image(3, 0)]}, "1 of 2 verbs have no pair in train and val: kick obj. .*unscored_roles"),
        ({"val": [image(3, 1, thing=NO_BOX)]}, "1 of 2 verbs have no pair in train and val: kick obj"),
        ({"train": [image(1)], "val": [image(3, 2)]}, "2 of 2 verbs have no pair in train and val: hold obj, kick obj"),
        ({"test": [image(4)]}, "no image of test has a pair"),
        ({"test": [image(4, 2), image(5, 0, thing=NO_BOX)]}, "no image of test has a pair"),
    ],
)
def test_own_data_that_would_stop_or_mislead_a_study_are_refused(tmp_path, splits, message):
    with pytest.raises(ValueError, match=message):
        check_own(tmp_path, own(**splits))


@pytest.mark.parametrize(("x1", "is_refused"), [(0.0, True), (1.0, False)])
def test_own_boxes_in_hicodets_form_count_from_1(tiny_hicodet_raw, x1, is_refused):
    path = tiny_hicodet_raw / "hicodet" / "instances_train2015.json"
    content = json.loads(path.read_text())
    content["annotation"][0]["boxes_o"][0][0] = x1
    path.write_text(json.dumps(content))
    corpus = read_hicodet(tiny_hicodet_raw, 1)
    if not is_refused:
        check_own(tiny_hicodet_raw, corpus)
        return
    with pytest.raises(ValueError, match=r"train, image 1 .*: a box begins at x1 0, y1 .*count from 1.*add 1 to all"):
        check_own(tiny_hicodet_raw, corpus)


def test_what_a_reader_left_out_of_own_data_is_a_warning(tmp_path, caplog):
    notes = {"train_dropped_boxes": 2, "test_dropped_boxes": 1, "val_dropped_persons": 1, "trainval_dropped_rows": 0}
    with caplog.at_level(logging.WARNING):
        check_own(tmp_path, replace(own(), notes=notes))
    assert "3 annotations of coco/ were left out" in caplog.text
    assert "1 listed persons were left out" in caplog.text
    assert "rows were left out" not in caplog.text


def test_own_data_without_a_scored_verb_are_refused(tmp_path):
    corpus = own()
    corpus = replace(corpus, vocabulary=replace(corpus.vocabulary, verbs=(), hois=()))
    with pytest.raises(ValueError, match=r"no verb is scored.*besides 'agent'"):
        check_own(tmp_path, corpus)


def test_own_data_that_have_all_pass_and_verbs_that_cannot_be_scored_are_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        check_own(tmp_path, own())
    assert "1 of 2 verbs have no pair in test: kick obj" in caplog.text


def test_data_for_folds_need_only_the_splits_that_these_are_made_of(tmp_path):
    check_own(tmp_path, own(train=[], val=[], test=[image(1, 0), image(2, 1)]), Folds(count=2, of="test"))
    check_own(tmp_path, own(val=[], test=[image(3, 1)]), Folds(count=2))
    with pytest.raises(ValueError, match="1 of 2 verbs have no pair in the folds: kick obj"):
        check_own(tmp_path, own(), Folds(count=2, of="test"))
    with pytest.raises(ValueError, match="split 'test' has no image"):
        check_own(tmp_path, own(test=[]), Folds(count=2, of="test"))


def test_a_box_may_end_a_pixel_beyond_its_image(tmp_path):
    check_own(tmp_path, own(val=[image(3, 1, ball=(-1.0, -0.5, 21.0, 11.0))]))


def test_boxes_that_leave_their_image_are_counted():
    outside = image(3, 1, ball=(5.0, 5.0, 22.0, 9.0))
    assert count_overhanging({"train": [outside, image(1, 0), outside], "val": []}) == {"train": 2, "val": 0}


def test_the_small_files_of_both_forms_are_own_data(tiny_vcoco_raw, tiny_hicodet_raw):
    assert tiny_vcoco_raw == tiny_hicodet_raw, "two forms in one folder"
    check_own(tiny_vcoco_raw, read_vcoco(tiny_vcoco_raw, ["point instr"]))
    check_own(tiny_hicodet_raw, read_hicodet(tiny_hicodet_raw, 1))
