"""Inference on photos with a trained run and its detector, for Python and for serving.

    model = rmlr.load("results/demo/runs/shared/rmlr/0")
    for triplet in model("photo.jpg"):
        print(triplet)

A run's folder has the checkpoint in train/, and in predict/settings.yaml the exponent of the detector's scores. Its
detector is found by the digest in the checkpoint: in detector/ of the run's folder (the layout of `rmlr export`), or at
the paths in run.json of the training and of its features. The same holds for the pose network, if the run uses one.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import torch
import yaml
from jaxtyping import Float, Int
from PIL import Image
from pydantic import BaseModel
from torch import Tensor

from rmlr.data.images import ImageBatch, size_within, stack
from rmlr.hoi.batch import Batch, Instances
from rmlr.learning.answers import MIN_SCORE, Answer, Picture, Trace, Traces, Triplet, check_limits, upright
from rmlr.model.checkpoint import CARD_FILE, Card, load_card, load_checkpoint
from rmlr.model.detector import FrozenDetector, holds_detector, load_detector, select_queries, weights_digest
from rmlr.model.network import InteractionNetwork
from rmlr.model.pairs import Pairs
from rmlr.model.pose import PoseNetwork, load_pose_network, pose_digest
from rmlr.model.remine import InteractiveRelationEncoder
from rmlr.model.scoring import ScoredVerbs, score_verbs
from rmlr.model.transformer import Layout
from rmlr.study.files import RelativeName, check_form, read_text
from rmlr.study.nodes import PredictNode

BATCH_SIZE = 4  # pictures at once
PREDICTION = "predict/settings.yaml"  # of a run


@dataclass(frozen=True, slots=True)
class _Seen:
    """The detections in some pictures of one size, and the network's scores for them."""

    inputs: ImageBatch
    batch: Batch
    query: Int[Tensor, " n"]  # the detector's query of each instance
    scored: ScoredVerbs  # this and all following fields are on the CPU
    boxes: Float[Tensor, "n 4"]  # of the instances, as all following fields
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]


