"""What `make pull` does: bring the results of this commit from DVC's remote, and tell Snakemake that they are current.

Copied files have the time of the copy, so Snakemake would make them again. It may be told otherwise only of milestones
whose inputs, parameters and outputs, their own and those of all before them, are what `dvc.lock` says.
"""

import subprocess
import sys

from dvc.repo import Repo


def main() -> None:
    """Pull, ask what is clean, touch that."""
    pulled = subprocess.run(["dvc", "pull", *sys.argv[1:]], check=False).returncode == 0
    with Repo() as repo:
        stages = [stage for stage in repo.index.stages if stage.cmd]
        clean = [stage for stage in stages if not repo.status(targets=[stage.addressing], with_deps=True)]
    for stage in stages:
        sys.stderr.write(f"{'clean  ' if stage in clean else 'CHANGED'}  {stage.addressing}\n")
    targets = [target for stage in clean for target in str(stage.cmd).removeprefix("snakemake ").split()]
    if targets:
        subprocess.run(["snakemake", "--touch", "--quiet", "all", "--", *targets], check=True)
    if not pulled or len(clean) < len(stages):
        sys.exit("make pull: not everything is there or current; `dvc repro` or `snakemake` makes the rest")


if __name__ == "__main__":
    main()
