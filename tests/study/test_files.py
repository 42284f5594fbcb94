"""Files at the border: read with checks, written whole."""

import errno
import json
import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, RootModel

from rmlr.study.files import Int64, RelativeName, check_form, read_json, read_text, write_whole, written_aside


class Form(BaseModel):
    model_config = ConfigDict(strict=True)

    ids: list[Int64] = Field(default_factory=list)
    scores: list[FiniteFloat] = Field(default_factory=list)
    name: RelativeName = "photo.jpg"


class Nested(RootModel[Annotated[list, Field()]]):
    """Any list."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.json"


def test_a_file_that_fits_its_form_is_read(path: Path):
    path.write_text(json.dumps({"ids": [1, -(2**63), 2**63 - 1], "scores": [0.5, 1], "name": "a/b.jpg"}))
    assert read_json(path, Form) == Form(ids=[1, -(2**63), 2**63 - 1], scores=[0.5, 1.0], name="a/b.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOF while parsing.*cut off"),
        (b'{"ids": [1', "EOF while parsing a list.*cut off"),
        (b'{"ids": [9223372036854775808]}', r"ids\.0: Input should be less than 9223372036854775808, got 92233"),
        (b'{"ids": [' + 5000 * b"9" + b"]}", "file.json: "),
        (b'{"ids": [1.5]}', r"ids\.0: Input should be a valid integer, got 1\.5"),
        (b'{"ids": [true]}', r"ids\.0: Input should be a valid integer, got True"),
        (b'{"scores": [NaN]}', r"scores\.0: Input should be a finite number, got nan"),
        (b'{"scores": [1, -Infinity]}', r"scores\.1: Input should be a finite number, got -inf"),
        (b'{"scores": [1e999]}', r"scores\.0: Input should be a finite number, got inf"),
        (b'{"name": "\\ud800"}', "file.json: "),
        (b'{"name": "caf\xe9.jpg"}', r"file\.json: byte 0xe9 at 13 is not text in UTF-8. Save the file as UTF-8"),
        ('{"ids": []}'.encode("utf-16"), r"file\.json: byte 0xff at 0 is not text in UTF-8"),
        (100_000 * b"[", "recursion limit exceeded"),
        (b'{"name": "../up.jpg"}', r"name: expected the name of a file below its folder.*got '\.\./up\.jpg'"),
        (b'{"ids": ["a", "b", "c"]}', r"ids\.0: Input should be a valid integer, got 'a' \(2 more such\)"),
    ],
)
def test_a_file_that_does_not_fit_is_one_error_that_names_it(path: Path, content: bytes, message: str):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path, Form)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400


def test_a_key_twice_in_one_object_is_an_error_at_any_depth(path: Path):
    path.write_text('{"ids": [], "scores": [1.0], "name": "a", "name": "b"}')
    with pytest.raises(ValueError, match=r"the key 'name' is 2 times in one object\. Keep one, or get the file again"):
        read_json(path, Form)
    path.write_text('[{"a": 1}, {"a": {"b": 1, "b": 1, "b": 2}}]')
    with pytest.raises(ValueError, match="the key 'b' is 3 times"):
        read_json(path, RootModel[list])


def test_deep_json_is_an_error_also_where_any_list_fits(path: Path):
    path.write_text(10_000 * "[" + 10_000 * "]")
    with pytest.raises(ValueError, match=r"file\.json: .*recursion limit"):
        read_json(path, Nested)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path), lambda path: None])
def test_what_is_no_file_is_an_error_that_names_it_and_hangs_nobody(path: Path, make):
    make(path)
    for read in (lambda: read_text(path, "Look."), lambda: read_json(path, Form, "Look.")):
        with pytest.raises(ValueError, match=r"file\.json: (is not a file|cannot be read \(.*\))\. Look\."):
            read()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_is_utf8_with_or_without_a_byte_order_mark(path: Path, mark: bytes):
    path.write_bytes(mark + '{"name": "ü.jpg"}'.encode())
    assert read_text(path) == '{"name": "ü.jpg"}'
    assert read_json(path, Form).name == "ü.jpg"


@pytest.mark.parametrize(
    "name", ["", ".", "/etc/passwd", "../a", "a/../../b", "a/..", "..\\a", "C:\\a", "C:/a", "a\0b"]
)
def test_a_name_that_leads_out_of_its_folder_is_refused(name: str):
    with pytest.raises(ValueError, match=r"table: name: expected the name of a file below its folder: relative"):
        check_form("table", {"name": name}, Form)


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "./a.jpg", "..a.jpg", "a..b", "a b.jpg", "ü.jpg", ".hidden"])
def test_a_name_below_its_folder_is_taken_as_it_is(name: str):
    assert check_form("table", {"name": name}, Form).name == name


def test_what_is_written_aside_takes_the_place_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_until(fault: Exception | None) -> None:
        with written_aside(path) as aside:
            aside.write_text("new")
            if fault:
                raise fault

    with pytest.raises(KeyError):
        write_until(KeyError())
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]
    write_until(None)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "new")]


def test_a_file_may_have_the_longest_name_there_is(tmp_path: Path):
    path = tmp_path / (127 * "ü" + "x")
    write_whole(path, "whole")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [(path.name, "whole")]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path):
    path = tmp_path / "new" / "file"
    path.parent.mkdir()

    def fill() -> None:
        with written_aside(path) as aside:
            aside.write_text("part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ValueError, match=r"new/file: the disk is full \(No space.*GB are free\. Make room"):
        fill()
    assert not list(path.parent.iterdir())
