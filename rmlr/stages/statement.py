"""What of the paper stands here: its orderings, each with a verdict by the data, and the pages that go with them."""

import csv
import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from jaxtyping import Float
from scipy.stats import kendalltau

from rmlr.data.records import load_annotations, load_image_objects, load_vocabulary
from rmlr.detections.triplets import load_triplets
from rmlr.evaluation import hicodet, vcoco
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import (
    CONFIDENCE,
    Difference,
    Spread,
    differ,
    draw_images,
    known_means,
    resampled_precision,
)
from rmlr.report.pages import Block, Heading, Items, Sheet, Source, Text, html_page, html_part
from rmlr.stages.table import METRICS, POINT, Row, aligned, read_metrics, read_rows
from rmlr.study.nodes import Claimed, StatementNode
from rmlr.study.run import run
from rmlr.study.section import Split
from rmlr.study.settings import Claim, Resampling

Verdict = Literal["agrees", "disagrees", "cannot be told apart", "not measured"]
VERDICTS: tuple[Verdict, ...] = ("agrees", "disagrees", "cannot be told apart", "not measured")
SAME = 1e-9  # two fractions
FEWEST_ROWS = 3  # of two, an order is a coin
VECTORS = {  # of separation.csv, as a reader knows them
    "human_token": "the detector's token of the human",
    "pair_tokens": "the detector's tokens of human and object",
    "learnt_tokens": "these after the network's FC",
    "cells": "the map over both boxes, not re-mined",
    "cue": "the re-mined cue m",
}
BEFORE, AFTER = "human_token", "cue"  # of the paper's figure 1
TITLE = "What of the paper stands here"


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim of the paper, and what was measured of it."""

    table: str
    claim: Claim
    theirs: float  # the paper's difference, as a fraction
    found: Difference | None  # none where one of the rows was not measured
    missing: tuple[str, ...] = ()  # which, then

    @property
    def verdict(self) -> Verdict:
        """By the interval: the paper's side, the other, or 0 is in it."""
        if self.found is None or math.isnan(self.found.difference) or math.isnan(self.found.whole.low):
            return "not measured"
        if not self.found.is_clear:
            return "cannot be told apart"
        return "agrees" if self.found.difference > 0 else "disagrees"


@dataclass(frozen=True, slots=True)
class Order:
    """How far the rows of a table stand in the paper's order, by one metric."""

    table: str
    metric: str
    rows: int
    pairs: int  # that the paper has in an order
    alike: int  # of these, in the same one here
    tau: float  # Kendall's, b
    chance: float  # p: that as much agreement, or disagreement, comes of no order at all


@dataclass(frozen=True, slots=True)
class Vector:
    """How well a distance of one vector tells what people do who are at the same place."""

    run: str
    vector: str
    pairs: int
    auc: float
    interval: tuple[float, float]


