"""Our records on disk: what is written comes back, what does not fit is refused by file and image."""

import json

import numpy as np
import pytest

from rmlr.data.records import (
    count_annotations,
    load_annotations,
    load_image_objects,
    load_vocabulary,
    save_annotations,
    save_image_objects,
    save_vocabulary,
)
from rmlr.hoi import NO_BOX, Annotation, Vocabulary

VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=("ball", "person"),
    person=1,
    verbs=("hit obj", "look obj"),
    hois=((0, 0), (1, 1)),
    unscored_verbs=("point instr",),
    actions=("hit", "look", "stand", "point"),
    rare=(1,),
)


def annotation(image_id, boxes=(), labels=(), interactions=(), actions=()):
    """A record; persons (label 1) are listed."""
    labels = np.array(labels, dtype=np.int64)
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=40,
        width=30,
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=labels,
        interactions=np.array(interactions, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(len(labels), dtype=bool),
        is_listed=labels == 1,
        actions=np.array(actions, dtype=np.int64).reshape(-1, 2),
    )


FULL = annotation(
    7,
    boxes=[[0.1, 0.2, 10, 30.123456789], [1, 2, 3, 4]],
    labels=[1, 0],
    interactions=[[0, 0, 1], [0, 1, NO_BOX], [0, 2, 1]],
    actions=[[0, 0], [0, 1], [0, 3]],
)


@pytest.fixture
def folder(tmp_path):
    """A prepared dataset: one full and one empty image in train, one in val, none in test."""
    save_vocabulary(tmp_path / "vocabulary.json", VOCABULARY)
    save_annotations(tmp_path / "train.json", [FULL, annotation(8)])
    save_annotations(tmp_path / "val.json", [annotation(9)])
    save_annotations(tmp_path / "test.json", [])
    return tmp_path


