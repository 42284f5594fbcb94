"""rmlr export: one folder to share, which a path or the hub gives, and which MLflow serves."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from rmlr.commands.export import export
from rmlr.learning.inference import load
from rmlr.learning.parts import SHARED, find_run
from rmlr.model.checkpoint import load_card
from rmlr.study.store import tracking_uri

needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed")
COMMIT = "0123456789abcdef" * 2 + "01234567"

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
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(photo_run.run, out=folder, license="mit")
    return folder


@pytest.fixture(scope="module")
def served(photo_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    flags = ("--out", folder / "model", "--as-mlflow")
    python("-m", "rmlr", "export", photo_run.run, *flags, folder=folder)
    return folder / "model"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ---- a folder to share


def test_an_exported_run_says_the_same_without_anything_of_the_study(photo_run, exported):
    model = load(exported)
    assert Path(model.detector.adapter.detr.name_or_path).is_relative_to(exported)
    assert model(photo_run.photos[0]) == load(photo_run.run)(photo_run.photos[0])


def test_it_holds_weights_settings_and_a_model_card_and_neither_code_nor_pickles(exported):
    found = files(exported)
    assert found <= {*SHARED, "README.md"}
    assert {Path(name).suffix for name in found} == {".json", ".safetensors", ".yaml", ".md"}
    assert not any(str(Path.cwd()) in (exported / name).read_text() for name in found if "safetensors" not in name)


def test_the_model_card_tells_the_hub_and_people_what_it_is(photo_run, tmp_path):
    run = Path(shutil.copytree(photo_run.run, tmp_path / "run"))
    (run / "evaluate").mkdir()
    (run / "evaluate" / "metrics.json").write_text('{"vcoco_ap_role_1": 0.25, "vcoco_ap_role_2": null, "other": 1.0}')
    export(run, out=tmp_path / "model", license="mit")
    _, about, text = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(about)
    assert (about["license"], about["library_name"]) == ("mit", "rmlr")
    (result,) = about["model-index"][0]["results"]
    assert result["dataset"] == {"type": "vcoco", "name": "V-COCO test"}
    assert result["metrics"] == [{"type": "vcoco_ap_role_1", "value": 0.25}]
    assert "| vcoco_ap_role_1 | 25.00% |" in text
    assert "pictures drawn by a program" in text  # the run learnt from the drawn world
    assert load_card(run / "train").detector_digest in text
    digest = hashlib.sha256((tmp_path / "model" / "train" / "weights.safetensors").read_bytes()).hexdigest()
    assert f"| `train/weights.safetensors` | `{digest}` |" in text


def test_metrics_that_are_damaged_are_named(photo_run, tmp_path):
    run = Path(shutil.copytree(photo_run.run, tmp_path / "run"))
    (run / "evaluate").mkdir()
    (run / "evaluate" / "metrics.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"metrics\.json: not what `rmlr evaluate` writes"):
        export(run, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_without_its_detector_it_takes_the_readers(photo_run, tmp_path):
    export(photo_run.run, out=tmp_path / "model", without_detector=True)
    assert not (tmp_path / "model" / "detector").exists()
    assert "The detector is not in the folder" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(ValueError, match=r"the detector network .* was not found"):
        load(tmp_path / "model")
    model = load(tmp_path / "model", detector=photo_run.detector)
    assert model(photo_run.photos[0]) == load(photo_run.run)(photo_run.photos[0])
    with pytest.raises(ValueError, match="needs its detector"):
        export(photo_run.run, out=tmp_path / "other", without_detector=True, register="people")


# ---- from the hub


def cache(exported: Path, home: Path) -> Path:
    """A cache of the hub's layout that has the exported run as a model."""
    folder = home / "models--me--people"
    shutil.copytree(exported, folder / "snapshots" / COMMIT)
    return home


