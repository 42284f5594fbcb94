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
    """Score a table of triplets against a split's annotations.

    Reads the records of `annotations` (a folder that `prepare` wrote; its vocabulary says which benchmark) and the
    Parquet table `triplets`, of any method. Writes metrics.json (fractions; null where there is nothing to average)
    and a table per action-role (V-COCO: per_verb.csv) or HOI class (HICO-DET: per_class.csv). All images of the split
    count.
    """
    chosen = EvaluateNode.load(settings)
    with run("evaluate", chosen, settings=settings, out=out, inputs=[annotations, triplets]) as record:
        vocabulary = load_vocabulary(annotations)
        images = load_annotations(annotations, chosen.split)
        image_ids = [image.image_id for image in images]
        table = load_triplets(triplets, vocabulary=vocabulary, image_ids=image_ids)
        if vocabulary.dataset == "vcoco":
            scores, name = vcoco.evaluate(images, vocabulary, table), "per_verb.csv"
        else:
            scores, name = hicodet.evaluate(images, vocabulary, table), "per_class.csv"
        metrics = scores.metrics()
        rows = scores.rows()
        with (record.folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (record.folder / "metrics.json").write_text(
            json.dumps({key: None if math.isnan(value) else value for key, value in metrics.items()}, indent=2) + "\n"
        )
        record.log_metrics({key: value for key, value in metrics.items() if not math.isnan(value)})
        log.info("%d triplets on %d images of %s %s", len(table.score), len(images), vocabulary.dataset, chosen.split)
        log.info("%s", scores.summary())
