"""Inference on photos with a trained run and its detector, for Python and for serving.

    model = rmlr.load("results/demo/runs/shared/rmlr/0")
    for triplet in model("photo.jpg"):
        print(triplet)

`rmlr.learning.parts` says where its parts are found.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from rmlr.data.images import ImageBatch, size_within, stack
from rmlr.hoi.batch import Batch, Instances
from rmlr.learning.answers import MIN_SCORE, Answer, Picture, Trace, Traces, Triplet, check_limits, upright
from rmlr.learning.parts import PREDICTION, find_parts, find_run
from rmlr.model.checkpoint import Card, load_card, load_checkpoint
from rmlr.model.detector import FrozenDetector, load_detector, select_queries
from rmlr.model.network import InteractionNetwork
from rmlr.model.pairs import Pairs
from rmlr.model.pose import PoseNetwork, load_pose_network
from rmlr.model.remine import InteractiveRelationEncoder
from rmlr.model.scoring import ScoredVerbs, score_verbs
from rmlr.model.transformer import Layout
from rmlr.study.nodes import PredictNode

BATCH_SIZE = 4  # pictures at once


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
        check_limits(min_score=min_score, top=top, batch_size=batch_size)
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
            of_query = self.detector.attention(seen.inputs.pixels, seen.inputs.is_padding)[0]
            remined = ire.attention(batch, Pairs(human, object_, image), Layout.of_rows(image, sequences=1))
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
            finer=detections.finer,
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
        return self.pose.onto_cells(self.pose(pixels), self.detector.strides[0], height, width)

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
    revision: str | None = None,
    detector: str | Path | None = None,
    pose: str | Path | None = None,
    prior_power: float | None = None,
    device: str | None = None,
) -> Model:
    """Load a trained run for inference.

    Args:
        run: a run's folder (which contains train/), the folder that `rmlr train` wrote, one from `rmlr export`, or a
            model of the Hugging Face hub, OWNER/NAME, that is such a folder.
        revision: commit of a model of the hub, 40 hexadecimal digits.
        detector: folder of the detector that it was trained with, if it is not found from the run.
        pose: weights file of the pose network that it was trained with, likewise, if it uses one.
        prior_power: exponent of the detector's scores, if predict/settings.yaml is missing or to be overridden.
        device: as named by torch; by default a GPU if there is one.

    Raises ValueError if a part is missing or does not fit.
    """
    check_limits(prior_power=prior_power)
    given = (None if path is None else Path(path) for path in (detector, pose))
    parts = find_parts(find_run(run, revision), *given)
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
