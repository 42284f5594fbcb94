"""The loss of interaction information: how well vectors separate people at the same place by what they do."""

import csv
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from rmlr.data.records import load_annotations
from rmlr.evaluation.resampling import draw_images
from rmlr.evaluation.separation import middle
from rmlr.evaluation.separation import separation as tell_apart
from rmlr.hoi import Annotation, Vocabulary
from rmlr.learning.trained import Trained, networks_of
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
from rmlr.study.tensors import check_finite

EDGES = ("x1", "y1", "x2", "y2")
CUE = "cue"  # of the vectors, the re-mined one
QUESTIONS = {"verb": "different", "place": "elsewhere"}  # what a distance may separate: the pairs compared with `same`


@dataclass(frozen=True, slots=True)
class Area:
    """A row of separation.csv: how well one distance of one vector separates two kinds of pairs."""

    question: str  # verb: same place, other things; place: same things, elsewhere
    vector: str
    distance: str
    same: int  # pairs
    apart: int
    auc: float  # 0.5: no separation
    low: float
    high: float
    cue_less_it: float  # by how much the area of the re-mined cue is larger
    less_low: float  # of its interval, on the same samples of images
    less_high: float


def separation(*, settings: Path, annotations: Path, features: Path, weights: Path, out: Path) -> None:
    """Measure whether distances separate what people do at the same place, before and after re-mining.

    Pairs of people in different images whose boxes are at the same place, each interacting with an object of the same
    class, are compared by the detector's tokens and by the vectors of a trained network. Where the settings have folds,
    people of one fold are compared, by the network that was trained without it.

    Args:
        settings: this node's settings file: split, overlap of boxes that counts as the same place, resampling.
        annotations: folder made by `prepare`.
        features: folder whose split was made by `features`, with the detector used in training.
        weights: folder made by `train`, of a variant with IRE; with folds, the folder that holds fold0/train and so on.
        out: folder to write; gets interactions.parquet (a row per detected pair that interacts), pairs.parquet (a row
            per two of them that are compared, with all distances), separation.csv and metrics.json: for each vector
            and distance the area under the ROC curve with a bootstrap interval over images, and by how much that of
            the re-mined cue is larger, on the same samples of images.
    """
    node = SeparationNode.load(settings)
    chosen = node.separation
    splits = ("train", "val") if node.split == "trainval" else (node.split,)
    networks = networks_of(annotations, weights, node.folds)
    inputs = [annotations, *(features / split for split in splits), *networks.values()]
    with run("separation", node, settings=settings, out=out, inputs=inputs) as record:
        opened = Trained.open_each(annotations, features, node.split, weights, node.folds)
        vocabulary, order, parts = opened[0].vocabulary, [], []
        with record.progress(sum(len(trained.features) for trained in opened), "looking") as bar:
            for number, (records, trained) in enumerate(zip(networks, opened, strict=True)):
                own = trained.features.annotated(load_annotations(records, node.split), features / node.split)
                for indices, batch in trained.batches(chosen.batch_size):
                    places = [len(order) + at for at in indices]
                    part = find_interactions(
                        trained.network, batch, [own[at] for at in indices], places, trained.vocabulary
                    )
                    parts.append(replace(part, network=torch.full_like(part.network, number)))
                    bar.advance(len(indices))
                order += own
        if not order:
            raise ValueError(f"{features / node.split}: the split has no images, so there is nothing to compare")
        found = join(parts)
        check_finite(weights, {name: getattr(found.vectors, name) for name in Vectors.__slots__}, "Train again")
        compared = compare_places(found, chosen.min_iou, chosen.seed)
        columns = {name: column.numpy() for name, column in distances(found, compared).items()}
        parquet.write_table(
            _interactions(found, order, vocabulary), record.folder / "interactions.parquet", write_page_checksum=True
        )
        parquet.write_table(_pairs(compared, columns), record.folder / "pairs.parquet", write_page_checksum=True)
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
    image, kind, network = found.image.numpy(), compared.kind.numpy(), found.network.numpy()[compared.first.numpy()]
    first, second = (image[side.numpy()] for side in (compared.first, compared.second))
    rows: list[Area] = []
    for question, apart in QUESTIONS.items():
        is_apart = kind == KINDS.index(apart)
        kept = is_apart | (kind == KINDS.index("same"))
        num_apart = int(is_apart.sum())
        areas = {
            (vector, distance): tell_apart(
                columns[f"{distance}_{vector}"][kept], is_apart[kept], first[kept], second[kept], weights, network[kept]
            )
            for vector in Vectors.__slots__
            for distance in ("cosine", "euclidean")
        }
        for (vector, distance), area in areas.items():
            num_same, less = int(kept.sum()) - num_apart, areas[CUE, distance] - area
            numbers = (float(area[0]), *middle(area[1:]), float(less[0]), *middle(less[1:]))
            rows.append(Area(question, vector, distance, num_same, num_apart, *numbers))
    return rows


def _interactions(found: Interactions, images: list[Annotation], vocabulary: Vocabulary) -> pa.Table:
    """The table of interactions: image, boxes, and what people do in words, separated by semicolons."""
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
    """The table of pairs of interactions, numbered from 0, with their kind and distances."""
    kinds = pa.array([KINDS[kind] for kind in compared.kind.tolist()], pa.string())
    about = {"first": compared.first.numpy(), "second": compared.second.numpy(), "kind": kinds}
    return pa.table(about | {"place_iou": compared.overlap.numpy()} | columns)
