"""Metrics of scored triplets, by the official protocol of their dataset."""

import csv
import json
import logging
import math
from pathlib import Path
from typing import Literal

from rmlr.detections.files import save_official, save_tables
from rmlr.learning.benchmark import Benchmark
from rmlr.study.nodes import EvaluateNode
from rmlr.study.run import run
from rmlr.study.section import Split, ZeroShot

log = logging.getLogger(__name__)

OFFICIAL_SPLIT: Split = "test"


def evaluate(
    *,
    annotations: Path,
    triplets: Path,
    out: Path,
    agents: Path | None = None,
    settings: Path | None = None,
    split: Split | None = None,
    zero_shot: ZeroShot | None = None,
    export: Literal["tables", "official"] | None = None,
) -> None:
    """Score detections, of any method, over all images of a split.

    Args:
        annotations: folder made by `prepare`; its vocabulary determines the benchmark.
        triplets: scored triplets (docs/evaluation.md): our table (Parquet), such as `predict` makes; V-COCO's official
            pickle; or a folder with HICO-DET's official .mat files.
        out: folder to write; gets metrics.json (fractions; null where there is nothing to average), summary.txt (the
            headlines, with the protocol in words) and tables: per_verb.csv of V-COCO's action-roles and per_action.csv
            of its agents, or per_class.csv of HICO-DET's HOIs.
        agents: V-COCO's agent scores (Parquet), if the triplets are a table; a pickle has its own.
        settings: this node's settings file, which names the splits. Only the study needs one.
        split: the split, if no settings are given; test if left out.
        zero_shot: zero-shot split of HICO-DET, likewise; metrics then include its seen and unseen classes.
        export: also write the detections to `out`, as our tables or in the format of the dataset's official program.
    """
    for flag, given in (("--split", split), ("--zero-shot", zero_shot)):
        if settings is not None and given is not None:
            raise ValueError(f"{flag} {given}: {settings} names the split. Give only one of the two")
    named = EvaluateNode(code="", split=split or OFFICIAL_SPLIT, zero_shot=zero_shot)
    chosen = EvaluateNode.load(settings) if settings else named
    inputs = [annotations, triplets, *([agents] if agents else [])]
    with run("evaluate", chosen, settings=settings, out=out, inputs=inputs) as record:
        benchmark = Benchmark.load(annotations, chosen.split, chosen.zero_shot)
        vocabulary, count = benchmark.vocabulary, len(benchmark.images)
        table, people = benchmark.read(triplets, agents)
        log.info("%d triplets on %d images of %s %s", len(table.score), count, vocabulary.dataset, chosen.split)
        scores = benchmark.evaluate(table, people)
        summary = [part.summary() for part in scores.values()]
        log.info("%s", "; ".join(summary))
        (record.folder / "summary.txt").write_text("\n".join(summary) + "\n")
        metrics: dict[str, float] = {}
        for name, part in scores.items():
            metrics |= part.metrics()
            with (record.folder / name).open("w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")  # importing pandas takes as long as all the rest
                writer.writerows([columns := part.columns(), *zip(*columns.values(), strict=True)])
        text = json.dumps({key: None if math.isnan(value) else value for key, value in metrics.items()}, indent=2)
        (record.folder / "metrics.json").write_text(text + "\n")
        record.log_metrics({key: value for key, value in metrics.items() if not math.isnan(value)})
        if export == "tables":
            save_tables(record.folder, table, people)
        elif export == "official":
            save_official(record.folder, table, people, vocabulary, benchmark.image_ids)