def test_a_model_of_the_hub_is_taken_from_its_cache(photo_run, exported, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache(exported, tmp_path)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = load("me/people", revision=COMMIT)
    assert model(photo_run.photos[0]) == load(photo_run.run)(photo_run.photos[0])
    said = rf"me/others: not a folder, and not available .*hf download me/others --revision {COMMIT}"
    with pytest.raises(ValueError, match=said):
        load("me/others", revision=COMMIT)


def test_a_model_of_the_hub_is_downloaded_at_its_commit_and_only_what_is_read(photo_run, exported, tmp_path, server):
    repository = Path(shutil.copytree(exported, tmp_path / "people"))
    (repository / "pytorch_model.bin").write_bytes(b"a pickle")
    tree = []
    for name in sorted(files(repository)):
        content = (repository / name).read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        tree.append({"type": "file", "path": name, "size": len(content), "oid": blob})
        headers = {"X-Repo-Commit": COMMIT}
        server.put(f"/me/people/resolve/{COMMIT}/{name}", content, headers=headers, etag=f'"{blob}"')
    listed = {"id": "me/people", "sha": COMMIT, "siblings": [{"rfilename": entry["path"]} for entry in tree]}
    for path, content in ((f"tree/{COMMIT}", tree), (f"revision/{COMMIT}", listed)):  # of newer and older clients
        headers = {"Content-Type": "application/json"}
        server.put(f"/api/models/me/people/{path}", json.dumps(content).encode(), headers=headers)
    home = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    given = ("--run", "me/people", "--revision", COMMIT, "--out", tmp_path / "out")
    flags = ("--min-score", "0", "--batch-size", "1", "--device", "cpu")
    python("-m", "rmlr", "photo", photo_run.photos[0], *given, *flags, folder=tmp_path, **home)
    assert not any("pytorch_model" in path for _, path, _ in server.asked)
    (record,) = json.loads((tmp_path / "out" / "triplets.json").read_text())
    assert len(record["triplets"]) == len(load(photo_run.run)(photo_run.photos[0], min_score=0.0))


@pytest.mark.parametrize("revision", [None, "main", "0123abc"])
def test_a_model_of_the_hub_must_be_pinned_to_a_commit(revision):
    with pytest.raises(ValueError, match=r"me/people: no such folder.*pin its commit: .*40 hexadecimal digits"):
        find_run("me/people", revision)


def test_a_folder_comes_before_the_hub_and_has_no_revision(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(exported.parent.parent)
    name = f"{exported.parent.name}/{exported.name}"
    assert find_run(name) == Path(name)
    with pytest.raises(ValueError, match="needs a model of the hub"):
        find_run(name, COMMIT)
    with pytest.raises(ValueError, match=r"a/b/c: no such folder"):
        find_run("a/b/c", COMMIT)


# ---- a model of MLflow


@needs_mlflow
def test_mlflow_serves_it_in_a_fresh_process_from_the_code_that_it_carries(photo_run, served, tmp_path):
    found = json.loads(python("-c", SERVE, served, photo_run.photos[0], folder=tmp_path).splitlines()[-1])
    assert Path(found["code"]).is_relative_to(served)
    triplets = load(photo_run.run)(photo_run.photos[0], min_score=0.0)
    expected = [{"row": row} | triplet.row() for row in (0, 1) for triplet in triplets]
    assert list(found["answer"]) == list(expected[0])
    for name, values in found["answer"].items():
        wanted = [line[name] for line in expected]
        assert values == (pytest.approx(wanted, rel=1e-4, abs=1e-4) if isinstance(wanted[0], float) else wanted)
    assert len(found["usual"]) == sum(triplet.score >= 0.1 for triplet in triplets)
    assert found["nothing"] == [0, len(expected[0])]
    assert found["said"].startswith("row 1: not the bytes of a readable image file")


@needs_mlflow
def test_what_it_needs_is_named_by_version_and_by_no_address(served):
    needed = (served / "requirements.txt").read_text()
    assert {"torch", "transformers", "mlflow"} <= {line.partition("==")[0] for line in needed.splitlines()}
    assert "+" not in needed
    written = (path.read_text() for path in served.iterdir() if path.is_file())
    assert not any("://" in text or str(Path.cwd()) in text for text in written)


@needs_mlflow
@pytest.mark.slow  # two more processes
def test_the_registry_holds_it(photo_run, tmp_path):
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'registry.db'}"}
    flags = ("--run", photo_run.run, "--out", tmp_path / "again", "--register", "people")
    python("-m", "rmlr", "export", *flags, folder=tmp_path, **store)
    output = python("-c", SERVE, "models:/people/1", photo_run.photos[0], folder=tmp_path, **store)
    answer = json.loads(output.splitlines()[-1])["answer"]
    triplets = load(photo_run.run)(photo_run.photos[0], min_score=0.0)
    assert load(tmp_path / "again")(photo_run.photos[0], min_score=0.0) == triplets
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
