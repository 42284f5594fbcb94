from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rmlr.detections.triplets import (
    AGENT_SCHEMA,
    SCHEMA,
    check_triplets,
    load_agents,
    load_triplets,
    save_agents,
    save_triplets,
)
from rmlr.hoi import Agents, Triplets, Vocabulary

VCOCO = Vocabulary("vcoco", ("person", "cup"), 0, ("hold obj",), (), ("point instr",), ("hold", "stand", "point"))
HICODET = Vocabulary("hicodet", ("cup", "person"), 1, ("hold", "wash"), ((0, 0),))


def triplets(count: int = 3) -> Triplets:
    boxes = np.tile(np.array([1.5, 2, 30, 40], dtype=np.float32), (count, 1))
    return Triplets(
        image_id=np.arange(count, dtype=np.int64) + 10,
        human_boxes=boxes,
        object_boxes=boxes + 5,
        object_category=np.ones(count, dtype=np.int64),
        verb=np.zeros(count, dtype=np.int64),
        score=np.linspace(0.1, 0.9, count, dtype=np.float32),
    )


def write(path: Path, **columns: list) -> Path:
    """A table of three good rows in which some columns are replaced."""
    save_triplets(path, triplets())
    table = parquet.read_table(path)
    for name, values in columns.items():
        table = table.set_column(
            SCHEMA.get_field_index(name), SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type)
        )
    parquet.write_table(table, path)
    return path


def agents(count: int = 3) -> Agents:
    rows = triplets(count)
    return Agents(rows.image_id, rows.human_boxes, np.arange(count, dtype=np.int64) % 3, rows.score)


def write_agents(path: Path, **columns: list) -> Path:
    """A table of three good agents in which some columns are replaced."""
    save_agents(path, agents())
    table = parquet.read_table(path)
    for name, values in columns.items():
        field = AGENT_SCHEMA.field(name)
        table = table.set_column(AGENT_SCHEMA.get_field_index(name), field, pa.array(values, field.type))
    parquet.write_table(table, path)
    return path


@pytest.mark.parametrize("count", [3, 0])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, count: int):
    table = triplets(count)
    if count:
        table.object_boxes[1] = np.nan
    save_triplets(tmp_path / "t.parquet", table)
    loaded = load_triplets(tmp_path / "t.parquet", vocabulary=VCOCO, image_ids=[10, 11, 12])
    for name in Triplets.__slots__:
        before, after = getattr(table, name), getattr(loaded, name)
        assert np.array_equal(before, after, equal_nan=before.dtype.kind == "f"), name
        assert before.dtype == after.dtype


def test_wider_numbers_are_rounded_to_the_types_of_the_format(tmp_path: Path):
    table = triplets()
    wide = Triplets(
        table.image_id, table.human_boxes.astype(np.float64), *[getattr(table, k) for k in Triplets.__slots__[2:]]
    )
    save_triplets(tmp_path / "t.parquet", wide)
    assert parquet.read_schema(tmp_path / "t.parquet").equals(SCHEMA)


def test_columns_may_stand_in_any_order(tmp_path: Path):
    path = write(tmp_path / "t.parquet")
    parquet.write_table(parquet.read_table(path).select(SCHEMA.names[::-1]), path)
    assert load_triplets(path).image_id.tolist() == [10, 11, 12]


def test_missing_extra_and_wrongly_typed_columns_are_one_error(tmp_path: Path):
    path = write(tmp_path / "t.parquet")
    table = parquet.read_table(path).drop_columns(["verb"]).append_column("action", pa.array([1, 2, 3]))
    score = pa.array([0.1, 0.2, 0.3], pa.float64())
    parquet.write_table(table.set_column(table.column_names.index("score"), "score", score), path)
    with pytest.raises(
        ValueError, match=r"t\.parquet: column 'verb' is missing.*'action' is not.*'score' is double, expected float"
    ):
        load_triplets(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"score": [0.1, float("nan"), float("nan")]},
            r"row 1 \(from 0\) \(2 rows like it\): the score is NaN.*'image_id': 11",
        ),
        ({"score": [0.1, None, 0.3]}, r"row 1 \(from 0\): column 'score' is empty"),
        ({"human_x1": [1, 2, float("nan")]}, r"row 2 .*the human box is not four finite numbers"),
        ({"human_y2": [float("inf"), 40, 40]}, r"row 0 .*the human box is not four finite numbers"),
        ({"object_x1": [1, float("nan"), 3]}, r"row 1 .*neither four finite numbers nor four NaN"),
        ({"human_x2": [30, 30, 1]}, r"row 2 .*the human box is inverted"),
        ({"object_y1": [99, 2, 2]}, r"row 0 .*the object box is inverted"),
        ({"verb": [0, 1, 2]}, r"row 2 .*the verb is not in 0\.\.1"),
        ({"verb": [-1, 1, 0]}, r"row 0 .*the verb is not in 0\.\.1"),
        ({"object_category": [0, 2, 0]}, r"row 1 .*the object category is not in 0\.\.1, nor -1 for unknown"),
        ({"object_category": [-1, 0, -2]}, r"row 2 .*the object category is not in 0\.\.1, nor -1 for unknown"),
        ({"image_id": [10, 11, 13]}, r"row 2 .*the image is not one of the 3 of the split"),
    ],
)
def test_what_the_format_forbids_is_an_error_that_names_file_and_row(tmp_path: Path, columns: dict, message: str):
    path = write(tmp_path / "t.parquet", **columns)
    with pytest.raises(ValueError, match=rf"t\.parquet: {message}"):
        load_triplets(path, vocabulary=VCOCO, image_ids=[10, 11, 12])


