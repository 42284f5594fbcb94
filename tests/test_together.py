"""Runs that Snakemake trains together, on a drawn world of a few pictures: the same tables, and no run too many."""

import json
import shutil

import pytest

from .small_study import TABLE, Project, checkout

pytest.importorskip("snakemake")

RUNS = ("shared/rmlr", "table2/plain", "table2/boxes")
LATER = {"predict", "evaluate"}
CURVES = "results/tiny/runs/{}/0/train/curves.csv"


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Project:
    """A table of three runs, each trained by a job of its own."""
    project = checkout(tmp_path_factory.mktemp("apart") / "study")
    project.snakemake(*TABLE)
    return project


@pytest.fixture
def untrained(apart, tmp_path) -> Project:
    """The same study, whose runs are still to be trained: together."""
    project = apart.copy(tmp_path / "study")
    for name in ("results/tiny/runs", "results/tiny/tables"):
        shutil.rmtree(project.folder / name)
    for name in TABLE:
        (project.folder / name).unlink()
    project.edit(lambda content: content["profiles"]["tiny"].update(together=3))
    return project


def trained_with(project: Project, *runs: str) -> dict[str, int]:
    """How many runs the process of each run trained."""
    found = {}
    for run in runs or RUNS:
        about = json.loads((project.folder / "results/tiny/runs" / run / "0/train/run.json").read_text())
        found[run] = about.get("together", 1)
    return found


def planned(project: Project, *targets: str) -> set[str]:
    """The rules of the jobs that Snakemake would run, without those of prediction and evaluation."""
    said = project("snakemake", "-n", *targets)
    counts = [line.split() for line in said.rpartition("\njob ")[2].splitlines()]
    found = {line[0] for line in counts if len(line) == 2 and line[1].isdigit()}
    return found - {"total", *LATER}


def rules_of_cohorts(project: Project) -> list[str]:
    return sorted(path.stem for path in (project.folder / "results/tiny/settings/together").glob("*"))


def bytes_of(project: Project) -> dict[str, bytes]:
    tables = {name: (project.folder / name).read_bytes() for name in TABLE}
    return project.numbers() | tables | {run: (project.folder / CURVES.format(run)).read_bytes() for run in RUNS}


def test_tables_are_the_same_bytes_and_a_changed_run_is_trained_alone(apart, untrained):
    assert planned(untrained, *TABLE) == {"together_vcoco_base_0", "table", "copy_table2"}
    said = untrained.snakemake(*TABLE)
    assert "train 3 runs together vcoco base 0: done in" in said
    assert trained_with(untrained) == dict.fromkeys(RUNS, 3)
    assert bytes_of(untrained) == bytes_of(apart)
    assert planned(untrained, *TABLE) == set()
    assert rules_of_cohorts(untrained) == []

    before = untrained.made()
    untrained.epochs_of_plain(1)
    assert planned(untrained, *TABLE) == {"train", "table", "copy_table2"}
    untrained.snakemake(*TABLE)
    assert trained_with(untrained) == {"shared/rmlr": 3, "table2/plain": 1, "table2/boxes": 3}
    plain = {f"runs/table2/plain/0/{stage}" for stage in ("train", "predict", "evaluate")}
    assert untrained.changed_since(before) == {*plain, "tables/table2"}


def test_only_runs_that_the_targets_need_are_trained_together(untrained):
    wanted = ["results/tiny/runs/table2/plain/0/train/run.json", "results/tiny/runs/shared/rmlr/0/evaluate/run.json"]
    assert planned(untrained, *wanted) == {"together_vcoco_base_0"}
    file = untrained.folder / "results/tiny/settings/together/together_vcoco_base_0.yaml"
    assert file.read_text().count("out: ") == 2
    assert "boxes" not in file.read_text()
    assert planned(untrained, wanted[0]) == {"train"}
    assert planned(untrained, "milestone_runs_table2") == {"together_vcoco_base_0", "milestone_runs_table2"}
    assert "rmlr/0" not in file.read_text()


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_are_used(untrained, apart):
    """Snakemake removes the outputs of a failed job; those of the runs that did not fail survive it."""
    spoilt = {"train.learning_rate": 1e30, "train.clip_norm": 1e30}
    untrained.edit(lambda content: content["runs"]["table2"]["plain"].update(overrides=spoilt))
    said = untrained("snakemake", "--cores", "2", "--", *TABLE, fails=True)
    assert "1 of 3 runs failed; the others are finished:" in said
    assert "results/tiny/runs/table2/plain/0/train: the " in said
    assert planned(untrained, *TABLE) == {"train", "table", "copy_table2"}
    others = ("shared/rmlr", "table2/boxes")
    assert trained_with(untrained, *others) == dict.fromkeys(others, 3)
    untrained.edit(lambda content: content["runs"]["table2"]["plain"].update(overrides={}))
    untrained.snakemake(*TABLE)
    assert bytes_of(untrained) == bytes_of(apart)
