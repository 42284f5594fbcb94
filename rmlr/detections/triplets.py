"""The neutral tables of scored predictions: Parquet files that any method can write and `rmlr evaluate` reads.

Triplets:

    image_id int64 · human_x1 human_y1 human_x2 human_y2 · object_x1 object_y1 object_x2 object_y2 float32 ·
    object_category int64 · verb int64 · score float32

Agents, the actions of single people, which V-COCO scores as well:

    image_id int64 · human_x1 human_y1 human_x2 human_y2 float32 · action int64 · score float32

Boxes are edges in pixels of the original image and may extend beyond it. A V-COCO row without an object has four NaN;
one with an object may have the category -1 (unknown), which V-COCO's own format does not have and its score does not
use.

These are the types that are written. Tables that are read may have other types, such as those of pandas, if they
convert without loss: 64-bit floats, any integers, whole numbers stored as floats; and nulls in the columns of the
object, which mean NaN, or -1 in its category. As in the official programs, floats that need 64 bits keep them for
HICO-DET, and are rounded to 32 for V-COCO.

`check_triplets` and `check_agents` contain the rules, for these tables and for rows from other formats.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float
from pyarrow import parquet

from rmlr.hoi import Agents, Triplets, Vocabulary
from rmlr.study.files import written_aside

HUMAN = ["human_x1", "human_y1", "human_x2", "human_y2"]
OBJECT = ["object_x1", "object_y1", "object_x2", "object_y2"]
_IMAGE, _PERSON = [("image_id", pa.int64())], [(name, pa.float32()) for name in HUMAN]
SCHEMA = pa.schema(
    _IMAGE
    + _PERSON
    + [(name, pa.float32()) for name in OBJECT]
    + [("object_category", pa.int64()), ("verb", pa.int64()), ("score", pa.float32())]
)
AGENT_SCHEMA = pa.schema(_IMAGE + _PERSON + [("action", pa.int64()), ("score", pa.float32())])

# The meaning of a null. Other columns may have none.
MISSING = dict.fromkeys(OBJECT, np.nan) | {"object_category": -1}

Faults = Iterator[tuple[Any, str]]  # which rows are wrong, and the error


def save_triplets(path: Path, triplets: Triplets) -> None:
    """Write the table; scores and boxes are rounded to 32 bits."""
    _write(path, _columns(triplets), SCHEMA)


def save_agents(path: Path, agents: Agents) -> None:
    """Write the table; scores and boxes are rounded to 32 bits."""
    _write(path, _columns(agents), AGENT_SCHEMA)


def load_triplets(
    source: Path | pa.Table | Triplets, *, vocabulary: Vocabulary | None = None, image_ids: Sequence[int] | None = None
) -> Triplets:
    """Read and check a table, from a file or in memory, also against the classes and images of a dataset, if given.

    An invalid table is one ValueError that names file, row (from 0) and column.
    """
    if isinstance(source, Triplets):
        triplets = source
    else:
        is_rounded = vocabulary is not None and vocabulary.dataset == "vcoco"
        columns = _read(source, SCHEMA, "triplets", is_rounded)
        triplets = Triplets(
            image_id=columns["image_id"],
            human_boxes=np.stack([columns[name] for name in HUMAN], axis=1),
            object_boxes=np.stack([columns[name] for name in OBJECT], axis=1),
            object_category=columns["object_category"],
            verb=columns["verb"],
            score=columns["score"],
        )
    check_triplets(name_table(source, "triplets"), triplets, vocabulary=vocabulary, image_ids=image_ids)
    return triplets


def load_agents(
    source: Path | pa.Table | Agents, *, vocabulary: Vocabulary | None = None, image_ids: Sequence[int] | None = None
) -> Agents:
    """Read and check a table of agents, as `load_triplets` does."""
    if isinstance(source, Agents):
        agents = source
    else:
        columns = _read(source, AGENT_SCHEMA, "agents", is_rounded=True)
        agents = Agents(
            image_id=columns["image_id"],
            human_boxes=np.stack([columns[name] for name in HUMAN], axis=1),
            action=columns["action"],
            score=columns["score"],
        )
    check_agents(name_table(source, "agents"), agents, vocabulary=vocabulary, image_ids=image_ids)
    return agents


def name_row(row: int) -> str:
    """The position of a row of a table, in words."""
    return f"row {row} (from 0)"


def check_triplets(
    source: Path | str,
    triplets: Triplets,
    *,
    vocabulary: Vocabulary | None = None,
    image_ids: Sequence[int] | None = None,
    describe_row: Callable[[int], str] = name_row,
) -> None:
    """Raise one ValueError on the first row that is invalid by the format, the classes or the images.

    It names `source`, the row as described by `describe_row`, the error, and the row's values.
    """
    _refuse(source, triplets, _triplet_faults(triplets, vocabulary, image_ids), describe_row)


def check_agents(
    source: Path | str,
    agents: Agents,
    *,
    vocabulary: Vocabulary | None = None,
    image_ids: Sequence[int] | None = None,
    describe_row: Callable[[int], str] = name_row,
) -> None:
    """The same as `check_triplets`, for agents."""
    _refuse(source, agents, _agent_faults(agents, vocabulary, image_ids), describe_row)


def _columns(rows: Triplets | Agents) -> dict[str, np.ndarray]:
    """The columns of the file, in its order."""
    columns = {"image_id": rows.image_id, **dict(zip(HUMAN, rows.human_boxes.T, strict=True))}
    if isinstance(rows, Agents):
        return columns | {"action": rows.action, "score": rows.score}
    columns |= dict(zip(OBJECT, rows.object_boxes.T, strict=True))
    return columns | {"object_category": rows.object_category, "verb": rows.verb, "score": rows.score}


def _write(path: Path, columns: dict[str, np.ndarray], schema: pa.Schema) -> None:
    arrays = [pa.array(columns[field.name].astype(field.type.to_pandas_dtype())) for field in schema]
    with written_aside(path) as aside, aside.open("wb") as file:  # opened here: Arrow takes only paths that are UTF-8
        parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), file, write_page_checksum=True)


def name_table(source: Path | pa.Table | Triplets | Agents, what: str) -> Path | str:
    """The name of a table in messages."""
    return source if isinstance(source, Path) else f"the table of {what}"


def _read(source: Path | pa.Table, schema: pa.Schema, what: str, is_rounded: bool) -> dict[str, np.ndarray]:
    """The columns of a table, which must be those of the schema; numbers that need 64 bits are rounded to 32 or not."""
    name = name_table(source, what)
    if isinstance(source, Path):
        if not source.is_file():
            raise ValueError(
                f"{name}: {'is not a file' if source.exists() else 'no such file'}; expected a Parquet table of {what}"
            )
        try:
            # Opened here, as Arrow takes only paths that are UTF-8.
            with source.open("rb") as file, parquet.ParquetFile(file, page_checksum_verification=True) as content:
                faults = _column_faults(content.schema_arrow, schema)
                table = None if faults else content.read()
        except Exception as error:  # Arrow may raise anything for a damaged file
            raise ValueError(f"{name}: not a complete Parquet file ({error}). Write or get it again") from error
    else:
        faults = _column_faults(source.schema, schema)
        table = None if faults else source
    if table is None:
        raise ValueError(f"{name}: {'; '.join(faults)}. See docs/evaluation.md for the format")
    return {field.name: _numbers(name, table.column(field.name), field, is_rounded) for field in schema}


def _column_faults(found: pa.Schema, schema: pa.Schema) -> list[str]:
    """Errors in the names and types of a file's columns."""
    count = Counter(found.names)
    faults = [f"column '{field.name}' is missing ({field.type})" for field in schema if not count[field.name]]
    faults += [f"column '{name}' occurs {times} times" for name, times in count.items() if times > 1]
    unknown = [name for name in count if name not in schema.names]
    faults += [f"column '{name}' does not belong to this table" for name in unknown]
    if any(name.startswith("__index_level_") for name in unknown):
        faults[-1] += " (pandas leaves its index out by `to_parquet(..., index=False)`)"
    for field in schema:
        types = [type_ for name, type_ in zip(found.names, found.types, strict=True) if name == field.name]
        is_read = (pa.types.is_integer, pa.types.is_floating)
        if field.name in MISSING:
            is_read += (pa.types.is_null,)
        if types and not any(test(types[0]) for test in is_read):
            kind = "whole numbers of at most 64 bits" if pa.types.is_integer(field.type) else "numbers"
            faults.append(f"column '{field.name}' is {types[0]}, expected {kind} ({field.type})")
    return faults


