"""The study on a real Slurm of one node, with profiles/slurm as shipped: the bytes of a local run, whatever happens.

RMLR_SLURM_PROFILE=demo takes the demo profile's data and networks in place of the tiny one's.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from getpass import getuser
from pathlib import Path

import pytest
import yaml

from .one_node import missing, one_node

ROOT = Path(__file__).parents[2]
PARTS = ("rmlr", "workflow", "paper", "profiles", "examples", "Snakefile", "params.yaml")
PROFILE = os.environ.get("RMLR_SLURM_PROFILE", "tiny")
RUN = f"results/{PROFILE}/runs/table2/plain/0"
TABLE = "results/table2.csv"
NUMBERS = (
    f"{RUN}/train/weights.safetensors",
    f"{RUN}/predict/triplets.parquet",
    f"{RUN}/evaluate/metrics.json",
    TABLE,
    "results/table2.md",
)
PATIENCE = 1200  # seconds, on a machine that has other work, too
STARTED: list[subprocess.Popen] = []

pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install snakemake-executor-plugin-slurm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"{', '.join(missing())}: not found (Debian: slurm-wlm, munge)"),
]


def until(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Wait for a condition; what was seen instead, if it never holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.3)


@dataclass
class Node:
    """The running Slurm."""

    environment: dict[str, str]

    def __call__(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout.strip()

    def queued(self, *states: str) -> list[str]:
        """Numbers of the jobs that have not ended; of those in some states only."""
        return self("squeue", "-h", "-o", "%i", *([f"--states={','.join(states)}"] if states else [])).split()

    def occupy(self) -> str:
        """A job that takes all cores, and its number."""
        number = self("sbatch", "--parsable", "--cpus-per-task=2", "--mem=1", "--output=/dev/null", "--wrap=sleep 9999")
        until(lambda: self.queued("running") == [number], lambda: self("squeue"))
        return number


@dataclass
class Call:
    """A Snakemake that is at work, and what it says."""

    process: subprocess.Popen
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def until(self, text: str) -> None:
        until(lambda: text in self.said() or self.process.poll() is not None, self.said)
        assert text in self.said(), self.said()

    def ends(self) -> int:
        return self.process.wait(PATIENCE)


@dataclass
class Checkout:
    """A study of one run, and a table with this row."""

    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def start(self, *command: str) -> Call:
        log = self.folder / "said.txt"
        path = os.pathsep.join([str(Path(sys.executable).parent), self.environment["PATH"]])
        environment = {**self.environment, "PATH": path, "PYTHONPATH": str(self.folder), "RMLR_TRACKING": "off"}
        with log.open("w") as file:
            more = {"stdout": file, "stderr": file, "start_new_session": True}
            process = subprocess.Popen(command, cwd=self.folder, env=environment, **more)
        STARTED.append(process)
        return Call(process, log)

    def here(self, *targets: str) -> None:
        """Make targets on this machine."""
        call = self.start("snakemake", "--cores", "2", "--", *targets)
        assert call.ends() == 0, call.said()

    def on_slurm(self) -> Call:
        """Begin to make the table through Slurm; the queue is looked at more often than by default."""
        return self.start(
            *("snakemake", "--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "3"),
            *("--", TABLE, "results/table2.md"),
        )

    def copy(self, folder: Path, node: Node) -> "Checkout":
        subprocess.run(["cp", "-a", self.folder, folder], check=True)
        return Checkout(folder, node.environment)

    def numbers(self) -> dict[str, bytes]:
        """Weights, triplets, metrics and table."""
        return {name: (self.folder / name).read_bytes() for name in NUMBERS}

    def training(self) -> str:
        """What training has written to its log; nothing before it starts."""
        log = self.folder / f"results/{PROFILE}/logs/runs/table2/plain/0/train.txt"
        return log.read_text() if log.exists() else ""


def one_run(path: Path) -> None:
    """All but one run and its table is left out; it trains long enough to be interrupted."""
    content = yaml.safe_load(path.read_text())
    plain, table = content["runs"]["table2"]["plain"], content["tables"]["table2"]
    if PROFILE == "tiny":
        plain["overrides"] = {"train.epochs": 250}
    table.update(rows=[row for row in table["rows"] if row["runs"] == ["table2/plain"]], controls=[])
    content.update(profile=PROFILE, runs={"table2": {"plain": plain}}, tables={"table2": table}, figures={})
    path.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Checkout:
    """All that the run reads."""
    made = Checkout(tmp_path_factory.mktemp("prepared") / "study")
    made.folder.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, made.folder / name)
    one_run(made.folder / "params.yaml")
    made.here("milestone_features_vcoco_base", "milestone_text_vcoco")
    return made


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Iterator[Node]:
    with one_node(tmp_path_factory.mktemp("slurm")) as environment:
        yield Node(environment)


@pytest.fixture(autouse=True)
def _empty(node) -> Iterator[None]:
    """A test that fails leaves nothing that runs, nor jobs in the queue."""
    yield
    for process in STARTED:
        process.kill()
    node("scancel", f"--user={getuser()}")
    until(lambda: not node.queued(), lambda: node("squeue"))


@pytest.fixture(scope="module")
def local(prepared, node, tmp_path_factory) -> dict[str, bytes]:
    """The numbers of the run on this machine."""
    made = prepared.copy(tmp_path_factory.mktemp("local") / "study", node)
    made.here(TABLE, "results/table2.md")
    return made.numbers()


def test_a_run_on_slurm_gives_the_same_bytes_and_the_queue_is_told(prepared, local, node, tmp_path):
    study = prepared.copy(tmp_path / "study", node)
    other = node.occupy()
    call = study.on_slurm()
    call.until("train table2/plain/0: pending (Resources)")
    node("scancel", other)
    assert call.ends() == 0, call.said()
    assert study.numbers() == local
    said = call.said()
    stages = re.findall(r"\| (\w+) \S+: done, \S+ \S+ after it was submitted", said)
    assert stages == ["train", "predict", "evaluate", "table"]
    assert "about" not in said, "nobody knows how long a queue is"
    numbers = node("squeue", "-h", "--states=all", "-o", "%i %j").splitlines()
    assert len([line for line in numbers if not line.startswith(f"{other} ")]) == 2, "a run is one job, a table another"
    assert node.queued() == []


def test_a_job_that_is_ended_or_requeued_resumes_and_gives_the_same_bytes(prepared, local, node, tmp_path):
    study = prepared.copy(tmp_path / "study", node)
    call = study.on_slurm()
    until(lambda: ", epoch" in study.training(), call.said)
    node("scancel", "--signal=TERM", *node.queued("running"))  # as at a time limit
    call.until("train table2/plain/0: FAILED (failed)")
    call.until("train table2/plain/0: once more")
    until(lambda: "resuming after epoch" in study.training(), call.said)
    (number,) = node.queued("running")
    node("scontrol", "requeue", number)
    call.until("requeued 1 x")
    assert call.ends() == 0, call.said()
    assert study.training().count("resuming after epoch") == 1, "the log is of the last attempt"
    assert study.numbers() == local


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_and_sigterm_end_it_with_jobs_in_the_queue(prepared, node, tmp_path, name):
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho GPU-0000\n"
    )  # a GPU of this machine does not limit the cluster
    (tmp_path / "nvidia-smi").chmod(0o755)
    study = prepared.copy(tmp_path / "study", node)
    study.environment = study.environment | {"PATH": os.pathsep.join([str(tmp_path), study.environment["PATH"]])}
    other = node.occupy()
    call = study.on_slurm()
    call.until("pending (Resources)")
    assert len(node.queued("pending")) == 1
    assert "Provided resources" not in call.said()
    call.process.send_signal(signal.Signals[name])
    assert call.ends() != 0
    assert node.queued() == [other], call.said()
    node("scancel", other)
    assert "Traceback" not in call.said()
