"""Profile `photos_centernet` on the first of V-COCO's photos in COCO val2017: folds, from the annotations to scores."""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from rmlr.data.folds import fold_of
from rmlr.data.records import load_annotations
from rmlr.detections.triplets import load_triplets
from rmlr.stages.detector import detector
from rmlr.stages.evaluate import evaluate
from rmlr.stages.features import features
from rmlr.stages.predict import predict
from rmlr.stages.prepare import prepare
from rmlr.stages.text import text
from rmlr.stages.train import train
from rmlr.study.plan import Study
from rmlr.study.section import Section

ROOT = Path(__file__).parents[1]
PROFILE, DOZEN, FOLDS = "photos_centernet", 12, 2
RUN = "runs/photos/rmlr/0"


def raw_folder(real_vcoco: Path, folder: Path, count: int) -> Path:
    """A raw folder of V-COCO's whole annotations, of the first `count` photos alone, and of the detector's files."""
    weights = real_vcoco.parent / "centernet"
    if not weights.is_dir():
        pytest.skip(f"CenterNet's files are not at {weights}")
    photos = [one for one in json.loads((real_vcoco / "photos.json").read_text()) if one["val2017"]][:count]
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "centernet").symlink_to(weights)
    for name in ("coco", "vcoco"):
        (folder / name).symlink_to(real_vcoco / name)
    for photo in photos:
        place = folder / "images" / photo["file"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(real_vcoco / "images" / photo["file"])
    return folder


def fewer(content: dict) -> None:
    """The profile in `FOLDS` folds of those photos that are there, one seed, two epochs, random vectors as text."""
    chosen = content["profiles"][PROFILE]
    chosen["vcoco"] = {"release": "vcoco-2015-rewritten", "unscored_roles": ["point instr"]}
    chosen["leave_out"], chosen["seeds"] = ["absent"], [0]
    chosen["folds"] = {**chosen["folds"], "count": FOLDS}
    chosen["features"] = {**chosen["features"], "selection": {**chosen["features"]["selection"], "min_score": 0.05}}
    chosen["train"] = {"vcoco": {**chosen["train"]["vcoco"], "epochs": 2, "batch_size": 4, "micro_batch_size": 4}}
    random = {name: {**chosen["encoders"]["random"], "model": f"random:{16 + n}"} for n, name in enumerate("ab")}
    chosen["encoders"] = {
        "main": random["a"],
        "random": random["b"],
        "shuffled": {**random["a"], "model": f"shuffled:{random['a']['model']}"},
    }


def test_a_dozen_photos_are_learnt_from_and_scored_in_folds(real_vcoco, tmp_path):
    raw = raw_folder(real_vcoco, tmp_path / "raw", DOZEN)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    fewer(content)
    nodes = Study.check(content, "params.yaml").nodes(PROFILE, defaultdict(lambda: "test"))

    def made(stage, name: str, **more) -> Path:
        node, out = nodes[name], tmp_path / name
        assert isinstance(node, Section)
        if "detector" in name:
            section = node.detector.model_copy(update={"weights": str(raw / "weights" / "centernet")})
            node = node.model_copy(update={"detector": section})
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".yaml").write_text(node.dump())
        stage(settings=out.with_suffix(".yaml"), out=out, **more)
        return out

    records, images = made(prepare, "vcoco/prepare", raw=raw), raw / "images"
    everyone = {image.image_id for image in load_annotations(records, "test")}
    assert len(everyone) == DOZEN
    found = made(detector, "detector/centernet", annotations=records, images=images, seed=0)
    where = {"annotations": records, "split": "test", "images": images, "detector": found}
    cache = made(features, "vcoco/features/base/test", **where).parent
    for fold in range(FOLDS):
        part = records / f"fold{fold}"
        learnt = {image.image_id for image in load_annotations(part, "train")}
        assert learnt == {image_id for image_id in everyone if fold_of(image_id, FOLDS) != fold}
        words = made(text, f"vcoco/text/main/fold{fold}", annotations=part)
        made(train, f"{RUN}/fold{fold}/train", annotations=part, features=cache, text=words, seed=0)
    scored = made(predict, f"{RUN}/predict", annotations=records, features=cache, weights=tmp_path / RUN)
    table = scored / "triplets.parquet"
    assert set(load_triplets(table).image_id) == everyone
    scores = made(evaluate, f"{RUN}/evaluate", annotations=records, triplets=table)
    assert 0 < json.loads((scores / "metrics.json").read_text())["vcoco_ap_role_1"] < 1


@pytest.mark.slow
def test_every_row_is_trained_on_a_few_photos_by_one_command(real_vcoco, tmp_path):
    pytest.importorskip("snakemake")
    raw, study = raw_folder(real_vcoco, tmp_path / "raw", 4 * DOZEN), tmp_path / "study"
    study.mkdir()
    for name in ("rmlr", "workflow", "paper", "profiles", "examples"):
        shutil.copytree(ROOT / name, study / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "Snakefile", study / "Snakefile")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    fewer(content)
    (study / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (study / "data" / "raw" / "weights").mkdir(parents=True)
    (study / "data" / "raw" / "weights" / "centernet").symlink_to(raw / "weights" / "centernet")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(study), "RMLR_TRACKING": "off"}
    figures = [name for name in content["figures"] if name.startswith("real_photos")]
    wanted = [f"results/{PROFILE}/figures/{name}/figure.png" for name in figures]
    command = ["snakemake", "--cores", "2", "--config", f"profile={PROFILE}", f"raw={raw}", "--"]
    command += [f"results/{PROFILE}/real_photos.md", *wanted]
    done = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = content["tables"]["real_photos"]["rows"]
    lines = (study / f"results/{PROFILE}/real_photos.md").read_text().splitlines()
    for row in rows:
        (line,) = (line for line in lines if line.startswith(f"| {row['row']['variant']} "))
        assert any(float(cell) > 0 for cell in line.split("|") if cell.strip().replace(".", "").isdigit()), line
    assert all((study / name).stat().st_size > 10_000 for name in wanted)
