"""Which of the paper's orderings hold here: claims with the runs behind them, verdicts by the data, orders of rows."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import kendalltau

from rmlr.report.frames import read_cells
from rmlr.report.paper import METRICS, POINT, Row, as_text, metric_files, read_metrics
from rmlr.study.settings import Claim

Verdict = Literal["agrees", "disagrees", "cannot be told apart", "stand-in", "no verdict", "not measured"]
VERDICTS: tuple[Verdict, ...] = (
    "agrees", "disagrees", "cannot be told apart", "stand-in", "no verdict", "not measured"
)  # fmt: skip
JUDGED = VERDICTS[:3]  # what counts for or against the paper, or could have
FEWEST_ROWS = 3  # of two, an order is a coin
FEWEST_POSITIVES = 50  # of all classes of a metric; resampling fewer images shows too little of what could have been


@dataclass(frozen=True, slots=True)
class Pair:
    """A claim, with the runs that it is about; None where a row is not measured."""

    table: str
    claim: Claim
    measures: str  # the data set
    theirs: float  # the paper's difference, as a fraction; of rows that are alike, that of the best and the worst;
    # of a cost, the fraction of the second row's
    rows: tuple[str, ...]  # names: the better one and the other; or all that are alike
    runs: tuple[str | None, ...]  # GROUP/NAME of each
    stand_in: str = ""  # what is measured in place of the paper's, and why

    @property
    def is_cost(self) -> bool:
        """Whether it is about a cost, which is counted: without seeds and intervals."""
        return self.measures == "cost"

    @property
    def missing(self) -> list[str]:
        """The rows that are not measured."""
        return [row for row, run in zip(self.rows, self.runs, strict=True) if run is None]

    @property
    def compared(self) -> list[tuple[str, str]]:
        """The runs that are compared, two by two; none if a row is missing."""
        return list(combinations([run for run in self.runs if run is not None], 2)) if not self.missing else []


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim of the paper, and what was measured of it; NaN where there was nothing to measure."""

    pair: Pair
    difference: float = math.nan  # as a fraction; of rows that are alike, the largest
    low: float = math.nan  # of its interval
    high: float = math.nan
    by_interval: Verdict = "not measured"
    doubt: str = ""  # why the interval is no ground for a verdict

    @property
    def verdict(self) -> Verdict:
        """By the interval, where it is a ground for a verdict and what is measured is what the paper measured."""
        if math.isnan(self.difference) or math.isnan(self.low):
            return "not measured"
        if self.pair.stand_in:
            return "stand-in"
        return "no verdict" if self.doubt else self.by_interval

    @property
    def smallest(self) -> float:
        """The smallest difference that could have been told from 0: half of the interval."""
        return (self.high - self.low) / 2

    @property
    def is_beyond_reach(self) -> bool:
        """Whether a difference as large as the paper's could not have been told from 0 here."""
        return self.pair.claim.margin is None and abs(self.pair.theirs) < self.smallest


@dataclass(frozen=True, slots=True)
class Measured:
    """The difference of two runs, as a fraction, with its interval."""

    difference: float
    low: float
    high: float
    is_clear: bool  # the interval excludes 0
    has_trainings: bool  # the spread between trainings is in it


def judge(pair: Pair, found: Sequence[Measured], positives: int) -> Finding:
    """The finding of a claim from the differences of its runs (`Pair.compared`).

    Better: the interval excludes 0. Alike: all intervals lie within the margin; not alike: one lies beyond it.
    `positives`: of all classes of the metric.
    """
    largest = max(found, key=lambda one: abs(one.difference), default=None)
    if largest is None:
        return Finding(pair)
    if not all(one.has_trainings for one in found):
        doubt = "one seed, and the spread between trainings is not known"
    else:
        doubt = f"{positives} positives; {FEWEST_POSITIVES} are needed" if positives < FEWEST_POSITIVES else ""
    verdict: Verdict = "cannot be told apart"
    if pair.claim.margin is None:
        if largest.is_clear:
            verdict = "agrees" if largest.difference > 0 else "disagrees"
        return Finding(pair, largest.difference, largest.low, largest.high, verdict, doubt)
    margin = POINT * pair.claim.margin
    if all(-margin < one.low and one.high < margin for one in found):
        verdict = "agrees"
    elif any(max(one.low, -one.high) > margin for one in found):
        verdict = "disagrees"
    low, high = (largest.low, largest.high) if largest.difference > 0 else (-largest.high, -largest.low)
    return Finding(pair, abs(largest.difference), low, high, verdict, doubt)


def judge_cost(pair: Pair, rows: Sequence[Row]) -> Finding:
    """The finding of a claim on a cost, among the rows of its table with what was measured of them."""
    claim, found = pair.claim, []
    for cells in (claim.better or {}, claim.than or {}):
        found += _row_of(claim, cells, rows, Path(pair.table)).ours.get(claim.metric, [])
    if len(found) != len(pair.rows):
        return Finding(pair)
    difference = found[0] / found[1] - 1
    is_minor = difference <= POINT * (claim.margin or 0.0)
    return Finding(pair, difference, difference, difference, "agrees" if is_minor else "disagrees")


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
    """How well a distance of one vector tells apart what people do who are at the same place."""

    run: str
    vector: str
    pairs: int
    auc: float
    interval: tuple[float, float]
    cue_less_it: float  # how much larger the AUC of the re-mined cue is
    less_interval: tuple[float, float]  # on the same samples of images