class Model:
    """A trained run with its detector: pictures in, triplets out, highest score first."""

    def __init__(
        self,
        detector: FrozenDetector,
        network: InteractionNetwork,
        card: Card,
        prior_power: float,
        device: torch.device,
        pose: PoseNetwork | None = None,
    ) -> None:
        self.detector = detector.to(device)
        self.network = network.to(device)
        self.pose = None if pose is None else pose.to(device)
        self.card = card
        self.prior_power = prior_power
        self.device = device
        self._is_valid_verb = torch.from_numpy(card.vocabulary.is_valid_verb).to(device)

    @overload
    def __call__(self, picture: Picture, *, min_score: float = ..., top: int | None = ...) -> Answer: ...

    @overload
    def __call__(
        self, picture: Sequence[Picture], *, min_score: float = ..., top: int | None = ...
    ) -> list[Answer]: ...

    def __call__(
        self, picture: Picture | Sequence[Picture], *, min_score: float = MIN_SCORE, top: int | None = None
    ) -> Answer | list[Answer]:
        """The triplets of one picture, or of each in a list: at most `top`, and none below `min_score`.

        A picture is a path, a Pillow image, or a uint8 array of shape (height, width, 3). ValueError names an input
        that is none of these, or cannot be read.
        """
        if isinstance(picture, Sequence) and not isinstance(picture, str):
            return list(self.many(picture, min_score=min_score, top=top))
        return next(self.many([picture], min_score=min_score, top=top))

    def many(
        self,
        pictures: Iterable[Picture],
        *,
        min_score: float = MIN_SCORE,
        top: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Answer]:
        """The triplets of each picture, in order; no more than `batch_size` pictures are in memory.

        Only pictures of one size are batched: padding affects a detector's output at a picture's edges, so the triplets
        of a picture would depend on the others in its batch.
        """
        check_limits(min_score=min_score, top=top)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected a whole number of at least 1")
        return self._answers(pictures, min_score, top, batch_size)

    def _answers(
        self, pictures: Iterable[Picture], min_score: float, top: int | None, batch_size: int
    ) -> Iterator[Answer]:
        waiting = enumerate(pictures)
        while given := list(islice(waiting, batch_size)):
            chunk = [upright(picture, f"picture {number} (from 0)") for number, picture in given]
            groups: dict[tuple[int, int], list[int]] = {}
            for position, photo in enumerate(chunk):
                size = size_within(photo.height, photo.width, self.card.view.image)
                groups.setdefault(size, []).append(position)
            found: dict[int, list[Triplet]] = {}
            for positions in groups.values():
                seen = self._see([chunk[position] for position in positions], min_score)
                for place, position in enumerate(positions):
                    found[position] = [self._triplet(seen, row) for row in _strongest(seen.scored, place, top)]
            yield from (Answer(found[position], picture, min_score) for position, (_, picture) in enumerate(given))

    def trace(self, picture: Picture, *, min_score: float = MIN_SCORE, top: int | None = None) -> Traces:
        """The triplets of one picture, the same as without tracing, and where each comes from.

        ValueError for a network without IRE, since it has no re-mined cue.
        """
        check_limits(min_score=min_score, top=top)
        ire = getattr(self.network.describe, "ire", None)
        if not isinstance(ire, InteractiveRelationEncoder):
            raise ValueError(
                "this run's variant has no IRE, so it has no re-mined cue to trace. Use a variant with `ire`"
            )
        seen = self._see([upright(picture)], min_score)
        batch, rows = seen.batch, _strongest(seen.scored, 0, top)
        human, object_, image = (
            getattr(seen.scored, name)[rows].to(self.device) for name in ("human", "object", "image")
        )
        with torch.inference_mode():
            remined = ire.attention(
                batch.maps.float(), batch, Pairs(human, object_, image), Layout.of_rows(image, sequences=1)
            )
            of_query = self.detector.attention(seen.inputs.pixels, seen.inputs.is_padding)[0]
            detected = (of_query[seen.query[human]] + of_query[seen.query[object_]]) / 2
        height, width = batch.cell_sizes[0].tolist()
        maps = zip(rows, remined.cpu().numpy(), detected.cpu().numpy(), strict=True)
        traces = [Trace(self._triplet(seen, row), cue, tokens, (height, width)) for row, cue, tokens in maps]
        return Traces(traces, picture, min_score)

    @torch.inference_mode()
    def _see(self, photos: Sequence[Image.Image], min_score: float) -> _Seen:
        inputs = stack(photos, self.card.view.image)
        inputs = ImageBatch(*(getattr(inputs, name).to(self.device) for name in ImageBatch.__slots__))
        detections = self.detector(inputs.pixels, inputs.is_padding, inputs.resized, inputs.original)
        image, query = select_queries(detections, self.card.vocabulary.person, self.card.view.selection)
        parts = (detections.boxes, detections.scores, detections.labels, detections.tokens)
        batch = Batch(
            image_ids=torch.arange(len(photos), device=self.device),
            maps=detections.maps,
            is_padding=detections.is_padding,
            cell_sizes=detections.cell_sizes,
            image_sizes=inputs.original.float(),
            instances=Instances(*(part[image, query] for part in parts)),
            instance_image=image,
            pose=self._pose_maps(inputs.pixels, *detections.maps.shape[2:]),
        )
        scored = score_verbs(
            self.network, batch, self._is_valid_verb, prior_power=self.prior_power, min_score=min_score
        )
        scored = ScoredVerbs(*(getattr(scored, name).cpu() for name in ScoredVerbs.__slots__))
        instances = (getattr(batch.instances, name).cpu() for name in ("boxes", "labels", "scores"))
        return _Seen(inputs, batch, query, scored, *instances)

    def _pose_maps(self, pixels: Tensor, height: int, width: int) -> Tensor | None:
        if self.pose is None:
            return None
        return self.pose.onto_cells(self.pose(pixels), self.detector.stride, height, width)

    def _triplet(self, seen: _Seen, row: int) -> Triplet:
        scored, vocabulary = seen.scored, self.card.vocabulary
        human, object_, verb = (int(getattr(scored, name)[row]) for name in ("human", "object", "verb"))
        label = int(seen.labels[object_])
        human_box, object_box = (tuple(seen.boxes[index].tolist()) for index in (human, object_))
        return Triplet(
            human_box=human_box,
            object_box=object_box,
            object=vocabulary.objects[label],
            verb=vocabulary.verbs[verb],
            phrase=str(vocabulary.phrase(verb, label)),
            score=float(scored.score[row]),
            human_score=float(seen.scores[human]),
            object_score=float(seen.scores[object_]),
        )


def load(
    run: str | Path,
    *,
    detector: str | Path | None = None,
    pose: str | Path | None = None,
    prior_power: float | None = None,
    device: str | None = None,
) -> Model:
    """Load a trained run for inference.

    Args:
        run: a run's folder (which contains train/), the folder that `rmlr train` wrote, or one from `rmlr export`.
        detector: folder of the detector that it was trained with, if it is not found from the run.
        pose: weights file of the pose network that it was trained with, likewise, if it uses one.
        prior_power: exponent of the detector's scores, if predict/settings.yaml is missing or to be overridden.
        device: as named by torch; by default a GPU if there is one.

    Raises ValueError if a part is missing or does not fit.
    """
    check_limits(prior_power=prior_power)
    given = (None if path is None else Path(path) for path in (detector, pose))
    parts = find_parts(Path(run), *given)
    card = load_card(parts.checkpoint)
    if prior_power is None:
        if parts.prediction is None:
            raise ValueError(
                f"{parts.checkpoint.parent / PREDICTION}: does not exist, so the power of the detector's scores "
                "(prediction.prior_power in params.yaml) is not known. Give it: --prior-power, or prior_power="
            )
        prior_power = PredictNode.load(parts.prediction).prediction.prior_power
    return Model(
        FrozenDetector(load_detector(str(parts.detector)), card.vocabulary.objects, card.view.map, card.view.strides),
        load_checkpoint(parts.checkpoint),
        card,
        prior_power,
        _device(device),
        None if parts.pose is None else load_pose_network(parts.pose),
    )


