"""The identity of each node of a study: its settings, and a digest of the code that it runs."""

from hashlib import sha256
from pathlib import Path

from rmlr.study.nodes import TrainNode
from rmlr.study.plan import Study
from rmlr.study.section import Section
from rmlr.study.source import code_digest, not_run

STAGES = (
    *("draw", "prepare", "detector", "features", "joints", "pose", "text", "train", "predict", "evaluate", "cost"),
    *("table", "separation", "figure", "statement"),
)
OF_PAPER = ("table", "statement")  # stages that read the paper's numbers


def identified(study: Study, profile: str, paper: Path) -> dict[str, Section]:
    """Every node of a profile's study (`Study.nodes`), with digests of its code.

    For the stages of a run, only the code that its variant runs counts: a change in another variant's head has no
    effect.
    """
    nodes = study.nodes(profile, digests(paper))
    known: dict[tuple[str, frozenset[str]], str] = {}
    for name, node in nodes.items():
        run, stage = _run_of(name)
        if run is None:
            continue
        train = nodes.get(f"{run}/train") or nodes[f"{run}/fold0/train"]  # all folds run the same
        assert isinstance(train, TrainNode)
        without = not_run(train.variant, learns=stage == "train", online=train.online is not None)
        key = stage, without
        if key not in known:
            known[key] = code_digest(stage, without)
        nodes[name] = node.model_copy(update={"code": known[key]})
    return nodes


def digests(paper: Path) -> dict[str, str]:
    """The digest of each stage's code; for stages that read the paper's numbers, it includes these."""
    printed = sha256(b"".join(file.read_bytes() for file in sorted(paper.iterdir()))).hexdigest()[:16]
    found = {stage: code_digest(stage) for stage in STAGES}
    return found | {stage: found[stage] + printed for stage in OF_PAPER}


def _run_of(node: str) -> tuple[str | None, str]:
    """The folder of the run's seed that a node belongs to, and its stage; None if it belongs to none."""
    match node.split("/"):
        case ["runs", group, name, seed, *_, "train" | "predict" as stage]:
            return f"runs/{group}/{name}/{seed}", stage
        case ["separation", group, name, seed]:
            return f"runs/{group}/{name}/{seed}", "separation"
    return None, ""
