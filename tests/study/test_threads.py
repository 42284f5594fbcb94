"""With how many threads a stage computes."""

import os
import subprocess
import sys

import pytest
import torch

from rmlr.__main__ import STAGES
from rmlr.study.nodes import EvaluateNode
from rmlr.study.run import run
from rmlr.study.threads import SPIN, THREADS, VARIABLES


def test_every_stage_that_computes_has_its_number_and_the_demo_keeps_that_of_its_tables():
    assert THREADS.keys() == STAGES.keys() - {"fetch", "draw"}
    assert {stage for stage, threads in THREADS.items() if threads != 1} == {"detector", "features", "pose"}
    assert {THREADS[stage] for stage in ("detector", "features", "pose")} == {2}


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("stage", ["train", "detector"])
def test_a_stage_computes_with_its_own_threads_whatever_the_process_has(stage, before, tmp_path):
    given = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        with run(stage, EvaluateNode(code="abc", split="test"), settings=None, out=tmp_path / "out"):
            assert torch.get_num_threads() == THREADS[stage]
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(given)


def test_a_command_fixes_them_before_its_libraries_are_loaded():
    script = (
        "import os, sys\nfrom rmlr.__main__ import main\n"
        "try:\n    sys.argv[1:] = ['detector', '--help']\n    main()\nexcept SystemExit:\n    pass\n"
        f"sys.stderr.write(' '.join(os.environ[name] for name in {(*VARIABLES, *SPIN)!r}))"
    )

    def fixed(environment: dict[str, str]) -> str:
        call = [sys.executable, "-c", script]
        return subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stderr

    bare = {name: value for name, value in os.environ.items() if name not in SPIN}
    assert fixed(bare | dict.fromkeys(VARIABLES, "12")) == "2 2 2 1000"
    assert fixed(bare | {"GOMP_SPINCOUNT": "7"}) == "2 2 2 7", "how a thread waits changes no number"
