import os
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
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


def test_the_name_of_a_table_need_not_be_utf8(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"\xff.parquet")
    save_triplets(path, triplets(3))
    assert np.array_equal(load_triplets(path).score, triplets(3).score)


def test_a_changed_bit_anywhere_in_a_table_of_ours_is_an_error_that_names_it(tmp_path: Path):
    path = tmp_path / "triplets.parquet"
    save_triplets(path, triplets(40))
    content, written = path.read_bytes(), load_triplets(path)
    harmless = 0
    for place in range(0, len(content), 41):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            found = load_triplets(path)
        except ValueError as error:
            harmless += str(error).startswith(f"{path}: ")
        else:  # a byte of what no reader needs
            harmless += all(np.array_equal(getattr(found, name), getattr(written, name)) for name in Triplets.__slots__)
    assert harmless == len(range(0, len(content), 41))


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
    score = pa.array(["0.1", "0.2", "0.3"])
    table = table.set_column(table.column_names.index("score"), "score", score)
    parquet.write_table(table.append_column("image_id", table.column("image_id")), path)
    with pytest.raises(
        ValueError,
        match=r"t\.parquet: column 'verb' is missing.*'image_id' occurs 2 times.*'action' does not belong to .*"
        r"'score' is string, expected numbers \(float\)",
    ):
        load_triplets(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"score": [0.1, float("nan"), float("nan")]},
            r"row 1 \(from 0\) \(2 rows like it\): the score is NaN.*'image_id': 11",
        ),
        ({"score": [0.1, 0.2, float("-inf")]}, r"row 2 .*the score is infinite; expected a finite number"),
        ({"score": [0.1, None, 0.3]}, r"row 1 \(from 0\): column 'score' holds null"),
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
        ValueError,
        match=r"^some\.pkl: item 1, 'hold_obj': the score is NaN; expected a finite .*The row: .*'image_id': 11",
    ):
        check_triplets("some.pkl", rows, describe_row=lambda row: f"item {row}, 'hold_obj'")


# ---- what other programs write


def write_frame(path: Path, **columns: list | pd.Series) -> Path:
    """The table of three good rows as pandas writes it, with some columns replaced."""
    save_triplets(path, triplets())
    frame = pd.read_parquet(path)
    for name, values in columns.items():
        frame[name] = values
    frame.to_parquet(path, index=False)
    return path


