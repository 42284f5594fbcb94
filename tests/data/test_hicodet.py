"""HICO-DET: rows of hand-made files, the real test file's counts, and what is said of files that do not fit."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from rmlr.data.hicodet import read_boxes, read_classes, read_file, read_hicodet, read_rows
from rmlr.data.records import check_annotations, count_annotations
from rmlr.world.files import draw_picture, orders, write_files


def change(path, edit):
    """Change a JSON file in place by a function of its content."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# ---- by hand


def test_classes_are_the_files_in_its_order(tiny_hicodet_raw):
    vocabulary = read_hicodet(tiny_hicodet_raw, 1).vocabulary
    assert vocabulary.objects == ("apple", "person")
    assert vocabulary.person == 1
    assert vocabulary.verbs == ("eat", "hug", "no_interaction")
    assert vocabulary.hois == ((1, 1), (2, 1), (0, 0), (2, 0))  # (verb, object), from (HOI, object, verb)
    assert vocabulary.rare == (1,)
    assert vocabulary.unscored_verbs == vocabulary.actions == ()


def test_the_last_images_of_train_become_val_and_empty_images_stay(tiny_hicodet_raw):
    splits = read_hicodet(tiny_hicodet_raw, 2).splits
    ids = {split: [image.image_id for image in images] for split, images in splits.items()}
    assert ids == {"train": [1, 2], "val": [5, 7], "test": [1, 3]}
    empty = splits["val"][0]
    assert (empty.boxes.shape, empty.interactions.shape, empty.actions.shape) == ((0, 4), (0, 3), (0, 2))


def test_boxes_become_edges_and_each_row_has_its_own_two(tiny_hicodet_raw):
    image = read_hicodet(tiny_hicodet_raw, 1).splits["train"][0]
    assert image.boxes.tolist() == [[0, 0, 10, 20], [4, 4, 5, 5], [1, 2, 40, 50], [29, 2, 64, 48]]
    assert image.labels.tolist() == [1, 0, 1, 1]
    assert image.interactions.tolist() == [[0, 0, 1], [2, 1, 3]]  # human box, verb, object box
    assert image.is_listed.tolist() == [True, False, True, False]
    assert not image.is_crowd.any()
    assert (image.file_name, image.height, image.width) == ("HICO_train2015_00000001.jpg", 50, 64)


def test_rows_without_a_pixel_are_left_out_and_counted(tiny_hicodet_raw):
    path = tiny_hicodet_raw / "hicodet" / "instances_train2015.json"
    change(path, lambda content: content["annotation"][0]["boxes_o"].__setitem__(0, [5, 5, 4, 5]))
    corpus = read_hicodet(tiny_hicodet_raw, 1)
    assert corpus.splits["train"][0].boxes.tolist() == [[1, 2, 40, 50], [29, 2, 64, 48]]
    assert corpus.splits["train"][0].interactions.tolist() == [[0, 1, 1]]
    assert (corpus.notes["trainval_dropped_rows"], corpus.notes["test_dropped_rows"]) == (1, 0)


def test_the_image_number_is_the_last_number_of_the_file_name(tiny_hicodet_raw):
    path = tiny_hicodet_raw / "hicodet" / "instances_test2015.json"
    change(path, lambda content: content["filenames"].__setitem__(0, "drawn_test_000000000012.jpg"))
    assert [image.image_id for image in read_hicodet(tiny_hicodet_raw, 1).splits["test"]] == [12, 3]


