"""The statement in words: what of the paper stands here, claim by claim, and the same for programs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmlr.report.frames import write_cells
from rmlr.report.pages import Block, Heading, Items, Sheet, Text, html_page, html_part, markdown_page
from rmlr.report.paper import METRICS, POINT
from rmlr.report.verdicts import FEWEST_ROWS, JUDGED, VERDICTS, Finding, Order, Vector, loss_verdict
from rmlr.study.nodes import StatementNode

TITLE = "What of the paper stands here"
VECTORS = {  # of separation.csv, as a reader knows them
    "human_token": "the detector's token of the human",
    "pair_tokens": "the detector's tokens of human and object",
    "learnt_tokens": "these after the network's FC",
    "cells": "the map over both boxes, not re-mined",
    "cue": "the re-mined cue m",
}
BEFORE = ("human_token", "learnt_tokens")  # the cue is compared with: the paper's figure 1, and what was also trained
CUE = "cue"
BEYOND = "†"  # the paper's difference could not have been told from 0 here


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
    def _judged(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict in JUDGED]

    def _brief(self) -> list[Block]:
        """What stands at the top."""
        node, judged = self.node, len(self._judged)
        data = "the drawn world, which is not the paper's data" if node.drawn else "the real data"
        rest = {name: len(self._of(name)) for name in VERDICTS if name not in JUDGED}
        brief: list[Block] = [
            Text(
                f"Of {len(self.findings)} claims in the paper, {judged} were judged here, on {data} (profile "
                f"`{node.profile}`), with {_count(len(node.seeds), 'seed')} each. **{len(self._of('agrees'))} agree, "
                f"{len(self._of('disagrees'))} disagree, {len(self._of('cannot be told apart'))} cannot be told "
                f"apart**. Outside this count: {rest['stand-in']} where something else stands in for what the paper "
                f"measured, {rest['no verdict']} without the data for a verdict, {rest['not measured']} not measured."
            )
        ]
        for verdict, title in (("agrees", "Agrees with the paper"), ("disagrees", "Disagrees with the paper")):
            if found := self._of(verdict):
                brief += [Heading(title), Items([_line(one) for one in found])]
        if found := self._of("cannot be told apart"):
            claims = "; ".join(
                f"{one.pair.claim.claim} ({_number(one.pair.table)}){f' {BEYOND}' if one.is_beyond_reach else ''}"
                for one in found
            )
            marked = f" {BEYOND}: a difference as large as the paper's could not have been told from 0 here."
            brief += [Heading("Cannot be told apart"), Text(f"{claims}.{marked if BEYOND in claims else ''}")]
        if found := [*self._of("stand-in"), *self._of("no verdict")]:
            reasons = [f"{_line(one)}. {_sentence(one.pair.stand_in or one.doubt)}" for one in found]
            brief += [Heading("Measured, but no verdict"), Items(reasons)]
        if found := self._of("not measured"):
            names = Counter(_number(one.pair.table) for one in found)
            brief += [Text(f"Not measured: {', '.join(f'{number} of {name}' for name, number in names.items())}.")]
        brief += [Heading("Figure 1: does detection forget what people do?"), *self._places()]
        return [*brief, Text(self._reach(), is_note=True)]

    def _reach(self) -> str:
        """What the intervals hold, and how far verdicts by them go."""
        node, judged = self.node, self._judged
        over = " and ".join(f"{number:,} test images of {name}" for name, number in self.images.items())
        over += f", in {node.folds} folds, each predicted by a network trained on the others" if node.folds else ""
        known = [
            f"{spread.deviation:g} points of {METRICS[metric].head} ({spread.measured})"
            for metric, spread in node.training_spread.items()
            if any(one.pair.claim.metric == metric for one in judged)
        ]
        if len(node.seeds) > 1:
            spread = f"and the spread over {len(node.seeds)} seeds"
        elif known:
            spread = f"and the spread between trainings, a standard deviation of {', '.join(known)}"
        else:
            spread = "not the spread between trainings: with one seed and without a known spread there is no verdict"
        orderings = sum(one.pair.claim.margin is None for one in judged)
        has_costs = any(one.pair.is_cost for one in judged)
        text = (
            f"Differences are points of AP, with intervals of {self.confidence:.0%} that hold the choice of test images"
            f"{f' ({over})' if over else ''}, {spread}."
            f"{' Costs are counted and have no interval; their differences are per cent.' if has_costs else ''} "
            f"Of {orderings} comparisons of equals, "
            f"{(1 - self.confidence) * orderings:.1f} would be told apart by chance. Verdicts are not independent: "
            "claims share runs, and there is one detector to each backbone; another may change every line."
        )
        if node.drawn:
            text += (
                " All that agrees here on re-mining rests on one decision in the design of the drawn world: what "
                "people do shows in their limbs, which a detector does not need. Sizes cannot be compared with the "
                "paper's, only directions."
            )
        return text

    def _rest(self) -> list[Block]:
        """Claim by claim, and the orders of the rows."""
        interval, smallest = f"{self.confidence:.0%} interval", "Smallest that could be told from 0"
        names = ("Claim", "Table", "Metric", "Paper", "Here", interval, smallest, "Verdict")
        head = [("", name) for name in names]
        is_name = [True, True, True, False, False, False, False, True]
        about = (
            "In brackets: the size in the paper's text. Where all rows are claimed to be alike, the differences are "
            "those of the two rows that are farthest apart, and the verdict is by the margin: alike if the intervals "
            f"of all pairs lie within it. {BEYOND}: the paper's difference is smaller than the smallest that could be "
            "told from 0 here."
        )
        rest: list[Block] = [
            Heading("Claim by claim"),
            Sheet(head, is_name, [_cells(one) for one in self.findings]),
            Text(about, is_note=True),
        ]
        missing: dict[str, dict[str, None]] = {}
        for one in self._of("not measured"):
            missing.setdefault(_number(one.pair.table), {}).update(dict.fromkeys(one.pair.missing))
        rows = "; ".join(f"{name}: {', '.join(f'`{row}`' for row in rows)}" for name, rows in missing.items() if rows)
        rest += [Text(f"Rows that this profile does not measure. {rows}.", is_note=True)] if rows else []
        return [*rest, Heading("Order of the rows"), *_orders(self.orders, len(self.node.seeds))]

    def _places(self) -> list[Block]:
        """Figure 1, by numbers."""
        lines, verdicts = [], []
        outcome = {
            "agrees": "the cue tells more",
            "disagrees": "the cue tells less",
            "cannot be told apart": "cannot be told apart",
        }
        for name in dict.fromkeys(vector.run for vector in self.vectors):
            by_name = {one.vector: one for one in self.vectors if one.run == name and one.vector in VECTORS}
            lines += [
                [
                    name,
                    VECTORS[key],
                    f"{one.auc:.3f}",
                    _to(one.interval),
                    "" if key == CUE else f"{one.cue_less_it:+.3f}",
                    "" if key == CUE else _to(one.less_interval, "+"),
                    f"{one.pairs:,}",
                ]
                for key, one in by_name.items()
                if not math.isnan(one.auc)
            ]
            for before in (by_name[key] for key in BEFORE if key in by_name):
                if (verdict := loss_verdict(before)) != "not measured":
                    verdicts.append(
                        f"{name}: {VECTORS[before.vector]} against the re-mined cue: {outcome[verdict]} "
                        f"({before.cue_less_it:+.3f}, {_to(before.less_interval, '+')})."
                    )
            if CUE in by_name and verdicts:
                verdicts.append(f"{name}: the token of the human {_tells(by_name[BEFORE[0]])}.")
        if not lines:
            return [Text("Not measured here, or there are no two people at the same place.")]
        interval = f"{self.confidence:.0%} interval"
        head = [("", name) for name in ("Run", "Vector", "AUC", interval, "Cue less it", interval, "Pairs")]
        about = (
            "Pairs of people at the same place in two images, each with an object of one kind: the chance that of two "
            "pairs, one doing different things and one the same, the former lies farther apart by the cosine. 0.5 "
            f"tells nothing, 1 all; intervals over images, one seed ({self.node.seeds[0]}), those of differences on "
            "the same samples of images. The paper's figure compares the detector's token, which was not trained for "
            "verbs, with the cue, which was; the fair comparison is with the tokens after the network's FC, which was "
            "trained for verbs too. The paper prints the cosine of the tokens of two pairs of people, 0.99 and 0.58."
        )
        is_name = [True, True, False, False, False, False, False]
        return [Items(verdicts), Sheet(head, is_name, lines), Text(about, is_note=True)]


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
    if pair.is_cost:
        here, theirs = f"{_points(one.difference)} %, counted", f"{_points(pair.theirs)} %"
    else:
        here, theirs = f"{_points(one.difference)} ({_interval(one)})", _points(pair.theirs)
    return f"{pair.claim.claim} ({_number(pair.table)}): {here}; the paper has {theirs}"


def _cells(one: Finding) -> list[str]:
    pair, metric = one.pair, METRICS[one.pair.claim.metric]
    where = f"{ {'vcoco': 'V-COCO', 'hicodet': 'HICO-DET', 'cost': '%'}[metric.measures] }, {metric.head}"
    theirs = [_points(pair.theirs), f"({pair.claim.quoted})" if pair.claim.quoted else ""]
    numbers = [
        " ".join(part for part in [*theirs, BEYOND if one.is_beyond_reach else ""] if part),
        _points(one.difference),
        _interval(one),
        _smallest(one),
    ]
    return [pair.claim.claim, _number(pair.table), where, *numbers, one.verdict]


def _number(table: str) -> str:
    return f"Table {table.removeprefix('table')}"


def _count(number: int, noun: str) -> str:
    return f"{ {1: 'one'}.get(number, number) } {noun}{'' if number == 1 else 's'}"


def _points(fraction: float) -> str:
    return "" if math.isnan(fraction) else f"{round(fraction / POINT, 2) + 0:+.2f}"  # + 0: no -0.00


def _smallest(one: Finding) -> str:
    return "" if math.isnan(one.smallest) or one.pair.is_cost else f"{one.smallest / POINT:.2f}"


def _interval(one: Finding) -> str:
    return "" if math.isnan(one.low) or one.pair.is_cost else f"{_points(one.low)} to {_points(one.high)}"


def _to(interval: tuple[float, float], sign: str = "") -> str:
    return "" if math.isnan(interval[0]) else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _or_dash(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


# ---- for programs

FINDING_COLUMNS = [
    "claim", "table", "metric", "better", "than", "margin", "paper_difference", "paper_text", "difference", "low",
    "high", "smallest", "verdict", "why", "seeds", "data", "profile",
]  # fmt: skip
ORDER_COLUMNS = ["table", "metric", "rows", "pairs", "alike", "tau", "p"]


def _finding_row(one: Finding, node: StatementNode) -> dict[str, str]:
    pair, is_measured = one.pair, not one.pair.missing
    return {
        "claim": pair.claim.claim,
        "table": pair.table,
        "metric": pair.claim.metric,
        "better": "" if pair.claim.better is None else pair.rows[0],
        "than": "" if pair.claim.better is None else pair.rows[1],
        "margin": "" if pair.claim.margin is None else f"{pair.claim.margin:g}",
        "paper_difference": _points(pair.theirs),
        "paper_text": pair.claim.quoted or "",
        "difference": _points(one.difference),
        "low": "" if pair.is_cost else _points(one.low),
        "high": "" if pair.is_cost else _points(one.high),
        "smallest": _smallest(one),
        "verdict": one.verdict,
        "why": pair.stand_in or one.doubt,
        "seeds": " ".join(map(str, node.seeds)) if is_measured and not pair.is_cost else "",
        "data": ("drawn world" if node.drawn else "real") if is_measured else "",
        "profile": node.profile,
    }


def _order_row(one: Order) -> dict[str, str | int]:
    tau, chance = _or_dash(one.tau, ".4f"), _or_dash(one.chance, ".4f")
    counts = {"rows": one.rows, "pairs": one.pairs, "alike": one.alike}
    return {"table": one.table, "metric": one.metric, **counts, "tau": tau, "p": chance}
