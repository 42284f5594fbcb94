"""The neutral table of scored triplets: one Parquet file that any method can write and `rmlr evaluate` reads.

    image_id int64 · human_x1 human_y1 human_x2 human_y2 · object_x1 object_y1 object_x2 object_y2 float32 ·
    object_category int64 · verb int64 · score float32

Boxes are edges in pixels of the original image and may leave it; a V-COCO row without an object has four NaN.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rmlr.hoi import Triplets, Vocabulary

HUMAN = ["human_x1", "human_y1", "human_x2", "human_y2"]
OBJECT = ["object_x1", "object_y1", "object_x2", "object_y2"]
SCHEMA = pa.schema(
    [("image_id", pa.int64())]
    + [(name, pa.float32()) for name in HUMAN + OBJECT]
    + [("object_category", pa.int64()), ("verb", pa.int64()), ("score", pa.float32())]
)


def save_triplets(path: Path, triplets: Triplets) -> None:
    """Write the table; scores and boxes are rounded to 32 bits."""
    columns = [
        triplets.image_id,
        *triplets.human_boxes.T,
        *triplets.object_boxes.T,
        triplets.object_category,
        triplets.verb,
        triplets.score,
    ]
    arrays = [
        pa.array(column.astype(field.type.to_pandas_dtype())) for column, field in zip(columns, SCHEMA, strict=True)
    ]
    parquet.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), path)


def load_triplets(
    path: Path, *, vocabulary: Vocabulary | None = None, image_ids: Sequence[int] | None = None
) -> Triplets:
    """Read and check a table; against the classes and images of a dataset, where they are given.

    Raises one ValueError that names file, row (from 0) and column on anything that the format does not allow.
    """
    table = _read(path)
    columns = {name: table.column(name).to_numpy() for name in SCHEMA.names}
    triplets = Triplets(
        image_id=columns["image_id"],
        human_boxes=np.stack([columns[name] for name in HUMAN], axis=1),
        object_boxes=np.stack([columns[name] for name in OBJECT], axis=1),
        object_category=columns["object_category"],
        verb=columns["verb"],
        score=columns["score"],
    )
    for is_wrong, message in _faults(triplets, vocabulary, image_ids):
        if is_wrong.any():
            row = int(np.argmax(is_wrong))
            values = {name: columns[name][row].item() for name in SCHEMA.names}
            more = f" ({int(is_wrong.sum())} rows like it)" if is_wrong.sum() > 1 else ""
            raise ValueError(f"{path}: row {row} (from 0){more}: {message}. The row: {values}")
    return triplets


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a Parquet table of triplets")
    try:
        with parquet.ParquetFile(path) as file:
            found = {field.name: field.type for field in file.schema_arrow}
            expected = {field.name: field.type for field in SCHEMA}
            faults = [f"column '{name}' is missing ({type_})" for name, type_ in expected.items() if name not in found]
            faults += [f"column '{name}' is not of this table" for name in found if name not in expected]
            faults += [
                f"column '{name}' is {found[name]}, expected {type_}"
                for name, type_ in expected.items()
                if name in found and found[name] != type_
            ]
            if faults:
                raise ValueError(f"{path}: {'; '.join(faults)}. See docs/evaluation.md for the format")
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole Parquet file ({error})") from error
    for name in SCHEMA.names:
        if table.column(name).null_count:
            row = table.column(name).is_null().index(True).as_py()
            raise ValueError(f"{path}: row {row} (from 0): column '{name}' is empty (null)")
    return table


def _faults(triplets: Triplets, vocabulary: Vocabulary | None, image_ids: Sequence[int] | None):
    """Pairs of (which rows are wrong, what is wrong with them)."""
    human, object_ = triplets.human_boxes, triplets.object_boxes
    has_object = ~np.isnan(object_).all(axis=1)
    yield np.isnan(triplets.score), "the score is NaN"
    yield ~np.isfinite(human).all(axis=1), "the human box is not four finite numbers"
    yield has_object & ~np.isfinite(object_).all(axis=1), "the object box is neither four finite numbers nor four NaN"
    for name, boxes in (("human", human), ("object", object_)):
        is_inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
        yield is_inverted, f"the {name} box is inverted; expected x1 <= x2 and y1 <= y2"
    if vocabulary is not None:
        num_verbs = len(vocabulary.verbs + vocabulary.unscored_verbs)
        yield (triplets.verb < 0) | (triplets.verb >= num_verbs), f"the verb is not in 0..{num_verbs - 1}"
        category, num_objects = triplets.object_category, len(vocabulary.objects)
        is_outside = (category < 0) | (category >= num_objects)
        yield has_object & is_outside, f"the object category is not in 0..{num_objects - 1}"
        if vocabulary.dataset == "hicodet":
            yield ~has_object, "HICO-DET has no triplet without an object, the box is NaN"
    if image_ids is not None:
        message = f"the image is not one of the {len(image_ids)} of the split; were they predicted on another one?"
        yield ~np.isin(triplets.image_id, np.array(image_ids, dtype=np.int64)), message