def edit_of(key, index, value):
    """An edit of a file: one entry of one list."""
    return lambda content: content[key].__setitem__(index, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content["size"].pop(), "lists over the images differ in length: .*'size': 1"),
        (lambda content: content["annotation"][0]["verb"].pop(), r"00000001.jpg: .* have \[1, 1, 1, 1, 0\] entries"),
        (lambda content: content["annotation"][0]["hoi"].__setitem__(0, 3), "row 0 has HOI 3, verb 1, object 1, which"),
        (lambda content: content["annotation"][0]["hoi"].__setitem__(0, 4), "row 0 has HOI 4, verb 1, object 1, which"),
        (edit_of("filenames", 1, "HICO_1.jpg"), "HICO_1.jpg: has the same number as HICO_test2015_00000001.jpg"),
        (edit_of("filenames", 1, "three.jpg"), "three.jpg: the file name has no number"),
        (
            edit_of("filenames", 1, f"{10**18}.jpg"),
            "000.jpg: its last number is the image's id, which may have at most 18 digits",
        ),
        (edit_of("objects", 0, " "), r"objects\.0: expected a name, got ' '"),
        (edit_of("filenames", 1, "../3.jpg"), r"filenames\.1: expected the name of a file below its folder"),
        (edit_of("filenames", 1, "/photos/3.jpg"), r"filenames\.1: expected the name of a file below its folder"),
        (edit_of("rare", 0, 2**64), r"rare\.0: Input should be less than"),
        (edit_of("rare", 0, 4), "rare has HOI 4, expected 0 to 3"),
        (edit_of("verbs", 0, "hug"), "verbs differs from that of .*instances_train2015.json"),
        (edit_of("size", 0, [0, 50]), r"size\.0\.0: .*greater than 0, got 0"),
        (lambda content: content["annotation"][0]["boxes_h"].__setitem__(0, [1, 2]), r"annotation\.0\.boxes_h\.0"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name_and_row(tiny_hicodet_raw, edit, message):
    change(tiny_hicodet_raw / "hicodet" / "instances_test2015.json", edit)
    with pytest.raises(ValueError, match=f"instances_test2015.json: .*{message}"):
        read_hicodet(tiny_hicodet_raw, 1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_of("correspondence", 0, [1, 1, 1]), r"correspondence.0 is .*\(1, 1, 1\): expected HOI 0"),
        (edit_of("correspondence", 0, [0, 2, 1]), r"correspondence.0 is .*\(0, 2, 1\): expected .* an object below 2"),
        (edit_of("correspondence", 0, [0, 1, 3]), r"correspondence.0 is .*\(0, 1, 3\): .* a verb below 3"),
        (edit_of("correspondence", 1, [1, 1, 1]), r"the same \(verb, object\) is listed twice"),
        (edit_of("objects", 0, "person"), "object 'person' is listed twice"),
        (edit_of("verbs", 0, "hug"), "verb 'hug' is listed twice"),
        (edit_of("objects", 1, "robot"), "no object is named 'person'"),
    ],
)
def test_classes_that_do_not_fit_are_refused(tiny_hicodet_raw, edit, message):
    for name in ("train", "test"):
        change(tiny_hicodet_raw / "hicodet" / f"instances_{name}2015.json", edit)
    with pytest.raises(ValueError, match=f"instances_test2015.json: .*{message}"):
        read_hicodet(tiny_hicodet_raw, 1)


def test_a_train_file_that_val_takes_whole_is_refused(tiny_hicodet_raw):
    with pytest.raises(ValueError, match=r"4 images, of which the setting hicodet.val_images takes 4"):
        read_hicodet(tiny_hicodet_raw, 4)


def test_an_absent_file_is_refused(tiny_hicodet_raw):
    (tiny_hicodet_raw / "hicodet" / "instances_train2015.json").unlink()
    with pytest.raises(
        ValueError, match=r"hicodet: split 'train' has neither instances_train2015.json nor anno_bbox.mat"
    ):
        read_hicodet(tiny_hicodet_raw, 1)


