"""What a researcher sees through DVC: metrics, plots, and the picture of the milestones in docs/pipeline.md."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rmlr.study.params import PAPER_TABLES
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[1]
STUDY = Study.load(ROOT / "params.yaml")
BARS = ("Table 2: AP_role, scenario 1", "Table 2: AP_role, scenario 2")
CURVES = "Table 2: training loss"

apply_overrides = pytest.importorskip("dvc.utils.hydra").apply_overrides


def runs_of_table2() -> list[str]:
    table = STUDY.tables["table2"]
    return [run for row in [*table.rows, *table.controls] for run in row.runs]


def flat(tree, above: str = "") -> dict:
    """Every leaf of a tree by its dotted path."""
    if not isinstance(tree, dict):
        return {above: tree}
    return {
        path: leaf for key, below in tree.items() for path, leaf in flat(below, f"{above}.{key}".strip(".")).items()
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """This study as DVC knows it, with a few results as the stages write them; and a way to call DVC there."""
    folder = tmp_path_factory.mktemp("views")
    for name in ("dvc.yaml", "params.yaml", ".dvc/config", ".dvc/plots/rows.json", ".dvc/plots/curves.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    results = folder / "results" / STUDY.profile
    for run in runs_of_table2():
        metrics = results / "tables" / "table2" / "metrics" / f"{run}.json"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps({"vcoco_ap_role_1": 0.25, "vcoco_ap_role_2": 0.5}))
        curves = results / "runs" / run / "0" / "train" / "curves.csv"
        curves.parent.mkdir(parents=True)
        curves.write_text("epoch,loss\n1,3.0\n2,2.0\n")
    (folder / "results/table2.csv").write_text(
        "variant,paper_vcoco_ap_role_1,vcoco_ap_role_1,paper_vcoco_ap_role_2,vcoco_ap_role_2\n"
        "RmLR,63.78,47.5,69.81,49.5\ncontrol: boxes only,,30.9,,32.7\n"
    )
    who = {f"GIT_{role}_{key}": "tester" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def call(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **who, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("git", "init", "-q", ".")
    call("git", "add", "-A")
    call("git", "commit", "-q", "-m", "the study")
    return folder, call


def test_every_table_has_its_metrics_and_every_run_of_table_2_its_curve():
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert {f"results/${{profile}}/tables/{table}/metrics" for table in PAPER_TABLES} <= set(described["metrics"])
    plots = {name: plot for entry in described["plots"] for name, plot in entry.items()}
    wanted = [f"results/${{profile}}/runs/{run}/0/train/curves.csv" for run in runs_of_table2()]
    assert sorted(plots[CURVES]["y"]) == sorted(wanted)


def test_metrics_are_a_row_for_each_run_and_a_change_is_seen_in_that_run_alone(checkout):
    folder, dvc = checkout
    shown = dvc("dvc", "metrics", "show")
    head, *rows = [line.split() for line in shown.splitlines() if line.strip()]
    assert head == ["Path", "vcoco_ap_role_1", "vcoco_ap_role_2"]
    assert sum(row[1:] == ["0.25", "0.5"] for row in rows) == len(runs_of_table2())
    path = f"results/{STUDY.profile}/tables/table2/metrics/table2/plain.json"
    before = (folder / path).read_text()
    (folder / path).write_text(json.dumps({"vcoco_ap_role_1": 0.375, "vcoco_ap_role_2": 0.5}))
    changed = json.loads(dvc("dvc", "metrics", "diff", "--json"))
    (folder / path).write_text(before)
    assert changed == {path: {"vcoco_ap_role_1": {"old": 0.25, "new": 0.375, "diff": 0.125}}}


def test_plots_are_table_2_as_bars_and_its_runs_curves(checkout):
    _, dvc = checkout
    shown = json.loads(dvc("dvc", "plots", "show", "--json"))
    assert not shown.get("errors")
    content = {
        name: json.loads(plot["content"]) if isinstance(plot["content"], str) else plot["content"]
        for name, [plot] in shown["data"].items()
    }
    assert set(content) == {*BARS, CURVES}
    assert "<DVC_METRIC" not in json.dumps(content), "every anchor of our templates is known to this version of DVC"
    assert [row["variant"] for row in content[BARS[0]]["data"]["values"]] == ["RmLR", "control: boxes only"]
    curves = content[CURVES]["data"]["values"]
    assert len(curves) == 2 * len(runs_of_table2())
    # the template takes a run's name from the file's path, of which DVC leaves out what all have in common
    names = {row["filename"].split("/")[-4] for row in curves}
    assert names == {run.split("/")[1] for run in runs_of_table2()}


def test_every_number_is_in_one_place_so_that_an_experiment_can_set_it():
    """Where two sections are one object, DVC writes the new value and then the old one again."""
    places: dict[int, list[str]] = {}

    def walk(tree, path: str) -> None:
        if isinstance(tree, dict) and tree:
            places.setdefault(id(tree), []).append(path)
            for key, below in tree.items():
                walk(below, f"{path}.{key}".strip("."))

    content = yaml.safe_load((ROOT / "params.yaml").read_text())  # an alias gives the same object again
    walk(content, "")
    twice = [found for found in places.values() if len(found) > 1]
    assert [found for found in twice if not all(path.startswith("profiles.paper") for path in found)] == []


@pytest.mark.parametrize(
    "number", ["demo.losses.hoi", "paper.train.vcoco.epochs", "photos_centernet.network.ire.layers"]
)
def test_a_number_set_for_an_experiment_is_changed_there_and_nowhere_else(number, tmp_path):
    params = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", params)
    apply_overrides(str(params), [f"profiles.{number}=77"])  # what `dvc exp run -S` does first
    before, after = flat(STUDY.model_dump()), flat(Study.load(params).model_dump())
    assert {key for key, value in after.items() if before[key] != value} == {f"profiles.{number}"}


def test_the_overrides_of_one_run_are_set_by_a_plus(tmp_path):
    params = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", params)
    apply_overrides(str(params), ["+runs.table2.plain.overrides={train.epochs: 3}"])
    assert Study.load(params).run("table2/plain", "here").overrides == {"train.epochs": 3}


def test_the_page_on_the_pipeline_shows_the_milestones_of_dvc(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "workflow")
    dag = importlib.import_module("dag")
    block = dag.picture()
    for milestone in ("data", "runs@shared", "table2"):
        assert f'["{milestone}"]' in block
    page = (ROOT / "docs/pipeline.md").read_text()
    assert dag.replaced(page, block) == page, "dvc.yaml has changed: `python workflow/dag.py` draws it anew"
