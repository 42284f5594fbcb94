"""Tables of cells, read from CSV."""

import os

import pytest

from rmlr.report.frames import read_cells


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a header and rows beneath it, found no row"),
        (b"a,b\n", "expected a header and rows beneath it, found no row"),
        (b"a,b\n1\n", "row '1' has 1 cells, the header 2"),
        (b"a,b\n1,\xff\n", "byte 0xff at 6 is not text in UTF-8"),
    ],
)
def test_what_is_no_table_is_an_error_that_names_the_file(content, said, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_cells(path, "Get it again")
    assert str(error.value).startswith(f"{path}: ")


def test_a_pipe_in_the_place_of_a_table_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(ValueError, match=r"table\.csv: is not a file"):
        read_cells(tmp_path / "table.csv", "Get it again")


def test_cells_may_hold_commas_quotes_and_line_ends(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n"1,5","say ""hi""\r\nthere"\r\n')
    assert read_cells(path, "").to_dict("records") == [{"a": "1,5", "b": 'say "hi"\r\nthere'}]