def test_without_a_list_of_rare_classes_they_are_counted_in_train(tiny_hicodet_raw):
    path = tiny_hicodet_raw / "hicodet" / "instances_test2015.json"
    change(path, lambda content: content.pop("rare"))
    eat = {"boxes_h": [1, 1, 10, 20], "boxes_o": [5, 5, 5, 5], "hoi": 2, "object": 0, "verb": 0}
    for rows, rare in ((9, (0, 1, 2, 3)), (10, (0, 1, 3))):
        image = {key: [value] * (rows - 2) for key, value in eat.items()}  # two of the others' images show it, too
        change(
            path.with_name("instances_train2015.json"),
            lambda content, image=image: edit_of("annotation", 2, image)(content),
        )
        corpus = read_hicodet(tiny_hicodet_raw, 1)
        assert corpus.vocabulary.rare == rare
        assert corpus.notes["rare_against_rows"] == 0


# ---- the two forms


def same_records(one, other):
    """Whether two corpora hold the same images, whose rows may stand in another order."""
    assert one.vocabulary == other.vocabulary
    for split, images in one.splits.items():
        assert len(images) == len(other.splits[split])
        for image, twin in zip(images, other.splits[split], strict=True):
            for name in ("image_id", "file_name", "height", "width"):
                assert getattr(image, name) == getattr(twin, name)
            assert rows_of(image) == rows_of(twin)


def rows_of(image):
    """Human box, verb, object, object box of every row, sorted."""
    return sorted(
        (*image.boxes[human], verb, image.labels[thing], *image.boxes[thing])
        for human, verb, thing in image.interactions
    )


@pytest.mark.parametrize("number", [np.uint8, np.uint16, np.float64])
def test_both_forms_give_the_same_records(tiny_hicodet_raw, write_anno_bbox, number):
    folder = tiny_hicodet_raw / "hicodet"
    change(folder / "instances_test2015.json", lambda content: content.update(rare=[0, 1, 2, 3]))  # as counted
    json_form = read_hicodet(tiny_hicodet_raw, 2)
    write_anno_bbox(number=number)
    same_records(read_hicodet(tiny_hicodet_raw, 2), json_form)
    for path in folder.glob("*.json"):
        path.unlink()
    same_records(read_hicodet(tiny_hicodet_raw, 2), json_form)


def test_both_forms_of_the_drawn_world_give_the_same_records(save_anno_bbox, tmp_path):
    drawn = [
        draw_picture(0, 128, order) for split, count in (("train", 12), ("test", 6)) for order in orders(split, count)
    ]
    write_files(tmp_path, drawn)
    json_form = read_hicodet(tmp_path, 3)
    paths = [tmp_path / "hicodet" / f"instances_{name}2015.json" for name in ("train", "test")]
    save_anno_bbox(tmp_path / "hicodet" / "anno_bbox.mat", *(json.loads(path.read_text()) for path in paths))
    same_records(read_hicodet(tmp_path, 3), json_form)
    for path in paths:
        path.unlink()
    mat_form = read_hicodet(tmp_path, 3)
    same_records(mat_form, replace(json_form, vocabulary=replace(json_form.vocabulary, rare=mat_form.vocabulary.rare)))
    assert sum(len(image.interactions) for image in json_form.splits["test"]) > 6


def test_one_form_may_replace_a_missing_split_of_the_other(tiny_hicodet_raw, write_anno_bbox):
    both = read_hicodet(tiny_hicodet_raw, 2)
    write_anno_bbox()
    (tiny_hicodet_raw / "hicodet" / "instances_train2015.json").unlink()
    same_records(read_hicodet(tiny_hicodet_raw, 2), both)


def test_invisible_classes_have_no_rows_and_their_image_stays(tiny_hicodet_raw, write_anno_bbox):
    json_form = read_hicodet(tiny_hicodet_raw, 1)
    images = [("train", "HICO_train2015_00000001.jpg"), ("test", "HICO_test2015_00000003.jpg")]  # the second has no row
    write_anno_bbox(invisible={images[0]: [2, 4], images[1]: [1]})
    corpus = read_hicodet(tiny_hicodet_raw, 1)
    same_records(corpus, json_form)
    assert (corpus.notes["trainval_invisible_classes"], corpus.notes["test_invisible_classes"]) == (2, 1)


