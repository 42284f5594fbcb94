"""Profile `paper_2026` as a whole, but small: its runs and its table, on the drawn world.

Detectors are a tiny DETR that is trained here, and a tiny RT-DETRv2 and D-FINE in folders of `save_pretrained`. The
text encoder is a tiny SigLIP 2. Weights are random: the numbers mean nothing.
"""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rmlr.world.files import HICO_OBJECTS

from . import tiny_encoders
from .stages.test_other_detectors import teach_two_classes
from .tiny_families import save_family

ROOT = Path(__file__).parents[1]
PROFILE = "paper_2026"
COLUMNS = ("method", "detector", "text")
OF_TINY = (
    "world",
    "detector_seed",
    "vcoco",
    "hicodet",
    "network",
    "alignment",
    "losses",
    "train",
    "prediction",
    "cost",
)

pytest.importorskip("snakemake")


def twin(content: dict, weights: Path) -> None:
    """The profile with the sizes and the data of profile `tiny`, and with local detectors and a local encoder."""
    chosen, tiny = content["profiles"][PROFILE], content["profiles"]["tiny"]
    chosen |= {name: tiny[name] for name in OF_TINY}
    chosen["features"] = tiny["features"] | {"map": chosen["features"]["map"]}
    detectors = {"base/vcoco": tiny["detectors"]["base"], "base/hicodet": tiny["detectors"]["base"]}
    for name, entry in chosen["detectors"].items():
        if not name.startswith("base/"):
            detectors[name] = entry | {"weights": str(weights / name.partition("/")[0]), "revision": None}
    chosen["detectors"] = detectors
    siglip = chosen["encoders"]["siglip"] | {"model": str(weights / "siglip"), "revision": None}
    chosen["encoders"] = {"main": tiny["encoders"]["main"], "siglip": siglip}


@pytest.mark.slow
def test_each_detector_and_each_text_encoder_has_its_row(tmp_path, monkeypatch):
    study, weights = tmp_path / "study", tmp_path / "weights"
    study.mkdir()
    for name in ("rmlr", "workflow", "paper", "profiles", "examples"):
        shutil.copytree(ROOT / name, study / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "Snakefile", study / "Snakefile")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    twin(content, weights)
    (study / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(study), "RMLR_TRACKING": "off"}

    def snakemake(target: str) -> None:
        command = ["snakemake", "--cores", "2", "--config", f"profile={PROFILE}", "--", target]
        done = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, timeout=2400)
        logs = sorted((study / f"results/{PROFILE}/logs").rglob("*.txt"), key=lambda log: log.stat().st_mtime)
        assert done.returncode == 0, done.stdout + done.stderr + (logs[-1].read_text() if logs else "")

    verbs_and_objects = "abcdefghijklmnopqrstuvwxyz"
    monkeypatch.setattr(tiny_encoders, "WORDS", [*tiny_encoders.WORDS, *HICO_OBJECTS, verbs_and_objects])
    tiny_encoders.save_other(weights / "siglip", "siglip2")
    for name, kind in {"rtdetr": "rt_detr_v2", "dfine": "d_fine"}.items():
        save_family(kind, weights / name, HICO_OBJECTS)
    snakemake(f"results/{PROFILE}/world/draw/run.json")
    photos = sorted((study / f"results/{PROFILE}/world/draw/images").rglob("*.jpg"))
    for name in ("rtdetr", "dfine"):
        teach_two_classes(weights / name, HICO_OBJECTS, photos[:4])
    snakemake(f"results/{PROFILE}/today.csv")
    with (study / f"results/{PROFILE}/today.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = [row["row"] for row in content["tables"]["today"]["rows"]]
    assert [{name: row[name] for name in COLUMNS} for row in rows] == wanted
    for row in rows:
        assert all(float(row[name]) >= 0 for name in ("vcoco_ap_role_1", "hicodet_default_full")), row
