"""The statement in words: what of the paper stands here, claim by claim, and the same for programs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmlr.report.frames import write_cells
from rmlr.report.pages import Block, Heading, Items, Sheet, Text, html_page, html_part, markdown_page
from rmlr.report.paper import METRICS, POINT
from rmlr.report.verdicts import FEWEST_ROWS, VERDICTS, Finding, Order, Vector, loss_verdict, row_name
from rmlr.study.nodes import StatementNode

TITLE = "What of the paper stands here"
VECTORS = {  # of separation.csv, as a reader knows them
    "human_token": "the detector's token of the human",
    "pair_tokens": "the detector's tokens of human and object",
    "learnt_tokens": "these after the network's FC",
    "cells": "the map over both boxes, not re-mined",
    "cue": "the re-mined cue m",
}
BEFORE, AFTER = "human_token", "cue"  # of the paper's figure 1


@dataclass(frozen=True)
class Statement:
    """All that was found, with what it was found on."""

    node: StatementNode
    findings: Sequence[Finding]
    orders: Sequence[Order]
    vectors: Sequence[Vector]
    images: Mapping[str, int]  # of each data set
    confidence: float  # of the intervals

    def write(self, folder: Path) -> dict[str, float]:
        """The pages and tables of the statement, and metrics.json; gives how many claims have each verdict."""
        brief, rest = self._brief(), self._rest()
        pages = {
            "statement.md": markdown_page(TITLE, [*brief, *rest]),
            "statement.html": html_page(TITLE, [*brief, *rest]),
            "brief.html": html_part(brief),
        }
        for name, text in pages.items():
            (folder / name).write_text(text)
        findings, orders = [_finding_row(one, self.node) for one in self.findings], map(_order_row, self.orders)
        write_cells(folder / "statement.csv", findings, FINDING_COLUMNS)
        write_cells(folder / "orders.csv", list(orders), ORDER_COLUMNS)
        counts = Counter(finding.verdict for finding in self.findings)
        return {f"claims_{verdict.replace(' ', '_')}": float(counts[verdict]) for verdict in VERDICTS}

    def _of(self, verdict: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict == verdict]

    @property
    def _measured(self) -> int:
        return len(self.findings) - len(self._of("not measured"))

    def _brief(self) -> list[Block]:
        """What stands at the top."""
        node, seeds = self.node, len(self.node.seeds)
        data = "the drawn world, which is not the paper's data" if node.drawn else "the real data"
        brief: list[Block] = [
            Text(
                f"Of {len(self.findings)} orderings in the paper's tables, {self._measured} were measured here, on "
                f"{data} (profile `{node.profile}`), with {_count(seeds, 'seed')} each. **{len(self._of('agrees'))} "
                f"agree, {len(self._of('disagrees'))} disagree, {len(self._of('cannot be told apart'))} cannot be told "
                f"apart**; {len(self._of('not measured'))} were not measured."
            )
        ]
        for verdict, title in (("agrees", "Agrees with the paper"), ("disagrees", "Disagrees with the paper")):
            if found := self._of(verdict):
                brief += [Heading(title), Items([_line(one) for one in found])]
        if found := self._of("cannot be told apart"):
            claims = "; ".join(f"{one.pair.claim.claim} ({_number(one.pair.table)})" for one in found)
            brief += [Heading("Cannot be told apart"), Text(f"{claims}.")]
        if found := self._of("not measured"):
            names = Counter(_number(one.pair.table) for one in found)
            brief += [Text(f"Not measured: {', '.join(f'{number} of {name}' for name, number in names.items())}.")]
        brief += [Heading("Figure 1: does detection forget what people do?"), *self._places()]
        over = " and ".join(f"{number:,} test images of {name}" for name, number in self.images.items())
        over += f", in {node.folds} folds, each predicted by a network trained on the others" if node.folds else ""
        reach = f"the choice of test images ({over})" if over else "the choice of test images"
        spread = (
            f"and the spread over {seeds} seeds"
            if seeds > 1
            else "not the spread between trainings: with one seed, another training may give another verdict"
        )
        return [
            *brief,
            Text(
                f"Differences are points of AP, with intervals of {self.confidence:.0%} that hold {reach}, {spread}. "
                f"Of {self._measured} comparisons of equals, {(1 - self.confidence) * self._measured:.1f} would be "
                "told apart by chance. There is one detector to each backbone: another may change every line."
                + (" Sizes cannot be compared with the paper's, only directions." if node.drawn else ""),
                is_note=True,
            ),
        ]

    def _rest(self) -> list[Block]:
        """Claim by claim, and the orders of the rows."""
        names = ("Claim", "Table", "Metric", "Paper", "Here", f"{self.confidence:.0%} interval", "Verdict")
        head = [("", name) for name in names]
        is_name = [True, True, True, False, False, False, True]
        rest: list[Block] = [Heading("Claim by claim"), Sheet(head, is_name, [_cells(one) for one in self.findings])]
        missing: dict[str, dict[str, None]] = {}
        for one in self._of("not measured"):
            missing.setdefault(_number(one.pair.table), {}).update(dict.fromkeys(one.pair.missing))
        rows = "; ".join(f"{name}: {', '.join(f'`{row}`' for row in rows)}" for name, rows in missing.items() if rows)
        rest += [Text(f"Rows that this profile does not measure. {rows}.", is_note=True)] if rows else []
        return [*rest, Heading("Order of the rows"), *_orders(self.orders, len(self.node.seeds))]

    def _places(self) -> list[Block]:
        """Figure 1, by numbers."""
        lines, verdicts = [], []
        for name in dict.fromkeys(vector.run for vector in self.vectors):
            by_name = {one.vector: one for one in self.vectors if one.run == name and one.vector in VECTORS}
            before, after = by_name[BEFORE], by_name[AFTER]
            lines += [
                [name, VECTORS[key], f"{one.auc:.3f}", _to(one.interval), f"{one.pairs:,}"]
                for key, one in by_name.items()
                if not math.isnan(one.auc)
            ]
            outcome = {
                "agrees": "agrees with the paper",
                "disagrees": "disagrees: the cue tells less",
                "cannot be told apart": "cannot be told",
            }
            if (verdict := loss_verdict(before, after)) != "not measured":
                verdicts.append(
                    f"{name}: the token of the human {_tells(before)}, the re-mined cue {_tells(after)}: that "
                    f"re-mining recovers what was lost {outcome[verdict]}."
                )
        if not lines:
            return [Text("Not measured here, or there are no two people at the same place.")]
        head = [("", name) for name in ("Run", "Vector", "AUC", f"{self.confidence:.0%} interval", "Pairs")]
        about = (
            "Pairs of people at the same place in two images, each with an object of one kind: the chance that of two "
            "pairs, one doing different things and one the same, the former lies farther apart by the cosine. 0.5 "
            f"tells nothing, 1 all; intervals over images, one seed ({self.node.seeds[0]}). The paper has examples "
            "and no number."
        )
        return [Items(verdicts), Sheet(head, [True, True, False, False, False], lines), Text(about, is_note=True)]


def _tells(vector: Vector) -> str:
    low, high = vector.interval
    what = f"(AUC {vector.auc:.3f}, {_to(vector.interval)})"
    if low <= 0.5 <= high:
        return f"tells nothing of what people do {what}"
    return f"tells {'something' if low > 0.5 else 'the opposite'} of what people do {what}"


def _orders(orders: Sequence[Order], seeds: int) -> list[Block]:
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
    pair = one.pair
    return (
        f"{pair.claim.claim} ({_number(pair.table)}): {_points(one.difference)} ({_interval(one)}); the paper has "
        f"{_points(pair.theirs)}"
    )


def _cells(one: Finding) -> list[str]:
    pair, metric = one.pair, METRICS[one.pair.claim.metric]
    where = f"{ {'vcoco': 'V-COCO', 'hicodet': 'HICO-DET'}[metric.measures] }, {metric.head}"
    numbers = [_points(pair.theirs), _points(one.difference), _interval(one)]
    return [pair.claim.claim, _number(pair.table), where, *numbers, one.verdict]


def _number(table: str) -> str:
    return f"Table {table.removeprefix('table')}"


def _count(number: int, noun: str) -> str:
    return f"{ {1: 'one'}.get(number, number) } {noun}{'' if number == 1 else 's'}"


def _points(fraction: float) -> str:
    return "" if math.isnan(fraction) else f"{round(fraction / POINT, 2) + 0:+.2f}"  # + 0: no -0.00


def _interval(one: Finding) -> str:
    return "" if math.isnan(one.low) else f"{_points(one.low)} to {_points(one.high)}"


def _to(interval: tuple[float, float]) -> str:
    return "" if math.isnan(interval[0]) else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _or_dash(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


# ---- for programs

FINDING_COLUMNS = [
    "claim", "table", "metric", "better", "than", "paper_difference", "difference", "low", "high", "verdict", "seeds",
    "data", "profile",
]  # fmt: skip
ORDER_COLUMNS = ["table", "metric", "rows", "pairs", "alike", "tau", "p"]


def _finding_row(one: Finding, node: StatementNode) -> dict[str, str]:
    pair, is_measured = one.pair, not one.pair.missing
    return {
        "claim": pair.claim.claim,
        "table": pair.table,
        "metric": pair.claim.metric,
        "better": row_name(pair.claim.better),
        "than": row_name(pair.claim.than),
        "paper_difference": _points(pair.theirs),
        "difference": _points(one.difference),
        "low": _points(one.low),
        "high": _points(one.high),
        "verdict": one.verdict,
        "seeds": " ".join(map(str, node.seeds)) if is_measured else "",
        "data": ("drawn world" if node.drawn else "real") if is_measured else "",
        "profile": node.profile,
    }


def _order_row(one: Order) -> dict[str, str | int]:
    tau, chance = _or_dash(one.tau, ".4f"), _or_dash(one.chance, ".4f")
    counts = {"rows": one.rows, "pairs": one.pairs, "alike": one.alike}
    return {"table": one.table, "metric": one.metric, **counts, "tau": tau, "p": chance}