def test_the_table_is_written_with_pandas_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The lines of docs/evaluation.md, as printed there, write what is read; also in double precision."""
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (lines,) = re.findall(r"```python\n(import pandas.*?)```", page, flags=re.DOTALL)
    assert len(lines.strip().splitlines()) <= 7
    monkeypatch.chdir(tmp_path)
    boxes = np.array([[1.5, 2, 30, 40], [0.1, 0.2, 0.3, 0.4]])
    given = {"human_boxes": boxes, "object_boxes": np.array([[np.nan] * 4, [5, 5, 9, 9.25]])}
    given |= {"image_ids": [10, 11], "verbs": [0, 1], "objects": [-1, 1], "scores": [0.25, 0.1]}
    exec(lines, dict(given))
    table = load_triplets(tmp_path / "mine.parquet", vocabulary=VCOCO, image_ids=[10, 11])
    assert (table.image_id.tolist(), table.verb.tolist(), table.object_category.tolist()) == ([10, 11], [0, 1], [-1, 1])
    assert np.array_equal(table.human_boxes, boxes.astype(np.float32))
    assert np.isnan(table.object_boxes).all(axis=1).tolist() == [True, False]
    assert table.score.tolist() == [0.25, np.float32(0.1)]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_nulls_in_the_columns_of_the_object_say_no_object(tmp_path: Path, missing):
    columns = {f"object_{edge}": [7.0, missing, 7.0] for edge in ("x1", "y1", "x2", "y2")}
    path = write_frame(tmp_path / "t.parquet", **columns, object_category=[1, missing, -1])
    table = load_triplets(path, vocabulary=VCOCO)
    assert parquet.read_table(path).column("object_x1").null_count == 1
    assert np.isnan(table.object_boxes).all(axis=1).tolist() == [False, True, False]
    assert table.object_category.tolist() == [1, -1, -1]
    with pytest.raises(ValueError, match=r"row 1 .*HICO-DET has no triplet without an object"):
        load_triplets(write_frame(path, **columns), vocabulary=HICODET)


def test_rows_that_are_all_without_an_object_may_have_columns_of_nothing(tmp_path: Path):
    path = write_frame(tmp_path / "t.parquet", **{f"object_{edge}": [None] * 3 for edge in ("x1", "y1", "x2", "y2")})
    assert parquet.read_schema(path).field("object_x1").type == pa.null()
    assert np.isnan(load_triplets(path, vocabulary=VCOCO).object_boxes).all()


def test_half_a_box_of_nulls_and_a_null_elsewhere_are_errors_that_name_the_row(tmp_path: Path):
    path = write_frame(tmp_path / "t.parquet", object_x1=[7.0, None, 7.0])
    with pytest.raises(ValueError, match=r"row 1 .*neither four finite numbers nor four NaN \(or null\)"):
        load_triplets(path, vocabulary=VCOCO)
    path = write_frame(tmp_path / "t.parquet", verb=pd.array([0, None, 1], dtype="Int64"))
    with pytest.raises(ValueError, match=r"row 1 \(from 0\): column 'verb' holds null, expected a number"):
        load_triplets(path, vocabulary=VCOCO)


@pytest.mark.parametrize("ids", ["int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64", "float32", "float64"])
@pytest.mark.parametrize("numbers", ["float16", "float32", "float64", "int16", "uint8", "int64"])
def test_numbers_of_any_width_are_read_if_they_lose_nothing(tmp_path: Path, ids: str, numbers: str):
    table = triplets()
    names = {"image_id": ids, "verb": ids, "human_x2": numbers, "object_y1": numbers, "score": numbers}
    save_triplets(tmp_path / "t.parquet", table)
    frame = pd.read_parquet(tmp_path / "t.parquet")
    frame["score"] = [0.25, 0.5, 0.75] if numbers.startswith("float") else [0, 2, 1]
    frame.astype(names).to_parquet(tmp_path / "t.parquet", index=False)
    read = load_triplets(tmp_path / "t.parquet")
    assert np.array_equal(read.image_id, table.image_id)
    assert np.array_equal(read.human_boxes, table.human_boxes)
    assert read.score.tolist() == frame["score"].tolist()
    assert [getattr(read, name).dtype.name for name in Triplets.__slots__] == [
        field.dtype.name for field in (getattr(table, name) for name in Triplets.__slots__)
    ]


def test_doubles_keep_their_digits_for_hicodet_and_are_rounded_for_vcoco_as_officially(tmp_path: Path):
    close = [0.5, 0.5 + 1e-12, 0.25]
    path = write_frame(tmp_path / "t.parquet", score=close, object_category=[0, 0, 0], verb=[0, 0, 0])
    assert load_triplets(path, vocabulary=HICODET).score.tolist() == close
    assert load_triplets(path, vocabulary=VCOCO).score.tolist() == [0.5, 0.5, 0.25]
    large = write_frame(tmp_path / "t.parquet", score=[1e300, 0, 0])
    with pytest.raises(ValueError, match=r"row 0 .*the score is infinite"):
        load_triplets(large, vocabulary=VCOCO)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image_id": pd.Series([1, 2**63, 3], dtype="uint64")},
            r"row 1 .*'image_id' holds 9223372036854775808, expected",
        ),
        ({"image_id": [1.0, 2.0, 2.5]}, r"row 2 \(from 0\): column 'image_id' holds 2\.5, expected a whole number"),
        ({"image_id": [1.0, 2.0, 2.0**60]}, r"row 2 .*holds 1\.15.*expected a whole number, stored exactly"),
        ({"verb": [float("inf"), 0.0, 0.0]}, r"row 0 .*column 'verb' holds inf, expected a whole number"),
        ({"score": [0, 2**62, 1]}, r"row 1 .*column 'score' holds 4611686018427387904, expected at most 2\^53"),
        ({"image_id": ["1", "2", "3"]}, r"column 'image_id' is .*string, expected whole numbers of at most 64 bits"),
        ({"image_id": [Decimal(2) ** 70] * 3}, r"column 'image_id' is decimal128\(22, 0\), expected whole numbers"),
        ({"score": [True, False, True]}, r"column 'score' is bool, expected numbers"),
        ({"verb": [None] * 3}, r"column 'verb' is null, expected whole numbers"),
        ({"human_x1": [[1.0], [2.0], [3.0]]}, r"column 'human_x1' is list<.*>, expected numbers"),
    ],
)
def test_numbers_that_do_not_fit_are_an_error_that_names_column_and_row(tmp_path: Path, columns: dict, message: str):
    path = write_frame(tmp_path / "t.parquet", **columns)
    with pytest.raises(ValueError, match=rf"t\.parquet: {message}"):
        load_triplets(path)


def test_the_index_of_pandas_is_not_a_column_and_the_message_says_how_to_leave_it_out(tmp_path: Path):
    path = write(tmp_path / "t.parquet")
    pd.read_parquet(path).iloc[[2, 0, 1]].to_parquet(path)
    with pytest.raises(ValueError, match=r"column '__index_level_0__' does not belong to this table .*index=False"):
        load_triplets(path)


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
        ({"action": [None, 0, 1]}, r"row 0 \(from 0\): column 'action' holds null"),
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
    with pytest.raises(
        ValueError, match=r"t\.parquet: column 'action' is missing.*'object_x1' does not belong to this table"
    ):
        load_agents(tmp_path / "t.parquet")
    save_agents(tmp_path / "a.parquet", agents())
    with pytest.raises(
        ValueError, match=r"a\.parquet: column 'object_x1' is missing.*'action' does not belong to this table"
    ):
        load_triplets(tmp_path / "a.parquet")


def test_a_box_may_leave_the_image_and_have_no_extent(tmp_path: Path):
    path = write(tmp_path / "t.parquet", human_x1=[-50, 30, 1], human_x2=[30, 30, 9000])
    assert len(load_triplets(path).score) == 3


@pytest.mark.parametrize("content", [b"", b"not a table", "cut"])
def test_a_file_that_is_no_whole_table_is_an_error_that_names_it(tmp_path: Path, content: bytes | str):
    path = write(tmp_path / "t.parquet")
    path.write_bytes(path.read_bytes()[:-100] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"t\.parquet: not a complete Parquet file"):
        load_triplets(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(ValueError, match=r"absent\.parquet: no such file"):
        load_triplets(tmp_path / "absent.parquet")
    with pytest.raises(ValueError, match=r"is not a file; expected a Parquet table of agents"):
        load_agents(tmp_path)
