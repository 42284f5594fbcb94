"""docs/python.md: its code runs on a tiny study, and shows every name of the library."""

import importlib
import re
from pathlib import Path

import pytest
from PIL import Image

import rmlr
from rmlr.stages.evaluate import evaluate

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text()


@pytest.fixture
def study(photo_run, tmp_path, monkeypatch) -> Path:
    """A folder in which results/demo is a tiny study."""
    demo = tmp_path / "results" / "demo"
    runs = ("runs/shared/rmlr/0", "runs/table2/wo_cl/0")
    places = {
        "world/draw": photo_run.root / "raw",
        "vcoco/prepare": photo_run.root / "results" / "prepare",
        **{f"{run}/{stage}": photo_run.run / stage for run in runs for stage in ("train", "predict")},
    }
    for place, target in places.items():
        (demo / place).parent.mkdir(parents=True, exist_ok=True)
        (demo / place).symlink_to(target)
    for run in runs:
        given = {"triplets": demo / run / "predict" / "triplets.parquet", "out": demo / run / "evaluate"}
        evaluate(annotations=demo / "vcoco/prepare", **given)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_of_the_page_runs(study, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "workflow")
    printed = importlib.import_module("walkthrough").run(PAGE, "python.md")
    assert len(printed) > 5
    said = "".join(printed)
    assert "AP_role scenario 1" in said
    assert "vcoco_ap_role_1" in said
    assert "A and B cannot be told apart; A - B is +0.00 points" in said
    for name in ("drawn.png", "trace.png"):
        with Image.open(study / name) as page:
            assert page.width >= 360


def test_the_page_names_all_that_can_be_imported():
    missing = [name for name in rmlr.__all__ if not re.search(rf"[`.]{name}[`(]", PAGE)]
    assert not missing
