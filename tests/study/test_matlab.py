"""MATLAB's files: cells stand where they belong, and what cannot be read is one error that says what to do."""

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from rmlr.study.matlab import read_variables, write_cells

ROWS = np.arange(12.0).reshape(4, 3) / 7


def test_cells_hold_their_rows_and_the_others_are_empty(tmp_path):
    write_cells(tmp_path / "a.mat", "some", (2, 3), np.array([1, 1, 4, 5]), ROWS)  # counted down the columns
    content = loadmat(tmp_path / "a.mat")
    cells = content["some"]
    assert [name for name in content if not name.startswith("__")] == ["some"]
    assert cells.shape == (2, 3)
    assert np.array_equal(cells[1, 0], ROWS[:2])
    assert np.array_equal(cells[0, 2], ROWS[2:3])
    assert np.array_equal(cells[1, 2], ROWS[3:])
    assert [cells[place].shape for place in ((0, 0), (0, 1), (1, 1))] == [(0, 0)] * 3
    assert {cell.dtype for cell in cells.ravel()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0), (0, 0)])
def test_cells_without_a_row_keep_their_shape(tmp_path, shape):
    write_cells(tmp_path / "a.mat", "some", shape, np.zeros(0, dtype=np.int64), np.zeros((0, 9)))
    assert loadmat(tmp_path / "a.mat")["some"].shape == shape


def test_variables_are_read_by_name(tmp_path):
    savemat(tmp_path / "a.mat", {"one": ROWS, "two": ROWS + 1, "three": 3.0})
    found = read_variables(tmp_path / "a.mat", ["two", "one"])
    assert list(found) == ["two", "one"]
    assert np.array_equal(found["one"], ROWS)


def test_a_missing_variable_is_told_with_those_that_are_there(tmp_path):
    savemat(tmp_path / "a.mat", {"one": ROWS, "two": ROWS})
    with pytest.raises(ValueError, match=r"a\.mat: has no variable 'all_boxes', but one, two"):
        read_variables(tmp_path / "a.mat", ["all_boxes"])


def test_a_file_of_version_7_3_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"a\.mat: is a MATLAB file of version 7\.3.*'-v7'"):
        read_variables(tmp_path / "a.mat", ["one"])


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "header", "changed"])
def test_a_damaged_file_is_one_error_that_names_it(tmp_path, damage):
    path = tmp_path / "a.mat"
    write_cells(path, "some", (2, 3), np.array([1, 1, 4, 5]), ROWS)
    whole = path.read_bytes()
    changed = whole[:200] + bytes(value ^ 255 for value in whole[200:])
    kinds = {"empty": b"", "text": b"# Created by Octave 7.3.0\n" * 20, "cut": whole[:-9], "header": whole[:140]}
    path.write_bytes(kinds.get(damage, changed))
    with pytest.raises(ValueError, match=r"a\.mat: is not a complete MATLAB file up to version 7 .*'-v7'"):
        read_variables(path, ["some"])


def test_a_missing_file_is_one_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.mat: cannot be read \(No such file"):
        read_variables(tmp_path / "absent.mat", ["one"])
