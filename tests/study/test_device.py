"""The device of a stage."""

import os
import subprocess
import sys
import time

import pytest

from rmlr.study.device import take_one, visible_gpus


def test_four_jobs_on_two_gpus_get_one_each_or_wait(tmp_path):
    first, one = take_one(["GPU-a", "GPU-b"], tmp_path)
    second, two = take_one(["GPU-a", "GPU-b"], tmp_path)
    assert (first, second) == ("GPU-a", "GPU-b")
    code = (
        "import sys; from pathlib import Path; from rmlr.study.device import take_one\n"
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
