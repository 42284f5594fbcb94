"""MATLAB's files of version 7 and older: the one place that knows how they are spelled.

Cell arrays are laid out here, for SciPy takes minutes for the 5.8 million cells of HICO-DET's results: in a file all
are words of 8 bytes (MathWorks, "MAT-File Format"), which NumPy sets at once.
"""

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadWarning

INT8, INT32, UINT32, DOUBLE, MATRIX, COMPRESSED = 1, 5, 6, 9, 14, 15  # types of data
CELL_ARRAY, DOUBLE_ARRAY = 1, 6  # classes of array
HEADER = b"MATLAB 5.0 MAT-file, written by rmlr".ljust(116) + bytes(8) + b"\x00\x01IM"  # version 1, little endian
HDF5 = b"MATLAB 7.3"  # how a file of version 7.3 begins, which is another format
LARGEST = 2**31 - 1  # bytes of a variable
CELL_WORDS = 7  # of a cell, before its numbers


def read_variables(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some variables of a file. ValueError where the file or one of them cannot be had, with what to do."""
    try:
        with path.open("rb") as file:
            is_hdf5 = file.read(len(HDF5)) == HDF5
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Is the path the right one?") from error
    if is_hdf5:
        raise ValueError(
            f"{path}: is a MATLAB file of version 7.3, another format (HDF5). Load it in MATLAB or Octave and save its "
            "variables with the option '-v7'"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatReadWarning)
            found = loadmat(path, appendmat=False, variable_names=names)
            listed = [name for name, *_ in whosmat(path, appendmat=False)] if set(names) - set(found) else []
    except Exception as error:  # in a damaged file SciPy stumbles anywhere, over anything
        raise ValueError(
            f"{path}: is no whole MATLAB file of version 7 or older ({type(error).__name__}: {error}). Make or get it "
            "again; in MATLAB or Octave save it with the option '-v7'"
        ) from error
    for name in names:
        if name not in found:
            raise ValueError(f"{path}: has no variable '{name}', but {', '.join(listed) or 'none at all'}")
    return {name: found[name] for name in names}


def write_cells(
    path: Path, name: str, shape: tuple[int, int], cell: Int[np.ndarray, " t"], rows: Float[np.ndarray, "t c"]
) -> None:
    """Write one variable, a cell array of matrices of doubles: each holds the rows of its cell, or is empty (0 x 0).

    `cell`, ascending, counts down the columns, as MATLAB does. The same content gives the same bytes.
    """
    width = rows.shape[1]
    height = np.bincount(cell, minlength=shape[0] * shape[1])
    words = CELL_WORDS + width * height
    if 8 * words.sum() > LARGEST - len(HEADER):
        raise ValueError(
            f"{path}: {len(rows):,} rows in {len(height):,} cells are more than the 2 GiB that a variable of a MATLAB "
            "file can have. Keep fewer rows"
        )
    start = np.cumsum(words) - words
    body = np.zeros(words.sum(), dtype="<u8")
    heads = (
        _pair(MATRIX, 8 * (words - 1)),
        _pair(UINT32, 8),
        _pair(DOUBLE_ARRAY, 0),
        _pair(INT32, 8),
        _pair(height, np.where(height, width, 0)),
        _pair(INT8, 0),  # a cell has no name
        _pair(DOUBLE, 8 * width * height),
    )
    for place, head in enumerate(heads):
        body[start + place] = head
    first = (start + CELL_WORDS)[cell] + np.arange(len(cell)) - np.searchsorted(cell, cell)
    for column in range(width):  # a matrix is stored column by column
        body[first + column * height[cell]] = rows[:, column].astype("<f8").view("<u8")

    letters = name.encode()
    heads = (_pair(UINT32, 8), _pair(CELL_ARRAY, 0), _pair(INT32, 8), _pair(*shape), _pair(INT8, len(letters)))
    content = _bytes(*heads) + letters.ljust(-len(letters) // 8 * -8, b"\0") + body.tobytes()
    packed = zlib.compress(_bytes(_pair(MATRIX, len(content))) + content, level=1)  # most cells are empty and alike
    path.write_bytes(HEADER + _bytes(_pair(COMPRESSED, len(packed))) + packed)


def _pair(low, high):
    """Two numbers of 32 bits in a word: the type of some data and how many bytes they have, or two dimensions."""
    return low | high << 32


def _bytes(*words: int) -> bytes:
    return np.array(words, dtype="<u8").tobytes()
