"""Training runs, one or several in one pass: from their settings and files to finished folders."""

import csv
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rmlr.learning.assembly import Assembly, Common, Given, assemble, logged
from rmlr.learning.learner import Head, Learner, Scores
from rmlr.learning.trainer import fit_together
from rmlr.model.checkpoint import save_checkpoint
from rmlr.study.device import processes, take_device
from rmlr.study.folder import set_aside
from rmlr.study.nodes import TrainNode
from rmlr.study.run import Record, Work
from rmlr.study.settings import Prediction
from rmlr.study.threads import computing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """One training run that is asked for."""

    chosen: TrainNode
    given: Given
    seed: int
    work: Work


@dataclass(slots=True)
class _Opened:
    """The record of a run, and the error that ended it alone."""

    record: Record
    error: ValueError | None = None


class Trainings:
    """Runs with the same examples, which are loaded once. Their order is that in which they were added."""

    def __init__(self) -> None:
        self._common: Common | None = None
        self._ready: list[tuple[Assembly, Head]] = []
        self._held_out: dict[str, Scores] = {}  # by its settings

    def add(self, chosen: TrainNode, given: Given, seed: int, record: Record) -> None:
        """Build a run's modules; ValueError if parts do not fit together."""
        if self._common is None:
            self._common = Common.of(chosen, given, seed)
        ready = assemble(chosen, given, seed, self._common)
        head = Head(
            network=ready.network,
            objective=ready.objective,
            text=ready.text,
            schedule=chosen.train,
            weights=chosen.losses,
            means=lambda sums: logged(sums, chosen.losses),
            record=record,
            identity=ready.identity,
            held_out=self._scores(chosen.held_out, given.annotations, ready),
        )
        self._ready.append((ready, head))

    def _scores(self, held_out: Prediction | None, annotations: Path, ready: Assembly) -> Scores | None:
        if held_out is None:
            return None
        from rmlr.learning.held_out import HeldOutScores  # here, since the evaluators take a second to import

        key = held_out.dump()
        if key not in self._held_out:
            self._held_out[key] = HeldOutScores(annotations, ready.vocabulary, ready.examples.tested, held_out)
        return self._held_out[key]

    def fit(self, seed: int) -> list[ValueError | None]:
        """Train all runs and write their files; the error of each run that failed."""
        assert self._common is not None
        examples = self._common.examples
        count, drawn = len(examples.image_ids), len(examples.drawn)
        log.info("%d of %d images, %d of them with a candidate pair", drawn, count, len(examples))
        counts = {"images": len(examples), "images_without_pair": drawn - len(examples)}
        counts["images_left_out"] = count - drawn
        learners = fit_together([head for _, head in self._ready], examples, seed=seed)
        for (ready, _), learner in zip(self._ready, learners, strict=True):
            if learner.error is None:
                _write(ready, learner, counts)
        return [learner.error for learner in learners]


def _write(ready: Assembly, learner: Learner, counts: dict[str, int]) -> None:
    """The files of a finished run."""
    rows, record = learner.rows, learner.head.record
    if not any(row["positives"] for row in rows):
        log.warning("no candidate pair overlaps a true one: no positive example. Is the detector trained?")
    save_checkpoint(record.folder, ready.card, ready.network, ready.objective)
    with (record.folder / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["epoch", *dict.fromkeys(name for row in rows for name in row)])
        writer.writeheader()
        writer.writerows({"epoch": epoch, **row} for epoch, row in enumerate(rows, start=1))
    record.log_metrics({name: float(number) for name, number in counts.items()})
    record.metrics.update({f"final_{name}": value for name, value in rows[-1].items()})  # MLflow has the curves


def train_together(asked: Sequence[Asked], *, keep_aside: bool) -> None:
    """Train runs that have the same examples and seed (`rmlr.study.together`) in one pass.

    Each has its own folder, lock, record, tracker and checkpoints, as with `rmlr train`. Those whose finished output is
    there are left out. A run whose loss is not finite ends alone; ValueError names all such runs when the others are
    finished. With `keep_aside`, the others' folders then have their hidden name (`.NAME.part`) until the next attempt.

    Raises ValueError before any work if an input is missing, an output may not be written, or there are several
    processes.
    """
    if processes() > 1:
        raise ValueError(
            f"{processes()} processes were started, but runs are trained together in one. Start it without torchrun; "
            "several GPUs are used by several such calls"
        )
    for one in asked:
        one.work.check()
    with ExitStack() as locks:
        # in one order in every process, so that no two wait for each other
        made = {one.work.out for one in sorted(asked, key=_place) if locks.enter_context(one.work.reserved())}
        left = [one for one in asked if one.work.out not in made]
        if not left:
            return
        with take_device("train") as device, computing("train"):
            errors = _train(left, device, keep_aside)
        if errors and keep_aside:
            for one in asked:
                if one.work.out in made:
                    set_aside(one.work.place)
    if errors:
        told = "".join(f"\n  {out}: {error}" for out, error in errors.items())
        raise ValueError(f"{len(errors)} of {len(left)} runs failed; the others are finished:{told}")


def _place(one: Asked) -> Path:
    return one.work.place


def _train(asked: Sequence[Asked], device: str, keep_aside: bool) -> dict[Path, ValueError]:
    """Train the runs on a device; the errors of those that failed, by their folders."""
    trainings = Trainings()
    with ExitStack() as records:
        opened = []
        for one in asked:
            context = one.work.recorded(device, together=len(asked))
            opened.append(records.enter_context(_ending_alone(context)))
            trainings.add(one.chosen, one.given, one.seed, opened[-1].record)
        for one, error in zip(opened, trainings.fit(asked[0].seed), strict=True):
            one.error = error
        for one in opened:
            one.record.is_kept_aside = keep_aside and any(other.error for other in opened)
    return {one.work.out: two.error for one, two in zip(asked, opened, strict=True) if two.error is not None}


@contextmanager
def _ending_alone(context: AbstractContextManager[Record]) -> Iterator[_Opened]:
    """A record; an error that is set there ends it as failed, and no other."""
    opened: _Opened | None = None
    try:
        with context as record:
            opened = _Opened(record)
            yield opened
            if opened.error is not None:
                raise opened.error
    except ValueError as error:
        if opened is None or error is not opened.error:
            raise
