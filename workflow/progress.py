"""Progress of a study in the terminal: finished jobs, running jobs, and the estimated remaining time.

Snakemake logs every event of a job; a handler writes one line for each. `--verbose` and `--printshellcmds` restore
Snakemake's own output. On a Slurm cluster the lines show each job's state in the queue, and there is no estimate, since
it is not known when a job will start. No stage depends on this file.
"""

import logging
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rmlr.study.made import read_about

EVERY = 15.0  # seconds between two lines on running jobs

# Core-seconds of one job in the demo profile. Only their ratios count, and only until a job of that rule has finished.
WORK = {
    "draw": 26,
    "prepare": 3,
    "detector": 240,
    "features": 15,
    "joints": 80,
    "pose": 15,
    "text": 9,
    "train": 52,
    "predict": 2,
    "evaluate": 3,
    "cost": 45,
}
LITTLE = 1  # core-seconds of any other job


CLOCKS = 2.0  # seconds by which the clocks of a file server and of this machine may differ

# What the Slurm plugin of Snakemake logs: the name of all jobs of this call in the queue, and the number of a job.
QUEUE = re.compile(r"SLURM run ID: (\S+)")
QUEUED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\d+)")
RETRY = re.compile(r"Trying to restart job (\S+)\.")
CHATTER = ("Select jobs", "Auto-selected partition", "Cleaning up SLURM log files")


@dataclass
class Job:
    """A job that is running, or is in a cluster's queue."""

    rule: str
    name: str
    threads: int
    log: Path | None
    began: float = field(default_factory=time.time)  # seconds since 1970
    number: str | None = None  # in Slurm's queue; the stages of one run may have the same

    @property
    def seconds(self) -> float:
        return time.time() - self.began

    def wrote(self, since: float) -> float:
        """When it last wrote to its log; 0 if not since then: what is there, an earlier attempt wrote."""
        written = self.log.stat().st_mtime if self.log is not None and self.log.exists() else 0.0
        return written if written > since - CLOCKS else 0.0

    def says(self, since: float) -> tuple[str, float | None]:
        """The last progress line of its log, and the remaining seconds in it; empty if there is none since then."""
        if self.log is None or not self.wrote(since):
            return "", None
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        for line in reversed(lines):
            found = re.search(r"(\S[^:]*? \d+/\d+), (\d+) s left", line.rpartition(": ")[2])
            if found:
                return f"{found[1]}, {minutes(float(found[2]))} left", float(found[2])
        return "", None


@dataclass(frozen=True)
class Queued:
    """What Slurm's queue says of a job."""

    state: str  # such as pending, running, timeout
    reason: str  # why it is pending; else empty
    requeued: int  # times
    began: float  # seconds since 1970: this attempt; 0 if it has not

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.state}{why}{f', requeued {self.requeued} x' if self.requeued else ''}"


