"""HICO-DET's files of results: what is written is in the official form and comes back; misfits are told by cell."""

import json
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.io import loadmat, savemat

from rmlr.data.hicodet import read_classes, read_file
from rmlr.detections.hicodet import file_order, read_hicodet_results, write_hicodet_results
from rmlr.hoi import Triplets, Vocabulary

CUP, BALLOON, PERSON, TABLE = 0, 1, 2, 3
HOLD, RIDE, SET = 0, 1, 2
VOCABULARY = Vocabulary(
    dataset="hicodet",
    objects=("cup", "balloon", "person", "dining_table"),
    person=PERSON,
    verbs=("hold", "ride", "set"),
    hois=((HOLD, TABLE), (SET, TABLE), (HOLD, CUP), (HOLD, BALLOON), (RIDE, BALLOON), (SET, BALLOON)),
)
IMAGES = [7, 3, 12]
FILES = ["detections_01.mat", "detections_02.mat", "detections_03.mat", "detections_04.mat"]  # of these:
IN_FILES = [PERSON, CUP, TABLE, BALLOON]
HUMAN, THING = (1.5, 2, 30, 40.25), (-3, 0, 7, 7)


def table(*rows: tuple) -> Triplets:
    """Rows (image id, object class, verb, score), with one human and one object box if no others are given."""
    return Triplets(
        image_id=np.array([row[0] for row in rows], dtype=np.int64),
        human_boxes=np.array([(*row, HUMAN)[4] for row in rows], dtype=np.float32).reshape(-1, 4),
        object_boxes=np.array([(*row, HUMAN, THING)[5] for row in rows], dtype=np.float32).reshape(-1, 4),
        object_category=np.array([row[1] for row in rows], dtype=np.int64),
        verb=np.array([row[2] for row in rows], dtype=np.int64),
        score=np.array([row[3] for row in rows], dtype=np.float32),
    )


def by_class(triplets: Triplets) -> list[tuple]:
    """The rows in the order in which the files hold them: by file, class, image, and then as they stand."""
    hoi = VOCABULARY.hoi_of[triplets.object_category, triplets.verb]
    place = [
        (IN_FILES.index(object_), class_, IMAGES.index(image_id))
        for object_, class_, image_id in zip(triplets.object_category, hoi, triplets.image_id, strict=True)
    ]
    order = sorted((row for row in range(len(hoi)) if hoi[row] >= 0), key=place.__getitem__)
    columns = (getattr(triplets, name).astype(float).tolist() for name in Triplets.__slots__)
    rows = list(zip(*columns, strict=True))
    return [rows[row] for row in order]


def rows_of(triplets: Triplets) -> list[tuple]:
    return list(zip(*(getattr(triplets, name).astype(float).tolist() for name in Triplets.__slots__), strict=True))


def write_cells(path, shape, **cells):
    """A file as other people write theirs: by SciPy, a cell named by its class and image, from 1, as in `c2_1`."""
    content = np.empty(shape, dtype=object)
    for place in np.ndindex(*shape):
        cell = cells.get(f"c{place[0] + 1}_{place[1] + 1}", np.zeros((0, 0)))
        content[place] = cell if sparse.issparse(cell) else np.array(cell)
    savemat(path, {"all_boxes": content})


HEADER = 128  # bytes
GOOD = [0, 0, 9, 9, 5, 5, 20, 20, 0.5]  # both corners inside


@pytest.fixture
def folder(tmp_path):
    """A folder of results without any row."""
    write_hicodet_results(tmp_path / "results", table(), VOCABULARY, IMAGES)
    return tmp_path / "results"


# ---- what is written


def test_each_object_has_a_file_of_its_classes_and_all_images(tmp_path):
    write_hicodet_results(tmp_path / "results", table((3, TABLE, SET, 0.9)), VOCABULARY, IMAGES)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == FILES
    shapes = [loadmat(tmp_path / "results" / name)["all_boxes"].shape for name in FILES]
    assert shapes == [(0, 3), (1, 3), (2, 3), (3, 3)]  # a person is nobody's object here; COCO has no balloon


