"""Kill a study at random, again and again, and see whether anything is lost (`make torture`).

A very small study is made once without a disturbance. Then it is made again from nothing while processes get SIGKILL
at random moments, each kill followed by the documented command, until all kills are used. Whenever a study has come to
its end, it must be as the undisturbed one: every file byte for byte, except those that say when and how it was made. No
stage that had finished may have run again, and no process may be left.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .small_study import ONE_RUN, TABLE, Project, checkout

MARK = "RMLR_TORTURE"  # in the environment of every process of a study
KINDS = ("everything", "engine", "scheduler", "stage")  # what is killed
NOTHING = ("Nothing to be done", "up to date")
WAITS = 900.0  # seconds for a command, or for processes that outlive it
LINGER = 30.0  # seconds within which all processes of a finished command have ended
ABOUT, TIMES = "run.json", {"logs", "benchmarks"}  # which say when, how long and where
BUSY = re.compile(r"Process (\d+) is at work here")


@dataclass(frozen=True)
class Engine:
    """The documented command of an engine, and the one that tells whether anything is left to do."""

    name: str
    command: tuple[str, ...]
    status: tuple[str, ...]

    @classmethod
    def snakemake(cls, *targets: str) -> "Engine":
        return cls("snakemake", ("snakemake", "--cores", "2", "--", *targets), ("snakemake", "-n", "--", *targets))


ENGINES = (
    Engine.snakemake(*TABLE),
    Engine("dvc", ("dvc", "repro", "table2"), ("dvc", "status", "--with-deps", "table2")),
)


@dataclass
class Report:
    """What happened, and what was wrong."""

    kills: int = 0
    studies: int = 0
    waited: int = 0  # calls that found a scheduler's jobs still at work
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.kills} kills, {self.studies} studies finished, {self.waited} calls waited for an earlier one"
        return "\n".join([said, *(f"FAULT: {fault}" for fault in self.faults)] if self.faults else [said, "no fault"])


# ---- processes


def processes(mark: str) -> dict[int, list[str]]:
    """The living processes of a study, with their arguments."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if state != "Z":
                    found[int(folder.name)] = arguments
        except OSError:  # it has ended, or is another user's
            continue
    return found


def victims(kind: str, engine: int, living: dict[int, list[str]], chance: random.Random) -> list[int]:
    """The processes to kill; empty if there is none of that kind."""
    if kind == "everything":
        return list(living)
    if kind == "engine":
        return [engine] if engine in living else []
    word = "rmlr" if kind == "stage" else "snakemake"
    some = [pid for pid, arguments in living.items() if any(Path(one).name == word for one in arguments[:2])]
    return [chance.choice(sorted(some))] if some else []


def kill(kind: str, engine: int, mark: str, chance: random.Random) -> tuple[str, str | None]:
    """Kill processes of a kind, or all if there is none of it now.

    Gives what was killed, in words, and the folder that it was to make if it was a stage alone.
    """
    chosen = victims(kind, engine, processes(mark), chance)
    if not chosen:
        kind = "everything"
    if kind != "everything":
        arguments = processes(mark).get(chosen[0], [])
        os.kill(chosen[0], signal.SIGKILL)
        out = arguments[arguments.index("--out") + 1] if kind == "stage" and "--out" in arguments else None
        return f"{kind} ({Path(' '.join(arguments[1:4])).name[:60]})", out
    number = 0
    while living := processes(mark):  # until none is left that was just being started
        number += len(living)
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    return f"everything ({number} processes)", None


def wait_for_end(pids: Sequence[int], mark: str, seconds: float) -> list[int]:
    """Those of the processes that live on after that time."""
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if pid in processes(mark)]) and time.monotonic() < end:
        time.sleep(0.1)
    return left


# ---- results


def files(project: Project) -> dict[str, bytes]:
    """Every file of the results, but for hidden ones and those that say when it was made."""
    results = project.folder / "results"
    names = {path: path.relative_to(results) for path in results.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for path, name in names.items()
        if name.name != ABOUT and not TIMES & set(name.parts) and not any(part.startswith(".") for part in name.parts)
    }


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> Iterator[str]:
    """What a study has that the undisturbed one has not, or otherwise."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            yield f"{name}: is missing"
        elif name not in expected:
            yield f"{name}: is not in the undisturbed study"
        elif found[name] != expected[name]:
            yield f"{name}: has other bytes than in the undisturbed study"


def finished(project: Project) -> dict[str, str]:
    """What each finished stage says of how it was made, also where it has not got its final name yet."""
    results, found = project.folder / "results", {}
    for path in results.rglob(ABOUT):
        folder = path.parent
        name = folder.name.removeprefix(".").removesuffix(".part") if folder.name.startswith(".") else folder.name
        if folder.name.endswith(".old"):
            continue
        try:
            text = path.read_text()
            json.loads(text)
        except (OSError, ValueError):  # it was renamed at this moment
            continue
        found[str(folder.with_name(name).relative_to(results))] = text
    return found


def run_twice(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The stages that had finished before, and ran again."""
    return sorted(name for name, text in before.items() if name in now and now[name] != text)


# ---- the torture


