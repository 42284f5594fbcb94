"""The tool that kills studies at random: what it finds, and a small part of what it does."""

import os
import random
import subprocess

import pytest

from . import torture
from .small_study import Project


def test_other_bytes_and_missing_and_new_files_are_found():
    expected = {"same": b"1", "changed": b"1", "gone": b"1"}
    found = {"same": b"1", "changed": b"2", "new": b"1"}
    assert list(torture.differences(expected, expected)) == []
    assert list(torture.differences(found, expected)) == [
        "changed: has other bytes than in the undisturbed study",
        "gone: is missing",
        "new: is not in the undisturbed study",
    ]


def test_a_stage_that_ran_again_is_found_and_one_that_got_its_final_name_is_not(tmp_path):
    project = Project(tmp_path)
    waiting = tmp_path / "results/tiny/world/.draw.part"
    waiting.mkdir(parents=True)
    (waiting / "run.json").write_text('{"began": 1}')
    before = torture.finished(project)
    assert list(before) == ["tiny/world/draw"]
    waiting.rename(waiting.with_name("draw"))
    assert torture.run_twice(before, torture.finished(project)) == []
    (tmp_path / "results/tiny/world/draw/run.json").write_text('{"began": 2}')
    assert torture.run_twice(before, torture.finished(project)) == ["tiny/world/draw"]


def test_only_what_depends_on_the_time_is_not_compared(tmp_path):
    for name in ("table2.csv", "tiny/run.json", "tiny/logs/a.txt", "tiny/benchmarks/a.tsv", "tiny/.a.lock", "tiny/a"):
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert set(torture.files(Project(tmp_path))) == {"table2.csv", "tiny/a"}


def test_the_processes_of_one_study_are_told_by_kind_and_killed():
    mark, chance = f"test-{os.getpid()}", random.Random(0)
    given = os.environ | {torture.MARK: mark}
    started = [subprocess.Popen(["sleep", "60"], env=given) for _ in range(2)]
    other = subprocess.Popen(["sleep", "60"])
    try:
        assert set(torture.processes(mark)) == {process.pid for process in started}
        assert torture.wait_for_end([started[0].pid], mark, 0.2) == [started[0].pid]
        assert torture.kill("stage", 0, mark, chance)[0].startswith("everything")
        assert [process.wait(timeout=10) for process in started] == [-9, -9]
        assert torture.processes(mark) == {}
        assert other.poll() is None
    finally:
        for process in (*started, other):
            process.kill()
            process.wait()
    living = {1: ["python", "/bin/snakemake", "-n"], 2: ["python", "/bin/rmlr", "train"], 3: ["bash"]}
    assert torture.victims("engine", 1, living, chance) == [1]
    assert torture.victims("engine", 9, living, chance) == []
    assert torture.victims("scheduler", 9, living, chance) == [1]
    assert torture.victims("stage", 1, living, chance) == [2]
    assert torture.victims("everything", 1, living, chance) == [1, 2, 3]


@pytest.mark.slow
def test_a_study_that_is_killed_three_times_is_as_if_nothing_had_happened(tmp_path):
    pytest.importorskip("snakemake")
    records = torture.Engine.snakemake("results/tiny/vcoco/prepare/run.json")
    report = torture.torture(3, 0, [records], tmp_path)
    assert report.faults == []
    assert report.kills == 3
    assert report.studies >= 1