def _numbers(name: Path | str, column: pa.ChunkedArray, field: pa.Field, is_rounded: bool) -> np.ndarray:
    """A column in the type of its field; 64-bit floats stay if 32 bits lose digits, except with `is_rounded`."""
    wanted, is_null = np.dtype(field.type.to_pandas_dtype()), column.is_null().to_numpy()
    if is_null.any() and field.name not in MISSING:
        raise ValueError(
            f"{name}: {name_row(int(np.argmax(is_null)))}: column '{field.name}' holds null, expected a number"
        )
    if is_null.all() and len(is_null):  # without a type if pandas has only None
        return np.full(len(is_null), MISSING[field.name], dtype=wanted)
    column = column.cast(pa.float32()) if pa.types.is_float16(column.type) else column
    found = (column.fill_null(0) if is_null.any() else column).to_numpy()
    if wanted.kind == "i" and found.dtype.kind == "f":
        most = 2.0 ** (np.finfo(found.dtype).nmant + 1)  # a float holds every whole number up to here
        is_lost, expected = ~((found == np.floor(found)) & (np.abs(found) <= most)), "a whole number, stored exactly"
    elif wanted.kind == "i":
        is_lost, expected = found > np.iinfo(wanted).max, "a whole number of 64 bits with a sign"
    else:
        is_lost, expected = (np.abs(found.astype(np.float64)) > 2.0**53) & (found.dtype.kind != "f"), "at most 2^53"
    if is_lost.any():
        row = int(np.argmax(is_lost))
        raise ValueError(f"{name}: {name_row(row)}: column '{field.name}' holds {found[row]}, expected {expected}")
    with np.errstate(over="ignore"):  # values too large for 32 bits become infinite, and are refused as such
        values = found.astype(wanted)
    if wanted.kind == "f" and not is_rounded and not np.array_equal(values, found, equal_nan=found.dtype.kind == "f"):
        values = found.astype(np.float64)
    return np.where(is_null, MISSING[field.name], values).astype(values.dtype) if is_null.any() else values


