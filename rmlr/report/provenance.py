"""How the study was made: every number of the profile, and what each stage took."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rmlr.report.pages import Block, Heading, Sheet, Source, Text, html_page
from rmlr.study.nodes import StatementNode


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
    tables = []
    for path in sorted(benchmarks.rglob("*.tsv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        tables.append(pd.DataFrame(rows).assign(stage=stage_of(path.relative_to(benchmarks))))
    if not any(len(table) for table in tables):
        return html_page("Times", [Text("Nothing was timed here: the stages were run by hand, or pulled.")])
    columns = ["s", "cpu_time", "max_rss"]
    jobs = pd.concat(tables).reindex(columns=["stage", *columns])
    # Snakemake writes `-` or NA for jobs too short to be watched.
    jobs[columns] = jobs[columns].apply(pd.to_numeric, errors="coerce").fillna(0.0)

    def line(stage: str, of_stage: pd.DataFrame) -> list[str]:
        sums, most = (part.to_dict() for part in (of_stage[columns].sum(), of_stage[columns].max()))
        times = map(_duration, (sums["s"], most["s"], sums["cpu_time"]))
        return [stage, str(len(of_stage)), *times, f"{most['max_rss']:,.0f}"]

    stages = sorted(jobs.groupby("stage", sort=False), key=lambda item: -item[1]["s"].sum())
    head = [("", name) for name in ("Stage", "Jobs", "Time", "Longest job", "CPU time", "Most memory, MB")]
    about = (
        "Time is of the clock, summed over jobs, of which several run at once; of each job's last run. Snakemake's own "
        "statistics are under `Statistics`, of the jobs that it has run here itself."
    )
    lines = [line(str(stage), of_stage) for stage, of_stage in stages]
    return html_page("Times", [Text(about), Sheet(head, [True, *[False] * 5], lines, [line("all", jobs)], "Together")])


def stage_of(path: Path) -> str:
    """The stage of a benchmark, by where it lies."""
    first, *others = path.with_suffix("").parts
    if first == "runs":
        return others[-1]
    if first in ("vcoco", "hicodet"):
        return others[0]
    return {"world": "draw", "tables": "table", "figures": "figure"}.get(first, first)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
