"""Input and output of files: everything read is validated, everything written is written atomically.

Every JSON file is read by `read_json`, every text file by `read_text`. A form (a pydantic model) describes the content
of a file; `RelativeName`, `Int64` and `Box` are for fields that become paths and array elements.
"""

import codecs
import errno
import hashlib
import json
import os
import reprlib
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a full disk
KEYS = "expected keys with values"  # pydantic would name our classes
MAPPING: dict[str, str] = {"model_type": KEYS, "dict_type": KEYS}


class _Short(reprlib.Repr):
    """Short forms of values, for messages."""

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write numbers of more than 4300 digits."""
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"a whole number of {x.bit_length()} bits"


SHORT = _Short()
SHORT.maxstring = SHORT.maxother = 80
LONGEST_NAME = 255  # bytes of a file name, on usual file systems

Form = TypeVar("Form", bound=BaseModel)


def leads_out(name: str) -> bool:
    """Whether a name read from a file points outside its folder, or does not name a file.

    Only the name is checked. Links that a user has put into a folder may point anywhere.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or path.parts[0].endswith(":")


def _must_stay_inside(name: str) -> str:
    if leads_out(name):
        raise ValueError("expected the name of a file below its folder: relative, and without '..'")
    return name


def _must_say_something(name: str) -> str:
    if not name.strip():
        raise ValueError("expected a name")
    return name


Name = Annotated[str, AfterValidator(_must_say_something)]  # of an object, a verb or the like
RelativeName = Annotated[str, AfterValidator(_must_stay_inside)]  # of a file below a folder
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # what an array holds
Natural = Annotated[int, Field(ge=0, lt=2**63)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**63)]
FARTHEST = 2**24  # pixels: up to here, boxes in float32 tell neighbouring pixels apart
Side = Annotated[int, Field(gt=0, le=FARTHEST)]  # of an image, pixels
Pixel = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST, allow_inf_nan=False)]
Box = tuple[Pixel, Pixel, Pixel, Pixel]


def printable(path: Path | str) -> str:
    """A path, or a text that contains one, in a form that is valid in every terminal and every UTF-8 file.

    Bytes that are not UTF-8 and control characters are escaped: `\\xff`, `\\n`.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(repr(char)[1:-1] if unicodedata.category(char) == "Cc" else char for char in text)


# ---- reading


def read_text(path: Path, advice: str = "Is the path the right one?") -> str:
    """The text of a UTF-8 file, with or without a byte order mark. ValueError names the file and ends with `advice`."""
    content = _read(path, advice)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(path, error)) from error


def read_json(path: Path, form: type[Form], advice: str = "Is the folder the right one?") -> Form:
    """A JSON file, checked against a form. ValueError names the file, the key, what was expected and what was found."""
    content = _read(path, advice)
    try:
        found = form.model_validate_json(content)
        json.loads(content, object_pairs_hook=lambda pairs: _refuse_repeated(path, pairs), parse_int=str)
        return found
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] != "json_invalid":
            raise ValueError(_first_fault(str(path), error)) from error
        try:
            content.decode()
        except UnicodeDecodeError as cause:
            raise ValueError(_not_utf8(path, cause)) from error
        raise ValueError(f"{path}: {first['msg']}. Is the file cut off? Get or make it again") from error


def _refuse_repeated(path: Path, pairs: list[tuple[str, Any]]) -> None:
    """ValueError if a key of one JSON object is there twice: parsers would take the last value without a word."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        (repeated, number), *_ = Counter(keys).most_common(1)
        raise ValueError(
            f"{path}: the key {repeated!r} is {number} times in one object. Keep one, or get the file again"
        )


def check_form(where: str, content: object, form: type[Form]) -> Form:
    """The content of another kind of file, checked against a form, as in `read_json`."""
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise ValueError(_first_fault(where, error)) from error


def refuse_what_is_no_file(path: Path, advice: str) -> None:
    """ValueError for a folder or a device, and for a pipe, on which reading might block forever."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is not a file. {advice}")


def _read(path: Path, advice: str) -> bytes:
    try:
        refuse_what_is_no_file(path, advice)
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). {advice}") from error


def _not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"{path}: byte {byte:#04x} at {error.start} is not text in UTF-8. Save the file as UTF-8, or get it again"


def _first_fault(where: str, error: ValidationError) -> str:
    first, *others = describe_faults(error)
    return f"{where}: {first}" + (f" ({len(others)} more such)" if others else "")


def describe_faults(error: ValidationError) -> list[str]:
    """For each key that does not fit: the key, what was expected and what was found."""
    return [
        f"{'.'.join(map(str, fault['loc'])) or '(top)'}: "
        + MAPPING.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        + ("" if fault["type"] == "missing" else f", got {SHORT.repr(fault['input'])}")
        for fault in error.errors(include_url=False)
    ]


# ---- writing


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`. At the end it is synced and renamed; after an error it is removed."""
    aside = path.with_name(f".{path.name}.part")
    if len(os.fsencode(aside.name)) > LONGEST_NAME:
        aside = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.part")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(error, path) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def disk_full(error: OSError, path: Path) -> ValueError:
    """The error message for a full disk when writing `path`."""
    folder = next((place for place in (path, *path.absolute().parents) if place.exists()), Path("/"))
    free = shutil.disk_usage(folder).free
    return ValueError(
        f"{path}: the disk is full ({error.strerror}), {free / 1e9:.2f} GB are free. Make room and give the same "
        "command again: it resumes"
    )
