"""Folds with the real Snakefile: a drawn world, of which every picture of test is learnt from and scored."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rmlr.data.folds import fold_of
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.detections.triplets import load_triplets
from rmlr.learning.comparison import compare

ROOT = Path(__file__).parents[1]
FOLDS, RUN = 3, "results/tiny/runs/shared/rmlr/0"

pytest.importorskip("snakemake")
pytestmark = pytest.mark.slow


def small(content: dict) -> None:
    """Two runs of the tiny profile, whose detector learns from train and whose runs learn from folds of test."""
    content["profile"] = "tiny"
    content["runs"] = {"shared": {"rmlr": content["runs"]["shared"]["rmlr"]},
                       "table2": {"boxes": content["runs"]["table2"]["boxes"]}}  # fmt: skip
    table = content["tables"]["table2"]
    table["rows"] = [row for row in table["rows"] if row["runs"] == ["shared/rmlr"]]
    table["claims"] = []
    content["tables"], content["figures"] = {"table2": table}, {}
    content["profiles"] = {name: content["profiles"][name] for name in ("tiny", "paper")}  # paper: sizes of Table 4
    tiny = content["profiles"]["tiny"]
    tiny["folds"] = {"count": FOLDS, "of": "test", "validation": 0.3}
    tiny["world"]["test"] = 20


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The folder of a study in folds, made."""
    folder = tmp_path_factory.mktemp("folds") / "study"
    folder.mkdir()
    for name in ("rmlr", "workflow", "paper", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "Snakefile", folder / "Snakefile")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    small(content)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    snakemake(folder, "results/table2.md")
    return folder


def snakemake(folder: Path, *more: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "RMLR_TRACKING": "off"}
    command = ["snakemake", "--cores", "2", "--", *more]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_every_picture_is_predicted_once_by_the_network_that_has_not_learnt_from_it(study):
    data = study / "results/tiny/vcoco/prepare"
    everyone = {image.image_id for image in load_annotations(data, "test")}
    assert len(everyone) == 20
    for fold in range(FOLDS):
        tested = {image.image_id for image in load_annotations(data / f"fold{fold}", "test")}
        assert tested == {image_id for image_id in everyone if fold_of(image_id, FOLDS) == fold}
        about = json.loads((study / RUN / f"fold{fold}/train/run.json").read_text())
        assert f"results/tiny/vcoco/prepare/fold{fold}" in about["inputs"]
        learnt = {image.image_id for image in load_annotations(data / f"fold{fold}", "trainval")}
        assert learnt == everyone - tested
        card = json.loads((study / RUN / f"fold{fold}/train/checkpoint.json").read_text())
        assert card["vocabulary"]["hois"] == [list(hoi) for hoi in load_vocabulary(data / f"fold{fold}").hois]
    table = load_triplets(study / RUN / "predict/triplets.parquet")
    assert set(table.image_id) <= everyone
    assert {fold_of(int(image_id), FOLDS) for image_id in table.image_id} == set(range(FOLDS))
    for fold in range(FOLDS):
        in_fold = [fold_of(int(image_id), FOLDS) == fold for image_id in table.image_id]
        known = load_vocabulary(data / f"fold{fold}").is_valid_verb
        assert known[table.object_category[in_fold], table.verb[in_fold]].all(), "the mask is the fold's own"


def test_scores_are_over_all_pictures_and_tables_and_compare_say_so(study, monkeypatch):
    monkeypatch.chdir(study)
    about = json.loads((study / RUN / "evaluate/run.json").read_text())
    assert next(iter(about["inputs"])) == "results/tiny/vcoco/prepare"
    assert f"each trained once for each of {FOLDS} folds" in (study / "results/table2.md").read_text()
    compared = compare(RUN, "results/tiny/runs/table2/boxes/0", samples=100)
    assert len(compared.benchmark.images) == 20
    assert compared.headlines.keys() == {"vcoco_ap_role_1", "vcoco_ap_role_2"}


def test_a_second_call_makes_nothing_and_a_lost_fold_is_trained_alone(study):
    assert "Nothing to be done" in snakemake(study, "results/table2.md")
    shutil.rmtree(study / RUN / "fold1/train")
    before = {fold: (study / RUN / f"fold{fold}/train/run.json").stat().st_mtime_ns for fold in (0, 2)}
    snakemake(study, "results/table2.md")
    assert (study / RUN / "fold1/train/weights.safetensors").is_file()
    assert before == {fold: (study / RUN / f"fold{fold}/train/run.json").stat().st_mtime_ns for fold in (0, 2)}
