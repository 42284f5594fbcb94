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

Verdict = Literal["agrees", "disagrees", "cannot be told apart", "not measured"]
VERDICTS: tuple[Verdict, ...] = ("agrees", "disagrees", "cannot be told apart", "not measured")
FEWEST_ROWS = 3  # of two, an order is a coin


@dataclass(frozen=True, slots=True)
class Pair:
    """A claim, with the runs that it is about; None where the row is not measured."""

    table: str
    claim: Claim
    measures: str  # the data set
    theirs: float  # the paper's difference, as a fraction
    better: str | None  # GROUP/NAME
    than: str | None

    @property
    def missing(self) -> list[str]:
        """The rows that are not measured."""
        sides = ((self.better, self.claim.better), (self.than, self.claim.than))
        return [row_name(cells) for run, cells in sides if run is None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim of the paper, and what was measured of it; NaN where there was nothing to measure."""

    pair: Pair
    difference: float = math.nan  # as a fraction
    low: float = math.nan  # of its interval
    high: float = math.nan
    is_clear: bool = False  # the interval leaves 0 out

    @property
    def verdict(self) -> Verdict:
        """By the interval: the paper's side, the other, or 0 is in it."""
        if math.isnan(self.difference) or math.isnan(self.low):
            return "not measured"
        if not self.is_clear:
            return "cannot be told apart"
        return "agrees" if self.difference > 0 else "disagrees"


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


def find_pair(name: str, rows: Sequence[Row], claim: Claim, where: Path) -> Pair:
    """A claim among the table's rows; ValueError where it is none of the paper's."""
    metric = METRICS.get(claim.metric)
    if metric is None or metric.unit != POINT or claim.metric not in rows[0].printed:
        raise ValueError(f"{where}: the claim '{claim.claim}' is about '{claim.metric}', which is no AP of that table")
    found: list[Row] = []
    for cells in (claim.better, claim.than):
        fitting = [row for row in rows if not row.is_control and cells.items() <= row.names.items()]
        if len(fitting) != 1:
            known = "; ".join(row.label for row in rows)
            raise ValueError(
                f"{where}: {len(fitting) or 'no'} rows are {as_text(cells)}, which the claim '{claim.claim}' in "
                f"params.yaml names; expected one. Rows: {known}"
            )
        found.append(fitting[0])
    printed = [row.printed[claim.metric] for row in found]
    if not all(printed) or float(printed[0]) <= float(printed[1]):
        raise ValueError(
            f"{where}: the paper does not have '{claim.claim}': its {claim.metric} are {printed[0] or 'empty'} and "
            f"{printed[1] or 'empty'}"
        )
    runs = [next((one.run for one in row.sources if one.measures == metric.measures), None) for row in found]
    theirs = metric.unit * (float(printed[0]) - float(printed[1]))
    return Pair(name, claim, metric.measures, theirs, *runs)


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

    def number(cell: str) -> float:
        return float(cell or "nan")

    return [
        Vector(
            run,
            row["vector"],
            int(row["same"]) + int(row["apart"]),
            number(row["auc"]),
            (number(row["low"]), number(row["high"])),
        )
        for row in rows.to_dict("records")
    ]


def loss_verdict(before: Vector, after: Vector) -> Verdict:
    """Whether re-mining tells more than the token does: intervals that do not meet, which is strict."""
    if any(math.isnan(value) for value in (*before.interval, *after.interval)):
        return "not measured"
    if after.interval[0] > before.interval[1]:
        return "agrees"
    return "disagrees" if after.interval[1] < before.interval[0] else "cannot be told apart"