def _refuse(source: Path | str, rows: Triplets | Agents, faults: Faults, describe_row: Callable[[int], str]) -> None:
    for is_wrong, message in faults:
        if is_wrong.any():
            row = int(np.argmax(is_wrong))
            values = {name: column[row].item() for name, column in _columns(rows).items()}
            more = f" ({int(is_wrong.sum())} rows like it)" if is_wrong.sum() > 1 else ""
            raise ValueError(f"{source}: {describe_row(row)}{more}: {message}. The row: {values}")


def _triplet_faults(triplets: Triplets, vocabulary: Vocabulary | None, image_ids: Sequence[int] | None) -> Faults:
    human, object_ = triplets.human_boxes, triplets.object_boxes
    has_object = ~np.isnan(object_).all(axis=1)
    yield from _score_faults(triplets)
    yield ~np.isfinite(human).all(axis=1), "the human box is not four finite numbers"
    yield (
        has_object & ~np.isfinite(object_).all(axis=1),
        "the object box is neither four finite numbers nor four NaN (or null)",
    )
    for name, boxes in (("human", human), ("object", object_)):
        yield _is_inverted(boxes), f"the {name} box is inverted; expected x1 <= x2 and y1 <= y2"
    if vocabulary is not None:
        num_verbs = len(vocabulary.verbs + vocabulary.unscored_verbs)
        yield (triplets.verb < 0) | (triplets.verb >= num_verbs), f"the verb is not in 0..{num_verbs - 1}"
        category, num_objects = triplets.object_category, len(vocabulary.objects)
        is_vcoco = vocabulary.dataset == "vcoco"
        is_outside = (category < (-1 if is_vcoco else 0)) | (category >= num_objects)
        unknown = ", nor -1 for unknown" if is_vcoco else ""
        yield has_object & is_outside, f"the object category is not in 0..{num_objects - 1}{unknown}"
        if not is_vcoco:
            yield ~has_object, "HICO-DET has no triplet without an object, the box is NaN"
    yield from _image_faults(triplets, image_ids)


def _agent_faults(agents: Agents, vocabulary: Vocabulary | None, image_ids: Sequence[int] | None) -> Faults:
    yield from _score_faults(agents)
    yield ~np.isfinite(agents.human_boxes).all(axis=1), "the human box is not four finite numbers"
    yield _is_inverted(agents.human_boxes), "the human box is inverted; expected x1 <= x2 and y1 <= y2"
    if vocabulary is not None:
        num_actions = len(vocabulary.actions)
        yield (agents.action < 0) | (agents.action >= num_actions), f"the action is not in 0..{num_actions - 1}"
    yield from _image_faults(agents, image_ids)


def _score_faults(rows: Triplets | Agents) -> Faults:
    for test, what in ((np.isnan, "NaN"), (np.isinf, "infinite")):
        yield test(rows.score), f"the score is {what}; expected a finite number, in any range"


def _is_inverted(boxes: Float[np.ndarray, "t 4"]) -> Bool[np.ndarray, " t"]:
    return (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])


def _image_faults(rows: Triplets | Agents, image_ids: Sequence[int] | None) -> Faults:
    if image_ids is not None:
        message = f"the image is not one of the {len(image_ids)} of the split; perhaps the rows are of another split"
        yield ~np.isin(rows.image_id, np.array(image_ids, dtype=np.int64)), message