@dataclass
class Torture:
    """One engine on copies of one checkout."""

    source: Project
    folder: Path
    engine: Engine
    chance: random.Random
    report: Report
    pace: float = WAITS  # seconds of the fastest study so far that nothing happened to

    def __post_init__(self) -> None:
        self.mark = f"{os.getpid()}-{self.engine.name}"
        self.log = self.folder / f"{self.engine.name}.log"

    def start(self, project: Project, *command: str) -> subprocess.Popen:
        with self.log.open("a") as log:
            return project.start(*command, stdout=log, **{MARK: self.mark})

    def say(self, text: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {self.engine.name}: {text}\n")
        sys.stdout.flush()

    def undisturbed(self) -> tuple[dict[str, bytes], float]:
        """The files of a study that nothing happened to, and the seconds that it took."""
        project, began = self.source.copy(self.folder / f"{self.engine.name}-undisturbed"), time.monotonic()
        with self.start(project, *self.engine.command) as process:
            if process.wait(timeout=WAITS):
                raise RuntimeError(f"the undisturbed study failed: {self.log}")
        return files(project), time.monotonic() - began

    def run(self, kills: int) -> None:
        """Make studies until so many kills are used, and see that each is as the undisturbed one."""
        expected, self.pace = self.undisturbed()
        self.say(f"undisturbed: {len(expected)} files in {self.pace:.0f} s")
        while self.report.kills < kills and not self.report.faults:
            project = self.source.copy(self.folder / f"{self.engine.name}-{self.report.studies}")
            self.one_study(project, kills, expected)
            self.report.studies += 1
            if not self.report.faults:
                shutil.rmtree(project.folder)

    def one_study(self, project: Project, kills: int, expected: dict[str, bytes]) -> None:
        """One study from nothing to its end."""
        seen: dict[str, str] = {}
        while not self.attempt(project, kills, seen):
            if self.report.faults:
                return
        left = wait_for_end(list(processes(self.mark)), self.mark, LINGER)
        self.report.faults += [f"process {pid} is left: {processes(self.mark).get(pid)}" for pid in left]
        self.check(project, seen)
        self.report.faults += differences(files(project), expected)
        said = project(*self.engine.status)
        if not any(words in said for words in NOTHING):
            self.report.faults.append(f"after the end, there is something left to do: {said}")
        self.say(f"study {self.report.studies + 1} has come to its end, {len(self.report.faults)} faults")

    def check(self, project: Project, seen: dict[str, str]) -> None:
        """Remember which stages have finished; it is a fault if one that had is made again."""
        now = finished(project)
        again = run_twice(seen, now)
        self.report.faults += [f"{name}: had finished, and ran again" for name in again]
        seen.update(now)

    def attempt(self, project: Project, kills: int, seen: dict[str, str]) -> bool:
        """Give the documented command, and kill something while it runs if a kill is left; whether it has succeeded."""
        delay, is_new = self.chance.uniform(0, 0.6 * self.pace), not seen
        kind = self.chance.choice(KINDS)
        began, place = time.monotonic(), self.log.stat().st_size
        with self.start(project, *self.engine.command) as process:
            killed = ""
            try:
                process.wait(timeout=delay if self.report.kills < kills else WAITS)
            except subprocess.TimeoutExpired:
                if self.report.kills >= kills:
                    self.report.faults.append(f"the command did not end in {WAITS:.0f} s: {self.log}")
                    kill("everything", process.pid, self.mark, self.chance)
                    return False
                self.check(project, seen)
                killed, out = kill(kind, process.pid, self.mark, self.chance)
                if out is not None:  # at its very end, its folder is there: Snakemake removes what a failed job made
                    seen.pop(str(Path(out).relative_to("results")), None)
                self.report.kills += 1
                self.say(f"kill {self.report.kills} after {time.monotonic() - began:.1f} s: {killed}")
            process.wait(timeout=WAITS)
        self.check(project, seen)
        if process.returncode == 0:
            self.pace = min(self.pace, time.monotonic() - began) if is_new else self.pace
            return True
        if not killed:
            self.explain(place)
        return False

    def explain(self, place: int) -> None:
        """Why a command failed in which nothing was killed: an earlier one's jobs are at work, or it is a fault."""
        with self.log.open() as log:
            log.seek(place)
            said = log.read()
        if busy := BUSY.search(said):
            self.report.waited += 1
            if wait_for_end([int(busy[1])], self.mark, WAITS):
                self.report.faults.append(f"process {busy[1]} did not end in {WAITS:.0f} s")
        else:
            self.report.faults.append(f"the command failed, and nothing was killed: {said[-3000:]}")


def torture(kills: int, seed: int, engines: Sequence[Engine], folder: Path) -> Report:
    """All kills, shared by the engines, in copies of this checkout below `folder`."""
    source, report = checkout(folder / "source", ONE_RUN), Report()
    for number, engine in enumerate(engines, start=1):
        one = Torture(source, folder, engine, random.Random(f"{seed} {engine.name}"), report)
        try:
            one.run(kills * number // len(engines))
        finally:
            kill("everything", 0, one.mark, one.chance)
    return report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=100, help="number of kills, 100 if left out")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the processes")
    parser.add_argument(
        "--engine", choices=[one.name for one in ENGINES], action="append", help="only this one; both if left out"
    )
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rmlr-torture-"))
    engines = [one for one in ENGINES if given.engine is None or one.name in given.engine]
    report = torture(given.kills, given.seed, engines, folder)
    sys.stdout.write(f"{report}\n")
    if report.faults:
        sys.exit(f"what was made, and the output of the commands, is in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