def test_a_cell_has_both_corners_inside_and_the_score(tmp_path):
    found = table((3, TABLE, SET, 0.25), (12, TABLE, HOLD, 0.5), (3, TABLE, SET, 0.75))
    write_hicodet_results(tmp_path / "results", found, VOCABULARY, IMAGES)
    cells = loadmat(tmp_path / "results" / "detections_03.mat")["all_boxes"]
    boxes = [1.5, 2, 29, 39.25, -3, 0, 6, 6]
    assert cells[1, 1].tolist() == [[*boxes, 0.25], [*boxes, 0.75]]
    assert cells[0, 2].tolist() == [[*boxes, 0.5]]
    assert sum(cell.size for cell in cells.ravel()) == 27
    assert {cell.shape for cell in cells.ravel() if not cell.size} == {(0, 0)}


def test_the_files_of_the_release_are_in_cocos_order(real_data):
    path = real_data / "annotations" / "instances_test2015.json"
    vocabulary = read_classes(path, read_file(path))
    names = [vocabulary.objects[object_] for object_ in file_order(vocabulary)]
    assert len(names) == 80
    assert (names[0], names[1], names[35], names[-1]) == ("person", "bicycle", "baseball_glove", "toothbrush")
    text = (real_data / "annotations" / "coco80tohico80.json").read_text()
    hico_of_coco = {int(k): v for k, v in json.loads(text).items()}
    assert file_order(vocabulary) == [hico_of_coco[number] for number in range(1, 81)]


def test_names_with_spaces_have_the_same_place():
    spaced = Vocabulary("hicodet", ("toothbrush", "dining table", "person"), 2, (), ())
    assert file_order(spaced) == [2, 1, 0]


def test_rows_of_no_class_are_left_out_and_counted_in_the_log(tmp_path, caplog):
    found = table((7, CUP, RIDE, 0.9), (7, CUP, HOLD, 0.8), (7, PERSON, HOLD, 0.7))
    with caplog.at_level(logging.WARNING):
        write_hicodet_results(tmp_path / "results", found, VOCABULARY, IMAGES)
    assert "2 of 3 rows left out, whose verb and object are not a class" in caplog.text
    assert rows_of(read_hicodet_results(tmp_path / "results", VOCABULARY, IMAGES)) == by_class(found)


def test_rows_that_fit_are_not_spoken_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        write_hicodet_results(tmp_path / "results", table((7, CUP, HOLD, 0.8)), VOCABULARY, IMAGES)
    assert not caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((8, CUP, HOLD, 0.5), r"triplets: row 1 .*not one of the 3 of the split"),
        ((7, CUP, HOLD, float("nan")), r"row 1 .*the score is NaN"),
        ((7, CUP, 3, 0.5), r"row 1 .*the verb is not in 0\.\.2"),
        ((7, -1, HOLD, 0.5), r"row 1 .*the object category is not in 0\.\.3"),
        ((7, CUP, HOLD, 0.5, (5, 5, 4, 9)), r"row 1 .*the human box is inverted"),
        ((7, CUP, HOLD, 0.5, HUMAN, (np.nan,) * 4), r"row 1 .*HICO-DET has no triplet without an object"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        write_hicodet_results(tmp_path / "results", table((7, CUP, HOLD, 0.5), row), VOCABULARY, IMAGES)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "results").mkdir()
    write_hicodet_results(tmp_path / "results", table(), VOCABULARY, IMAGES)  # an empty one is taken
    with pytest.raises(ValueError, match="results: exists already"):
        write_hicodet_results(tmp_path / "results", table(), VOCABULARY, IMAGES)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: exists already"):
        write_hicodet_results(tmp_path / "file", table(), VOCABULARY, IMAGES)


def test_what_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def fail_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")

    monkeypatch.setattr("rmlr.detections.hicodet.write_cells", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        write_hicodet_results(tmp_path / "results", table(), VOCABULARY, IMAGES)
    assert not list(tmp_path.iterdir())


# ---- there and back

numbers = st.floats(-1000, 1000, width=32).filter(lambda value: value == 0 or abs(value) > 2**-29)
corners = st.tuples(numbers, numbers, numbers, numbers).map(
    lambda box: (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
)
rows = st.tuples(
    st.sampled_from(IMAGES),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.1, 0.5, 1e-30, -7.25]) | st.floats(width=32, allow_nan=False, allow_infinity=False),
    corners,
    corners,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, max_size=12))
