"""Training runs that one job trains together, since they see the same photos (`rmlr together`).

Only runs that are to be trained are members, of those that the call's targets depend on. So a changed run is trained
without the others. Their jobs must be known while the Snakefile is parsed: the call that plans writes a file for each
cohort below results/PROFILE/settings/together, and the processes of its jobs, also on other machines, read it there.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from graph import Graph

from rmlr.study.nodes import TrainNode
from rmlr.study.together import Cohort, TrainCall, shared_by

# Billions of multiplications and additions of a photo: the detector, and one head's training where photos have many
# pairs (docs/performance.md). They decide the time that a job asks a cluster for.
PHOTOS, HEAD = 81, 18


@dataclass(frozen=True)
class Together:
    """The runs of one job."""

    file: str  # which `rmlr together` reads
    calls: tuple[TrainCall, ...]
    dataset: str
    sees_photos: bool  # in every epoch; else cached features

    @cached_property
    def name(self) -> str:
        """Of its rule, and of its log."""
        return Path(self.file).stem

    def nodes(self, results: str) -> list[str]:
        """The nodes of its runs."""
        return [call.out.removeprefix(f"{results}/") for call in self.calls]

    @property
    def effort(self) -> float:
        """How much it computes, as a multiple of one of its runs alone."""
        number = len(self.calls)
        return (PHOTOS + number * HEAD) / (PHOTOS + HEAD) if self.sees_photos else float(number)


def call_of(graph: Graph, node: str) -> TrainCall:
    """The call of `rmlr train` for a node."""
    _, _, _, seed, *_ = node.split("/")
    return TrainCall.model_validate(
        {"settings": graph.settings(node), **graph.paths(node), "seed": int(seed), "out": graph.folder(node)}
    )


def form(graph: Graph, nodes: Sequence[str], most: int) -> list[Together]:
    """The cohorts among training nodes: of the same examples, `most` runs at most, as equal in number as can be.

    A run, and one that starts from its weights, are never in one cohort, nor do two cohorts wait for each other.
    """
    alike: dict[str, list[TrainCall]] = defaultdict(list)
    for node in nodes:
        section, call = graph.nodes[node], call_of(graph, node)
        assert isinstance(section, TrainNode)
        if most > 1:
            alike[json.dumps([shared_by(section, call), _starts(graph, node)], sort_keys=True)].append(call)
    found, numbers = [], defaultdict[str, int](int)
    for calls in alike.values():
        for part in _parts(calls, most):
            if len(part) > 1:
                together = _named(graph, part, numbers)
                found.append(together)
    return found


def _named(graph: Graph, calls: list[TrainCall], numbers: dict[str, int]) -> Together:
    """A cohort of these runs, named after what they have in common."""
    first = calls[0].out.removeprefix(f"{graph.results}/")
    _, group, name, seed, *fold, _ = first.split("/")
    run, section = graph.runs[f"{group}/{name}"], graph.nodes[first]
    assert isinstance(section, TrainNode)
    title = "_".join(["together", run.dataset, run.backbone, seed, *fold])
    numbers[title] += 1
    title += f"_{numbers[title]}" if numbers[title] > 1 else ""
    file = graph.settings(f"together/{title}")
    return Together(file, tuple(calls), run.dataset, section.online is not None)


def _starts(graph: Graph, node: str) -> int:
    """How many runs must be trained before, one after the other: each starts from the weights of the one before."""
    _, group, name, *_ = node.split("/")
    start = graph.runs[f"{group}/{name}"].start
    count = 0
    while start is not None:
        start, count = graph.runs[start].start, count + 1
    return count


def _parts(calls: list[TrainCall], most: int) -> Iterator[list[TrainCall]]:
    number = -(-len(calls) // most)
    for part in range(number):
        yield calls[part * len(calls) // number : (part + 1) * len(calls) // number]


def write(graph: Graph, cohorts: Sequence[Together]) -> None:
    """Write the files of the cohorts, and remove those of earlier calls."""
    folder = Path(graph.settings("together/any")).parent
    wanted = {Path(one.file): Cohort(runs=list(one.calls)).dump() for one in cohorts}
    for path in folder.glob("*.yaml"):
        if path not in wanted:
            path.unlink()
    for path, content in wanted.items():
        if not path.exists() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")
            aside.write_text(content)
            aside.replace(path)


def read(graph: Graph) -> list[Together]:
    """The cohorts of the call that planned them, without those of runs that are no longer in the study."""
    found = []
    for path in sorted(Path(graph.settings("together/any")).parent.glob("*.yaml")):
        calls = Cohort.load(path).runs
        nodes = [call.out.removeprefix(f"{graph.results}/") for call in calls]
        if all(node in graph.nodes for node in nodes):
            one = _named(graph, calls, defaultdict(int))
            found.append(Together(str(path), one.calls, one.dataset, one.sees_photos))
    return found


def trainings(graph: Graph, targets: Iterable[str], is_stale: Callable[[str], bool]) -> list[str]:
    """The training nodes that are to be made for these files, in the study's order."""
    waiting = list(dict.fromkeys(node for path in targets if (node := _node_of(graph, path)) is not None))
    needed = set(waiting)
    for node in waiting:
        fresh = [one for one in graph.before(node) if one not in needed]
        needed.update(fresh)
        waiting += fresh
    return [
        node for node in graph.nodes if node in needed and isinstance(graph.nodes[node], TrainNode) and is_stale(node)
    ]


def _node_of(graph: Graph, path: str) -> str | None:
    """The node that makes a file; None where none does."""
    path = os.path.relpath(path)
    for name in [*graph.tables, "statement"]:
        if path in graph.copies(name):
            return name if name == "statement" else f"tables/{name}"
    if not path.startswith(f"{graph.results}/"):
        return None
    parts = path.removeprefix(f"{graph.results}/").split("/")
    above = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((node for node in above if node in graph.nodes), None)


def targets() -> list[str] | None:
    """The targets of this call of Snakemake, rules or files; None where this process is no such call.

    Snakemake parses the Snakefile before it knows its targets, so its own parser is asked.
    """
    from snakemake.cli import get_argument_parser

    if "snakemake" not in Path(sys.argv[0]).parts[-2:]:  # also `python -m snakemake`
        return None
    asked = get_argument_parser().parse_args(sys.argv[1:]).targets
    return sorted(asked) if asked else ["all"]


def files_of(workflow: Any, names: Iterable[str]) -> list[str]:
    """The files that targets ask for; of a rule, what it reads and makes."""
    found = []
    for name in names:
        if not workflow.is_rule(name):
            found.append(name)
            continue
        rule = workflow.get_rule(name)
        found += [str(file) for file in [*rule.input, *rule.output] if isinstance(file, str)]
    return found
