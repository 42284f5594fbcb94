"""Seconds before anything is computed: imports, `rmlr --help`, and the planning of studies, by their number of jobs.

    python benchmarks/startup.py [--rounds 5]

Each measurement is a process of its own; they take turns, CPU seconds (user and system), medians. Planning is a dry run
of Snakemake in a copy of this checkout's settings and code, without results, so every job is planned.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
STARTS = {
    "python, empty": [sys.executable, "-c", ""],
    "import rmlr": [sys.executable, "-c", "import rmlr"],
    "rmlr --help": [sys.executable, "-m", "rmlr", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "rmlr train --help": [sys.executable, "-m", "rmlr", "train", "--help"],
    "import rmlr.learning.trainer": [sys.executable, "-c", "import rmlr.learning.trainer"],
}
PLANS = {  # what is planned: seeds of profile demo, target
    "demo, one seed, one table": (1, ["results/table2.csv"]),
    "demo, one seed, all": (1, []),
    "demo, five seeds, one table": (5, ["results/table2.csv"]),
    "demo, five seeds, all": (5, []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(chosen.rounds):
        for name, command in STARTS.items():
            taken[name].append(cpu_seconds(command, ROOT)[0])
    least = statistics.median(taken["python, empty"])
    print("| start | CPU seconds | by an empty python |\n| --- | --: | --: |")  # noqa: T201
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {middle:.2f} | {middle / least:.1f} |")  # noqa: T201
    print("\n| plan | jobs | CPU seconds | ms a job |\n| --- | --: | --: | --: |")  # noqa: T201
    for name, (seeds, targets) in PLANS.items():
        jobs, seconds = plan(seeds, targets, max(chosen.rounds // 2, 1))
        print(f"| {name} | {jobs} | {seconds:.1f} | {seconds / jobs * 1000:.0f} |")  # noqa: T201


def plan(seeds: int, targets: list[str], rounds: int) -> tuple[int, float]:
    """Jobs of a dry run, and the median of its CPU seconds, without the first run, which writes all settings."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("Snakefile", "workflow", "rmlr", "paper", "results"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(scratch, name), ignore=lambda folder, names: skipped(folder, names))
            else:
                shutil.copy(source, scratch)
        text = (ROOT / "params.yaml").read_text()
        line = next(line for line in text.splitlines() if line.startswith("    seeds: [0] #"))
        Path(scratch, "params.yaml").write_text(text.replace(line, f"    seeds: {list(range(seeds))}", 1))
        command = ["snakemake", "-n", "--quiet", "rules", "--config", "profile=demo", "--", *targets]
        found = [cpu_seconds(command, Path(scratch)) for _ in range(rounds + 1)][1:]
    (jobs,) = {int(line.split()[-1]) for line in found[0][1].splitlines() if line.startswith("total ")}
    return jobs, statistics.median(seconds for seconds, _ in found)


def skipped(folder: str, names: list[str]) -> list[str]:
    """Of `results`, everything but the committed tables; nowhere caches."""
    below = Path(folder)
    return [name for name in names if name == "__pycache__" or (below.name == "results" and (below / name).is_dir())]


def cpu_seconds(command: list[str], folder: Path) -> tuple[float, str]:
    """CPU seconds of a command and its children, and what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    before = os.times()
    said = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, said.stdout


if __name__ == "__main__":
    main()
