"""MATLAB files of version 7 and older, read and written with SciPy."""

import faulthandler
import os
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from jaxtyping import Float, Int

from rmlr.study.files import refuse_what_is_no_file

HDF5 = b"MATLAB 7.3"  # first bytes of version 7.3, which is another format
HEADER, COMPRESSED = 128, 15  # bytes before the first variable; type of one that is compressed

Found = TypeVar("Found")


def read_variables(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some variables of a file. ValueError if the file or one of them cannot be read; it says what to do."""
    from scipy.io import loadmat

    found = _ask(path, lambda: loadmat(path, appendmat=False, variable_names=names))
    if missing := [name for name in names if name not in found]:
        read_shape(path, missing[0])  # raises, as it is not listed
    if sparse := [name for name in names if not isinstance(found[name], np.ndarray)]:
        raise ValueError(f"{path}: {sparse[0]} is a sparse matrix. Save it as a full one, by full({sparse[0]})")
    return {name: found[name] for name in names}


def read_shape(path: Path, name: str) -> tuple[int, ...]:
    """The shape of a variable, without reading its values. ValueError as for `read_variables`."""
    from scipy.io import whosmat

    listed = {other: shape for other, shape, _ in _ask(path, lambda: whosmat(path, appendmat=False))}
    if name not in listed:
        raise ValueError(f"{path}: has no variable '{name}', but {', '.join(listed) or 'none at all'}")
    return listed[name]


def _ask(path: Path, read: Callable[[], Found]) -> Found:
    """What a SciPy reader returns; ValueError if the file is damaged or not a MATLAB file up to version 7.

    Compressed content has checksums. Other content is read twice, first in a process of its own: SciPy's reader, which
    is compiled, ends by a segmentation fault at some flipped bits.
    """
    from scipy.io.matlab import MatReadWarning

    try:
        refuse_what_is_no_file(path, "Is the path right?")
        with path.open("rb") as file:
            is_hdf5 = file.read(len(HDF5)) == HDF5
            is_compressed = _is_compressed(file)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Is the path right?") from error
    if is_hdf5:
        raise ValueError(
            f"{path}: is a MATLAB file of version 7.3, another format (HDF5). Load it in MATLAB or Octave and save its "
            "variables with the option '-v7'"
        )
    try:
        if not is_compressed and _crashes(read):
            raise ValueError("SciPy's reader crashes")
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatReadWarning)
            return read()
    except Exception as error:  # SciPy may raise anything for a damaged file
        raise ValueError(
            f"{path}: is not a complete MATLAB file up to version 7 ({type(error).__name__}: {error}). Make or get it "
            "again; in MATLAB or Octave save it with the option '-v7'"
        ) from error


def _is_compressed(file: BinaryIO) -> bool:
    """Whether a file of version 5 to 7 has compressed variables alone."""
    size = file.seek(0, os.SEEK_END)
    file.seek(HEADER - 2)
    order, place = ("<" if file.read(2) == b"IM" else ">"), HEADER
    while place < size:
        file.seek(place)
        tag = file.read(8)
        if len(tag) < 8:
            return False
        kind, length = struct.unpack(f"{order}II", tag)
        if kind != COMPRESSED:
            return False
        place += 8 + length
    return True


def _crashes(read: Callable[[], object]) -> bool:
    """Whether a call would end this process; it is tried in a copy of it. What it raises does not matter here."""
    process = os.fork()
    if process == 0:
        faulthandler.disable()
        try:
            read()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def write_cells(
    path: Path, name: str, shape: tuple[int, int], cell: Int[np.ndarray, " t"], rows: Float[np.ndarray, "t c"]
) -> None:
    """Write one variable, a cell array of matrices of doubles: each holds the rows of its cell, or is empty (0 x 0).

    `cell`, ascending, counts down the columns, as MATLAB does. Takes 10 microseconds a cell, empty or not.
    """
    from scipy.io import savemat

    cells = np.empty(shape[0] * shape[1], dtype=object)
    cells[:] = [np.zeros((0, 0))] * len(cells)  # the same array: most cells are empty
    filled, first = np.unique(cell, return_index=True)
    for place, content in zip(filled, np.split(rows, first[1:]), strict=True) if len(cell) else ():
        cells[place] = content
    savemat(path, {name: cells.reshape(shape, order="F")}, do_compression=True)
