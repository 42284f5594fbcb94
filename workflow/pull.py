"""`make pull`: fetch the results of this commit from DVC's remote, and mark them as current for Snakemake.

Copied files have the time of the copy, so Snakemake would redo them. A milestone is marked as current only if its
inputs, parameters and outputs, and those of all milestones before it, match `dvc.lock`.
"""

import subprocess
import sys

from dvc.repo import Repo


def main() -> None:
    """Pull, determine which milestones match, and mark them."""
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
