"""Exports a trained run with its detector as one portable folder, which can be shared, served and registered in MLflow.

The folder, or the data of an MLflow model (flavour `pyfunc`), has the layout of a run's folder, including the detector.
So `rmlr photo --run FOLDER` and `rmlr.load` can read either, without MLflow.
"""

import importlib.metadata
import io
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from rmlr.learning.answers import COLUMNS, MIN_SCORE
from rmlr.learning.inference import load
from rmlr.learning.model_card import model_card
from rmlr.learning.parts import POSE_FILE, PREDICTION, SHARED, Parts, exported_run, find_parts
from rmlr.model.checkpoint import WEIGHTS_FILE, load_card, save_card
from rmlr.model.detector import detector_files
from rmlr.model.pose import pose_digest, read_pose
from rmlr.study.files import write_whole
from rmlr.study.folder import new_folder
from rmlr.study.output import claim_new
from rmlr.study.store import tracking_uri
from rmlr.study.tensors import save_tensors

INPUT = "image"  # the column of a request
ROW = "row"  # of the request, from 0: the first column of an answer


def export(
    run: Path,
    *,
    out: Path,
    license: str = "unknown",
    detector: Path | None = None,
    pose: Path | None = None,
    without_detector: bool = False,
    as_mlflow: bool = False,
    register: str | None = None,
) -> None:
    """Write a trained run and its detector as one folder that works on any machine: to share, or to serve.

    The folder has the weights as safetensors, the settings and the vocabulary, and a model card, README.md: no pickle
    and no code. `rmlr.load` and `rmlr photo --run` take it, as a path or from the Hugging Face hub.

    Args:
        run: a run's folder, such as results/demo/runs/shared/rmlr/0, with train/ and predict/.
        out: folder to write; must not exist.
        license: licence of the weights for the model card, as the hub abbreviates it, such as mit.
        detector: folder of the detector that the run was trained with, if it is not found from the run.
        pose: weights file of the pose network, likewise, for a run that uses one.
        without_detector: leave out the detector, for readers who have it; the model card has its digest.
        as_mlflow: write the folder as an MLflow model (flavour `pyfunc`), with this package's code. Its input is the
            bytes of image files, its output the table that `rmlr photo` writes. Requires MLflow.
        register: also register such a model in MLflow under this name, at MLFLOW_TRACKING_URI or in `mlflow.db`.
            Requires MLflow.
    """
    claim_new(out, "export")  # before any work
    uri = tracking_uri()  # before mlflow is imported, since it also turns telemetry off
    if as_mlflow or register is not None:
        if without_detector:
            raise ValueError("--without-detector: an MLflow model is served as it is, so it needs its detector")
        if find_spec("mlflow") is None:
            raise ValueError("--as-mlflow and --register need MLflow: pip install 'rmlr[study]'")
    parts = find_parts(run, detector, pose)
    if parts.prediction is None:
        raise ValueError(f"{run}: has no predict/settings.yaml, which has the settings of scores. Run `rmlr predict`")
    load(run, detector=detector, pose=pose)  # errors are raised before anything is written
    with new_folder(out, "export") as folder:
        data = folder.parent / "run" if as_mlflow else folder
        _write_run(data, parts, license, without_detector=without_detector, with_code=as_mlflow)
        if as_mlflow:
            import mlflow.pyfunc

            mlflow.pyfunc.save_model(path=str(folder), **_served(data))
    if register is not None:
        _register(exported_run(out), register, uri, out)


def _write_run(folder: Path, parts: Parts, license: str, *, without_detector: bool, with_code: bool) -> None:
    """Write the parts of a run in the layout that `find_parts` reads, with a model card."""
    assert parts.prediction is not None
    card = load_card(parts.checkpoint)
    files = {f"train/{WEIGHTS_FILE}": parts.checkpoint / WEIGHTS_FILE, PREDICTION: parts.prediction}
    if not without_detector:
        found = detector_files(parts.detector)
        files |= {f"detector/{path.relative_to(parts.detector)}": path for path in found}
    if not with_code and (more := sorted(files.keys() - set(SHARED))):
        raise ValueError(
            f"{parts.detector}: is a detector of your own class, with {', '.join(more)}: code is not shared. Leave it "
            "out (--without-detector) and publish the detector separately, or write an MLflow model (--as-mlflow)"
        )
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    if parts.pose is not None:
        (folder / POSE_FILE).parent.mkdir()
        save_tensors(folder / POSE_FILE, read_pose(parts.pose))
        card = card.model_copy(update={"pose_digest": pose_digest(folder / POSE_FILE)})
    save_card(folder / "train", card)
    write_whole(folder / "README.md", model_card(folder, card, parts.checkpoint, license))


def _served(run: Path) -> dict[str, Any]:
    """The arguments of MLflow's functions for an exported run."""
    return {
        "loader_module": __name__,
        "data_path": str(run),
        "code_paths": [str(Path(__file__).parents[1])],
        "pip_requirements": _requirements(),
        "signature": _signature(),
        "input_example": pd.DataFrame({INPUT: [_blank()]}),
    }


def _register(run: Path, name: str, uri: str, out: Path) -> None:
    import mlflow.pyfunc

    mlflow.set_tracking_uri(uri)
    try:
        mlflow.pyfunc.log_model(name=name, registered_model_name=name, **_served(run))
    except mlflow.MlflowException as error:
        raise ValueError(f"{uri}: did not take the model, which is in {out}: {error}") from error


def _signature():
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import DataType

    kinds = {int: DataType.long, float: DataType.double, str: DataType.string}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, INPUT)]),
        outputs=Schema([ColSpec(kinds[kind], name) for name, kind in ({ROW: int} | COLUMNS).items()]),
        params=ParamSchema([ParamSpec("min_score", DataType.double, MIN_SCORE)]),
    )


def _blank() -> bytes:
    """The smallest request: an empty picture."""
    content = io.BytesIO()
    Image.new("RGB", (64, 48), "white").save(content, format="PNG")
    return content.getvalue()


def _requirements() -> list[str]:
    """The installed versions of the package's requirements, without builds such as 2.9+cpu, which the user chooses."""
    needed = [line for line in importlib.metadata.requires("rmlr") or [] if "extra ==" not in line]
    names = sorted(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in [*needed, "mlflow"])
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


# ---- the interface for MLflow


class Served:
    """The model that MLflow calls: tables in, tables out."""

    def __init__(self, folder: Path) -> None:
        self._model = load(folder)

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The triplets of every picture, highest score first; `row` is the row of the request, from 0."""
        min_score = float((params or {}).get("min_score", MIN_SCORE))
        answers = self._model.many(
            (_picture(content, row) for row, content in enumerate(model_input[INPUT])), min_score=min_score
        )
        rows = [{ROW: row} | triplet.row() for row, triplets in enumerate(answers) for triplet in triplets]
        return pd.DataFrame(rows, columns=[ROW, *COLUMNS]).astype({ROW: int} | COLUMNS)


def _picture(content: bytes, row: int) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f"row {row}: not the bytes of a readable image file ({error})") from error
    return picture


def _load_pyfunc(path: str) -> Served:
    return Served(Path(path))
