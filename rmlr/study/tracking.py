"""The notebook: what every run was, in MLflow. Never the source of a number.

A study (profile) is one experiment. `train` opens a run, which is one variant and one seed; `evaluate` adds metrics,
tables and predictions to it; `table` and `figure` add what they made to one more run, `study`. A table also marks the
runs that it is made of, and saves a view of charts. Seeds are grouped by tags, not by parent runs: MLflow averages the
metrics and curves of a group, which it does not for the children of a run, and a parent would be one more row.

Whatever fails in MLflow is said once, as a warning, and ends the tracking of that stage, not the stage. It is off where
mlflow is not installed or where RMLR_TRACKING=off. The store is MLFLOW_TRACKING_URI, else `mlflow.db` where the command
is run.
"""

import hashlib
import importlib.util
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from rmlr.study.files import write_whole

log = logging.getLogger(__name__)

POINTS_AT_ONCE = 25  # of a curve
SEND_EVERY = 10.0  # seconds, at most, that points wait
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100  # MLflow's limits
STUDY = "study"  # tag `suite` of the run that holds tables and figures
CURVE = "train/"  # what training logs, apart from the results: a section of its own on MLflow's charts
KIND = "mlflow.experimentKind"  # of training runs: MLflow's pages leave out what is for language models
VIEW = "mlflow.sharedViewState."  # how MLflow's pages keep a saved view: a tag of the experiment
DEFAULTS = {  # no telemetry; a server that is gone is given up within a minute, not within five
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
RESULTS = ("metrics.json", "summary.txt", "per_verb.csv", "per_action.csv", "per_class.csv", "curves.csv")
SHOWN = (".png", ".svg", ".pdf", ".csv", ".md", ".tex", ".json")


def is_on() -> bool:
    """Whether stages are tracked here."""
    return os.environ.get("RMLR_TRACKING", "on") != "off" and importlib.util.find_spec("mlflow") is not None


def tracking_uri() -> str:
    """The user's tracking server, else `mlflow.db` here; call it before mlflow is imported, whose defaults it sets."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


class Tracker:
    """One run in MLflow, or the study's. Nothing it does raises."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._client: Any = None
        self._opened = self._lost = False
        self._points: list[tuple[str, float, int, int]] = []  # key, value, milliseconds, step
        self._sent = time.monotonic()
        self._finish: Callable[[Path], None] = lambda folder: None

    @classmethod
    def of_stage(
        cls,
        stage: str,
        node: Mapping[str, Any],
        *,
        out: Path,
        note: Path,
        seed: int | None,
        identity: str,
        settings: str,
        inputs: Mapping[str, Mapping[str, Any]],
        code: Mapping[str, Any] | None,
    ) -> "Tracker":
        """What follows a stage: the run that it opens or belongs to; none for one that all runs share, or untracked.

        `note` is the file that keeps a run's id between attempts, `inputs` the digest of each input, by path.
        """
        tracker = cls()
        tracker._lost = not is_on()
        if tracker._lost:
            return tracker
        if stage == "train":
            return cls._of_train(node, note, seed, identity, settings, inputs, code)
        if stage == "evaluate" and (trained := out.parent / "train" / "run.json").is_file():
            return cls._of_evaluate(trained, inputs)
        if stage in ("table", "figure") and (runs := _runs_behind(inputs)):
            return cls._of_study(stage, out.name, node, runs)
        tracker._lost = True
        return tracker

    @classmethod
    def _of_train(
        cls,
        node: Mapping[str, Any],
        note: Path,
        seed: int | None,
        identity: str,
        settings: str,
        inputs: Mapping[str, Mapping[str, Any]],
        code: Mapping[str, Any] | None,
    ) -> "Tracker":
        """A new run of these settings, or the one of an interrupted attempt, whose id `note` keeps."""
        tracker = cls()
        tracker._opened = True
        tags = {"suite" if key == "group" else key: value for key, value in node["tags"].items()} | {"seed": str(seed)}

        def begin() -> None:
            client = tracker._client = _client()
            kept = _kept(note)
            if kept.get("identity") == identity and _knows(client, kept["run_id"]):
                tracker.run_id = kept["run_id"]
                client.update_run(tracker.run_id, status="RUNNING")
                return
            more = {"mlflow.source.git.commit": code["commit"]} if code else {}
            more["mlflow.source.name"] = "rmlr train"
            title = f"{tags['run']} seed {seed}"
            place = _experiment(client, f"rmlr-{tags['profile']}")
            run_id: str = client.create_run(place, tags={**tags, **more}, run_name=title).info.run_id
            tracker.run_id = run_id
            write_whole(note, json.dumps({"identity": identity, "run_id": run_id}))
            from mlflow.entities import Dataset, DatasetInput, InputTag, Param

            numbers = {key: value for key, value in node.items() if key not in ("tags", "code")} | {"seed": seed}
            params = [Param(key, str(value)) for key, value in _flat(numbers)]
            for start in range(0, len(params), PARAMS_AT_ONCE):
                client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
            context = [InputTag("mlflow.data.context", "training")]
            data = [
                Dataset(
                    name=_place(path, tags["profile"]),
                    digest=found["sha256"][:16],
                    source_type="local",
                    source=json.dumps({"uri": path}),
                    profile=json.dumps({"files": found["files"], "bytes": found["bytes"]}),
                )
                for path, found in inputs.items()
            ]
            _log_inputs(client, run_id, [DatasetInput(one, context) for one in data])
            client.log_text(run_id, settings, "settings.yaml")

        tracker._attempt("opening a run", begin)
        tracker._finish = lambda folder: tracker._files(folder, RESULTS, None)
        return tracker

    @classmethod
    def _of_evaluate(cls, trained: Path, inputs: Mapping[str, Any]) -> "Tracker":
        """The run that a training's run.json names, to add results to; nothing where that was not tracked."""
        tracker = cls()

        def begin() -> None:
            run_id = json.loads(trained.read_text())["mlflow_run_id"]
            if run_id is None:
                tracker._lost = True
                return
            tracker._client = _client()
            tracker._client.get_run(run_id)
            tracker.run_id = run_id

        def finish(folder: Path) -> None:
            tracker._files(folder, RESULTS, "evaluate")
            for path in inputs:
                if path.endswith(".parquet"):
                    tracker._client.log_artifact(tracker.run_id, path, "predict")

        tracker._attempt("finding the run", begin)
        tracker._finish = finish
        return tracker

    @classmethod
    def _of_study(cls, stage: str, name: str, node: Mapping[str, Any], runs: Mapping[str, list[str]]) -> "Tracker":
        """The run `study` of the experiment that the runs behind a table or figure are in."""
        tracker = cls()
        everyone = list(dict.fromkeys(run_id for ids in runs.values() for run_id in ids))

        def begin() -> None:
            client = tracker._client = _client()
            first = client.get_run(everyone[0])
            place = first.info.experiment_id
            tracker.run_id = _study_run(client, place, first.data.tags.get("profile", ""))
            if stage == "table":
                rows = {
                    source["run"]: ", ".join(filter(None, row["row"].values()))
                    for row in [*node["rows"], *node["controls"]]
                    for source in row["sources"]
                }
                marks = {run_id: rows.get(run, run) for run, ids in runs.items() for run_id in ids}
                _mark(client, place, name, marks)
                _save_view(client, place, name, node["title"], everyone)

        def finish(folder: Path) -> None:
            names = sorted(file.name for file in folder.iterdir() if file.suffix in SHOWN)
            tracker._files(folder, names, f"{stage}s/{name}")
            if stage == "figure" and len(everyone) == 1:
                pictures = [one for one in names if one.endswith(".png")]
                tracker._files(folder, pictures, f"figures/{name}", everyone[0])

        tracker._attempt("finding the study", begin)
        tracker._finish = finish
        return tracker

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers of a step; sent a few at once, as a database wants them."""
        if self._lost:
            return
        now, above = time.time_ns() // 1_000_000, CURVE if self._opened else ""
        self._points += [(f"{above}{key}", float(value), now, step) for key, value in metrics.items()]
        if len(self._points) >= POINTS_AT_ONCE or time.monotonic() - self._sent > SEND_EVERY:
            self._attempt("sending metrics", self._send)

    def close(self, status: str, folder: Path) -> None:
        """Send what waits and, of a stage that succeeded, its files; whoever opened the run also says how it ended."""
        self._attempt("sending metrics", self._send)
        if status == "FINISHED":
            self._attempt("sending files", lambda: self._finish(folder))
        if self._opened:
            self._attempt("closing the run", lambda: self._client.set_terminated(self.run_id, status))

    def _files(self, folder: Path, names: Sequence[str], below: str | None, run_id: str | None = None) -> None:
        for name in names:
            if (folder / name).is_file():
                self._client.log_artifact(run_id or self.run_id, str(folder / name), below)

    def _send(self) -> None:
        from mlflow.entities import Metric

        points, self._points, self._sent = self._points, [], time.monotonic()
        for start in range(0, len(points), METRICS_AT_ONCE):
            metrics = [Metric(*point) for point in points[start : start + METRICS_AT_ONCE]]
            self._client.log_batch(self.run_id, metrics=metrics)

    def _attempt(self, doing: str, action: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            action()
        except Exception as error:
            self._lost = True
            log.warning("MLflow: %s failed, this stage goes on untracked (its numbers are in files): %s", doing, error)


# ---- the store


def _client() -> Any:
    """A client of the user's tracking server, else of `mlflow.db` here."""
    uri = tracking_uri()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # One process at a time where each opens the database itself: those that start together would make the same tables.
    with FileLock(lock) if (lock := _database_lock(uri)) else nullcontext():
        if uri.startswith("sqlite:///"):
            _make_whole(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        return client


def _database_lock(uri: str) -> Path | None:
    """The lock of a store that is a database; a server keeps its own order."""
    if uri.startswith("sqlite:///"):
        return Path(f"{uri.removeprefix('sqlite:///').partition('?')[0]}.lock")
    if uri.startswith(("postgresql", "mysql", "mssql")):
        name = hashlib.sha256(uri.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir(), f"rmlr-{os.getuid()}-{name}.lock")
    return None


def _make_whole(path: Path) -> None:
    """Make a new database aside, for one whose maker was killed half-way could not be used again."""
    from mlflow import MlflowClient

    if not path.exists():
        aside = path.with_name(f"{path.name}.part")
        for left in path.parent.glob(f"{aside.name}*"):
            left.unlink()
        MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments()
        aside.replace(path)


def _experiment(client: Any, name: str) -> str:
    """The experiment of that name, made by whoever is first."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, tags={KIND: "custom_model_development"})
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def _log_inputs(client: Any, run_id: str, inputs: Sequence[Any]) -> None:
    """Name a run's data sets; a database that is told of a new one by several processes at once refuses all but one."""
    from mlflow.exceptions import MlflowException

    for wait in (0.2, 0.5, 1.0):
        try:
            return client.log_inputs(run_id, inputs)
        except MlflowException:
            time.sleep(wait)
    return client.log_inputs(run_id, inputs)


def _knows(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


# ---- tables and figures


def _kept(note: Path) -> dict[str, str]:
    """What an earlier attempt noted of its run; nothing where that is absent or damaged."""
    try:
        kept = json.loads(note.read_text())
        return kept if isinstance(kept["identity"], str) and isinstance(kept["run_id"], str) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _runs_behind(inputs: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tracked runs whose files a table or figure reads: GROUP/NAME -> ids in MLflow, one a seed."""
    runs: dict[str, list[str]] = {}
    for path in map(Path, inputs):
        for folder in (path, *path.parents[:2]):
            try:
                about = json.loads((folder / "train" / "run.json").read_text())
                run_id, tags = about["mlflow_run_id"], about["settings"]["tags"]
                name = f"{tags['group']}/{tags['run']}"
            except (OSError, ValueError, KeyError, TypeError):  # TypeError: valid JSON, but not a stage's
                continue
            ids = runs.setdefault(name, [])
            if run_id is not None and run_id not in ids:
                ids.append(run_id)
            break
    return {run: ids for run, ids in runs.items() if ids}


def _rows_of_runs(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """GROUP/NAME of each run -> what its row is called: the cells that name it there, numbers with their column."""
    names: dict[str, list[str]] = {}
    for row in rows:
        cells = row["row"].items()
        name = ", ".join(f"{column} {cell}" if cell[:1].isdigit() else cell for column, cell in cells if cell)
        for source in row["sources"]:
            names.setdefault(source["run"], []).append(name)
    return {run: " | ".join(dict.fromkeys(found)) for run, found in names.items()}


def _study_run(client: Any, place: str, profile: str) -> str:
    """The run `study` of an experiment: the oldest; of several processes that make it at once, one prevails."""

    def oldest() -> list[str]:
        found = client.search_runs([place], filter_string=f"tags.suite = '{STUDY}'")
        return [run.info.run_id for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))]

    if found := oldest():
        return found[0]
    tags = {"suite": STUDY, "profile": profile, "mlflow.source.name": "rmlr table"}
    ours = client.create_run(place, tags=tags, run_name=STUDY).info.run_id
    client.set_terminated(ours, "FINISHED")
    first = oldest()[0]
    if first != ours:
        client.delete_run(ours)
    return first


def _mark(client: Any, place: str, table: str, marks: Mapping[str, str]) -> None:
    """Tag the runs that a table is made of with their row, and no other run of the experiment any longer."""
    for run in client.search_runs([place], filter_string=f"tags.{table} LIKE '%'", max_results=50_000):
        if run.info.run_id not in marks:
            client.delete_tag(run.info.run_id, table)
    for run_id, row in marks.items():
        client.set_tag(run_id, table, row)


def _save_view(client: Any, place: str, table: str, title: str, runs: Sequence[str]) -> None:
    """Save a view of the experiment: the runs of a table, seeds averaged by row, a bar chart for each of its metrics.

    It appears under "Saved views" on the experiment's page, and opens by
    `#/experiments/ID/runs?viewStateShareKey=TABLE&compareRunsMode=CHART`.
    """
    metrics = sorted({key for run_id in runs for key in client.get_run(run_id).data.metrics if is_headline(key)})
    section, curves = f"{table}-results", f"{table}-curves"
    common = {"deleted": False, "isGenerated": False}
    charts: list[dict[str, Any]] = [
        {
            **common,
            "uuid": f"{table}-{metric}",
            "type": "BAR",
            "metricSectionId": section,
            "displayName": metric,
            "metricKey": metric,
            "runsCountToCompare": 50,
        }
        for metric in metrics
    ]
    charts.append(
        {
            **common,
            "uuid": f"{table}-loss",
            "type": "LINE",
            "metricSectionId": curves,
            "displayName": "loss by epoch",
            "metricKey": f"{CURVE}loss",
            "selectedMetricKeys": [f"{CURVE}loss"],
            "runsCountToCompare": 50,
            "lineSmoothness": 0,
            "scaleType": "linear",
            "xAxisKey": "step",
            "xAxisScaleType": "linear",
            "selectedXAxisMetricKey": "",
            "yAxisKey": "metric",
            "yAxisExpressions": [],
            "range": {},
            "ignoreOutliers": False,
            "useGlobalXaxisKey": False,
            "useGlobalLineSmoothing": False,
        }
    )
    state = {
        "searchFilter": f"tags.{table} LIKE '%'",
        "orderByKey": f"metrics.`{metrics[0]}`" if metrics else "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [f"metrics.`{metric}`" for metric in metrics] + ["tags.`seed`", "tags.`suite`"],
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": table}]},
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": uuid, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
            for uuid, name in ((section, title), (curves, "Training"))
        ],
    }
    now = time.time_ns() // 1_000_000
    name = f"Table {number}" if (number := table.removeprefix("table")) != table else table
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    client.set_experiment_tag(place, f"{VIEW}{table}", json.dumps(view))


def is_headline(metric: str) -> bool:
    """Whether the paper's tables have such a column."""
    return bool(re.fullmatch(r"vcoco_ap_role_[12]|hicodet_(default|known_object)_(full|rare|nonrare)", metric))


def _place(path: str, profile: str) -> str:
    """A folder below a profile's results as nodes are named (`vcoco/prepare`); another by the end of its path."""
    parts = Path(path).parts
    return "/".join(parts[parts.index(profile) + 1 :] if profile in parts[:-1] else parts[-2:])


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
