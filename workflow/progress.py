"""Progress of a study in the terminal: finished jobs, running jobs, and the estimated remaining time.

Snakemake logs every event of a job; a handler writes one line for each. `--verbose` and `--printshellcmds` restore
Snakemake's own output. No stage depends on this file.
"""

import logging
import re
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


@dataclass
class Job:
    """A running job."""

    rule: str
    name: str
    threads: int
    log: Path | None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def says(self) -> tuple[str, float | None]:
        """The last progress line of its log, and the remaining seconds in it; empty if there is none."""
        if self.log is None or not self.log.exists():
            return "", None
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        for line in reversed(lines):
            found = re.search(r"(\S[^:]*? \d+/\d+), (\d+) s left", line.rpartition(": ")[2])
            if found:
                return f"{found[1]}, {minutes(float(found[2]))} left", float(found[2])
        return "", None


class StudyLog(logging.Handler):
    """Snakemake's events as the lines of a study."""

    def __init__(self, results: str):
        super().__init__()
        self.results, self.cores = results, 1
        self.waiting: dict[str, int] = {}  # rule: number of jobs that have not started
        self.running: dict[int, Job] = {}
        self.took: dict[str, list[float]] = defaultdict(list)  # rule: seconds of each finished job
        self.began = datetime.now(UTC)
        self.copied: list[str] = []  # tables, and the statement, that are new
        self.done = self.total = 0
        self.talks = threading.Event()
        self.stopped = threading.Event()

    def start(self, cores: int) -> None:
        """Write lines from now on, until the process ends."""
        self.cores = cores
        for earlier in records_of(self.results):
            self.took[earlier["stage"]].append(earlier["wall_seconds"])
        self.talks.set()
        threading.Thread(target=self._keep_talking, daemon=True).start()

    def emit(self, record: Any) -> None:
        """Handle one event; Snakemake's log records have its data as attributes."""
        event = str(getattr(record, "event", None) or "")
        if event == "run_info":
            self.waiting = {rule: count for rule, count in record.stats.items() if rule != "total"}
            self.total = record.stats["total"]
        if not self.talks.is_set():
            return
        if event == "job_info":
            names = [str(value).strip("/") for key, value in record.wildcards.items() if key != "profile"]
            name = " ".join([record.rule_name, "/".join(filter(None, names))]).strip()
            log = Path(record.log[0]) if record.log else None
            self.running[record.jobid] = Job(record.rule_name, name, record.threads, log)
            self.waiting[record.rule_name] = self.waiting.get(record.rule_name, 1) - 1
        elif event == "job_finished" and record.job_id in self.running:
            job = self.running.pop(record.job_id)
            self.took[job.rule].append(job.seconds)
            if job.rule.startswith("copy_"):
                self.copied.append(job.rule.removeprefix("copy_"))
            self.done += 1
            if job.log is not None:  # a rule without a log only names files
                self._say(f"{job.name}: done in {minutes(job.seconds)}")
        elif event == "job_error":
            job = self.running.pop(record.jobid, None)
            name = job.name if job else record.rule_name
            self._say(f"{name}: FAILED. The end of {' '.join(map(str, record.log))}:")
            for path in map(Path, record.log):
                lines = path.read_text(errors="replace").splitlines()[-30:] if path.exists() else ["(there is none)"]
                sys.stderr.write("".join(f"    {line}\n" for line in lines))

    def _keep_talking(self) -> None:
        while not self.stopped.wait(EVERY):
            jobs = list(self.running.values())
            if jobs:
                parts = [f"{job.name}: {job.says()[0] or f'for {minutes(job.seconds)}'}" for job in jobs]
                self._say(" | ".join(parts))

    def _say(self, text: str) -> None:
        left = self._left()
        until = f", about {minutes(left)} left" if left > 0 else ""
        sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {self.done} of {self.total} jobs{until} | {text}\n")
        sys.stderr.flush()

    def _left(self) -> float:
        """Seconds until all jobs are done, if the cores are always busy."""
        known = {rule: sum(took) / len(took) for rule, took in self.took.items() if took}
        weighed = [seconds / WORK[rule] for rule, seconds in known.items() if rule in WORK]
        speed = sum(weighed) / len(weighed) if weighed else 1.0

        def expected(rule: str) -> float:
            return known.get(rule, WORK.get(rule, LITTLE) * speed)

        running = []
        for job in list(self.running.values()):
            said = job.says()[1]
            running.append((said if said is not None else max(expected(job.rule) - job.seconds, 0.0), job.threads))
        work = sum(seconds * threads for seconds, threads in running)
        work += sum(expected(rule) * count for rule, count in self.waiting.items() if count > 0)
        return max([work / self.cores, *(seconds for seconds, _ in running)])


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

    def is_news(record: logging.LogRecord) -> bool:
        return str(getattr(record, "event", "")) not in replaced and "Select jobs" not in record.getMessage()

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
        wall, cpu = (sum(record[key] for record in records) for key in ("wall_seconds", "cpu_seconds"))
        lines.append(f"{stage:<12} {len(records):>4} {wall:>14.1f} {cpu:>13.1f}")
    every = [record for records in stages.values() for record in records]
    lines.append(f"{'all':<12} {len(every):>4} {'':>14} {sum(record['cpu_seconds'] for record in every):>13.1f}")
    return "\n".join(lines)
