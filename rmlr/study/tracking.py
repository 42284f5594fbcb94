"""Tracking of runs in MLflow. It is never the source of a number.

A study (profile) is one experiment. `train` opens a run, which is one variant and one seed; `evaluate` adds metrics,
tables, predictions and the model to it; `table` and `figure` add their files to one more run, `study`. A table also
tags its runs, and saves a view of charts. Seeds are grouped by tags, not by parent runs: MLflow averages the metrics
and curves of a group, which it does not for the children of a run, and a parent would be one more row.

A failure in MLflow is one warning, and ends the tracking of that stage, not the stage. The same holds for waiting: a
stage waits for MLflow for a limited time, in total over all calls (`rmlr.study.store.longest_wait`). Tracking is off if
mlflow is not installed or RMLR_TRACKING=off. The store is MLFLOW_TRACKING_URI, or `mlflow.db` in the current folder.
"""

import importlib.util
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmlr.study import store, views
from rmlr.study.files import write_whole

log = logging.getLogger(__name__)

POINTS_AT_ONCE = 25  # of a curve
SEND_EVERY = 10.0  # seconds, the maximum delay of points
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100  # MLflow's limits
STUDY = "study"  # tag `suite` of the run that holds tables and figures
DATA = "data."  # prefix of counts of the data: parameters of the run
RESULTS = ("metrics.json", "summary.txt", "per_verb.csv", "per_action.csv", "per_class.csv", "curves.csv")
SHOWN = (".png", ".svg", ".pdf", ".csv", ".md", ".tex", ".json")
MODELS = "mlflow.log-model.history"  # tag of a run: its artifacts that are models
LOADER = "rmlr.commands.export"  # what MLflow calls to load a run's model
CARRIED = ("train/checkpoint.json", "train/weights.safetensors", "train/run.json", "predict/settings.yaml")


def is_on() -> bool:
    """Whether stages are tracked here."""
    return os.environ.get("RMLR_TRACKING", "on") != "off" and importlib.util.find_spec("mlflow") is not None


