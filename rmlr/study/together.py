"""Training runs that share one pass over the examples: the calls of `rmlr train`, and what must be equal in them.

Equal is all that decides which images are seen when, and how. All else may differ: variant, text, losses, learning
rate, precision, the weights that a run starts from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rmlr.study.nodes import TrainNode
from rmlr.study.section import Section, Seed


class TrainCall(Section):
    """The options of one `rmlr train`, as on the command line."""

    settings: str
    annotations: str
    images: str | None = None
    detector: str | None = None
    features: str | None = None
    pose: str | None = None
    text: str
    start: str | None = None
    seed: Seed
    out: str

    @property
    def command(self) -> list[str]:
        """The command that trains this run alone, in the order in which the pipeline writes its flags."""
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return ["train", *(part for name, value in given.items() for part in (f"--{name}", str(value)))]


class Cohort(Section):
    """Runs that are trained together."""

    runs: Annotated[list[TrainCall], Field(min_length=1)]


def shared_by(chosen: TrainNode, call: TrainCall) -> dict[str, Any]:
    """What must be equal in runs that are trained together, by the name of its flag or setting."""
    train = chosen.train
    flags = ("annotations", "features") if chosen.online is None else ("annotations", "images", "detector")
    flags += ("pose",) if chosen.variant.pose else ()
    paths = {f"--{name}": _normal(getattr(call, name)) for name in (*flags,)}
    numbers = ("split", "share", "zero_shot", "epochs", "batch_size", "micro_batch_size")
    return {
        "--seed": call.seed,
        "online": None if chosen.online is None else chosen.online.model_dump(mode="json"),
        "fold": chosen.fold,
        **{f"train.{name}": getattr(train, name) for name in numbers},
        "--pose": None,
        **paths,
    }


def must_share(calls: Sequence[TrainCall], chosen: Sequence[TrainNode], where: str) -> None:
    """ValueError, which names two runs and what differs, unless the runs can be trained together."""
    first = shared_by(chosen[0], calls[0])
    outs: dict[str | None, int] = {}
    for number, (call, node) in enumerate(zip(calls, chosen, strict=True), start=1):
        if (other := outs.setdefault(_normal(call.out), number)) != number:
            raise ValueError(f"{where}: runs {other} and {number} have the same out, {call.out}. Give each its own")
        for name, value in shared_by(node, call).items():
            if value != first.get(name):
                raise ValueError(
                    f"{where}: runs 1 ({calls[0].out}) and {number} ({call.out}) cannot be trained together: their "
                    f"{name} must be equal, and is {first.get(name)} and {value}. Train one of them by `rmlr train`"
                )


def _normal(path: str | None) -> str | None:
    return None if path is None else str(Path(path))
