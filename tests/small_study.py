"""A checkout of the study with the tiny profile, one table and three runs, for tests of both engines."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import yaml

ROOT = Path(__file__).parents[1]
TABLE = ("results/table2.csv", "results/table2.md", "results/table2.tex")


class Project:
    """A checkout of the study, under git, with the tiny profile and three runs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        who = {f"GIT_{role}_{key}": "tester" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
        tracking = {"RMLR_TRACKING": "off", "RMLR_TRACKING_SECONDS": "600"}  # of a machine that has other work, too
        return {**os.environ, **who, **tracking, "PATH": path, "PYTHONPATH": str(self.folder)}

    def start(self, *command: str, stdout: IO | int = subprocess.PIPE, **more) -> subprocess.Popen:
        """A running command, in a session of its own; `more` is added to the environment."""
        return subprocess.Popen(
            list(map(str, command)),
            cwd=self.folder,
            env=self.environment() | more,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *command: str, fails: bool = False, **more) -> str:
        """Run a command to its end; what it said."""
        with self.start(*command, **more) as process:
            said = process.communicate(timeout=1500)[0]
        assert (process.returncode != 0) == fails, said
        return said

    def snakemake(self, *more: str, **environment) -> str:
        return self("snakemake", "--cores", "2", "--", *more, **environment)

    def wanted(self, *targets: str) -> set[str]:
        """Rules that Snakemake would run."""
        said = self("snakemake", "-n", *targets)
        lines = map(str.strip, said.splitlines())  # those of a group are indented
        return {line.split()[1].rstrip(":") for line in lines if line.startswith(("rule ", "localrule "))}

    def copy(self, folder: Path) -> "Project":
        subprocess.run(["cp", "-a", self.folder, folder], check=True)
        return Project(folder)

    def made(self) -> dict[str, str]:
        """What each node says of how, and when, it was made."""
        results = self.folder / "results" / "tiny"
        return {str(path.parent.relative_to(results)): path.read_text() for path in results.rglob("run.json")}

    def changed_since(self, before: dict[str, str]) -> set[str]:
        return {node for node, said in self.made().items() if before.get(node) != said}

    def edit(self, change, name: str = "params.yaml") -> None:
        path = self.folder / name
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def epochs_of_plain(self, epochs: int | None) -> None:
        overrides = {} if epochs is None else {"train.epochs": epochs}
        self.edit(lambda content: content["runs"]["table2"]["plain"].update(overrides=overrides))

    def numbers(self) -> dict[str, bytes]:
        """Weights, scores and metrics of every run."""
        names = ("train/weights.safetensors", "predict/triplets.parquet", "evaluate/metrics.json")
        found = [path for name in names for path in self.folder.glob(f"results/tiny/runs/*/*/*/{name}")]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}


KEPT = {"shared": ["rmlr"], "table2": ["plain", "boxes"], "table7": ["row1"]}
ONE_RUN = {"table2": ["plain"]}


def small(content: dict, kept: dict[str, list[str]]) -> None:
    """One table with few runs, and a run that it does not read, are as good as all."""
    content["profile"] = "tiny"
    content["runs"] = {group: {name: content["runs"][group][name] for name in names} for group, names in kept.items()}
    made = {f"{group}/{name}" for group, names in kept.items() for name in names}
    table, figures = content["tables"]["table2"], content["figures"]
    for kind in ("rows", "controls"):
        table[kind] = [row for row in table[kind] if row["runs"][0] in made]
    content["tables"] = {"table2": table}
    content["figures"] = {"predictions": figures["predictions"]} if "shared" in kept else {}


def small_milestones(content: dict, kept: dict[str, list[str]]) -> None:
    """What DVC has to know of that."""
    stages = content["stages"]
    for name in [name for name in stages if name.startswith(("table", "pose", "cost")) and name != "table2"]:
        del stages[name]
    stages["detector"]["foreach"] = ["base"]
    stages["features"]["matrix"] = {"dataset": ["vcoco"], "backbone": ["base"]}
    stages["text"]["foreach"] = ["vcoco"]
    stages["runs"]["foreach"] = {group: stages["runs"]["foreach"][group] for group in kept}
    results = "results/${profile}/"
    tables = {f"tables/table{number}" for number in range(1, 10) if number != 2}
    gone = tuple(f"{results}{place}" for place in (*tables, "separation", "cost", "hicodet/features"))
    made = {f"{results}runs/{group}" for group in kept}

    def is_there(path: str) -> bool:
        return path in made if path.startswith(f"{results}runs/") else not path.startswith(gone)

    for name in ("table2", "figures", "statement"):
        stages[name]["deps"] = [path for path in stages[name]["deps"] if is_there(path)]
    stages["figures"]["outs"] = [out for out in stages["figures"]["outs"] if is_there(next(iter(out)))]
    content["metrics"] = [f"{results}detector/base/metrics.json", f"{results}tables/table2/metrics"]
    content["plots"] = []


def checkout(folder: Path, kept: dict[str, list[str]] = KEPT) -> Project:
    """What is in this checkout, but for results, in a git repository of its own; `kept` are its runs by group."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("results/") and name != "dvc.lock":
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    project = Project(folder)
    project.edit(lambda content: small(content, kept))
    project.edit(lambda content: small_milestones(content, kept), "dvc.yaml")
    project("git", "init", "-q", ".")
    project("git", "add", "-A")
    project("git", "commit", "-q", "-m", "the study")
    return project