def test_what_is_written_comes_back_exactly_in_the_order_of_the_files(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("round") / "results"
    triplets = table(*found)
    write_hicodet_results(folder, triplets, VOCABULARY, IMAGES)
    read = read_hicodet_results(folder, VOCABULARY, IMAGES)
    assert rows_of(read) == by_class(triplets)
    again = folder.parent / "again"
    write_hicodet_results(again, read, VOCABULARY, IMAGES)
    for name in FILES:  # but for the header, which tells the time
        assert (again / name).read_bytes()[HEADER:] == (folder / name).read_bytes()[HEADER:]


def test_equal_scores_keep_their_order_in_a_cell_and_follow_the_images(tmp_path):
    boxes = [(k, 0, 50, 50) for k in range(4)]
    found = table(*[(image, CUP, HOLD, 0.5, box) for image, box in zip((12, 3, 12, 7), boxes, strict=True)])
    write_hicodet_results(tmp_path / "results", found, VOCABULARY, IMAGES)
    read = read_hicodet_results(tmp_path / "results", VOCABULARY, IMAGES)
    assert read.image_id.tolist() == [7, 3, 12, 12]
    assert read.human_boxes[:, 0].tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("edge", [0.0, 1e-20, -1e-20, 1e-9])
def test_a_box_without_extent_next_to_zero_stays_a_box(tmp_path, edge):
    found = table((7, CUP, HOLD, 0.5, (edge, edge, edge, edge), (edge, 0 * edge, edge, 1)))
    write_hicodet_results(tmp_path / "results", found, VOCABULARY, IMAGES)
    read = read_hicodet_results(tmp_path / "results", VOCABULARY, IMAGES)
    assert np.abs(read.human_boxes - edge).max() < 1e-15


@pytest.mark.parametrize("images", [IMAGES, []])
def test_no_rows_and_no_images_come_back(tmp_path, images):
    write_hicodet_results(tmp_path / "results", table(), VOCABULARY, images)
    read = read_hicodet_results(tmp_path / "results", VOCABULARY, images)
    assert rows_of(read) == []
    assert [getattr(read, name).dtype.kind for name in Triplets.__slots__] == ["i", "f", "f", "i", "i", "f"]


# ---- what others wrote


def test_a_file_that_scipy_wrote_is_read(folder):
    write_cells(folder / FILES[2], (2, 3), c2_1=[GOOD, GOOD], c1_3=np.array([GOOD], dtype=np.float32))
    read = read_hicodet_results(folder, VOCABULARY, IMAGES)
    assert rows_of(read) == [
        (12, [0, 0, 10, 10], [5, 5, 21, 21], TABLE, HOLD, 0.5),
        *[(7, [0, 0, 10, 10], [5, 5, 21, 21], TABLE, SET, 0.5)] * 2,
    ]


def test_whole_numbers_may_be_stored_as_such_and_empty_cells_in_any_form(folder):
    cells = {"c1_1": np.array([[*GOOD[:8], 1]], dtype=np.uint8), "c1_2": np.zeros((0, 9)), "c1_3": np.zeros((1, 0))}
    write_cells(folder / FILES[2], (2, 3), **cells, c2_2="")
    read = read_hicodet_results(folder, VOCABULARY, IMAGES)
    assert rows_of(read) == [(7, [0, 0, 10, 10], [5, 5, 21, 21], TABLE, HOLD, 1.0)]
    assert read.score.dtype == np.float64


def test_scores_that_differ_in_double_precision_only_do_not_become_ties(folder):
    close = [[*GOOD[:8], 1 - 1e-12], [*GOOD[:8], 1]]
    write_cells(folder / FILES[2], (2, 3), c2_1=close)
    score = read_hicodet_results(folder, VOCABULARY, IMAGES).score
    assert score[0] < score[1]


def test_one_file_of_all_classes_is_read_in_the_order_of_the_classes(tmp_path):
    write_cells(tmp_path / "detections.mat", (6, 3), c3_2=[GOOD], c1_2=[GOOD], c6_1=[GOOD])
    read = read_hicodet_results(tmp_path, VOCABULARY, IMAGES)
    assert list(zip(read.image_id, read.object_category, read.verb, strict=True)) == [
        (3, TABLE, HOLD),
        (3, CUP, HOLD),
        (7, BALLOON, SET),
    ]


def bad(place, value):
    """Two good rows, the second with one value changed."""
    second = list(GOOD)
    second[place] = value
    return [GOOD, second]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bad(8, np.nan), r"row 2: the score is NaN"),
        (bad(8, np.inf), r"row 2: the score is infinite"),
        (sparse.csc_array(np.array([GOOD], dtype=float)), r"is a sparse matrix; expected a full one"),
        (bad(0, np.nan), r"row 2: the human box is not four finite numbers"),
        (bad(7, np.inf), r"row 2: the object box is neither four finite"),
        (bad(2, -1.5), r"row 2: the human box is inverted"),
        (bad(5, 21.5), r"row 2: the object box is inverted"),
        ([[*GOOD[:8], np.nan]] * 3, r"row 1 \(3 rows like it\): the score is NaN"),
        ([GOOD[:8]], r"is 1 x 8 of int64; expected N x 9 numbers, or empty"),
        (np.array([GOOD]).T, r"is 9 x 1 of float64; expected N x 9"),
        ("nine char", r"is 1 of <U9; expected N x 9 numbers"),
        (np.array([GOOD]) * 1j, r"is 1 x 9 of complex128; expected"),
    ],
)
def test_a_cell_that_does_not_fit_is_refused_by_file_class_image_and_row(folder, content, message):
    write_cells(folder / FILES[2], (2, 3), c1_2=[GOOD], c2_3=content)
    where = r"detections_03\.mat: all_boxes\{2,3\} \('set dining_table', image 12\),? "
    with pytest.raises(ValueError, match=where + message):
        read_hicodet_results(folder, VOCABULARY, IMAGES)


