"""Exports a trained run with its detector as one portable folder, which can be served and registered in MLflow.

The folder is an MLflow model (flavour `pyfunc`) whose data has the layout of a run's folder, including the detector. So
`rmlr photo --run FOLDER` and `rmlr.load` can read it, too, without MLflow.
"""

import importlib.metadata
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from rmlr.learning.answers import COLUMNS, MIN_SCORE
from rmlr.learning.inference import find_parts, load
from rmlr.model.checkpoint import CARD_FILE, WEIGHTS_FILE
from rmlr.model.detector import detector_files
from rmlr.study.folder import new_folder
from rmlr.study.output import claim_new
from rmlr.study.store import tracking_uri

INPUT = "image"  # the column of a request
ROW = "row"  # of the request, from 0: the first column of an answer


def export(
    *, run: Path, out: Path, detector: Path | None = None, pose: Path | None = None, register: str | None = None
) -> None:
    """Write a trained run and its detector as one folder, an MLflow model, that works on any machine.

    Its input is the bytes of image files, its output the table that `rmlr photo` writes. Requires MLflow.

    Args:
        run: a run's folder, such as results/demo/runs/shared/rmlr/0, with train/ and predict/.
        out: folder to write; must not exist.
        detector: folder of the detector that the run was trained with, if it is not found from the run.
        pose: weights file of the pose network, likewise, for a run that uses one.
        register: name for MLflow's registry, at MLFLOW_TRACKING_URI or in `mlflow.db`.
    """
    claim_new(out, "export")  # before any work
    uri = tracking_uri()  # before mlflow is imported, since it also turns telemetry off
    try:
        import mlflow.pyfunc
    except ImportError as error:
        raise ValueError("MLflow is not installed, but the export is an MLflow model. `pip install mlflow`") from error
    parts = find_parts(run, detector, pose)
    if parts.prediction is None:
        raise ValueError(f"{run}: has no predict/settings.yaml, which has the settings of scores. Run `rmlr predict`")
    load(run, detector=detector, pose=pose)  # errors are raised before anything is written
    with tempfile.TemporaryDirectory() as scratch:
        wanted = {f"train/{name}": parts.checkpoint / name for name in (CARD_FILE, WEIGHTS_FILE)}
        files = detector_files(parts.detector)
        wanted |= {f"detector/{path.relative_to(parts.detector)}": path for path in files}
        wanted |= {"predict/settings.yaml": parts.prediction}
        wanted |= {f"pose/{parts.pose.name}": parts.pose} if parts.pose else {}
        for name, path in wanted.items():
            link = Path(scratch, "run", name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        model: dict[str, Any] = {
            "loader_module": __name__,
            "data_path": str(Path(scratch, "run")),
            "code_paths": [str(Path(__file__).parents[1])],
            "pip_requirements": _requirements(),
            "signature": _signature(),
            "input_example": pd.DataFrame({INPUT: [_blank()]}),
        }
        with new_folder(out, "export") as folder:
            mlflow.pyfunc.save_model(path=str(folder), **model)
        if register is not None:
            mlflow.set_tracking_uri(uri)
            try:
                mlflow.pyfunc.log_model(name=register, registered_model_name=register, **model)
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