def statement(*, settings: Path, results: Path, paper: Path, out: Path) -> None:
    """Say which of the paper's orderings hold here, which do not, and which cannot be told.

    Each claim (`claims` in params.yaml) is that one row of a table is better than another. Both are scored on the same
    sets of test images, drawn with replacement, and where there are several seeds the spread between trainings is added
    (as by `rmlr compare`). A verdict needs 0 outside the interval of 95 %; nothing here is written by hand.

    Args:
        settings: the statement's settings file: tables, claims, what feeds which row.
        results: folder of the profile, results/PROFILE, as the stages before made it.
        paper: folder with the paper's tables (CSV).
        out: folder to write; gets statement.md, statement.html, brief.html (its beginning), statement.csv (a row each
            claim), orders.csv (a row each table and metric), metrics.json (how many claims of each verdict),
            settings.html (every number of the profile) and times.html (what each stage took, by Snakemake).
    """
    node = StatementNode.load(settings)
    tables = {name: read_rows(paper / f"{name}.csv", claimed.table) for name, claimed in node.tables.items()}
    pairs = [pair for name, claimed in node.tables.items() for pair in _pairs(name, tables[name], claimed, paper)]
    sources = {
        source.run: source.measures for pair in pairs for source in (pair.better, pair.than) if source is not None
    }
    folders = {name: [results / "runs" / name / str(seed) for seed in node.seeds] for name in sources}
    areas = {name: results / "separation" / name / str(node.seeds[0]) / "separation.csv" for name in node.places}
    inputs = [results / dataset / "prepare" for dataset in sorted(set(sources.values()))]
    inputs += [folder / file for of_run in folders.values() for folder in of_run for file in (TRIPLETS, METRICS_FILE)]
    with run("statement", node, settings=settings, out=out, inputs=[*inputs, *areas.values()]) as record:
        scores: dict[str, dict[str, np.ndarray]] = {}
        images: dict[str, int] = {}
        with record.progress(len(sources), "scoring") as bar:
            for dataset in sorted(set(sources.values())):
                judge = Judge(results / dataset / "prepare", node.split, node.resampling)
                images[dataset] = judge.images
                for name in (name for name, measured_by in sources.items() if measured_by == dataset):
                    scores[name] = judge.scores(folders[name])
                    bar.advance()
        findings = [_judged(pair, scores) for pair in pairs]
        orders = [order for name, rows in tables.items() for order in _orders(name, rows, node.seeds, results)]
        vectors = [vector for name, path in areas.items() for vector in _vectors(name, path)]
        brief, rest = said(node, findings, orders, vectors, images)
        write = {
            "statement.md": markdown(TITLE, [*brief, *rest]),
            "statement.html": html_page(TITLE, [*brief, *rest]),
            "brief.html": html_part(brief),
            "settings.html": settings_page(node),
            "times.html": times_page(results / "benchmarks"),
        }
        for name, text in write.items():
            (record.folder / name).write_text(text)
        _write_csv(record.folder / "statement.csv", [_as_row(finding, node) for finding in findings], FINDING_COLUMNS)
        _write_csv(record.folder / "orders.csv", [_order_row(order) for order in orders], ORDER_COLUMNS)
        counts = Counter(finding.verdict for finding in findings)
        metrics = {f"claims_{verdict.replace(' ', '_')}": float(counts[verdict]) for verdict in VERDICTS}
        (record.folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        record.log_metrics(metrics)


TRIPLETS, METRICS_FILE = "predict/triplets.parquet", "evaluate/metrics.json"


# ---- verdicts


@dataclass(frozen=True, slots=True)
class Feed:
    """The run behind one row of a claim."""

    run: str
    measures: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A claim, with the runs that it is about; none where the row is not measured."""

    table: str
    claim: Claim
    theirs: float
    better: Feed | None
    than: Feed | None


def _pairs(name: str, rows: Sequence[Row], claimed: Claimed, paper: Path) -> list[Pair]:
    return [_pair(name, rows, claim, paper / f"{name}.csv") for claim in claimed.claims]


def _pair(name: str, rows: Sequence[Row], claim: Claim, where: Path) -> Pair:
    """A claim among the table's rows; ValueError where it is none of the paper's."""
    metric = METRICS.get(claim.metric)
    if metric is None or metric.unit != POINT or claim.metric not in rows[0].printed:
        raise ValueError(f"{where}: the claim '{claim.claim}' is about '{claim.metric}', which is no AP of that table")
    found: list[Row] = []
    for cells in (claim.better, claim.than):
        fitting = [row for row in rows if not row.is_control and cells.items() <= row.names.items()]
        if len(fitting) != 1:
            told = ", ".join(f"{column} '{cell}'" for column, cell in cells.items())
            known = "; ".join(row.label for row in rows)
            raise ValueError(
                f"{where}: {len(fitting) or 'no'} rows are {told}, which the claim '{claim.claim}' in params.yaml "
                f"names; expected one. Rows: {known}"
            )
        found.append(fitting[0])
    printed = [row.printed[claim.metric] for row in found]
    if not all(printed) or float(printed[0]) <= float(printed[1]):
        raise ValueError(
            f"{where}: the paper does not have '{claim.claim}': its {claim.metric} are {printed[0] or 'empty'} and "
            f"{printed[1] or 'empty'}"
        )
    feeds = [
        next((Feed(source.run, source.measures) for source in row.sources if source.measures == metric.measures), None)
        for row in found
    ]
    return Pair(name, claim, metric.unit * (float(printed[0]) - float(printed[1])), feeds[0], feeds[1])


class Judge:
    """Scores runs on one and the same sets of a data set's images."""

    def __init__(self, annotations: Path, split: Split, resampling: Resampling):
        self._vocabulary, self._annotations = load_vocabulary(annotations), load_annotations(annotations, split)
        self._objects = load_image_objects(annotations, split) if self._vocabulary.dataset == "hicodet" else None
        self.images = len(self._annotations)
        self._weights = draw_images(self.images, resampling.samples, resampling.seed)

    def scores(self, folders: Sequence[Path]) -> dict[str, Float[np.ndarray, "q s"]]:
        """Each headline metric of a run: a row each seed, a column each set of images."""
        seeds = [self._of_seed(folder) for folder in folders]
        return {metric: np.stack([seed[metric] for seed in seeds]) for metric in seeds[0]}

    def _of_seed(self, folder: Path) -> dict[str, Float[np.ndarray, " s"]]:
        triplets, measured = load_triplets(folder / TRIPLETS), read_metrics(folder / METRICS_FILE)
        rankings: tuple[Ranking, ...] = (
            vcoco.rank(self._annotations, self._vocabulary, triplets)
            if self._vocabulary.dataset == "vcoco"
            else hicodet.rank(self._annotations, self._vocabulary, triplets, self._objects)
        )
        found = {}
        for ranking in rankings:
            precision = resampled_precision(ranking, self._weights)
            for headline in ranking.headlines:
                found[headline.metric] = known_means(precision[headline.classes])
                now, before = float(found[headline.metric][0]), measured.get(headline.metric)
                before = math.nan if before is None else before
                if not (abs(now - before) < SAME or (math.isnan(now) and math.isnan(before))):
                    raise ValueError(
                        f"{folder / METRICS_FILE}: {headline.metric} is {before}, but {folder / TRIPLETS} gives {now}. "
                        "Was one of them made anew? Run `rmlr evaluate` again"
                    )
        return found


def _judged(pair: Pair, scores: Mapping[str, Mapping[str, np.ndarray]]) -> Finding:
    rows = {"better": pair.better, "than": pair.than}
    if missing := [_told(getattr(pair.claim, side)) for side, feed in rows.items() if feed is None]:
        return Finding(pair.table, pair.claim, pair.theirs, None, tuple(missing))
    a, b = (scores[feed.run][pair.claim.metric] for feed in rows.values() if feed is not None)
    return Finding(pair.table, pair.claim, pair.theirs, differ(a, b))


def _told(cells: Mapping[str, str]) -> str:
    return ", ".join(cell or f"no {column.replace('_', ' ')}" for column, cell in cells.items())


def _orders(name: str, rows: Sequence[Row], seeds: Sequence[int], results: Path) -> list[Order]:
    """By every AP of which the table has enough measured rows."""
    found = []
    for metric in (column for column in rows[0].printed if METRICS[column].unit == POINT):
        values = []
        for row in rows:
            sources = [source for source in row.sources if source.measures == METRICS[metric].measures]
            if not row.is_control and sources and row.printed[metric]:
                files = [results / "runs" / sources[0].run / str(seed) / METRICS_FILE for seed in seeds]
                ours = [value for file in files if (value := read_metrics(file).get(metric)) is not None]
                if len(ours) == len(files):
                    values.append((float(row.printed[metric]), statistics.fmean(ours)))
        if len(values) >= FEWEST_ROWS:
            found.append(order_of(name, metric, values))
    return found


def order_of(table: str, metric: str, values: Sequence[tuple[float, float]]) -> Order:
    """Theirs and ours of each row, compared two by two."""
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in combinations(values, 2)]
    ordered = [(theirs, ours) for theirs, ours in signs if theirs]
    found: Any = kendalltau([theirs for theirs, _ in values], [ours for _, ours in values])
    alike = sum(bool(theirs == ours) for theirs, ours in ordered)
    return Order(table, metric, len(values), len(ordered), alike, float(found.statistic), float(found.pvalue))