# ---- the paths of a run's parts


@dataclass(frozen=True, slots=True)
class Parts:
    """The paths of a run's parts."""

    checkpoint: Path  # folder
    detector: Path  # folder
    pose: Path | None  # weights file, if the run uses a pose network's map
    prediction: Path | None  # settings file


def find_parts(run: Path, detector: Path | None = None, pose: Path | None = None) -> Parts:
    """The parts of a run for `load`; ValueError if one is not found, or is not the one used in training.

    `detector` and `pose` are given by the user.
    """
    if (model := run / "MLmodel").is_file():
        run = run / _exported_data(model)
    checkpoint = next((folder for folder in (run, run / "train") if (folder / CARD_FILE).is_file()), None)
    if checkpoint is None:
        raise ValueError(
            f"{run}: has no trained network: expected {CARD_FILE}, train/{CARD_FILE} or an exported model. "
            "Give a run's folder, such as results/demo/runs/shared/rmlr/0"
        )
    card, beside, prediction = load_card(checkpoint), checkpoint.parent, checkpoint.parent / PREDICTION
    named = list(_named_inputs(checkpoint))
    detectors = [beside / "detector", *(path for path in named if holds_detector(path))]
    found = _find("detector", card.detector_digest, checkpoint, detector, detectors, _detector_digest)
    found_pose = None
    if card.pose_digest is not None:
        poses = [path for path in (*sorted(beside.glob("pose/*")), *named) if path.is_file()]
        found_pose = _find("pose", card.pose_digest, checkpoint, pose, poses, _pose_digest)
    return Parts(checkpoint, found, found_pose, prediction if prediction.is_file() else None)


class _Flavor(BaseModel):
    data: RelativeName  # folder


class _Flavors(BaseModel):
    python_function: _Flavor


class _MLmodel(BaseModel):
    """The fields of an exported model's description that are read."""

    flavors: _Flavors


def _exported_data(model: Path) -> str:
    """The folder of the run in an exported model."""
    try:
        content = yaml.safe_load(read_text(model))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{model}: not YAML ({error}). Is the file damaged? Export the run again") from error
    return check_form(str(model), content, _MLmodel).flavors.python_function.data


def _find(
    what: str,
    digest: str,
    checkpoint: Path,
    given: Path | None,
    candidates: Sequence[Path],
    digest_of: Callable[[Path], str | None],
) -> Path:
    """The frozen network with this digest: the one given by the user, or the first candidate that matches."""
    if given is not None:
        if (other := digest_of(given)) is None:
            raise ValueError(f"{given}: has no weights. Is it the right folder or file for --{what}?")
        if other != digest:
            raise ValueError(
                f"{given}: is not the {what} network that {checkpoint} was trained with: the SHA-256 of its weights is "
                f"{other[:12]}..., expected {digest[:12]}..."
            )
        return given
    if (found := next((path for path in candidates if digest_of(path) == digest), None)) is not None:
        return found
    raise ValueError(
        f"{checkpoint}: the {what} network that it was trained with (SHA-256 of the weights {digest[:12]}...) was not "
        f"found in {', '.join(map(str, candidates)) or 'the paths of run.json'}. Give its path: --{what}, or {what}="
    )


def _detector_digest(folder: Path) -> str | None:
    return weights_digest(folder) if holds_detector(folder) else None


def _pose_digest(path: Path) -> str | None:
    return pose_digest(path) if path.is_file() else None


def _named_inputs(checkpoint: Path) -> Iterator[Path]:
    """The inputs of training, and those of the stages that made them (in older runs, one folder for all splits)."""
    for given in _inputs(checkpoint):
        yield given
        for made in [*given.glob("run.json"), *sorted(given.glob("*/run.json"))]:
            yield from _inputs(made.parent)


def _inputs(folder: Path) -> list[Path]:
    """The inputs of a stage that still exist: paths of run.json, relative to the folder in which it was run."""
    try:
        names = list(json.loads((folder / "run.json").read_text())["inputs"])
    except (OSError, ValueError, KeyError, TypeError):  # TypeError: valid JSON, but not a stage's
        return []
    places = (Path(), *folder.resolve().parents)
    return [path for name in names for place in places if (path := place / name).exists()]


# ---- small things


def _device(name: str | None) -> torch.device:
    """The named device, after a test; by default a GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"device '{name}' cannot be used here: {why}. Give cpu, or a GPU such as cuda:0") from error
    return device


def _strongest(scored: ScoredVerbs, image: int, top: int | None) -> list[int]:
    """Rows of one picture, by descending score."""
    rows = (scored.image == image).nonzero()[:, 0]
    return rows[scored.score[rows].argsort(descending=True, stable=True)][:top].tolist()