def test_a_box_of_no_width_is_not_inverted(folder):
    write_cells(folder / FILES[2], (2, 3), c2_3=bad(2, -1))
    assert read_hicodet_results(folder, VOCABULARY, IMAGES).human_boxes[1].tolist() == [0, 0, 0, 10]


def test_a_wrong_number_of_images_is_refused(folder):
    write_cells(folder / FILES[2], (2, 4))
    with pytest.raises(
        ValueError, match=r"detections_03\.mat: .* cell array of 2 x 4; expected a cell array of 2 x 3, \(classes"
    ):
        read_hicodet_results(folder, VOCABULARY, IMAGES)


@pytest.mark.parametrize("number", [1, 3])
def test_a_wrong_number_of_classes_is_refused(folder, number):
    write_cells(folder / FILES[2], (number, 3))
    with pytest.raises(
        ValueError,
        match=rf"detections_03\.mat: all_boxes has {number} rows; expected 2, one for each class of 'dining_table', "
        "by the official order of objects",
    ):
        read_hicodet_results(folder, VOCABULARY, IMAGES)


# ---- in HICO's own order of objects, as UPT and PViC write them


def cache_hico(folder, vocabulary, triplets, image_ids):
    """What `cache_hico` of UPT and PViC writes: files by the index of the object, cells by image."""
    results = np.empty((len(vocabulary.hois), len(image_ids)), dtype=object)
    for place in np.ndindex(*results.shape):
        results[place] = np.zeros((0, 0))
    hoi = vocabulary.hoi_of[triplets.object_category, triplets.verb]
    corners = np.array([0, 0, 1, 1])
    for row, image_id in enumerate(triplets.image_id.tolist()):
        boxes = [triplets.human_boxes[row] - corners, triplets.object_boxes[row] - corners, [triplets.score[row]]]
        cell = (hoi[row], image_ids.index(image_id))
        results[cell] = np.concatenate([results[cell].reshape(-1, 9), [np.concatenate(boxes)]])
    folder.mkdir()
    for object_ in range(len(vocabulary.objects)):
        own = [hoi for hoi, (_, other) in enumerate(vocabulary.hois) if other == object_]
        savemat(folder / f"detections_{object_ + 1:02d}.mat", {"all_boxes": results[own]})


