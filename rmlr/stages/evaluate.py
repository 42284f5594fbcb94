"""Scored triplets to metrics, by the official protocol of the dataset they are on."""

import csv
import json
import logging
import math
from pathlib import Path

from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.data.triplets import load_triplets
from rmlr.evaluation import hicodet, vcoco
from rmlr.run import run
from rmlr.settings import EvaluateNode

log = logging.getLogger(__name__)


def evaluate(*, settings: Path, annotations: Path, triplets: Path, out: Path) -> None:
    """Score a table of triplets, of any method, over all images of a split.

    Args:
        settings: this node's settings file: which split.
        annotations: folder made by `prepare`; its vocabulary says by which benchmark's protocol.
        triplets: Parquet table of scored triplets (docs/evaluation.md), such as `predict` makes.
        out: folder to write; gets metrics.json (fractions; null where there is nothing to average) and a table,
            per_verb.csv of V-COCO's action-roles or per_class.csv of HICO-DET's HOIs.
    """
    chosen = EvaluateNode.load(settings)
    with run("evaluate", chosen, settings=settings, out=out, inputs=[annotations, triplets]) as record:
        vocabulary, images = load_vocabulary(annotations), load_annotations(annotations, chosen.split)
        image_ids = [image.image_id for image in images]
        table = load_triplets(triplets, vocabulary=vocabulary, image_ids=image_ids)
        log.info("%d triplets on %d images of %s %s", len(table.score), len(images), vocabulary.dataset, chosen.split)
        if vocabulary.dataset == "vcoco":
            scores, name = vcoco.evaluate(images, vocabulary, table), "per_verb.csv"
        else:
            scores, name = hicodet.evaluate(images, vocabulary, table), "per_class.csv"
        log.info("%s", scores.summary())
        rows, metrics = scores.rows(), scores.metrics()
        with (record.folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        text = json.dumps({key: None if math.isnan(value) else value for key, value in metrics.items()}, indent=2)
        (record.folder / "metrics.json").write_text(text + "\n")
        record.log_metrics({key: value for key, value in metrics.items() if not math.isnan(value)})
