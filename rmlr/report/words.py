"""Figures of the world of near-synonyms: differences by rows per verb, and confusions against the texts of verbs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from rmlr.report.charts import Interval, interval_chart, scatter_chart
from rmlr.report.figures import Rows


@dataclass(frozen=True, slots=True)
class GroupDifference:
    """A - B of one group of verbs, as fractions; NaN where the split has none of them."""

    group: str
    verbs: int  # with a positive
    positives: int
    labels: tuple[str, str]  # A, B
    a: Sequence[float]  # of each seed
    b: Sequence[float]
    difference: float
    low: float  # of its interval
    high: float
    is_clear: bool  # the interval leaves 0 out


def rows_figure(compared: Sequence[GroupDifference], confidence: float) -> tuple[Figure, Rows]:
    """The differences of every two runs, group by group; the table has both runs' means and deviations, in points."""
    rows: Rows = []
    for one in compared:
        row = {"group": one.group, "verbs": one.verbs, "positives": one.positives, "a": one.labels[0]}
        row |= {"b": one.labels[1], **_spread("a", one.a), **_spread("b", one.b)}
        rows.append(row | {"difference": 100 * one.difference, "low": 100 * one.low, "high": 100 * one.high})
    intervals = [
        Interval(
            f"{one.group}: {one.labels[0]} less {one.labels[1]}",
            100 * one.difference,
            100 * one.low,
            100 * one.high,
            one.is_clear,
        )
        for one in compared
        if not np.isnan(one.difference)
    ]
    title = "AP_role scenario 1, mean over the verbs of a group by their rows in training"
    return interval_chart(intervals, title, f"difference, points, with its {confidence:.0%} interval"), rows


def _spread(name: str, values: Sequence[float]) -> dict[str, float | str]:
    points = 100 * np.array(values)
    deviation = float(points.std(ddof=1)) if len(points) > 1 else ""
    return {f"{name}_ap": float(points.mean()), f"{name}_deviation": deviation}


def confusions_figure(
    verbs: Sequence[str],
    confusion: Float[np.ndarray, "v v"],
    cosines: Float[np.ndarray, "v v"],
    rho: float,
    p: float,
) -> tuple[Figure, Rows]:
    """A point for each two verbs: how similar their texts are, and how much they are confused."""
    a, b = np.triu_indices(len(verbs), 1)
    kept = ~np.isnan(confusion[a, b])
    a, b = a[kept], b[kept]
    rows: Rows = [
        {
            "verb": verbs[one],
            "other": verbs[other],
            "cosine": float(cosines[one, other]),
            "confusion": float(confusion[one, other]),
            "rho": rho,
            "p": p,
        }
        for one, other in zip(a.tolist(), b.tolist(), strict=True)
    ]
    title = f"{len(rows)} pairs of verbs: Spearman's correlation {rho:.2f}, p = {p:.4f} by permutation of the verbs"
    x, y = (np.array([row[name] for row in rows], dtype=float) for name in ("cosine", "confusion"))
    labels = ("cosine of the verbs' texts", "confusion, relative to the mean")
    return scatter_chart(x, y, title, *labels), rows
