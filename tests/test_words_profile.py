"""Profile `words` through Snakemake: a twin of it with a few small pictures and networks."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARTS = ("rmlr", "workflow", "paper", "profiles", "examples")
FIGURES = ("near_synonyms", "near_synonyms_rows", "near_synonyms_confusions", "near_synonyms_text")
TARGETS = ["results/words/near_synonyms.md", *(f"results/words/figures/{name}/figure.png" for name in FIGURES)]

pytest.importorskip("snakemake")


def twin(content: dict) -> None:
    """The profile with profile tiny's sizes, 56 pictures, two seeds, and random vectors as text."""
    chosen, tiny = content["profiles"]["words"], content["profiles"]["tiny"]
    words = {"head": 2, "medium": 1, "rare": [1, 1], "val": 1, "test": 1, "idle": 0.1}
    chosen["world"] = {**chosen["world"], "train": 24, "val": 16, "test": 16, "words": words}
    chosen["seeds"] = [0, 1]
    for name in ("features", "network", "alignment", "prediction"):
        chosen[name] = tiny[name]
    chosen["detectors"] = {"base": tiny["detectors"]["base"]}
    chosen["train"] = {"vcoco": {**tiny["train"]["vcoco"], "split": "train"}}
    for name, encoder in chosen["encoders"].items():
        prefix, _, _ = encoder["model"].partition("package:")
        if name != "random":
            chosen["encoders"][name] = {**encoder, "model": f"{prefix}random:16", "sha256": None}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A checkout whose profile `words` is the twin, and a way to call Snakemake there."""
    folder = tmp_path_factory.mktemp("study")
    for name in PARTS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "Snakefile", folder / "Snakefile")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    twin(content)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "RMLR_TRACKING": "off"}

    def call(*more: str) -> str:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "profile=words", *more]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return folder, call


def test_one_command_plans_every_run_and_the_world_is_drawn_and_read(study):
    folder, snakemake = study
    planned = snakemake("-n", "--", *TARGETS).partition("\njob ")[2]
    counts = dict(line.split() for line in planned.splitlines() if len(line.split()) == 2)
    assert (counts["train"], counts["predict"], counts["evaluate"]) == ("14", "14", "14")
    assert (counts["text"], counts["detector"], counts["draw"]) == ("4", "1", "1")
    snakemake("--", "results/words/vcoco/prepare/run.json")
    vocabulary = json.loads((folder / "results/words/vcoco/prepare/vocabulary.json").read_text())
    assert (len(vocabulary["verbs"]), len(vocabulary["objects"])) == (24, 21)
    assert not (folder / "results/words/hicodet").exists()


@pytest.mark.slow
def test_the_twin_is_made_to_its_table_and_figures(study):
    folder, snakemake = study
    snakemake("--", *TARGETS)
    lines = (folder / "results/words/near_synonyms.md").read_text().splitlines()
    assert sum("±" in line and line.startswith("| ") for line in lines) == 7
    with (folder / "results/words/figures/near_synonyms_rows/figure.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {
        *("all verbs", "below 200 rows", "0 to 19 rows", "20 to 199 rows", "200 rows and more", "unseen combinations")
    }
    assert {(row["a"], row["b"]) for row in rows} >= {("RmLR", "w/o CL"), ("RmLR", "Permuted names")}
    assert all((folder / name).stat().st_size > 5_000 for name in TARGETS[1:])
