"""rmlr export: one folder that works anywhere, by MLflow or without it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from rmlr.commands.export import export
from rmlr.learning.inference import load
from rmlr.study.store import tracking_uri

pytestmark = pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed")

SERVE = """
import base64, json, sys
import mlflow.pyfunc
import pandas as pd
from pathlib import Path
served = mlflow.pyfunc.load_model(sys.argv[1])
import rmlr
picture = Path(sys.argv[2]).read_bytes()
answer = served.predict(pd.DataFrame({"image": [picture, picture]}), params={"min_score": 0.0})
usual = served.predict(pd.DataFrame({"image": [picture]}))
nothing = served.predict(pd.DataFrame({"image": pd.Series([], dtype=object)}))
try:
    served.predict(pd.DataFrame({"image": [picture, b"no picture"]}))
    said = ""
except ValueError as error:
    said = str(error)
print(json.dumps({"code": rmlr.__file__, "answer": answer.to_dict("list"), "usual": usual.score.tolist(),
                  "nothing": nothing.shape, "said": said}))
"""


def python(*arguments, folder: Path, **variables) -> str:
    """A fresh process, away from the repository's folder."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"} | variables
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(photo_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    python("-m", "rmlr", "export", "--run", photo_run.run, "--out", folder / "model", folder=folder)
    return folder / "model"


def test_an_exported_run_says_the_same_without_anything_of_the_study(photo_run, exported):
    model = load(exported)
    assert Path(model.detector.detr.name_or_path).is_relative_to(exported)
    assert model(photo_run.photos[0]) == load(photo_run.run)(photo_run.photos[0])


def test_mlflow_serves_it_in_a_fresh_process_from_the_code_that_it_carries(photo_run, exported, tmp_path):
    found = json.loads(python("-c", SERVE, exported, photo_run.photos[0], folder=tmp_path).splitlines()[-1])
    assert Path(found["code"]).is_relative_to(exported)
    triplets = load(photo_run.run)(photo_run.photos[0], min_score=0.0)
    expected = [{"row": row} | triplet.row() for row in (0, 1) for triplet in triplets]
    assert list(found["answer"]) == list(expected[0])
    for name, values in found["answer"].items():
        wanted = [line[name] for line in expected]
        assert values == (pytest.approx(wanted, rel=1e-4, abs=1e-4) if isinstance(wanted[0], float) else wanted)
    assert len(found["usual"]) == sum(triplet.score >= 0.1 for triplet in triplets)
    assert found["nothing"] == [0, len(expected[0])]
    assert found["said"].startswith("row 1: not the bytes of a readable image file")


def test_what_it_needs_is_named_by_version_and_by_no_address(exported):
    needed = (exported / "requirements.txt").read_text()
    assert {"torch", "transformers", "mlflow"} <= {line.partition("==")[0] for line in needed.splitlines()}
    assert "+" not in needed
    written = (path.read_text() for path in exported.iterdir() if path.is_file())
    assert not any("://" in text or str(Path.cwd()) in text for text in written)


@pytest.mark.slow  # two more processes
def test_the_registry_holds_it(photo_run, exported, tmp_path):
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'registry.db'}"}
    flags = ("--run", exported, "--out", tmp_path / "again", "--register", "people")
    python("-m", "rmlr", "export", *flags, folder=tmp_path, **store)
    output = python("-c", SERVE, "models:/people/1", photo_run.photos[0], folder=tmp_path, **store)
    answer = json.loads(output.splitlines()[-1])["answer"]
    triplets = load(photo_run.run)(photo_run.photos[0], min_score=0.0)
    assert answer["phrase"] == [triplet.phrase for triplet in triplets] * 2


def test_a_folder_that_exists_is_left_alone(photo_run, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        export(run=photo_run.run, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mlflow_is_told_to_report_to_nobody(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")  # so that what is set below ends with this test
        monkeypatch.delenv(name)
    assert tracking_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["DO_NOT_TRACK"]) == ("true", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking_uri() == "http://localhost:5000"