def test_hicodet_has_no_row_without_an_object_and_vcoco_has(tmp_path: Path):
    columns = {f"object_{edge}": [float("nan"), 7.0, 7.0] for edge in ("x1", "y1", "x2", "y2")}
    path = write(tmp_path / "t.parquet", **columns, object_category=[-1, 1, 1])
    assert np.isnan(load_triplets(path, vocabulary=VCOCO).object_boxes).all(axis=1).tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"row 0 .*HICO-DET has no triplet without an object"):
        load_triplets(path, vocabulary=HICODET)


def test_an_object_of_unknown_class_is_allowed_for_vcoco_only(tmp_path: Path):
    path = write(tmp_path / "t.parquet", object_category=[1, -1, 0])
    assert load_triplets(path, vocabulary=VCOCO).object_category.tolist() == [1, -1, 0]
    with pytest.raises(ValueError, match=r"row 1 .*the object category is not in 0\.\.1\. The row"):
        load_triplets(path, vocabulary=HICODET)


def test_rows_of_any_source_are_checked_and_named_as_it_names_them():
    rows = triplets()
    rows.score[1] = np.nan
    with pytest.raises(
        ValueError, match=r"^some\.pkl: item 1, 'hold_obj': the score is NaN\. The row: .*'image_id': 11"
    ):
        check_triplets("some.pkl", rows, describe_row=lambda row: f"item {row}, 'hold_obj'")


@pytest.mark.parametrize("count", [3, 0])
def test_a_table_of_agents_comes_back_as_it_was_written(tmp_path: Path, count: int):
    table = agents(count)
    save_agents(tmp_path / "a.parquet", table)
    assert parquet.read_schema(tmp_path / "a.parquet").equals(AGENT_SCHEMA)
    loaded = load_agents(tmp_path / "a.parquet", vocabulary=VCOCO, image_ids=[10, 11, 12])
    for name in Agents.__slots__:
        before, after = getattr(table, name), getattr(loaded, name)
        assert np.array_equal(before, after), name
        assert before.dtype == after.dtype


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"score": [0.1, 0.2, float("nan")]}, r"row 2 \(from 0\): the score is NaN.*'action': 2"),
        ({"human_y1": [float("nan"), 2, 2]}, r"row 0 .*the human box is not four finite numbers"),
        ({"human_y1": [2, 99, 99]}, r"row 1 .*\(2 rows like it\): the human box is inverted"),
        ({"action": [0, 3, 1]}, r"row 1 .*the action is not in 0\.\.2"),
        ({"action": [-1, 0, 1]}, r"row 0 .*the action is not in 0\.\.2"),
        ({"action": [None, 0, 1]}, r"row 0 \(from 0\): column 'action' is empty"),
        ({"image_id": [10, 13, 11]}, r"row 1 .*the image is not one of the 3 of the split"),
    ],
)
def test_what_the_format_of_agents_forbids_is_an_error_that_names_file_and_row(
    tmp_path: Path, columns: dict, message: str
):
    path = write_agents(tmp_path / "a.parquet", **columns)
    with pytest.raises(ValueError, match=rf"a\.parquet: {message}"):
        load_agents(path, vocabulary=VCOCO, image_ids=[10, 11, 12])


def test_triplets_and_agents_are_not_taken_for_each_other(tmp_path: Path):
    save_triplets(tmp_path / "t.parquet", triplets())
    with pytest.raises(ValueError, match=r"t\.parquet: column 'action' is missing.*'object_x1' is not of this table"):
        load_agents(tmp_path / "t.parquet")
    save_agents(tmp_path / "a.parquet", agents())
    with pytest.raises(ValueError, match=r"a\.parquet: column 'object_x1' is missing.*'action' is not of this table"):
        load_triplets(tmp_path / "a.parquet")


def test_a_box_may_leave_the_image_and_have_no_extent(tmp_path: Path):
    path = write(tmp_path / "t.parquet", human_x1=[-50, 30, 1], human_x2=[30, 30, 9000])
    assert len(load_triplets(path).score) == 3


@pytest.mark.parametrize("content", [b"", b"not a table", "cut"])
def test_a_file_that_is_no_whole_table_is_an_error_that_names_it(tmp_path: Path, content: bytes | str):
    path = write(tmp_path / "t.parquet")
    path.write_bytes(path.read_bytes()[:-100] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"t\.parquet: not a whole Parquet file"):
        load_triplets(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(ValueError, match=r"absent\.parquet: no such file"):
        load_triplets(tmp_path / "absent.parquet")