def test_names_with_spaces_are_those_with_underscores(tiny_hicodet_raw, write_anno_bbox):
    for name in ("train", "test"):
        change(tiny_hicodet_raw / "hicodet" / f"instances_{name}2015.json", edit_of("objects", 0, "dining table"))
    write_anno_bbox()
    for path in (tiny_hicodet_raw / "hicodet").glob("*.json"):
        path.unlink()
    assert read_hicodet(tiny_hicodet_raw, 1).vocabulary.objects == ("dining_table", "person")


def first_row(key, value):
    """An edit of a JSON file: one number of the first row of its first image."""
    return lambda content: content["annotation"][0][key].__setitem__(0, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (first_row("boxes_o", [5, 5, 6, 5]), r"00000001.jpg: 2 rows and 2; only in the first 1, such as .*6.0, 5.0"),
        (first_row("boxes_h", [1, 1, 10, 21]), r"00000001.jpg: 2 rows and 2; only in the first 1, such as"),
        (
            lambda content: [column.pop() for column in content["annotation"][0].values()],
            "00000001.jpg: 1 rows and 2; only in the first 0, .* only in the second 1",
        ),
        (lambda content: content["size"].__setitem__(2, [50, 64]), r"00000005.jpg: sizes \(50, 64\) and \(64, 50\)"),
        (edit_of("filenames", 1, "HICO_9.jpg"), "filenames differ, 'HICO_9.jpg' against 'HICO_train2015_00000002.jpg'"),
        (
            lambda content: [content[key].pop() for key in ("filenames", "size", "annotation")],
            "filenames differ, 3 against 4",
        ),
        (edit_of("verbs", 0, "bite"), "verbs differ, 'bite' against 'eat'"),
    ],
)
def test_forms_that_disagree_are_refused_with_the_first_image(tiny_hicodet_raw, write_anno_bbox, edit, message):
    write_anno_bbox()
    change(tiny_hicodet_raw / "hicodet" / "instances_train2015.json", edit)
    match = rf"instances_train2015\.json and \S+anno_bbox\.mat: .*{message}.* Remove one of the two"
    with pytest.raises(ValueError, match=match):
        read_hicodet(tiny_hicodet_raw, 1)


def test_rows_in_another_order_are_no_disagreement(tiny_hicodet_raw, write_anno_bbox):
    write_anno_bbox()
    path = tiny_hicodet_raw / "hicodet" / "instances_train2015.json"
    change(path, lambda content: [column.reverse() for column in content["annotation"][0].values()])
    image = read_hicodet(tiny_hicodet_raw, 1).splits["train"][0]
    assert image.interactions[:, 1].tolist() == [1, 0], "the order of the JSON form"


