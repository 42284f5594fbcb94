"""What surrounds every stage."""

import json
import os
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from rmlr.study import run as run_module
from rmlr.study.nodes import EvaluateNode
from rmlr.study.run import Progress, digest, run, take_one, visible_gpus

NODE = EvaluateNode(code="abc", split="test")


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "evaluate.yaml"
    path.write_text(NODE.dump())
    return path


def make(settings, out, text="new", **more):
    with run("evaluate", NODE, settings=settings, out=out, **more) as record:
        (record.folder / "made.txt").write_text(text)
        record.log_metrics({"vcoco_ap_role_1": 0.5})
        record.log_metrics({"loss": 2.0}, step=3)


def test_a_finished_stage_leaves_its_files_its_settings_and_an_account(settings, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    (given / "index.json").write_text("{}")
    out = tmp_path / "deep" / "out"
    make(settings, out, inputs=[given], seed=7)
    assert sorted(path.name for path in out.iterdir()) == ["made.txt", "run.json", "settings.yaml"]
    assert (out / "settings.yaml").read_bytes() == settings.read_bytes()
    about = json.loads((out / "run.json").read_text())
    assert (about["stage"], about["seed"], about["settings"]["code"]) == ("evaluate", 7, "abc")
    assert about["metrics"] == {"vcoco_ap_role_1": 0.5}
    assert about["inputs"][str(given)]["files"] == 1
    assert about["versions"]["numpy"]
    assert about["wall_seconds"] >= 0
    assert about["cpu_seconds"] >= 0
    assert about["peak_memory_mb"] > 1
    assert about["device"] == "cpu"


def test_a_failing_stage_leaves_what_was_there_and_nothing_else(settings, tmp_path):
    out = tmp_path / "out"
    make(settings, out, "old")

    def fail():
        with run("evaluate", NODE, settings=settings, out=out) as record:
            (record.folder / "made.txt").write_text("half")
            raise ValueError("broken input")

    with pytest.raises(ValueError, match="broken input"):
        fail()
    assert (out / "made.txt").read_text() == "old"
    assert not (tmp_path / ".out.part").exists()


def test_what_an_earlier_attempt_made_is_replaced_as_a_whole(settings, tmp_path):
    out = tmp_path / "out"
    make(settings, out, "old")
    (out / "of_old_only.txt").write_text("old")
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "left_by_a_killed_one").write_text("half")
    make(settings, out)
    assert sorted(path.name for path in out.iterdir()) == ["made.txt", "run.json", "settings.yaml"]


def test_a_missing_input_is_named_before_anything_is_written(settings, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*does not exist"):
        make(settings, tmp_path / "out", inputs=[tmp_path / "nowhere"])
    assert not list(tmp_path.glob("*out*"))


def test_a_second_writer_waits_for_the_first(settings, tmp_path, caplog):
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from rmlr.study.run import run; from rmlr.study.nodes import EvaluateNode\n"
        "settings, out = map(Path, sys.argv[1:])\n"
        "with run('evaluate', EvaluateNode.load(settings), settings=settings, out=out) as record:\n"
        "    (record.folder / 'made.txt').write_text('first'); print('in', flush=True); time.sleep(0.6)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, settings, out], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        make(settings, out, "second")
        assert first.wait() == 0
    assert "another process" in caplog.text
    assert (out / "made.txt").read_text() == "second"


def test_of_a_distributed_run_only_the_first_process_writes(settings, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with run("evaluate", NODE, settings=settings, out=out):
        monkeypatch.setenv("RANK", "1")
        make(settings, out)  # does not wait for the first
        monkeypatch.delenv("RANK")
        assert not out.exists()
    assert not (out / "made.txt").exists()


def test_the_digest_of_a_folder_sees_names_sizes_and_small_text(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"1234")
    (tmp_path / "index.json").write_text("{}")
    before = digest(tmp_path)
    (tmp_path / "run.json").write_text("when it was made")
    (tmp_path / ".hidden").write_text("a lock")
    assert digest(tmp_path) == before
    (tmp_path / "index.json").write_text("[]")
    changed = digest(tmp_path)
    assert changed != before
    (tmp_path / "photo.jpg").write_bytes(b"12345")
    assert digest(tmp_path) != changed
    assert digest(tmp_path / "photo.jpg")["bytes"] == 5


def test_an_empty_folder_has_a_digest(tmp_path):
    assert digest(tmp_path)["files"] == 0


def test_time_left_is_of_the_last_pace_and_not_of_what_was_resumed(caplog, monkeypatch):
    now = 0.0
    monkeypatch.setattr(run_module.time, "monotonic", lambda: now)
    caplog.set_level("INFO", logger="rmlr.study.run")
    progress = Progress(100, "steps")
    progress.advance(50, "resumed")
    for _ in range(7):
        now += 10.0
        progress.advance(1)
    assert "steps 57/100, 430 s left" in caplog.messages[-1]


# ---- devices


def test_four_jobs_on_two_gpus_get_one_each_or_wait(tmp_path):
    first, one = take_one(["GPU-a", "GPU-b"], tmp_path)
    second, two = take_one(["GPU-a", "GPU-b"], tmp_path)
    assert (first, second) == ("GPU-a", "GPU-b")
    code = (
        "import sys; from pathlib import Path; from rmlr.study.run import take_one\n"
        "print(take_one(['GPU-a', 'GPU-b'], Path(sys.argv[1]))[0])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as third,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as fourth,
    ):
        time.sleep(0.7)
        assert third.poll() is None
        assert fourth.poll() is None
        two.release()
        assert third.communicate()[0].strip() == "GPU-b"
        assert fourth.communicate()[0].strip() == "GPU-b"
    one.release()


@pytest.mark.parametrize(
    ("visible", "found"),
    [(None, ["GPU-a", "GPU-b"]), ("1", ["GPU-b"]), ("GPU-b", ["GPU-b"]), ("", []), ("-1", []), ("0,7,1", ["GPU-a"])],
)
def test_cuda_visible_devices_says_which_gpus_may_be_taken(visible, found, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == found


def test_without_a_settings_file_the_node_itself_is_kept(tmp_path):
    with run("evaluate", NODE, settings=None, out=tmp_path / "out"):
        pass
    assert type(NODE).load(tmp_path / "out" / "settings.yaml") == NODE


def test_the_lock_of_a_folder_is_beside_it(settings, tmp_path):
    out = tmp_path / "out"
    with run("evaluate", NODE, settings=settings, out=out) as record:
        assert record.folder.parent == out.parent
        with pytest.raises(TimeoutError):
            FileLock(tmp_path / ".out.lock").acquire(timeout=0)
