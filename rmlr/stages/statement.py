"""The statement: which of the paper's orderings hold here, with intervals."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rmlr.evaluation.resampling import CONFIDENCE, Training, differ, draw_images, known_means
from rmlr.learning.benchmark import Benchmark, resample
from rmlr.report.paper import POINT, fill, read_metrics, read_rows
from rmlr.report.provenance import settings_page, times_page
from rmlr.report.statement import Statement
from rmlr.report.verdicts import Finding, Measured, Pair, find_orders, find_pair, judge, judge_cost, read_vectors
from rmlr.study.nodes import StatementNode
from rmlr.study.run import run

TRIPLETS, METRICS = "predict/triplets.parquet", "evaluate/metrics.json"


def statement(*, settings: Path, results: Path, paper: Path, out: Path) -> None:
    """State which of the paper's orderings hold here, which do not, and which are undecided.

    Each claim (`claims` in params.yaml) is that one row of a table is better than another, that all rows are alike
    within a margin, or that one row costs little more than another. Runs are scored on the same bootstrap samples of
    test images, and the spread between trainings is added: that of the seeds at hand (as in `rmlr compare`), or with
    one seed that of `training_spread`. A verdict requires that the 95 % interval excludes 0, or lies within or beyond
    the margin; costs are counted and need none. The whole text is generated.

    Args:
        settings: the statement's settings file: tables, claims, the source of each row.
        results: folder of the profile, results/PROFILE, with the outputs of earlier stages.
        paper: folder with the paper's tables (CSV).
        out: folder to write; gets statement.md, statement.html, brief.html (its beginning), statement.csv (a row each
            claim), orders.csv (a row each table and metric), metrics.json (how many claims of each verdict),
            settings.html (every number of the profile) and times.html (what each stage took, by Snakemake).
    """
    node = StatementNode.load(settings)
    files = {name: paper / f"{name}.csv" for name in node.tables}
    tables = {name: read_rows(files[name], claimed.table) for name, claimed in node.tables.items()}
    pairs = [
        find_pair(name, tables, claim, node.profile, paper)
        for name, claimed in node.tables.items()
        for claim in claimed.claims
    ]
    runs: dict[str, list[str]] = {}  # by data set, each once
    for pair in (pair for pair in pairs if not pair.is_cost):
        known = runs.setdefault(pair.measures, [])
        known += [one for one in dict.fromkeys(pair.runs) if one is not None and one not in known]
    runs = {dataset: runs[dataset] for dataset in sorted(runs) if runs[dataset]}
    folders = {
        name: [results / "runs" / name / str(seed) for seed in node.seeds] for names in runs.values() for name in names
    }
    costs = (
        {"cost": [results / "cost" / "metrics.json"]}
        if any(pair.is_cost and not pair.missing for pair in pairs)
        else {}
    )
    areas = {name: results / "separation" / name / str(node.seeds[0]) / "separation.csv" for name in node.places}
    inputs = [results / dataset / "prepare" for dataset in runs]
    inputs += [file for files in costs.values() for file in files]
    inputs += [folder / file for of_run in folders.values() for folder in of_run for file in (TRIPLETS, METRICS)]
    with run("statement", node, settings=settings, out=out, inputs=[*inputs, *areas.values()]) as record:
        scores: dict[str, dict[str, np.ndarray]] = {}
        positives: dict[str, int] = {}
        images: dict[str, int] = {}
        with record.progress(len(folders), "scoring") as bar:
            for dataset, names in runs.items():
                split = Benchmark.load(results / dataset / "prepare", node.split)
                images[dataset] = len(split.images)
                weights = draw_images(len(split.images), node.resampling.samples, node.resampling.seed)
                for name in names:
                    seeds = [_scores(split, folder, weights, positives) for folder in folders[name]]
                    scores[name] = {metric: np.stack([seed[metric] for seed in seeds]) for metric in seeds[0]}
                    bar.advance()
        for name in dict.fromkeys(pair.table for pair in pairs if pair.is_cost):
            fill([row for row in tables[name] if all(source.run in costs for source in row.sources)], costs)
        found = Statement(
            node,
            findings=[
                judge_cost(pair, tables[pair.table]) if pair.is_cost else _judged(pair, scores, positives, node)
                for pair in pairs
            ],
            orders=[
                order
                for name, rows in tables.items()
                for order in find_orders(name, rows, node.seeds, results / "runs")
            ],
            vectors=[vector for name, path in areas.items() for vector in read_vectors(name, path)],
            images=images,
            confidence=CONFIDENCE,
        )
        metrics = found.write(record.folder)
        (record.folder / "settings.html").write_text(settings_page(node))
        (record.folder / "times.html").write_text(times_page(results / "benchmarks"))
        (record.folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        record.log_metrics(metrics)


def _scores(
    split: Benchmark, folder: Path, weights: np.ndarray, positives: dict[str, int]
) -> dict[str, Float[np.ndarray, " s"]]:
    """Each headline metric of a run's seed on every sample of images; `positives` gets how many each metric has."""
    rankings = split.rank(folder / TRIPLETS)
    where = folder / METRICS
    precisions = resample(rankings, weights, read_metrics(where), str(where))
    found = {}
    for ranking, precision in zip(rankings, precisions, strict=True):
        for headline in ranking.headlines:
            found[headline.metric] = known_means(precision[headline.classes])
            positives[headline.metric] = int(ranking.positives()[headline.classes].sum())
    return found


def _judged(
    pair: Pair, scores: Mapping[str, Mapping[str, np.ndarray]], positives: Mapping[str, int], node: StatementNode
) -> Finding:
    """The measurement of a claim, if all of its rows were measured."""
    metric, known = pair.claim.metric, node.training_spread.get(pair.claim.metric)
    spread = Training(POINT * known.deviation, known.degrees) if known else None
    found = [differ(scores[one][metric], scores[other][metric], training=spread) for one, other in pair.compared]
    measured = [
        Measured(one.difference, one.whole.low, one.whole.high, one.is_clear, one.seeds is not None) for one in found
    ]
    return judge(pair, measured, positives.get(metric, 0))