def of_hoi(name, value):
    """An edit of bbox_train's variables: one field of the first class of the first image."""
    return lambda content: content["bbox_train"]["hoi"][0, 0][name].__setitem__((0, 0), value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (of_hoi("id", np.uint16(5)), "00000001.jpg: hoi.id is 5, but list_action has classes 1 to 4"),
        (of_hoi("id", np.uint16(0)), "00000001.jpg: hoi.id is 0, but"),
        (of_hoi("id", np.zeros((0, 0))), "00000001.jpg: id is array.* expected one number"),
        (of_hoi("id", np.inf), "00000001.jpg: id is inf, expected a finite number"),
        (of_hoi("id", np.nan), "00000001.jpg: id is nan, expected a finite number"),
        (of_hoi("id", 1.5), "00000001.jpg: id is 1.5, expected a whole number"),
        (of_hoi("invis", np.nan), "00000001.jpg: invis is nan, expected a finite number"),
        (of_hoi("connection", np.array([[1, np.inf]])), "00000001.jpg: connection of class 3 has a number that is not"),
        (of_hoi("connection", "both"), "00000001.jpg: connection is .* expected a matrix of numbers"),
        (
            lambda content: content["bbox_train"]["size"][0, 0]["width"].__setitem__((0, 0), np.inf),
            "00000001.jpg: width is inf, expected a finite number",
        ),
        (of_hoi("connection", np.array([[1, 2]])), r"00000001.jpg: class 3 connects \[\[1, 2\]\] .* 1 and 1 boxes"),
        (of_hoi("connection", np.array([[0, 1]])), r"00000001.jpg: class 3 connects \[\[0, 1\]\]"),
        (of_hoi("connection", np.array([[1, 1, 1]])), r"00000001.jpg: connection has \(1, 3\) numbers"),
        (
            of_hoi("bboxhuman", np.zeros((1, 2))),
            r"00000001.jpg: bboxhuman is array\(.*expected structs. Is the file damaged",
        ),
        (
            lambda content: content["bbox_train"]["hoi"][0, 0]["bboxhuman"][0, 0]["y2"].__setitem__((0, 0), "low"),
            "00000001.jpg: y2 is .*low.* expected one number",
        ),
        (
            lambda content: content["bbox_train"]["hoi"].__setitem__((0, 0), np.zeros((1, 1), dtype=[("id", object)])),
            "00000001.jpg: .* expected one number|00000001.jpg: a struct has no field 'invis', but id",
        ),
        (lambda content: content.pop("bbox_test"), "has no variable 'bbox_test'"),
        (lambda content: content.update(bbox_train=np.zeros((1, 3))), "bbox_train has no field 'filename', but none"),
        (lambda content: content.update(list_action=np.zeros((4, 1))), "list_action has no field 'nname', but none"),
    ],
)
def test_an_anno_bbox_mat_that_is_damaged_is_refused(tiny_hicodet_raw, write_anno_bbox, edit, message):
    content = loadmat(write_anno_bbox())
    edit(content)
    variables = {name: value for name, value in content.items() if not name.startswith("__")}
    savemat(tiny_hicodet_raw / "hicodet" / "anno_bbox.mat", variables)
    with pytest.raises(ValueError, match=rf"anno_bbox\.mat: .*{message}"):
        read_hicodet(tiny_hicodet_raw, 1)


# ---- labels of whole images


def test_without_anno_mat_there_are_no_labels_of_images(tiny_hicodet_raw):
    corpus = read_hicodet(tiny_hicodet_raw, 1)
    assert corpus.image_objects is None
    assert "trainval_unlabelled_objects" not in corpus.notes


def test_an_image_holds_the_objects_of_which_a_class_is_labelled_1(tiny_hicodet_raw, write_tiny_anno):
    write_tiny_anno()
    corpus = read_hicodet(tiny_hicodet_raw, 2)
    assert {split: table.tolist() for split, table in corpus.image_objects.items()} == {  # apple, person
        "train": [[True, True], [True, False]],
        "val": [[True, False], [True, False]],
        "test": [[False, True], [True, False]],
    }
    assert corpus.notes["trainval_unlabelled_objects"] == 0


def test_labels_may_be_whole_numbers_and_names_have_spaces(tiny_hicodet_raw, write_tiny_anno):
    for name in ("train", "test"):
        change(tiny_hicodet_raw / "hicodet" / f"instances_{name}2015.json", edit_of("objects", 0, "dining_table"))
    actions = np.zeros((4, 1), dtype=[("nname", object)])
    actions["nname"][:, 0] = ["person", "person", "dining table", "dining_table"]
    write_tiny_anno(list_action=actions, anno_test=np.array([[1, 0], [0, -1], [0, 1], [0, 0]], dtype=np.int8))
    assert read_hicodet(tiny_hicodet_raw, 1).image_objects["test"].tolist() == [[False, True], [True, False]]


