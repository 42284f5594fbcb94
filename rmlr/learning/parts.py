"""The parts of a trained run: its network, its detector, its pose network and its settings of prediction.

A run is a folder of the study, a folder that `rmlr export` wrote, or such a folder on the Hugging Face hub. Detector
and pose network are found by digest: in the folder, or at the paths in run.json of the training and of its features.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from rmlr.model.checkpoint import CARD_FILE, WEIGHTS_FILE, load_card
from rmlr.model.detector import CONFIG_FILE, holds_detector, weights_digest
from rmlr.model.detector import WEIGHTS_FILE as DETECTOR_FILE
from rmlr.model.pose import pose_digest
from rmlr.study.files import RelativeName, check_form, read_text
from rmlr.study.plain_yaml import parse

PREDICTION = "predict/settings.yaml"  # of a run
POSE_FILE = "pose/weights.safetensors"  # of an exported run
SHARED = (  # all that is read of an exported run, and all that is taken from the hub: no code, no pickle
    f"train/{CARD_FILE}",
    f"train/{WEIGHTS_FILE}",
    f"detector/{CONFIG_FILE}",
    f"detector/{DETECTOR_FILE}",
    PREDICTION,
    POSE_FILE,
)


@dataclass(frozen=True, slots=True)
class Parts:
    """The paths of a run's parts."""

    checkpoint: Path  # folder
    detector: Path  # folder
    pose: Path | None  # weights file, if the run uses a pose network's map
    prediction: Path | None  # settings file


def find_run(run: str | Path, revision: str | None = None) -> Path:
    """The folder of a run: a local folder, or a model of the hub (OWNER/NAME) at one commit, in the hub's cache.

    ValueError if the folder or model does not exist, or if a model of the hub is named without its commit: a branch or
    a tag can move.
    """
    name = str(run)
    if os.path.lexists(run):
        if revision is not None:
            raise ValueError(f"{run}: is a folder, but revision (--revision) {revision} needs a model of the hub")
        return Path(run)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(
            f"{run}: no such folder. Give a run's folder, such as results/demo/runs/shared/rmlr/0, or a model of the "
            "hub: OWNER/NAME with its commit, revision= or --revision"
        )
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(
            f"{run}: no such folder. If it is a model of the hub, pin its commit: revision (--revision) is {revision}, "
            "expected 40 hexadecimal digits, as on the hub's page of the model's commits"
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(SHARED)))
    except Exception as error:  # the hub client's, many kinds
        raise ValueError(
            f"{run}: not a folder, and not available from the hub or its cache at commit {revision} "
            f"({' '.join(str(error).split())}). With a network, run "
            f"`hf download {name} --revision {revision}`"
        ) from error


def find_parts(run: Path, detector: Path | None = None, pose: Path | None = None) -> Parts:
    """The parts of a run for `load`; ValueError if one is not found, or differs from the one used in training.

    `detector` and `pose` are given by the user.
    """
    run = exported_run(run)
    checkpoint = next((folder for folder in (run, run / "train") if (folder / CARD_FILE).is_file()), None)
    if checkpoint is None:
        raise ValueError(
            f"{run}: has no trained network: expected {CARD_FILE}, train/{CARD_FILE} or an exported model. "
            "Give a run's folder, such as results/demo/runs/shared/rmlr/0, or one fold of it: .../0/fold0"
        )
    card, beside = load_card(checkpoint), checkpoint.parent
    places = (beside / PREDICTION, beside.parent / PREDICTION)  # the second: of a fold, which its seed predicts
    prediction = next((place for place in places if place.is_file()), None)
    named = list(_named_inputs(checkpoint))
    detectors = [beside / "detector", *(path for path in named if holds_detector(path))]
    found = _find("detector", card.detector_digest, checkpoint, detector, detectors, _detector_digest)
    found_pose = None
    if card.pose_digest is not None:
        poses = [path for path in (*sorted(beside.glob("pose/*")), *named) if path.is_file()]
        found_pose = _find("pose", card.pose_digest, checkpoint, pose, poses, _pose_digest)
    return Parts(checkpoint, found, found_pose, prediction)


class _Flavor(BaseModel):
    data: RelativeName  # folder


class _Flavors(BaseModel):
    python_function: _Flavor


class _MLmodel(BaseModel):
    """The fields of an exported model's description that are read."""

    flavors: _Flavors


def exported_run(folder: Path) -> Path:
    """The folder itself; of an MLflow model, the folder of the run in it."""
    if not (model := folder / "MLmodel").is_file():
        return folder
    content = parse(read_text(model, "Export the run again"), str(model))
    return folder / check_form(str(model), content, _MLmodel).flavors.python_function.data


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
    for given in inputs_of(checkpoint):
        yield given
        for made in [*given.glob("run.json"), *sorted(given.glob("*/run.json"))]:
            yield from inputs_of(made.parent)


def inputs_of(folder: Path) -> list[Path]:
    """The inputs of a stage that still exist: paths of run.json, relative to the folder in which it was run."""
    try:
        names = list(json.loads((folder / "run.json").read_text())["inputs"])
    except (OSError, ValueError, KeyError, TypeError):  # TypeError: valid JSON, but not a stage's
        return []
    places = (Path(), *folder.resolve().parents)
    return [path for name in names for place in places if (path := place / name).exists()]
