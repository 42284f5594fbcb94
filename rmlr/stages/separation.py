"""How alike people are to a network who do different things at the same place: the loss of interaction information."""

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from rmlr.data.features import Features
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.evaluation.resampling import draw_images
from rmlr.evaluation.separation import middle
from rmlr.evaluation.separation import separation as tell_apart
from rmlr.hoi import Annotation, Vocabulary
from rmlr.model.checkpoint import CARD_FILE, load_card, load_checkpoint
from rmlr.model.separation import (
    KINDS,
    Compared,
    Interactions,
    Vectors,
    compare_places,
    distances,
    find_interactions,
    join,
)
from rmlr.study.nodes import SeparationNode
from rmlr.study.run import run

EDGES = ("x1", "y1", "x2", "y2")
QUESTIONS = {"verb": "different", "place": "elsewhere"}  # what a distance may tell: which pairs lie apart from the same


@dataclass(frozen=True, slots=True)
class Area:
    """A row of separation.csv: how well one distance of one vector tells two kinds of pairs apart."""

    question: str  # verb: same place, other things; place: same things, elsewhere
    vector: str
    distance: str
    same: int  # pairs
    apart: int
    auc: float  # 0.5: not at all
    low: float
    high: float


def separation(*, settings: Path, annotations: Path, features: Path, weights: Path, out: Path) -> None:
    """Measure whether distances tell apart what people do at the same place, before and after re-mining.

    Pairs of people in different images whose boxes lie at the same place, each interacting with an object of one kind,
    are compared by the detector's tokens and by what a trained network makes in their stead.

    Args:
        settings: this node's settings file: split, overlap of boxes that counts as the same place, resampling.
        annotations: folder made by `prepare`.
        features: folder whose split was made by `features`, by the detector that was trained with.
        weights: folder made by `train`, of a variant with IRE.
        out: folder to write; gets interactions.parquet (a row each detected pair that interacts), pairs.parquet (a row
            each two of them that are compared, with all distances), separation.csv and metrics.json: for each vector
            and distance the area under the ROC curve with the interval of a bootstrap over images.
    """
    node = SeparationNode.load(settings)
    chosen = node.separation
    with run("separation", node, settings=settings, out=out, inputs=[annotations, features, weights]) as record:
        vocabulary, cached = load_vocabulary(annotations), Features.load(features, node.split)
        load_card(weights).must_fit(
            weights / CARD_FILE,
            channels=cached.channels,
            token_dim=cached.token_dim,
            detector_digest=cached.detector_digest,
            objects=cached.objects,
            vocabulary=vocabulary,
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_checkpoint(weights).to(device)
        images = {image.image_id: image for image in load_annotations(annotations, node.split)}
        order = [images[image_id] for image_id in cached.image_ids]
        parts = []
        with record.progress(len(cached), "looking") as bar:
            for start in range(0, len(cached), chosen.batch_size):
                positions = range(start, min(start + chosen.batch_size, len(cached)))
                batch = cached.batch(positions).to(device)
                parts.append(find_interactions(network, batch, [order[at] for at in positions], positions, vocabulary))
                bar.advance(len(positions))
        found = join(parts)
        compared = compare_places(found, chosen.min_iou, chosen.seed)
        columns = {name: column.numpy() for name, column in distances(found, compared).items()}
        parquet.write_table(_interactions(found, order, vocabulary), record.folder / "interactions.parquet")
        parquet.write_table(_pairs(compared, columns), record.folder / "pairs.parquet")
        rows = _areas(found, compared, columns, draw_images(len(order), chosen.samples, chosen.seed))
        with (record.folder / "separation.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(Area.__slots__), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        metrics = {f"separation_{row.question}_{row.distance}_{row.vector}": row.auc for row in rows}
        metrics = {name: value for name, value in metrics.items() if not math.isnan(value)}
        counts = np.bincount(compared.kind.numpy(), minlength=len(KINDS))
        metrics |= {f"pairs_{kind}": float(count) for kind, count in zip(KINDS, counts, strict=True)}
        (record.folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        record.log_metrics(metrics | {"images": float(len(order)), "interactions": float(len(found.image))})


def _areas(found: Interactions, compared: Compared, columns: dict[str, np.ndarray], weights: np.ndarray) -> list[Area]:
    image, kind = found.image.numpy(), compared.kind.numpy()
    first, second = (image[side.numpy()] for side in (compared.first, compared.second))
    rows = []
    for question, apart in QUESTIONS.items():
        is_apart = kind == KINDS.index(apart)
        kept = is_apart | (kind == KINDS.index("same"))
        num_apart = int(is_apart.sum())
        for vector in Vectors.__slots__:
            for distance in ("cosine", "euclidean"):
                values = columns[f"{distance}_{vector}"][kept]
                area = tell_apart(values, is_apart[kept], first[kept], second[kept], weights)
                num_same = int(kept.sum()) - num_apart
                rows.append(Area(question, vector, distance, num_same, num_apart, float(area[0]), *middle(area[1:])))
    return rows


def _interactions(found: Interactions, images: list[Annotation], vocabulary: Vocabulary) -> pa.Table:
    """Whose tokens and cues they are, and what they do in words, parted by semicolons."""
    columns: dict[str, list] = {"image_id": [images[at].image_id for at in found.image.tolist()]}
    for who, boxes in (("human", found.human_boxes), ("object", found.object_boxes)):
        columns |= {f"{who}_{edge}": boxes[:, at].tolist() for at, edge in enumerate(EDGES)}
    labels, verbs = found.objects.tolist(), vocabulary.verbs + vocabulary.unscored_verbs
    columns["object"] = [vocabulary.objects[label] for label in labels]
    columns["does"] = [
        "; ".join(str(vocabulary.phrase(verb, label)).removeprefix("person ") for verb in row.nonzero()[:, 0].tolist())
        for row, label in zip(found.does, labels, strict=True)
    ]
    columns["human_does"] = [
        "; ".join(verbs[verb] for verb in row.nonzero()[:, 0].tolist()) for row in found.human_does
    ]
    text, number = pa.string(), pa.float32()
    types = {"image_id": pa.int64(), "object": text, "does": text, "human_does": text}
    return pa.table({name: pa.array(column, types.get(name, number)) for name, column in columns.items()})


def _pairs(compared: Compared, columns: dict[str, np.ndarray]) -> pa.Table:
    """Rows of the table of interactions, by number from 0, with what they are to each other and how far apart."""
    kinds = pa.array([KINDS[kind] for kind in compared.kind.tolist()], pa.string())
    about = {"first": compared.first.numpy(), "second": compared.second.numpy(), "kind": kinds}
    return pa.table(about | {"place_iou": compared.overlap.numpy()} | columns)