def change(path, edit):
    """Change a JSON file in place by a function of its content."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_vocabulary_comes_back_as_it_was(folder):
    assert load_vocabulary(folder) == VOCABULARY


def test_records_come_back_as_they_were(folder):
    full, empty = load_annotations(folder, "train")
    for name in Annotation.__slots__:
        value, expected = getattr(full, name), getattr(FULL, name)
        assert np.array_equal(value, expected)
        assert not isinstance(expected, np.ndarray) or value.dtype == expected.dtype
    assert (empty.boxes.shape, empty.labels.shape, empty.interactions.shape) == ((0, 4), (0,), (0, 3))
    assert (empty.actions.shape, empty.boxes.dtype, empty.is_crowd.dtype) == ((0, 2), np.float64, bool)


def test_a_split_may_be_empty(folder):
    assert load_annotations(folder, "test") == []


def test_trainval_is_train_then_val(folder):
    assert [image.image_id for image in load_annotations(folder, "trainval")] == [7, 8, 9]


def test_equal_records_give_equal_bytes(folder):
    save_annotations(folder / "again.json", load_annotations(folder, "train"))
    assert (folder / "again.json").read_bytes() == (folder / "train.json").read_bytes()


def test_counts_tell_scored_from_unscored_and_visible_from_unseen():
    counts = count_annotations([FULL, annotation(8)], VOCABULARY)
    assert counts == {
        "images": 2,
        "images_with_pair": 1,
        "boxes": 2,
        "persons": 1,
        "unlisted_persons": 0,
        "interactions": 2,
        "interactions_without_box": 1,
        "unscored_interactions": 1,
        "actions": 3,
    }


def test_an_absent_split_is_refused(folder):
    with pytest.raises(ValueError, match=r"dev.json: cannot be read \(No such file or directory\)"):
        load_annotations(folder, "dev")


def test_a_truncated_split_is_refused(folder):
    path = folder / "train.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"train.json: Invalid JSON: EOF .* Is the file cut off\?"):
        load_annotations(folder, "train")


def test_many_misfits_are_told_as_one_and_a_number(folder):
    change(folder / "train.json", lambda images: [image.update(height="x") for image in images])
    with pytest.raises(ValueError, match=r"train.json: 0.height: .* integer, got 'x' \(1 more such\)"):
        load_annotations(folder, "train")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda image: image.pop("width"), r"0\.width: Field required"),
        (lambda image: image.update(depth=3), r"0\.depth: Extra inputs are not permitted, got 3"),
        (lambda image: image.update(image_id=2**64), r"0\.image_id: .* less than 9223372036854775808"),
        (lambda image: image.update(file_name="../7.jpg"), r"0\.file_name: expected the name of a file below"),
        (lambda image: image["labels"].__setitem__(1, 2**63), r"0\.labels\.1: .* less than"),
        (lambda image: image.update(width=0), r"0\.width: .* greater than 0, got 0"),
        (lambda image: image["boxes"].pop(), "image 7: 1 boxes, 2 labels, 2 is_crowd and 2 is_listed"),
        (lambda image: image["is_listed"].pop(), "image 7: 2 boxes, 2 labels, 2 is_crowd and 1 is_listed"),
        (lambda image: image["boxes"][1].__setitem__(2, 0.5), r"image 7: \[1.0, 2.0, 0.5, 4.0\] is not a valid box"),
        (lambda image: image["boxes"][1].__setitem__(3, 0.5), r"image 7: \[1.0, 2.0, 3.0, 0.5\] is not a valid box"),
        (lambda image: image["boxes"][1].__setitem__(2, float("inf")), r"0\.boxes\.1\.2: .* finite number, got inf"),
        (lambda image: image["labels"].__setitem__(1, 2), "image 7: 2 is not a label: expected 0 to 1"),
        (lambda image: image["labels"].__setitem__(1, -1), "image 7: -1 is not a label"),
        (lambda image: image["is_listed"].__setitem__(1, True), "image 7: 0 is the label of a listed box"),
        (lambda image: image["interactions"][0].__setitem__(0, 1), r"\[1, 0, 1\] is .* human box is not a person"),
        (lambda image: image["interactions"][0].__setitem__(0, 2), r"\[2, 0, 1\] is .* human box is not a person"),
        (lambda image: image["interactions"][0].__setitem__(0, -1), r"\[-1, 0, 1\] is .* human box is not a person"),
        (lambda image: image["interactions"][0].__setitem__(1, 3), r"\[0, 3, 1\] is .* verb is not 0 to 2"),
        (lambda image: image["interactions"][0].__setitem__(2, 2), r"\[0, 0, 2\] is .* neither a box here nor -1"),
        (lambda image: image["interactions"][0].__setitem__(2, -2), r"\[0, 0, -2\] is .* neither a box here nor -1"),
        (lambda image: image["interactions"][0].pop(), r"0\.interactions\.0\.2: Field required"),
        (lambda image: image["actions"][0].__setitem__(0, 1), r"\[1, 0\] is an action .* not a person"),
        (lambda image: image["actions"][0].__setitem__(1, 4), r"\[0, 4\] is an action .* not one of 4"),
    ],
)
def test_records_that_do_not_fit_are_refused_by_file_and_image(folder, edit, message):
    change(folder / "train.json", lambda images: edit(images[0]))
    with pytest.raises(ValueError, match=f"train.json: .*{message}"):
        load_annotations(folder, "train")


def test_a_duplicate_image_is_refused(folder):
    change(folder / "train.json", lambda images: images.append(images[0]))
    with pytest.raises(ValueError, match=r"train\.json: image 7 is listed 2 times\. Keep one of its records"):
        load_annotations(folder, "train")


def test_an_index_into_another_images_boxes_is_refused(folder):
    change(folder / "train.json", lambda images: images[1].update(interactions=[[0, 0, 0]]))
    with pytest.raises(ValueError, match=r"image 8: \[0, 0, 0\] is .* human box is not a person"):
        load_annotations(folder, "train")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda vocabulary: vocabulary.update(person=2), "person is object 2, expected 0 to 1"),
        (lambda vocabulary: vocabulary["hois"].append([2, 0]), r"hois\.2 is verb 2, object 0, but there are 2 verbs"),
        (lambda vocabulary: vocabulary["hois"].append([0, 2]), r"hois\.2 is verb 0, object 2"),
        (lambda vocabulary: vocabulary["hois"].append([0, 0]), r"the same \(verb, object\) is listed twice"),
        (lambda vocabulary: vocabulary.update(rare=[2]), "rare has HOI 2, expected 0 to 1"),
        (lambda vocabulary: vocabulary.update(rare=[1, 1]), "HOI 1 is listed twice in rare"),
        (
            lambda vocabulary: vocabulary.update(verbs=2 * vocabulary["verbs"][:1]),
            r"verb '.*' is listed twice.*Prepare it",
        ),
        (lambda vocabulary: vocabulary["objects"].__setitem__(1, ""), r"object 1 \(from 0\) has no name"),
        (lambda vocabulary: vocabulary.update(dataset="hoia"), "dataset: .*'vcoco' or 'hicodet', got 'hoia'"),
        (lambda vocabulary: vocabulary.pop("verbs"), "verbs: Field required"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(folder, edit, message):
    change(folder / "vocabulary.json", edit)
    with pytest.raises(ValueError, match=f"vocabulary.json: .*{message}"):
        load_vocabulary(folder)
    with pytest.raises(ValueError, match=f"vocabulary.json: .*{message}"):
        load_annotations(folder, "train")


# ---- labels of whole images


@pytest.fixture
def labelled(folder):
    """The folder with the objects of its images."""
    splits = {split: load_annotations(folder, split) for split in ("train", "val", "test")}
    tables = {"train": [[1, 1], [0, 0]], "val": [[0, 1]], "test": np.zeros((0, 2))}
    save_image_objects(
        folder / "image_objects.json", splits, {split: np.array(table, dtype=bool) for split, table in tables.items()}
    )
    return folder


def test_the_objects_of_images_come_back_by_image_id(labelled):
    assert load_image_objects(labelled, "train") == {7: [0, 1], 8: []}
    assert load_image_objects(labelled, "trainval") == {7: [0, 1], 8: [], 9: [1]}
    assert load_image_objects(labelled, "test") == {}


def test_a_release_without_labels_of_images_has_none(folder):
    assert load_image_objects(folder, "train") is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda splits: splits["train"].update({"7": [2]}), "image 7 has object 2, expected 0 to 1"),
        (lambda splits: splits["train"].update({"7": [-1]}), r"train.7.0: .*greater than or equal to 0, got -1"),
        (lambda splits: splits["train"].update({"7": ["1"]}), r"train.7.0: .*integer, got '1'"),
        (lambda splits: splits["train"].update({"seven": [1]}), r"train.seven.*: .*integer"),
        (lambda splits: splits.pop("train"), "has no split 'train', but val, test"),
    ],
)
def test_objects_of_images_that_do_not_fit_are_refused(labelled, edit, message):
    change(labelled / "image_objects.json", edit)
    with pytest.raises(ValueError, match=f"image_objects.json: {message}"):
        load_image_objects(labelled, "train")