def _vectors(name: str, path: Path) -> list[Vector]:
    """By the cosine, as the paper's figure."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["question"] == "verb" and row["distance"] == "cosine"]
    return [
        Vector(
            name,
            row["vector"],
            int(row["same"]) + int(row["apart"]),
            float(row["auc"] or "nan"),
            (float(row["low"] or "nan"), float(row["high"] or "nan")),
        )
        for row in rows
        if row["vector"] in VECTORS
    ]


def loss_verdict(before: Vector, after: Vector) -> Verdict:
    """Whether re-mining tells more than the token does: intervals that do not meet, which is strict."""
    if any(math.isnan(value) for value in (*before.interval, *after.interval)):
        return "not measured"
    if after.interval[0] > before.interval[1]:
        return "agrees"
    return "disagrees" if after.interval[1] < before.interval[0] else "cannot be told apart"


# ---- in words


def said(
    node: StatementNode,
    findings: Sequence[Finding],
    orders: Sequence[Order],
    vectors: Sequence[Vector],
    images: Mapping[str, int],
) -> tuple[list[Block], list[Block]]:
    """What stands at the top, and the rest."""
    by_verdict = {verdict: [one for one in findings if one.verdict == verdict] for verdict in VERDICTS}
    measured = len(findings) - len(by_verdict["not measured"])
    seeds = len(node.seeds)
    data = "the drawn world, which is not the paper's data" if node.drawn else "the real data"
    over = " and ".join(f"{number:,} test images of {name}" for name, number in images.items())
    brief: list[Block] = [
        Text(
            f"Of {len(findings)} orderings in the paper's tables, {measured} were measured here, on {data} (profile "
            f"`{node.profile}`), with {_count(seeds, 'seed')} each. **{len(by_verdict['agrees'])} agree, "
            f"{len(by_verdict['disagrees'])} disagree, {len(by_verdict['cannot be told apart'])} cannot be told "
            f"apart**; {len(by_verdict['not measured'])} were not measured."
        )
    ]
    for verdict, title in (("agrees", "Agrees with the paper"), ("disagrees", "Disagrees with the paper")):
        if found := by_verdict[verdict]:
            brief += [Heading(title), Items([_line(one) for one in found])]
    if found := by_verdict["cannot be told apart"]:
        brief += [
            Heading("Cannot be told apart"),
            Text("; ".join(f"{one.claim.claim} ({_number(one.table)})" for one in found) + "."),
        ]
    if found := by_verdict["not measured"]:
        names = Counter(_number(one.table) for one in found)
        brief += [Text(f"Not measured: {', '.join(f'{number} of {name}' for name, number in names.items())}.")]
    brief += [Heading("Figure 1: does detection forget what people do?"), *_places(vectors, node)]
    reach = f"the choice of test images ({over})" if over else "the choice of test images"
    spread = (
        f"and the spread over {seeds} seeds"
        if seeds > 1
        else "not the spread between trainings: with one seed, another training may give another verdict"
    )
    brief.append(
        Text(
            f"Differences are points of AP, with intervals of {CONFIDENCE:.0%} that hold {reach}, {spread}. Of "
            f"{measured} comparisons of equals, {(1 - CONFIDENCE) * measured:.1f} would be told apart by chance. There "
            "is one detector to each backbone: another may change every line."
            + (" Sizes cannot be compared with the paper's, only directions." if node.drawn else ""),
            is_note=True,
        )
    )
    head = [
        ("", name) for name in ("Claim", "Table", "Metric", "Paper", "Here", f"{CONFIDENCE:.0%} interval", "Verdict")
    ]
    is_name = [True, True, True, False, False, False, True]
    rest: list[Block] = [Heading("Claim by claim"), Sheet(head, is_name, [_cells(one) for one in findings])]
    if found := by_verdict["not measured"]:
        missing: dict[str, dict[str, None]] = {}
        for one in found:
            missing.setdefault(_number(one.table), {}).update(dict.fromkeys(one.missing))
        rows = "; ".join(f"{name}: {', '.join(f'`{row}`' for row in rows)}" for name, rows in missing.items() if rows)
        rest += [Text(f"Rows that this profile does not measure. {rows}.", is_note=True)] if rows else []
    rest += [Heading("Order of the rows"), *_orders_said(orders, seeds)]
    return brief, rest


def _places(vectors: Sequence[Vector], node: StatementNode) -> list[Block]:
    runs = dict.fromkeys(vector.run for vector in vectors)
    lines, verdicts = [], []
    for name in runs:
        by_name = {vector.vector: vector for vector in vectors if vector.run == name}
        before, after = by_name[BEFORE], by_name[AFTER]
        lines += [
            [name, VECTORS[key], f"{one.auc:.3f}", _to(one.interval), f"{one.pairs:,}"]
            for key, one in by_name.items()
            if not math.isnan(one.auc)
        ]
        if (verdict := loss_verdict(before, after)) != "not measured":
            verdicts.append(
                f"{name}: the token of the human {_tells(before)}, the re-mined cue {_tells(after)}: that re-mining "
                f"recovers what was lost "
                + {
                    "agrees": "agrees with the paper",
                    "disagrees": "disagrees: the cue tells less",
                    "cannot be told apart": "cannot be told",
                }[verdict]
                + "."
            )
    if not lines:
        return [Text("Not measured here, or there are no two people at the same place.")]
    head = [("", name) for name in ("Run", "Vector", "AUC", f"{CONFIDENCE:.0%} interval", "Pairs")]
    about = (
        "Pairs of people at the same place in two images, each with an object of one kind: the chance that of two "
        "pairs, one doing different things and one the same, the former lies farther apart by the cosine. 0.5 "
        f"tells nothing, 1 all; intervals over images, one seed ({node.seeds[0]}). The paper has examples "
        "and no number."
    )
    return [Items(verdicts), Sheet(head, [True, True, False, False, False], lines), Text(about, is_note=True)]


def _tells(vector: Vector) -> str:
    low, high = vector.interval
    what = f"(AUC {vector.auc:.3f}, {_to(vector.interval)})"
    if low <= 0.5 <= high:
        return f"tells nothing of what people do {what}"
    return f"tells {'something' if low > 0.5 else 'the opposite'} of what people do {what}"


def _orders_said(orders: Sequence[Order], seeds: int) -> list[Block]:
    if not orders:
        return [Text(f"No table has {FEWEST_ROWS} measured rows.")]
    head = [
        ("", name) for name in ("Table", "Metric", "Rows", "Pairs of rows in the paper's order", "Kendall's tau", "p")
    ]
    lines = [
        [
            _number(one.table),
            METRICS[one.metric].head,
            str(one.rows),
            f"{one.alike} of {one.pairs}",
            _or_dash(one.tau, "+.2f"),
            _or_dash(one.chance, ".3f"),
        ]
        for one in orders
    ]
    caveat = (
        "Rank correlation of ours with the paper's: +1 the same order, 0 none, -1 the reverse; p: the chance of as "
        "much from no order at all. Rows that cannot be told apart count here as ordered, on both sides: the paper's "
        f"neighbours are often 0.1 points from each other, and ours are of {_count(seeds, 'seed')}. A tau near 0 among "
        "such rows says nothing against the paper, and one near 1 little for it."
    )
    return [Sheet(head, [True, True, False, False, False, False], lines), Text(caveat, is_note=True)]


def _line(one: Finding) -> str:
    assert one.found is not None
    return (
        f"{one.claim.claim} ({_number(one.table)}): {_points(one.found.difference)} ({_spread(one.found.whole)}); the "
        f"paper has {_points(one.theirs)}"
    )


def _cells(one: Finding) -> list[str]:
    found = one.found
    ours, interval = (_points(found.difference), _spread(found.whole)) if found else ("", "")
    name, metric = _number(one.table), METRICS[one.claim.metric]
    where = {"vcoco": "V-COCO", "hicodet": "HICO-DET"}[metric.measures]
    return [one.claim.claim, name, f"{where}, {metric.head}", _points(one.theirs), ours, interval, one.verdict]


def _number(table: str) -> str:
    return f"Table {table.removeprefix('table')}"


def _count(number: int, noun: str) -> str:
    return f"{ {1: 'one'}.get(number, number) } {noun}{'' if number == 1 else 's'}"


def _points(fraction: float) -> str:
    return "" if math.isnan(fraction) else f"{round(fraction / POINT, 2) + 0:+.2f}"  # + 0: no -0.00


def _spread(spread: Spread) -> str:
    return "" if math.isnan(spread.low) else f"{_points(spread.low)} to {_points(spread.high)}"


def _to(interval: tuple[float, float]) -> str:
    return "" if math.isnan(interval[0]) else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _or_dash(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The same as the page, for reading in a repository."""

    def block(one: Block) -> str:
        match one:
            case Heading():
                return f"## {one.text}"
            case Items():
                return "\n".join(f"- {item}" for item in one.items)
            case Source():
                return f"```\n{one.text}\n```"
            case Sheet():
                return aligned([[own for _, own in one.head], *map(list, one.lines)], list(one.is_name))
            case Text():
                return one.text

    return "\n\n".join([f"# {title}", *map(block, blocks)]) + "\n"


