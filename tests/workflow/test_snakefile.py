"""The Snakefile and params.yaml as shipped: without a target, every run and table of a profile is planned."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rmlr.study.plan import Study

ROOT = Path(__file__).parents[2]
PARTS = ("rmlr", "workflow", "paper", "profiles", "examples", "Snakefile", "params.yaml")

pytest.importorskip("snakemake")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize(
    ("profile", "tables"),
    [("tiny", set()), ("photos", {"real_photos"}), ("paper_2026", {"today"}), ("words", {"near_synonyms"})],
)
def test_all_of_a_profile_is_planned_with_the_tables_that_it_has_runs_for(checkout, profile, tables):
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--config", f"profile={profile}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(checkout), "RMLR_TRACKING": "off"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(line.split() for line in done.stdout.partition("\njob ")[2].splitlines() if len(line.split()) == 2)
    study = Study.load(ROOT / "params.yaml")
    chosen, runs = study.profiles[profile], study.runs_in(profile)
    assert int(counts["evaluate"]) == len(runs) * len(chosen.seeds)
    if chosen.together > 1:
        assert any(name.startswith("together_") for name in counts)
    else:
        assert int(counts["train"]) == int(counts["evaluate"]) * len(chosen.fold_names)
    copied = {name.removeprefix("copy_") for name in counts if name.startswith("copy_")}
    assert {name for name in copied if not name.startswith("table")} == tables | {"statement"}