def test_files_in_hicos_order_of_objects_are_recognised_and_said_to_be(tmp_path, caplog):
    found = table((7, CUP, HOLD, 0.25), (12, TABLE, SET, 0.5), (3, BALLOON, RIDE, 0.75), (12, TABLE, SET, 0.125))
    cache_hico(tmp_path / "upt", VOCABULARY, found, IMAGES)
    write_hicodet_results(tmp_path / "official", found, VOCABULARY, IMAGES)
    with caplog.at_level(logging.INFO, "rmlr.detections.hicodet"):
        read = read_hicodet_results(tmp_path / "upt", VOCABULARY, IMAGES)
        assert "upt: files are numbered by HICO's own, alphabetical order of objects" in caplog.text
        assert sorted(rows_of(read)) == sorted(rows_of(found))
        caplog.clear()
        assert sorted(rows_of(read_hicodet_results(tmp_path / "official", VOCABULARY, IMAGES))) == sorted(
            rows_of(found)
        )
        assert "official: files are numbered by the official order of objects (COCO's)" in caplog.text


def test_the_two_numberings_of_the_release_differ_in_their_80_counts(real_data, tmp_path):
    path = real_data / "annotations" / "instances_test2015.json"
    vocabulary = read_classes(path, read_file(path))
    hois = np.array(vocabulary.hois)[::7]
    boxes = np.tile(np.array([1, 2, 30, 40], dtype=np.float32), (len(hois), 1))
    image_id, score = np.resize([5, 9], len(hois)), np.linspace(0, 1, len(hois), dtype=np.float32)
    found = Triplets(image_id, boxes, boxes + 3, hois[:, 1], hois[:, 0], score)
    cache_hico(tmp_path / "upt", vocabulary, found, [5, 9])
    write_hicodet_results(tmp_path / "official", found, vocabulary, [5, 9])
    for name in ("upt", "official"):
        assert sorted(rows_of(read_hicodet_results(tmp_path / name, vocabulary, [5, 9]))) == sorted(rows_of(found))


def test_files_that_fit_either_numbering_are_refused_with_what_to_give_instead(tmp_path):
    words = Vocabulary("hicodet", ("cup", "person"), 1, ("hold", "hug"), ((HOLD, 0), (1, 1)))
    found = table((7, 0, HOLD, 0.5), (3, 1, 1, 0.25))
    write_hicodet_results(tmp_path / "results", found, words, IMAGES)
    with pytest.raises(
        ValueError, match=r"results: the files fit both .*COCO's.* and HICO's own.*Give a single detections"
    ):
        read_hicodet_results(tmp_path / "results", words, IMAGES)
    ordered = Vocabulary("hicodet", ("person", "cup"), 0, ("hold", "hug"), ((1, 0), (HOLD, 1)))
    write_hicodet_results(tmp_path / "ordered", table((7, 1, HOLD, 0.5)), ordered, IMAGES)
    assert len(read_hicodet_results(tmp_path / "ordered", ordered, IMAGES).score) == 1


def test_what_is_no_cell_array_is_refused(folder):
    savemat(folder / FILES[2], {"all_boxes": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="all_boxes is an array of float64 of 2 x 3; expected a cell array"):
        read_hicodet_results(folder, VOCABULARY, IMAGES)


def test_wrong_files_are_refused_by_name(folder, tmp_path):
    (folder / FILES[1]).rename(folder / "detections_05.mat")
    with pytest.raises(ValueError, match=r"detections_02\.mat is missing; expected detections_01.* to detections_04"):
        read_hicodet_results(folder, VOCABULARY, IMAGES)
    (folder / "detections_05.mat").rename(folder / FILES[1])
    (folder / "detections_5.mat").touch()
    with pytest.raises(ValueError, match=r"detections_5\.mat is not expected.* found: 5"):
        read_hicodet_results(folder, VOCABULARY, IMAGES)
    (folder / "detections_5.mat").rename(folder / "detections.mat")
    with pytest.raises(ValueError, match=r"contains both detections\.mat and detections_01\.mat"):
        read_hicodet_results(folder, VOCABULARY, IMAGES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: detections_01\.mat is missing.* found: 0"):
        read_hicodet_results(tmp_path / "empty", VOCABULARY, IMAGES)
    with pytest.raises(ValueError, match=r"absent: is not a folder"):
        read_hicodet_results(tmp_path / "absent", VOCABULARY, IMAGES)