# ---- for programs

FINDING_COLUMNS = (
    "claim", "table", "metric", "better", "than", "paper_difference", "difference", "low", "high", "verdict", "seeds",
    "data", "profile",
)  # fmt: skip
ORDER_COLUMNS = ("table", "metric", "rows", "pairs", "alike", "tau", "p")


def _as_row(one: Finding, node: StatementNode) -> dict[str, str]:
    found = one.found
    numbers = (found.difference, found.whole.low, found.whole.high) if found else (math.nan,) * 3
    return {
        "claim": one.claim.claim,
        "table": one.table,
        "metric": one.claim.metric,
        "better": _told(one.claim.better),
        "than": _told(one.claim.than),
        "paper_difference": _points(one.theirs),
        **dict(zip(("difference", "low", "high"), map(_points, numbers), strict=True)),
        "verdict": one.verdict,
        "seeds": " ".join(map(str, node.seeds)) if found else "",
        "data": ("drawn world" if node.drawn else "real") if found else "",
        "profile": node.profile,
    }


def _order_row(one: Order) -> dict[str, str]:
    tau, chance = _or_dash(one.tau, ".4f"), _or_dash(one.chance, ".4f")
    counts = {"rows": str(one.rows), "pairs": str(one.pairs), "alike": str(one.alike)}
    return {"table": one.table, "metric": one.metric, **counts, "tau": tau, "p": chance}