def test_a_visible_pair_of_an_unlabelled_object_is_counted_in_train_and_refused_in_test(
    tiny_hicodet_raw, write_tiny_anno
):
    none = np.zeros((4, 4))
    write_tiny_anno(anno_train=none)
    assert read_hicodet(tiny_hicodet_raw, 1).notes["trainval_unlabelled_objects"] == 4
    write_tiny_anno(anno_test=none[:, :2])
    with pytest.raises(ValueError, match=r"anno\.mat: image 1 of test has a visible pair with 'person', .*\(1 such"):
        read_hicodet(tiny_hicodet_raw, 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"list_test": ["HICO_test2015_00000001.jpg"]}, r"list_test: 1 entries, expected 2\."),
        (
            {"list_test": ["HICO_test2015_00000003.jpg", "HICO_test2015_00000001.jpg"]},
            r"list_test: entry 1 is 'HICO_test2015_00000003.jpg', expected 'HICO_test2015_00000001.jpg'\.",
        ),
        (
            {"list_action": np.zeros((1, 3), dtype=[("nname", object)])},
            r"list_action.nname: 3 entries, expected 4, entry",
        ),
        ({"list_action": np.zeros((1, 3))}, r"list_action.nname: 0 entries, expected 4\."),
        ({"anno_test": np.zeros((2, 4))}, r"anno_test is \S+ of \(2, 4\), expected numbers of .* \(4, 2\)\."),
        ({"anno_train": "labels"}, r"anno_train is <U6 of \(1,\), expected"),
        (
            {"list_train": [1, 2, 3], "anno_train": np.zeros((4, 3))},
            r"list_train: 3 entries, expected 4, entry 1 is '', .*; anno_train is \S+ of \(4, 3\), expected",
        ),
    ],
)
def test_an_anno_mat_with_other_content_is_refused_with_all_differences(
    tiny_hicodet_raw, write_tiny_anno, variables, message
):
    write_tiny_anno(**variables)
    with pytest.raises(ValueError, match=rf"anno\.mat: does not match instances_.*{message}.*hico_20160224_det"):
        read_hicodet(tiny_hicodet_raw, 1)


def test_an_anno_mat_without_its_variables_is_refused(tiny_hicodet_raw):
    savemat(tiny_hicodet_raw / "hicodet" / "anno.mat", {"list_test": 1})
    with pytest.raises(ValueError, match=r"anno\.mat: has no variable 'list_action'"):
        read_hicodet(tiny_hicodet_raw, 1)


# ---- the real test file


@pytest.fixture(scope="module")
def release(real_data):
    """The real test file as its reader understood it, and as it is."""
    path = real_data / "annotations" / "instances_test2015.json"
    content = read_file(path)
    vocabulary = read_classes(path, content)
    annotations, dropped = read_rows(path, content, vocabulary)
    assert dropped == 0
    check_annotations(path, annotations, vocabulary)
    return vocabulary, annotations, json.loads(path.read_text())


@pytest.fixture(scope="module")
def hoi_rows(release):
    """How many rows each of the 600 classes has."""
    vocabulary, annotations, _ = release
    found = Counter(
        int(vocabulary.hoi_of[image.labels[thing], verb])
        for image in annotations
        for _, verb, thing in image.interactions
    )
    return np.array([found[hoi] for hoi in range(len(vocabulary.hois))])


def test_the_release_has_600_classes(release):
    vocabulary, _, raw = release
    assert (len(vocabulary.objects), len(vocabulary.verbs), len(vocabulary.hois)) == (80, 117, 600)
    assert (vocabulary.objects[0], vocabulary.person, list(vocabulary.objects)) == (
        "airplane",
        49,
        sorted(raw["objects"]),
    )
    assert vocabulary.verbs[57] == "no_interaction"
    assert sum(verb == 57 for verb, _ in vocabulary.hois) == 80
    assert len(vocabulary.rare) == 138
    assert sorted([*vocabulary.rare, *raw["non_rare"]]) == list(range(600))


def test_classes_are_grouped_by_object_but_not_in_its_order(release):
    objects = [object_ for _, object_ in release[0].hois]
    groups = list(dict.fromkeys(objects))
    assert objects == sorted(objects, key=groups.index)
    assert groups != sorted(groups)