class Tracker:
    """One run in MLflow, or the run `study`. It never raises, and never exceeds the time limit of a stage."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._more: list[str] = []  # runs of the same seed's other folds, which are given the same metrics
        self._patience = store.Patience(store.longest_wait())
        self._client: Any = None
        self._opened = self._lost = False
        self._points: list[tuple[str, float, int, int]] = []  # key, value, milliseconds, step
        self._params: dict[str, str] = {}
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
        """The tracker of a stage: the run that it opens or belongs to; none for stages shared by all runs, or if
        untracked.

        `note` is the file that stores a run's id between attempts, `inputs` the digest of each input, by path.
        """
        tracker = cls()
        tracker._lost = not is_on()
        if tracker._lost:
            return tracker
        if stage == "train":
            tracker._of_train(node, note, seed, identity, settings, inputs, code)
        elif stage == "evaluate" and _trainings(out.parent):
            tracker._of_evaluate(out.parent, inputs)
        elif stage in ("table", "figure") and (runs := _runs_behind(inputs)):
            tracker._of_study(stage, out.name, node, runs)
        else:
            tracker._lost = True
        return tracker

    def _of_train(
        self,
        node: Mapping[str, Any],
        note: Path,
        seed: int | None,
        identity: str,
        settings: str,
        inputs: Mapping[str, Mapping[str, Any]],
        code: Mapping[str, Any] | None,
    ) -> None:
        """A new run of these settings, or that of an interrupted attempt, whose id is in `note`.

        An attempt that was killed, and had other settings, is closed in MLflow.
        """
        self._opened = True
        tags = {"suite" if key == "group" else key: value for key, value in node["tags"].items()} | {"seed": str(seed)}

        def begin() -> None:
            client = self._connect()
            kept = _kept(note)
            if kept and store.knows(client, kept["run_id"]):
                if kept["identity"] == identity:
                    self.run_id = kept["run_id"]
                    client.update_run(self.run_id, status="RUNNING")
                    return
                if client.get_run(kept["run_id"]).info.status == "RUNNING":  # it was killed and had other settings
                    client.set_terminated(kept["run_id"], "KILLED")
            more = {"mlflow.source.git.commit": code["commit"]} if code else {}
            more["mlflow.source.name"] = "rmlr train"
            place = store.experiment(client, f"rmlr-{tags['profile']}")
            title = f"{tags['run']} seed {seed}" + (f" fold {tags['fold']}" if "fold" in tags else "")
            run_id: str = client.create_run(place, tags={**tags, **more}, run_name=title).info.run_id
            self.run_id = run_id
            write_whole(note, json.dumps({"identity": identity, "run_id": run_id}))
            apart = ("tags", "code", "fold")
            numbers = {key: value for key, value in node.items() if key not in apart} | {"seed": seed}
            self._send_params({key: str(value) for key, value in _flat(numbers)})
            store.log_inputs(client, run_id, _data_sets(inputs, tags["profile"]))
            client.log_text(run_id, settings, "settings.yaml")

        def finish(folder: Path) -> None:
            assert self.run_id is not None
            self._files(folder, RESULTS, None)
            views.describe_run(self._client, self.run_id)

        self._attempt("opening a run", begin)
        self._finish = finish

    def _of_evaluate(self, run: Path, inputs: Mapping[str, Any]) -> None:
        """The run named in a training's run.json, to which results are added; none if that was not tracked.

        With folds there are several: each gets the metrics, so that the mean over a table's runs is that over seeds.
        The files go to the first.
        """

        def begin() -> None:
            ids = [json.loads(about.read_text())["mlflow_run_id"] for about in _trainings(run)]
            if None in ids:
                self._lost = True
                return
            client = self._connect()
            for run_id in ids:
                client.get_run(run_id)
            self.run_id, *self._more = ids

        def finish(folder: Path) -> None:
            assert self.run_id is not None
            self._files(folder, RESULTS, "evaluate")
            for path in inputs:
                if path.endswith(".parquet"):
                    self._client.log_artifact(self.run_id, path, "predict")
            for run_id in (self.run_id, *self._more):
                views.describe_run(self._client, run_id)
            views.save_list(self._client, self._client.get_run(self.run_id).info.experiment_id)
            self._model(run)

        self._attempt("finding the run", begin)
        self._finish = finish

    def _of_study(self, stage: str, name: str, node: Mapping[str, Any], runs: Mapping[str, list[str]]) -> None:
        """The run `study` of the experiment with the runs of a table or figure.

        It is written when the stage has succeeded: a table that fails creates nothing.
        """
        everyone = list(dict.fromkeys(run_id for ids in runs.values() for run_id in ids))

        def finish(folder: Path) -> None:
            client = self._connect()
            first = client.get_run(everyone[0])
            place = first.info.experiment_id
            self.run_id = _study_run(client, place, first.data.tags.get("profile", ""))
            names = sorted(file.name for file in folder.iterdir() if file.suffix in SHOWN)
            self._files(folder, names, f"{stage}s/{name}")
            if stage == "figure" and len(everyone) == 1:
                pictures = [one for one in names if one.endswith(".png")]
                self._files(folder, pictures, f"figures/{name}", everyone[0])
            if stage == "table":
                rows = _rows_of_runs([*node["rows"], *node["controls"]])
                views.mark(client, place, name, {one: rows.get(run, run) for run, ids in runs.items() for one in ids})
                views.save_table(client, place, name, node["title"], everyone)
                if (folder / f"{name}.md").is_file():
                    views.keep_table(client, self.run_id, name, (folder / f"{name}.md").read_text())
                for run_id in everyone:
                    views.describe_run(client, run_id)
            views.describe_study(client, place, self.run_id)

        self._finish = finish

    def add(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of a step, sent in small batches, which suits a database; without a step, results.

        Results that describe the data become parameters: they are the same for all runs, and not curves.
        """
        if self._lost:
            return
        now = time.time_ns() // 1_000_000
        for key, value in metrics.items():
            if step is None and (self._opened or views.is_constant(key)):
                self._params[f"{DATA}{key}"] = f"{value:g}" if abs(value) < 1e6 else str(value)
            else:
                full = f"{views.CURVE}{key}" if self._opened and "/" not in key else key
                self._points.append((full, float(value), now, step or 0))
        if len(self._points) >= POINTS_AT_ONCE or time.monotonic() - self._sent > SEND_EVERY:
            self._attempt("sending metrics", self._send)

    def close(self, status: str, folder: Path) -> None:
        """Send pending points and, after success, the files; the stage that opened the run also sets its status."""
        if self._points or self._params:
            self._attempt("sending metrics", self._send)
        if status == "FINISHED":
            self._attempt("sending files", lambda: self._finish(folder))
        if self._opened:
            self._attempt("closing the run", lambda: self._client.set_terminated(self.run_id, status))

    def _connect(self) -> Any:
        client = store.connect(self._patience.seconds)
        self._client = store.Guarded(client, lambda: self._lost)
        return self._client

    def _files(self, folder: Path, names: Sequence[str], below: str | None, run_id: str | None = None) -> None:
        for name in names:
            if (folder / name).is_file():
                self._client.log_artifact(run_id or self.run_id, str(folder / name), below)

    def _model(self, run: Path) -> None:
        """The run's model, which MLflow's pages can register: weights and prediction settings, without the detector.

        It can be loaded in this checkout, where the detector is found from the inputs of training; `rmlr export` writes
        both.
        """
        client = self._client
        if MODELS in client.get_run(self.run_id).data.tags or not all((run / name).is_file() for name in CARRIED):
            return
        from mlflow.models import Model

        described = Model(artifact_path="model", run_id=self.run_id)
        described.add_flavor("python_function", loader_module=LOADER, data="run")
        with tempfile.TemporaryDirectory() as scratch:
            described.save(str(Path(scratch, "MLmodel")))
            for file in CARRIED:
                link = Path(scratch, "run", file)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((run / file).resolve())
            client.log_artifacts(self.run_id, scratch, "model")
        client.set_tag(self.run_id, MODELS, json.dumps([described.get_tags_dict()]))

    def _send(self) -> None:
        from mlflow.entities import Metric

        points, self._points, self._sent = self._points, [], time.monotonic()
        for start in range(0, len(points), METRICS_AT_ONCE):
            metrics = [Metric(*point) for point in points[start : start + METRICS_AT_ONCE]]
            for run_id in (self.run_id, *self._more):
                self._client.log_batch(run_id, metrics=metrics)
        params, self._params = self._params, {}
        if params:
            known = self._client.get_run(self.run_id).data.params  # a parameter is written once
            self._send_params({key: value for key, value in params.items() if key not in known})

    def _send_params(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in values.items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self.run_id, params=params[start : start + PARAMS_AT_ONCE])

    def _attempt(self, doing: str, action: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            store.tracking_uri()  # sets defaults before the import, which has no time limit: it takes seconds
            import mlflow  # noqa: F401

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            self._patience.call(action)
        except Exception as error:
            self._lost = True
            log.warning(
                "MLflow: %s failed, this stage continues untracked (its numbers are in files): %s", doing, error
            )


# ---- descriptions of a run


def _data_sets(inputs: Mapping[str, Mapping[str, Any]], profile: str) -> list[Any]:
    """The inputs of a training run, as MLflow data sets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = [InputTag("mlflow.data.context", "training")]
    return [
        DatasetInput(
            Dataset(
                name=_place(path, profile),
                digest=found["sha256"][:16],
                source_type="local",
                source=json.dumps({"uri": path}),
                profile=json.dumps({"files": found["files"], "bytes": found["bytes"]}),
            ),
            context,
        )
        for path, found in inputs.items()
    ]


def _kept(note: Path) -> dict[str, str]:
    """The note of an earlier attempt on its run; empty if absent or damaged."""
    try:
        kept = json.loads(note.read_text())
        return kept if isinstance(kept["identity"], str) and isinstance(kept["run_id"], str) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _trainings(run: Path) -> list[Path]:
    """What says how a seed of a run was trained: one run.json, or one for each fold."""
    places = [run / "train", *sorted(run.glob("fold*/train"))]
    return [place / "run.json" for place in places if (place / "run.json").is_file()]


def _runs_behind(inputs: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tracked runs whose files a table or figure reads: GROUP/NAME -> ids in MLflow, one per seed and fold."""
    runs: dict[str, list[str]] = {}
    for path in map(Path, inputs):
        for about in next(filter(None, map(_trainings, (path, *path.parents[:2]))), []):
            try:
                said = json.loads(about.read_text())
                run_id, tags = said["mlflow_run_id"], said["settings"]["tags"]
                name = f"{tags['group']}/{tags['run']}"
            except (OSError, ValueError, KeyError, TypeError):  # TypeError: valid JSON, but not a stage's
                continue
            ids = runs.setdefault(name, [])
            if run_id is not None and run_id not in ids:
                ids.append(run_id)
    return {run: ids for run, ids in runs.items() if ids}


def _rows_of_runs(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """GROUP/NAME of each run -> the name of its row: the cells that identify it, numbers with their column."""
    names: dict[str, list[str]] = {}
    for row in rows:
        cells = row["row"].items()
        name = ", ".join(f"{column} {cell}" if cell[:1].isdigit() else cell for column, cell in cells if cell)
        for source in row["sources"]:
            names.setdefault(source["run"], []).append(name)
    return {run: " | ".join(dict.fromkeys(found)) for run, found in names.items()}


def _study_run(client: Any, place: str, profile: str) -> str:
    """The run `study` of an experiment: the oldest, in case several processes create one at once."""

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


def _place(path: str, profile: str) -> str:
    """The node name of a folder below a profile's results (`vcoco/prepare`); for others, the end of the path."""
    parts = Path(path).parts
    return "/".join(parts[parts.index(profile) + 1 :] if profile in parts[:-1] else parts[-2:])


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