def _write_csv(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# ---- the pages beside it


def settings_page(node: StatementNode) -> str:
    """Every number of the profile, as the study used them."""
    made, seeds = node.made_with, ", ".join(map(str, node.seeds))
    runs = [
        [
            name,
            *(str(run[key]) for key in ("variant", "dataset", "backbone", "encoder")),
            _changes(run["overrides"]),
            seeds,
        ]
        for name, run in made["runs"].items()
    ]
    head = [("", name) for name in ("Run", "Variant", "Data set", "Backbone", "Text encoder", "Changed", "Seeds")]
    parts = [name for variant in made["variants"].values() for name in variant]
    names = list(dict.fromkeys(parts))
    variants = [[key, *(_switch(variant[name]) for name in names)] for key, variant in made["variants"].items()]
    variant_head = [("", name.replace("_", " ")) for name in ("variant", *names)]
    blocks: list[Block] = [
        Text(f"Profile `{node.profile}`, as resolved from params.yaml, where each number has its unit and source."),
        Heading("Runs"),
        Sheet(head, [True] * len(head), runs),
        Heading("Variants"),
        Sheet(variant_head, [True] * len(variant_head), variants),
    ]
    sections = {name: section for name, section in made["profile"].items() if isinstance(section, dict)}
    rest = {name: section for name, section in made["profile"].items() if name not in sections}
    for name, section in {"of the whole profile": rest, **sections}.items():
        blocks += [Heading(name), Source(yaml.safe_dump(section, sort_keys=False, width=120).rstrip())]
    return html_page("Settings", blocks)


def _changes(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}: {value}" for path, value in overrides.items())


def _switch(value: Any) -> str:
    return {True: "x", False: ""}.get(value, str(value)) if isinstance(value, bool) else str(value)


def times_page(benchmarks: Path) -> str:
    """What each stage took: Snakemake's benchmarks, summed. No number depends on them, so they are no input."""
    jobs: dict[str, list[dict[str, float]]] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                known = {key: _float(row.get(key, "")) for key in ("s", "cpu_time", "max_rss")}
                jobs.setdefault(stage_of(path.relative_to(benchmarks)), []).append(known)
    if not jobs:
        return html_page("Times", [Text("Nothing was timed here: the stages were run by hand, or pulled.")])
    lines = [
        [
            stage,
            str(len(of_stage)),
            _duration(sum(job["s"] for job in of_stage)),
            _duration(max(job["s"] for job in of_stage)),
            _duration(sum(job["cpu_time"] for job in of_stage)),
            f"{max(job['max_rss'] for job in of_stage):,.0f}",
        ]
        for stage, of_stage in sorted(jobs.items(), key=lambda item: -sum(job["s"] for job in item[1]))
    ]
    every = [job for of_stage in jobs.values() for job in of_stage]
    whole = [
        "all",
        str(len(every)),
        _duration(sum(job["s"] for job in every)),
        _duration(max(job["s"] for job in every)),
        _duration(sum(job["cpu_time"] for job in every)),
        f"{max(job['max_rss'] for job in every):,.0f}",
    ]
    head = [("", name) for name in ("Stage", "Jobs", "Time", "Longest job", "CPU time", "Most memory, MB")]
    about = (
        "Time is of the clock, summed over jobs, of which several run at once; of each job's last run. Snakemake's own "
        "statistics are under `Statistics`, of the jobs that it has run here itself."
    )
    is_name = [True, *[False] * 5]
    return html_page("Times", [Text(about), Sheet(head, is_name, lines, [whole], "Together")])


def stage_of(path: Path) -> str:
    """The stage of a benchmark, by where it lies."""
    first, *others = path.with_suffix("").parts
    if first == "runs":
        return others[-1]
    if first in ("vcoco", "hicodet"):
        return others[0]
    return {"world": "draw", "tables": "table", "figures": "figure"}.get(first, first)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # Snakemake writes `-` or NA for jobs too short to be watched
        return 0.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
