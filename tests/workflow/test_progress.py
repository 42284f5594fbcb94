"""What the terminal says during a study on a cluster, and at the end of any study."""

import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from progress import Queued, StudyLog, ask_queue, summary


def made(folder: Path, stage: str, began: str) -> None:
    folder.mkdir(parents=True)
    about = {"stage": stage, "began": began, "wall_seconds": 2.0, "cpu_seconds": 3.0}
    (folder / "run.json").write_text(json.dumps(about))


def test_a_study_ends_with_what_this_call_made_and_nothing_else(tmp_path):
    made(tmp_path / "demo/world/draw", "draw", "2026-01-01T10:00:00+00:00")
    for seed in range(2):
        made(tmp_path / f"demo/runs/g/a/{seed}/train", "train", "2026-01-01T12:00:00+00:00")
    (tmp_path / "table2.md").write_text("**Ablations**\n")
    (tmp_path / "table3.md").write_text("**Encoders**\n")
    since = datetime(2026, 1, 1, 12, 0, 0, 500, UTC)  # records have whole seconds
    text = summary(str(tmp_path / "demo"), [tmp_path / "table2.md"], since)
    lines = text.splitlines()
    assert lines[:3] == [str(tmp_path / "table2.md"), "", "**Ablations**"]
    assert "Encoders" not in text
    assert [line.split()[:4] for line in lines[-2:]] == [["train", "2", "4.0", "6.0"], ["all", "2", "6.0"]]
    assert not any(line.startswith("draw") for line in lines)


def test_a_call_that_made_nothing_has_nothing_to_say(tmp_path):
    made(tmp_path / "demo/world/draw", "draw", "2026-01-01T10:00:00+00:00")
    assert summary(str(tmp_path / "demo"), [], datetime(2026, 1, 2, tzinfo=UTC)) == ""


SQUEUE = """#!/bin/sh
[ "$3" = --name=call ] || exit 1
echo '1|RUNNING|None|2|2026-01-01T12:00:00|'
echo '2|PENDING|Resources|0|2026-01-02T12:00:00|'
echo '3|PENDING|None|0|N/A|'
echo '4|OUT_OF_MEMORY|OutOfMemory|0|2026-01-01T12:00:00|'
"""


def say(study: StudyLog, message: str, /, **data) -> None:
    study.handle(logging.makeLogRecord({"msg": message, "levelno": logging.INFO} | data))


def begin(log: StudyLog, jobid: int, rule: str, name: str, file: Path) -> None:
    more = {"jobid": jobid, "rule_name": rule, "wildcards": {"run": name}, "threads": 1, "log": [str(file)]}
    say(log, "", event="job_info", **more)


@pytest.fixture
def study_log(tmp_path) -> StudyLog:
    """On a cluster, while the jobs of one run are one job of the queue, and another run waits."""
    log = StudyLog(str(tmp_path))
    say(log, "SLURM run ID: call")
    say(log, "", event="run_info", stats={"train": 2, "predict": 1, "total": 3})
    log.talks.set()
    say(
        log,
        "",
        event="group_info",
        jobs=[SimpleNamespace(jobid=1, uuid=lambda: "u"), SimpleNamespace(jobid=2, uuid=lambda: "v")],
    )
    begin(log, 2, "predict", "a", tmp_path / "predict.txt")
    begin(log, 1, "train", "a", tmp_path / "train.txt")
    begin(log, 3, "train", "b", tmp_path / "other.txt")
    say(log, "Job v has been submitted with SLURM jobid 7 (log: x).")
    say(log, "Job 3 has been submitted with SLURM jobid 8 (log: x).")
    return log


def test_the_queue_says_state_reason_and_requeues(tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text(SQUEUE)
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    found = ask_queue("call")
    assert found["1"].began == datetime(2026, 1, 1, 12).timestamp()
    assert list(map(str, found.values())) == [
        "running, requeued 2 x",
        "pending (Resources)",
        "pending",
        "out of memory",
    ]
    assert ask_queue("other") == {}


def test_each_job_is_told_as_the_queue_has_it_and_no_line_is_of_an_earlier_attempt(study_log, tmp_path, monkeypatch):
    now = time.time()
    queue = {"7": Queued("pending", "Priority", 0, 0.0), "8": Queued("pending", "Priority", 0, 0.0)}
    monkeypatch.setattr("progress.ask_queue", lambda name: queue if name == "call" else {})
    (tmp_path / "train.txt").write_text("10:00:00 rmlr: training 5/9, 200 s left\n")
    os.utime(tmp_path / "train.txt", (now - 60, now - 60))
    assert study_log._now() == ["2 jobs: pending (Priority)"]
    queue["7"] = Queued("running", "", 1, now - 30)
    assert study_log._now()[0] == "train a: for 30 s (requeued 1 x)", "its log is of the attempt before"
    os.utime(tmp_path / "train.txt", (now, now))
    assert study_log._now() == ["train a: training 5/9, 3 min left (requeued 1 x)", "train b: pending (Priority)"]
    (tmp_path / "predict.txt").write_text("10:00:00 rmlr: predicting 1/4, 9 s left\n")
    os.utime(tmp_path / "predict.txt", (now + 5, now + 5))
    assert study_log._now()[0] == "predict a: predicting 1/4, 9 s left (requeued 1 x)"


def test_a_failed_group_is_one_message_with_the_state_and_the_log_of_its_stage(
    study_log, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("progress.ask_queue", lambda name: {"7": Queued("timeout", "", 0, time.time())})
    (tmp_path / "train.txt").write_text("the end of training\n")
    (tmp_path / "predict.txt").touch()  # as Snakemake does after an error
    (tmp_path / "slurm.txt").write_text("DUE TO TIME LIMIT\n")
    errors = [{"jobid": 2}, {"jobid": 1}]
    say(study_log, "", event="group_error", groupid="g", aux_logs=[str(tmp_path / "slurm.txt")], job_error_info=errors)
    for one in (1, 2):
        say(study_log, "", event="job_error", indent=True, jobid=one, rule_name="x", log=[])
    say(study_log, "Trying to restart job v.")
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith(f"train a: FAILED (timeout). The end of {tmp_path}/train.txt {tmp_path}/slurm.txt:")
    assert told[1:3] == ["    the end of training", "    DUE TO TIME LIMIT"]
    assert told[3].endswith("| train a: once more")
    assert len(told) == 4
