"""What surrounds every stage."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from rmlr.study import provenance
from rmlr.study import run as run_module
from rmlr.study.folder import begin
from rmlr.study.nodes import EvaluateNode
from rmlr.study.output import beside
from rmlr.study.run import Progress, run

NODE = EvaluateNode(code="abc", split="test")


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "evaluate.yaml"
    path.write_text(NODE.dump())
    return path


def write(folder: Path, name: str, text: str = "text") -> None:
    (folder / name).write_text(text)


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
    assert sorted(path.name for path in out.iterdir()) == [".rmlr-made", "made.txt", "run.json", "settings.yaml"]
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
    assert about["host"]["processor"]


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
    with run("evaluate", NODE, settings=settings, out=out) as record:
        (record.folder / "of_old_only.txt").write_text("old")
    write(begin(out, "evaluate"), "left_by_a_killed_one")
    make(settings, out)
    assert sorted(path.name for path in out.iterdir()) == [".rmlr-made", "made.txt", "run.json", "settings.yaml"]
    assert not beside(out, "part").exists()


def test_a_missing_input_is_named_before_anything_is_written(settings, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*does not exist"):
        make(settings, tmp_path / "out", inputs=[tmp_path / "nowhere"])
    assert not list(tmp_path.glob("*out*"))


def test_an_input_that_is_a_pipe_is_refused_and_not_waited_for(settings, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: input of 'evaluate' is a pipe or a device"):
        make(settings, tmp_path / "out", inputs=[tmp_path / "pipe"])
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


# ---- what exists already


@pytest.fixture
def as_command(monkeypatch):
    monkeypatch.setattr(provenance, "command", ["evaluate", "--out", "out"])


def is_made_again(settings: Path, out: Path, **more) -> bool:
    """Whether the stage does its work on this call."""
    began = (out / "run.json").read_bytes()
    try:
        make(settings, out, "again", **more)
    except SystemExit:
        return (out / "run.json").read_bytes() != began
    return True


def test_a_stage_that_finds_its_finished_output_of_the_same_identity_says_so_and_ends(
    settings, tmp_path, as_command, caplog
):
    caplog.set_level("INFO")
    given, out = tmp_path / "given", tmp_path / "out"
    given.write_bytes(bytes(2_000_000))
    more = {"inputs": [given], "seed": 1}
    make(settings, out, **more)
    assert not is_made_again(settings, out, **more)
    assert f"{out}: exists already" in caplog.messages[-1]
    assert (out / "made.txt").read_text() == "new"
    given.write_bytes(bytes(1_999_999) + b"1")
    assert is_made_again(settings, out, **more), "an input of the same size is another"
    assert not is_made_again(settings, out, **more)
    assert is_made_again(settings, out, **(more | {"seed": 2}))
    settings.write_text("code: abc\nsplit: val\n")
    assert is_made_again(settings, out, **(more | {"seed": 2}))


@pytest.mark.parametrize("damage", ["missing", "cut", "run.json"])
def test_a_finished_output_that_lost_something_is_made_again(settings, tmp_path, as_command, damage):
    out = tmp_path / "out"
    make(settings, out)
    if damage == "run.json":
        (out / "run.json").write_text((out / "run.json").read_text()[:50])
    else:
        (out / "made.txt").unlink()
    assert is_made_again(settings, out)
    assert (out / "made.txt").read_text() == "again"


def test_outside_of_the_command_line_a_stage_is_always_run(settings, tmp_path):
    make(settings, tmp_path / "out")
    assert is_made_again(settings, tmp_path / "out")


def test_a_stage_whose_snakemake_was_killed_leaves_its_result_for_the_next_call(
    settings, tmp_path, as_command, monkeypatch
):
    """There its outputs are removed before it starts: what was not put in place yet is not lost by that."""
    out, living = tmp_path / "out", [7, 5, 1]
    (tmp_path / "lock").write_text("5")
    monkeypatch.setattr(run_module, "SCHEDULER", tmp_path / "lock")
    monkeypatch.setattr(run_module, "_ancestors", lambda: living)
    with run("evaluate", NODE, settings=settings, out=out) as record:
        write(record.folder, "made.txt", "new")
        living.remove(5)
    assert not out.exists()
    with pytest.raises(SystemExit) as ended:
        make(settings, out, "again")
    assert ended.value.code == 0
    assert (out / "made.txt").read_text() == "new"
    assert not beside(out, "part").exists()


def test_the_ancestors_of_a_process_are_known():
    assert run_module._ancestors()[0] == os.getppid()
    assert run_module._ancestors()[-1] in (0, 1)


# ---- full disks


def no_room(folder: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill(folder: Path) -> None:
    with (folder / "large").open("wb") as file:
        file.write(bytes(4_000_000))


def fill_by_safetensors(folder: Path) -> None:
    save_file({"a": torch.zeros(1_000_000)}, folder / "a.safetensors")


def fill_by_torch(folder: Path) -> None:
    torch.save(torch.zeros(1_000_000), folder / "a.pt")


def fail_reading(folder: Path) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("fault", [no_room, fill, fill_by_safetensors, fill_by_torch])
def test_a_full_disk_is_named_and_what_was_there_stays(settings, small_disk, fault):
    out = small_disk / "out"
    make(settings, out)
    with (
        pytest.raises(ValueError, match=r"small/out: the disk is full \(No space left on device\)"),
        run("evaluate", NODE, settings=settings, out=out) as record,
    ):
        fault(record.folder)
    assert (out / "made.txt").read_text() == "new"
    assert sorted(path.name for path in small_disk.iterdir()) == [".out.lock", "out"]


def test_a_disk_that_is_full_from_the_start_is_named(settings, small_disk):
    with pytest.raises(OSError), (small_disk / "filler").open("wb") as file:  # noqa: PT011
        file.write(bytes(4_000_000))
    with pytest.raises((ValueError, OSError), match="small/out"):
        make(settings, small_disk / "out")


def test_an_error_of_a_disk_that_names_no_file_gets_one(settings, tmp_path):
    with (
        pytest.raises(OSError, match=r"Input/output error: .*out"),
        run("evaluate", NODE, settings=settings, out=tmp_path / "out") as record,
    ):
        fail_reading(record.folder)