def find_pair(name: str, tables: Mapping[str, Sequence[Row]], claim: Claim, profile: str, paper: Path) -> Pair:
    """A claim among the rows of the paper's tables; ValueError where it is none of the paper's."""
    where, rows = paper / f"{name}.csv", tables[name]
    metric = METRICS.get(claim.metric)
    is_cost = claim.better is not None and claim.margin is not None
    kind = "cost" if is_cost else "AP"
    if metric is None or (metric.measures == "cost") != is_cost or claim.metric not in rows[0].printed:
        raise ValueError(
            f"{where}: the claim '{claim.claim}' is about '{claim.metric}', which is no {kind} of that table"
        )
    if claim.than_in is not None and claim.than_in not in tables:
        raise ValueError(f"{where}: the claim '{claim.claim}' names {claim.than_in}, which is no table of the paper")
    if claim.better is None or claim.than is None:
        found = [row for row in rows if not row.is_control]
        labels = [row.label for row in found]
    else:
        than_in = claim.than_in or name
        found = [
            _row_of(claim, claim.better, rows, where),
            _row_of(claim, claim.than, tables[than_in], paper / f"{than_in}.csv"),
        ]
        labels = [row_name(claim.better), row_name(claim.than)]
    runs = [next((one.run for one in row.sources if one.measures == metric.measures), None) for row in found]
    theirs = _printed(claim, claim.metric, found, where)
    stand_in = claim.stand_in.get(profile, "")
    return Pair(name, claim, metric.measures, POINT * theirs, tuple(labels), tuple(runs), stand_in)


def _row_of(claim: Claim, cells: Mapping[str, str], rows: Sequence[Row], where: Path) -> Row:
    """The one row of the paper with these cells."""
    fitting = [row for row in rows if not row.is_control and cells.items() <= row.names.items()]
    if len(fitting) != 1:
        known = "; ".join(row.label for row in rows)
        raise ValueError(
            f"{where}: {len(fitting) or 'no'} rows are {as_text(cells)}, which the claim '{claim.claim}' in "
            f"params.yaml names; expected one. Rows: {known}"
        )
    return fitting[0]


def _printed(claim: Claim, metric: str, rows: Sequence[Row], where: Path) -> float:
    """The paper's difference, points or per cent.

    ValueError where it is not what the claim says, by either scenario of V-COCO.
    """
    cells = [row.printed[metric] for row in rows]
    said = " and ".join(cell or "empty" for cell in cells)
    if not all(cells):
        raise ValueError(f"{where}: the paper does not have '{claim.claim}': its {metric} are {said}")
    values = [float(cell) for cell in cells]
    if claim.margin is not None and claim.better is not None:
        more = (values[0] / values[1] - 1) / POINT
        if more > claim.margin:
            raise ValueError(
                f"{where}: the paper's own costs of '{claim.claim}' are {more:.2f} % apart, beyond the margin"
            )
        return more
    if claim.margin is not None:
        spread = max(values) - min(values)
        if spread > claim.margin:
            raise ValueError(f"{where}: the paper's rows of '{claim.claim}' are {spread:.2f} apart, beyond the margin")
        return spread
    if values[0] <= values[1]:
        raise ValueError(f"{where}: the paper does not have '{claim.claim}': its {metric} are {said}")
    other = {"vcoco_ap_role_1": "vcoco_ap_role_2", "vcoco_ap_role_2": "vcoco_ap_role_1"}.get(metric, metric)
    others = [float(row.printed[other]) for row in rows if row.printed.get(other)]
    if len(others) == len(rows) and others[0] <= others[1]:
        said = " and ".join(map(str, others))
        raise ValueError(f"{where}: the paper contradicts '{claim.claim}' by its other scenario: {other} are {said}")
    return values[0] - values[1]


def row_name(cells: Mapping[str, str]) -> str:
    """The cells that name a row, as people say them."""
    return ", ".join(cell or f"no {column.replace('_', ' ')}" for column, cell in cells.items())


def find_orders(name: str, rows: Sequence[Row], seeds: Sequence[int], runs: Path) -> list[Order]:
    """By every AP of which the table has enough measured rows."""
    found = []
    for metric in (column for column in rows[0].printed if METRICS[column].unit == POINT):
        values = []
        for row in rows:
            sources = [source for source in row.sources if source.measures == METRICS[metric].measures]
            if not row.is_control and sources and row.printed[metric]:
                files = metric_files(sources[0], runs, None, seeds)
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


def read_vectors(run: str, path: Path) -> list[Vector]:
    """The verb's rows of a separation.csv, by the cosine as the paper's figure."""
    rows = read_cells(path, "Run `rmlr separation` again").query("question == 'verb' and distance == 'cosine'")

    return [
        Vector(
            run,
            row["vector"],
            int(row["same"]) + int(row["apart"]),
            float(row["auc"] or "nan"),
            (float(row["low"] or "nan"), float(row["high"] or "nan")),
            float(row["cue_less_it"] or "nan"),
            (float(row["less_low"] or "nan"), float(row["less_high"] or "nan")),
        )
        for row in rows.to_dict("records")
    ]


def loss_verdict(before: Vector) -> Verdict:
    """Whether the re-mined cue tells more than this vector does: the interval of the difference excludes 0."""
    low, high = before.less_interval
    if math.isnan(low):
        return "not measured"
    return "agrees" if low > 0 else "disagrees" if high < 0 else "cannot be told apart"
