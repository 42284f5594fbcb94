"""Several training runs in one pass over the photos."""

from pathlib import Path

from rmlr.learning.assembly import Given
from rmlr.learning.together import Asked, train_together
from rmlr.study.nodes import TrainNode
from rmlr.study.run import Work
from rmlr.study.together import Cohort, TrainCall, must_share


def together(file: Path, /, *, keep_aside: bool = False) -> None:
    """Train several runs in one pass: each photo is loaded, augmented and seen by the frozen detector once an epoch.

    Every run has the numbers, files, checkpoints and record that `rmlr train` gives it, and either command finds the
    other's result. Runs can be trained together if they have the same annotations, features or photos and detector,
    augmentation, seed, split, share and zero-shot classes, batch sizes and epochs. Variant, text, losses, learning
    rate, precision and the start may differ.

    An interrupted call resumes as `rmlr train` does, each run from its own last checkpoint; runs that are finished are
    left as they are. A run whose loss is not finite ends alone: the others finish, and the exit status is 1.

    run.json of each run has `together`: the number of runs of the call. Seconds and memory in it are those of the
    whole process.

    One process on one GPU, or the CPU. Several GPUs: several calls.

    Args:
        file: YAML with the list `runs`; each entry has the flags of one `rmlr train`: settings, annotations, text,
            seed, out, and where needed features, pose, images, detector, start.
        keep_aside: if a run fails, keep the finished folders of the others under their hidden names (.NAME.part) until
            the next call. For Snakemake, which removes all outputs of a failed job.
    """
    cohort = Cohort.load(file)
    chosen = [TrainNode.load(Path(call.settings)) for call in cohort.runs]
    must_share(cohort.runs, chosen, str(file))
    train_together([_asked(*one) for one in zip(cohort.runs, chosen, strict=True)], keep_aside=keep_aside)


def _asked(call: TrainCall, chosen: TrainNode) -> Asked:
    """A run of the file; ValueError if a path that it needs was not given."""
    settings, names = Path(call.settings), ("features", "pose", "images", "detector", "start")
    more = {name: Path(path) for name in names if (path := getattr(call, name)) is not None}
    given = Given(Path(call.annotations), Path(call.text), **more).needed(chosen, settings)
    work = Work("train", chosen, settings, Path(call.out), given.paths(chosen), call.seed, call.command)
    return Asked(chosen, given, call.seed, work)