def ask_queue(name: str) -> dict[str, Queued]:
    """All jobs of this name that Slurm remembers, by their numbers; none if it does not answer."""
    columns = ",".join(f"{column}:|" for column in ("JobID", "State", "Reason", "RestartCnt", "StartTime"))
    command = ["squeue", "--noheader", "--states=all", f"--name={name}", f"--Format={columns}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    found = {}
    for line in done.stdout.splitlines():
        number, state, reason, requeued, start, *_ = line.split("|")
        pending = state == "PENDING"
        began = 0.0 if pending or start == "N/A" else datetime.fromisoformat(start).timestamp()
        why = reason if pending and reason != "None" else ""
        found[number] = Queued(state.lower().replace("_", " "), why, int(requeued), began)
    return found


class StudyLog(logging.Handler):
    """Snakemake's events as the lines of a study."""

    def __init__(self, results: str):
        super().__init__()
        self.results, self.cores = results, 1
        self.waiting: dict[str, int] = {}  # rule: number of jobs that have not started
        self.running: dict[int, Job] = {}
        self.queue = ""  # the name of all jobs of this call in Slurm's queue; empty on one machine
        self.groups: dict[str, list[int]] = {}  # jobs that are one job in the queue; any of them may give it its id
        self.names: dict[str, str] = {}  # of jobs and groups, by id
        self.took: dict[str, list[float]] = defaultdict(list)  # rule: seconds of each finished job
        self.members: dict[str, int] = {}  # rule that trains runs together: how many
        self.began = datetime.now(UTC)
        self.copied: list[str] = []  # tables, and the statement, that are new
        self.done = self.total = 0
        self.talks = threading.Event()
        self.stopped = threading.Event()

    def start(self, cores: int) -> None:
        """Write lines from now on, until the process ends."""
        self.cores = cores
        for earlier in records_of(self.results):
            self.took[earlier["stage"]].append(earlier["wall_seconds"] / runs_of(earlier))
        self.talks.set()
        threading.Thread(target=self._keep_talking, daemon=True).start()

    def emit(self, record: Any) -> None:
        """Handle one event; Snakemake's log records have its data as attributes."""
        event = str(getattr(record, "event", None) or "")
        text = "" if event else record.getMessage()
        if found := QUEUE.search(text):
            self.queue = found[1]
        if event == "run_info":
            self.waiting = {rule: count for rule, count in record.stats.items() if rule != "total"}
            self.total = record.stats["total"]
        if not self.talks.is_set():
            return
        if event == "job_info":
            names = [str(value).strip("/") for key, value in record.wildcards.items() if key != "profile"]
            name = " ".join([record.rule_name, "/".join(filter(None, names))]).strip()
            if number := self.members.get(record.rule_name):
                name = f"train {number} runs {record.rule_name.replace('_', ' ')}"
            log = Path(record.log[0]) if record.log else None
            self.running[record.jobid] = Job(record.rule_name, name, record.threads, log)
            self.names[str(record.jobid)] = name
            self.waiting[record.rule_name] = self.waiting.get(record.rule_name, 1) - 1
        elif event == "group_info":
            ids = [job.jobid for job in record.jobs]
            self.groups |= {job.uuid(): ids for job in record.jobs}
        elif found := QUEUED.search(text):
            ids = self.groups.get(found[1]) or [int(found[1])]
            for job in (self.running[one] for one in ids if one in self.running):
                job.number = found[2]
        elif event == "job_finished" and record.job_id in self.running:
            job = self.running.pop(record.job_id)
            if job.rule.startswith("copy_"):
                self.copied.append(job.rule.removeprefix("copy_"))
            self.done += 1
            if job.number is not None:
                self._say(f"{job.name}: done, {minutes(job.seconds)} after it was submitted")
                return
            rule, number = self._stage(job.rule)
            self.took[rule].append(job.seconds / number)
            if job.log is not None:  # a rule without a log only names files
                self._say(f"{job.name}: done in {minutes(job.seconds)}")
        elif event == "job_error" and not record.indent:  # else of a group, whose own event comes first
            job = self.running.pop(record.jobid, None)
            self._fail([job] if job else [], record.rule_name, record.log)
        elif event == "group_error":
            ids = [error["jobid"] for error in record.job_error_info]
            jobs = [self.running.pop(one) for one in ids if one in self.running]
            name = self._fail(jobs, record.groupid, record.aux_logs)
            self.names |= {str(one): name for one in ids}
        elif found := RETRY.search(text):
            first, *_ = self.groups.get(found[1], [found[1]])
            self._say(f"{self.names.get(str(first), found[1])}: once more")

    def _fail(self, jobs: list[Job], name: str, logs: list[str]) -> str:
        """A job failed, or one of a group: tell its name, what the queue says, and the ends of its logs; its name."""
        said = ""
        if jobs:
            state = self._states().get(jobs[0].number or "")
            began = [job for job in jobs if job.log and job.log.exists() and job.log.stat().st_size]
            job = at_work(began or jobs, jobs[0].began)  # Snakemake makes an empty log of each stage that did not begin
            name, said = job.name, f" ({state})" if state else ""
            logs = list(dict.fromkeys([*([str(job.log)] if job.log and job.wrote(job.began) else []), *logs]))
        self._say(f"{name}: FAILED{said}. The end of {' '.join(logs)}:")
        for path in map(Path, logs):
            lines = path.read_text(errors="replace").splitlines()[-30:] if path.exists() else ["(there is none)"]
            sys.stderr.write("".join(f"    {line}\n" for line in lines))
        return name

    def _states(self) -> dict[str, Queued]:
        return ask_queue(self.queue) if self.queue else {}

    def _keep_talking(self) -> None:
        while not self.stopped.wait(EVERY):
            if parts := self._now():
                self._say(" | ".join(parts))

    def _now(self) -> list[str]:
        """What each job is doing; jobs of a queue that wait for the same reason are counted."""
        together: dict[str, list[Job]] = defaultdict(list)
        for one, job in list(self.running.items()):
            together[job.number or f"job {one}"].append(job)
        states = self._states()
        parts: list[str] = []
        waiting: dict[str, list[str]] = defaultdict(list)
        for number, jobs in together.items():
            state = states.get(number)
            if state is None or state.state == "running":
                began = state.began if state else jobs[0].began
                job = at_work(jobs, began)
                again = f" (requeued {state.requeued} x)" if state and state.requeued else ""
                parts.append(f"{job.name}: {job.says(began)[0] or f'for {minutes(time.time() - began)}'}{again}")
            else:
                waiting[str(state)].append(at_work(jobs, jobs[0].began).name)
        for state, names in waiting.items():
            parts.append(f"{names[0] if len(names) == 1 else f'{len(names)} jobs'}: {state}")
        return parts

    def _say(self, text: str) -> None:
        left = 0.0 if self.queue else self._left()
        until = f", about {minutes(left)} left" if left > 0 else ""
        sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {self.done} of {self.total} jobs{until} | {text}\n")
        sys.stderr.flush()

    def _left(self) -> float:
        """Seconds until all jobs are done, if the cores are always busy."""
        known = {rule: sum(took) / len(took) for rule, took in self.took.items() if took}
        weighed = [seconds / WORK[rule] for rule, seconds in known.items() if rule in WORK]
        speed = sum(weighed) / len(weighed) if weighed else 1.0

        def expected(job: str) -> float:
            rule, number = self._stage(job)
            return number * known.get(rule, WORK.get(rule, LITTLE) * speed)

        running = []
        for job in list(self.running.values()):
            said = job.says(job.began)[1]
            running.append((said if said is not None else max(expected(job.rule) - job.seconds, 0.0), job.threads))
        work = sum(seconds * threads for seconds, threads in running)
        work += sum(expected(rule) * count for rule, count in self.waiting.items() if count > 0)
        return max([work / self.cores, *(seconds for seconds, _ in running)])

    def _stage(self, rule: str) -> tuple[str, int]:
        """The stage of a rule's jobs, and how many runs each trains: one, except where runs are trained together.

        A number of runs is expected to take as long together as one after the other: at most, that is.
        """
        return ("train", self.members[rule]) if rule in self.members else (rule, 1)


def runs_of(record: dict) -> int:
    """How many runs the process of a run.json trained. Its seconds are those of the whole process."""
    return record.get("together", 1)


def at_work(jobs: list[Job], since: float) -> Job:
    """Of stages that follow each other in one job of a queue: the last that has written to its log, else the first."""
    order = {rule: rank for rank, rule in enumerate(WORK)}
    return max(sorted(jobs, key=lambda job: order.get(job.rule, len(order))), key=lambda job: job.wrote(since))


def records_of(results: str) -> list[dict]:
    """The run.json of every finished node, without damaged ones."""
    paths = sorted(path for path in Path(results).rglob("run.json") if not path.parent.name.startswith("."))
    return [about for path in paths if (about := read_about(path.parent))]


def minutes(seconds: float) -> str:
    """A duration as text."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def listen(results: str) -> StudyLog:
    """Handle Snakemake's events from now on; `start` makes the handler write."""
    from snakemake.logging import logger

    heard = StudyLog(results)
    logger.addHandler(heard)
    return heard


def show_progress(study_log: StudyLog, cores: int) -> None:
    """Replace Snakemake's own output on each job."""
    from snakemake.logging import logger

    replaced = {"job_info", "job_started", "job_finished", "job_error", "progress", "shellcmd"}
    replaced |= {"group_info", "group_error"}

    def is_news(record: logging.LogRecord) -> bool:
        if event := getattr(record, "event", None):
            return str(event) not in replaced
        text = record.getMessage()
        return not (text.startswith(CHATTER) or QUEUED.search(text) or RETRY.search(text))

    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(is_news)
    study_log.start(cores)


def summary(results: str, tables: list[Path], since: datetime) -> str:
    """The tables and stage times of this call: those whose run.json began at `since` or later."""
    stages: dict[str, list[dict]] = defaultdict(list)
    for record in records_of(results):
        if datetime.fromisoformat(record["began"]) >= since.replace(microsecond=0):
            stages[record["stage"]].append(record)
    order = {rule: rank for rank, rule in enumerate([*WORK, "table", "figure"])}
    lines = [f"{path}\n\n{path.read_text()}" for path in tables]
    if not stages:
        return "\n".join(lines)
    lines.append("made now     jobs   wall seconds   CPU seconds")
    for stage, records in sorted(stages.items(), key=lambda item: order.get(item[0], len(order))):
        lines.append(f"{stage:<12} {len(records):>4} {_sum(records, 'wall'):>14.1f} {_sum(records, 'cpu'):>13.1f}")
    every = [record for records in stages.values() for record in records]
    lines.append(f"{'all':<12} {len(every):>4} {'':>14} {_sum(every, 'cpu'):>13.1f}")
    return "\n".join(lines)


def _sum(records: list[dict], kind: str) -> float:
    """Seconds of all records; those of a process that trained several runs count once."""
    return sum(record[f"{kind}_seconds"] / runs_of(record) for record in records)