def test_images_and_rows_of_the_release(release):
    vocabulary, annotations, raw = release
    counts = count_annotations(annotations, vocabulary)
    assert (counts["images"], counts["images_with_pair"], counts["interactions"]) == (9658, 9546, 33405)
    assert [index for index, image in enumerate(annotations) if not len(image.boxes)] == sorted(raw["empty"])
    assert len(raw["empty"]) == 112
    assert max(len(image.interactions) for image in annotations) == 161
    assert annotations[-1].image_id == 9767


def test_rows_of_the_classes_of_the_release(release, hoi_rows):
    is_rare = np.isin(np.arange(600), release[0].rare)
    assert (hoi_rows > 0).all()
    assert (hoi_rows.min(), hoi_rows.max(), (hoi_rows < 5).sum(), (hoi_rows < 10).sum()) == (2, 898, 8, 198)
    assert hoi_rows[is_rare].sum() == 981
    is_fifth = hoi_rows % 5 == 0  # evaluation specification, 2.4
    assert (is_fifth.sum(), (is_fifth & is_rare).sum()) == (161, 63)


def test_boxes_of_the_release_are_whole_pixels_inside_the_image(release):
    _, annotations, _ = release
    boxes = np.concatenate([image.boxes for image in annotations])
    sizes = np.concatenate([np.tile([image.width, image.height], (len(image.boxes), 1)) for image in annotations])
    assert (boxes == boxes.round()).all()
    assert boxes.min() == 0  # 1 in the file
    assert (boxes[:, 2:] <= sizes).all()
    assert (boxes[:, 2:] == sizes).any()  # both corners are inside the box: the right edge is reached
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 1


def test_no_two_rows_of_the_release_have_equal_boxes_and_object(release):
    _, annotations, _ = release
    rows = {
        (image.image_id, *image.boxes[human], *image.boxes[thing], image.labels[thing])
        for image in annotations
        for human, _, thing in image.interactions
    }
    assert len(rows) == 33405


def test_cocos_numbers_map_to_the_releases_objects(release, real_data):
    objects, folder = release[0].objects, real_data / "annotations"
    categories = json.loads((real_data / "coco128" / "annotations" / "instances_train2017.json").read_text())[
        "categories"
    ]
    of_80, of_91 = (json.loads((folder / f"coco{n}tohico80.json").read_text()) for n in (80, 91))
    for contiguous, category in enumerate(sorted(categories, key=lambda category: category["id"]), start=1):
        name = category["name"].replace(" ", "_")
        assert objects[of_80[str(contiguous)]] == objects[of_91[str(category["id"])]] == name


@pytest.mark.slow
def test_the_real_file_written_as_anno_bbox_mat_gives_the_same_records(release, save_anno_bbox, tmp_path):
    vocabulary, annotations, content = release
    few = {"annotation": [], "filenames": [], "size": []}
    hidden = {("test", content["filenames"][position]): [600] for position in content["empty"]}
    save_anno_bbox(tmp_path / "anno_bbox.mat", content | few, content, invisible=hidden)
    (_, none), (file, invisible) = read_boxes(tmp_path / "anno_bbox.mat").values()
    assert (none, invisible) == (0, 112)
    assert (file.objects, file.verbs) == (content["objects"], content["verbs"])
    assert [list(row) for row in file.correspondence] == content["correspondence"]
    records, dropped = read_rows(tmp_path, file, vocabulary)
    assert dropped == 0
    for image, twin in zip(records, annotations, strict=True):
        assert (image.image_id, image.height, image.width) == (twin.image_id, twin.height, twin.width)
        assert rows_of(image) == rows_of(twin)


def test_the_600_prompts_stand_in_the_order_of_the_classes(release, real_data):
    vocabulary, prompts = release[0], json.loads((real_data / "annotations" / "prompts.json").read_text())
    assert len(prompts) == 600
    for prompt, (_, object_) in zip(prompts, vocabulary.hois, strict=True):
        assert prompt.rstrip(".").endswith(vocabulary.objects[object_].replace("_", " "))
