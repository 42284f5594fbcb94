"""Training of the interaction modules."""

from pathlib import Path

from rmlr.learning.assembly import Given
from rmlr.learning.together import Trainings
from rmlr.study.nodes import TrainNode
from rmlr.study.run import run


def train(
    *,
    settings: Path,
    annotations: Path,
    text: Path,
    seed: int,
    out: Path,
    features: Path | None = None,
    pose: Path | None = None,
    images: Path | None = None,
    detector: Path | None = None,
    start: Path | None = None,
) -> None:
    """Train the interaction modules of one variant; write its weights and curves.

    The inputs are cached features, or, if the settings have `online`, photos that are augmented in every epoch and
    processed on-line by the frozen detector. Epoch e uses cached view e modulo the number of views.

    An interrupted run resumes from its last checkpoint if the command is repeated with the same settings, seed and
    inputs: one is written after each epoch, every ten minutes, and on SIGTERM or Ctrl-C. Images without a candidate
    pair in any cached view contribute no loss; they are left out and counted.

    Several runs with the same images in the same order are trained in one pass by `rmlr together`.

    Several GPUs: `torchrun --nproc-per-node 4 -m rmlr train ...`. The effective batch size stays that of the settings,
    so batch_size must be a multiple of processes x micro_batch_size. RMLR_LOADERS is the number of prefetching threads
    (by default one per core if there is a GPU, otherwise none); it changes no number.

    Args:
        settings: this run's settings file: variant, sizes, loss weights, schedule.
        annotations: folder made by `prepare`.
        text: folder made by `text`; read by variants that are trained with text.
        seed: of initialisation, order, dropout and, without cached features, augmentation.
        out: folder to write; gets weights.safetensors, checkpoint.json, curves.csv, and alignment.safetensors if any.
        features: folder whose train/ (and val/) were made by `features`; needed unless the settings have `online`.
        pose: folder whose train/ (and val/) were made by `pose` with these features; needed and read by variants with
            the pose cue. If the settings have `online`: the pose network's weights file.
        images: folder of the photos; needed if the settings have `online`.
        detector: folder made by `detector`; likewise.
        start: folder made by `train` for another run; needed if the settings name a `start`. The initial weights are
            that run's: rows of the classifier by the name of their verb, of object classes by theirs, all else as it
            is. Rows whose name that run does not have, and the alignment heads, are random.
    """
    chosen = TrainNode.load(settings)
    given = Given(annotations, text, features, pose, images, detector, start).needed(chosen, settings)
    with run("train", chosen, settings=settings, out=out, inputs=given.paths(chosen), seed=seed) as record:
        training = Trainings()
        training.add(chosen, given, seed, record)
        [error] = training.fit(seed)
        if error is not None:
            raise error
