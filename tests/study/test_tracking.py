"""The tracker: what the stages of a study leave in MLflow, and that it costs them nothing but that."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

from rmlr.study.nodes import EvaluateNode, TrainNode
from rmlr.study.plan import Study
from rmlr.study.run import run
from rmlr.study.section import Section
from rmlr.study.store import Guarded, longest_wait, tracking_uri
from rmlr.study.tracking import Tracker, _rows_of_runs, _runs_behind
from rmlr.study.views import links

NODE = EvaluateNode(code="abc", split="test")
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed")

# A run as the study lays it out: trained, used to predict, evaluated. Arguments: seed, what to do.
STAGES = """
import os, signal, sys
from pathlib import Path
from rmlr.study.run import run
from rmlr.study.nodes import EvaluateNode, TrainNode
seed, wanted = int(sys.argv[1]), sys.argv[2:]
folder, data = Path(f"tiny/runs/shared/rmlr/{seed}"), Path("tiny/vcoco/prepare")
settings = Path("train.yaml")
if {"train", "interrupted", "killed"} & set(wanted):
    node = TrainNode.load(settings)
    with run("train", node, settings=settings, out=folder / "train", inputs=[data], seed=seed) as record:
        for epoch in range(3):
            record.log_metrics({"loss": 1.0 / (epoch + 1), "val/vcoco_ap_role_1": epoch / 4}, step=epoch + 1)
        if "interrupted" in wanted:
            raise KeyboardInterrupt
        if "killed" in wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        record.log_metrics({"images": 4.0})
        (record.folder / "curves.csv").write_text("epoch,loss")
        for name in ("checkpoint.json", "weights.safetensors"):
            (record.folder / name).write_text(name)
if "evaluate" in wanted:
    triplets = folder / "predict" / "triplets.parquet"
    triplets.parent.mkdir()
    triplets.write_bytes(b"scored")
    (triplets.parent / "settings.yaml").write_text("code: ''")
    node = EvaluateNode(code="abc", split="test")
    with run("evaluate", node, settings=None, out=folder / "evaluate", inputs=[data, triplets]) as record:
        record.log_metrics({"vcoco_ap_role_1": 0.25 + seed / 2, "vcoco_roles": 8.0})
        record.log_metrics({"hicodet_default_rare": 0.25, "hicodet_default_rare_linspace": 0.25})
        (record.folder / "metrics.json").write_text("{}")
        (record.folder / "per_verb.csv").write_text("verb")
"""


class TableOfRuns(Section):
    """As much of a table's node as the tracker reads."""

    title: str
    rows: list[dict]
    controls: list[dict]


class World:
    """A folder with the settings of a run, where stages are run, tracked."""

    def __init__(self, folder: Path):
        self.folder = folder
        params = Path(__file__).parents[2] / "params.yaml"
        node = Study.load(params).nodes("tiny", defaultdict(str))["runs/shared/rmlr/0/train"]
        assert isinstance(node, TrainNode)
        (folder / "train.yaml").write_text(node.dump())
        data = folder / "tiny" / "vcoco" / "prepare"
        data.mkdir(parents=True)
        (data / "vocabulary.json").write_text("{}")
        self.environment = {**os.environ, "RMLR_TRACKING": "on", "OMP_NUM_THREADS": "1"}
        self.environment.setdefault("RMLR_TRACKING_SECONDS", "600")  # of a machine that has other work, too
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def start(self, seed: int, *wanted: str, **variables: str) -> subprocess.Popen:
        command = [sys.executable, "-c", STAGES, str(seed), *wanted]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment | variables, stderr=subprocess.PIPE, text=True
        )

    def finish(self, *processes: subprocess.Popen) -> None:
        said = [process.communicate()[1] for process in processes]
        for process, of_process in zip(processes, said, strict=True):
            assert process.returncode == 0, of_process
            assert "MLflow" not in of_process

    def about(self, seed: int, stage: str = "train") -> dict:
        return json.loads((self.folder / f"tiny/runs/shared/rmlr/{seed}/{stage}/run.json").read_text())


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def runs_of(uri):
    """A client, the study's experiment, and its runs by suite and seed."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    [experiment] = [one for one in client.search_experiments() if one.name == "rmlr-tiny"]
    runs = client.search_runs([experiment.experiment_id])
    found = {(one.data.tags["suite"], one.data.tags.get("seed")): one for one in runs}
    assert len(found) == len(runs)
    return client, experiment, found


def artifacts(client, run_id, below=None):
    """Every file of a run in MLflow."""
    found = []
    for item in client.list_artifacts(run_id, below):
        found += artifacts(client, run_id, item.path) if item.is_dir else [item.path]
    return sorted(found)


def make_table(world, out, seeds, row="RmLR", fails=False):
    """A table of one row, made of the runs of some seeds, as the stage does it."""
    inputs = [world.folder / f"tiny/runs/shared/rmlr/{seed}/evaluate" for seed in seeds]
    rows = [{"row": {"variant": row}, "sources": [{"run": "shared/rmlr"}]}]
    node = TableOfRuns(title="Ablations", rows=rows, controls=[])
    with run("table", node, settings=None, out=out, inputs=inputs) as record:
        (record.folder / f"{out.name}.csv").write_text("variant")
        (record.folder / f"{out.name}.md").write_text(f"**Ablations**\n\n| {row} |")
        if fails:
            raise ValueError("no")


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_four_runs_that_start_at_once_on_a_new_database_are_all_in_it_and_whole(world, monkeypatch):
    world.finish(*[world.start(seed, "train", "evaluate") for seed in range(4)])
    uri = f"sqlite:///{world.folder}/mlflow.db"
    client, experiment, runs = runs_of(uri)
    assert set(runs) == {("shared", str(seed)) for seed in range(4)}
    assert all(one.info.status == "FINISHED" for one in runs.values())
    one = runs["shared", "3"]
    wanted = {"run": "rmlr", "variant": "rmlr", "dataset": "vcoco", "backbone": "base", "encoder": "main"}
    assert (wanted | {"profile": "tiny"}).items() <= one.data.tags.items()
    assert one.info.run_name == "rmlr seed 3"
    assert one.data.params["train.epochs"] == "2"
    assert one.data.params["network.ire.dim"] == "8"
    curve = client.get_metric_history(one.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, 1.0 / 3)]
    assert [point.value for point in client.get_metric_history(one.info.run_id, "val/vcoco_ap_role_1")] == [
        0,
        0.25,
        0.5,
    ]
    assert one.data.params["data.images"] == "4", "what describes the data is a parameter"
    assert one.data.params["data.vcoco_roles"] == "8"
    assert not {"train/images", "images", "vcoco_roles"} & one.data.metrics.keys()
    assert one.data.metrics["vcoco_ap_role_1"] == 1.75, "what evaluate measures joins the run of the train beside it"
    [data] = one.inputs.dataset_inputs
    digest = world.about(3)["inputs"]["tiny/vcoco/prepare"]["sha256"]
    assert (data.dataset.name, data.dataset.digest) == ("vcoco/prepare", digest[:16])
    assert json.loads(data.dataset.source) == {"uri": "tiny/vcoco/prepare"}
    assert artifacts(client, one.info.run_id) == [
        "curves.csv",
        "evaluate/metrics.json",
        "evaluate/per_verb.csv",
        "model/MLmodel",
        "model/run/predict/settings.yaml",
        "model/run/train/checkpoint.json",
        "model/run/train/run.json",
        "model/run/train/weights.safetensors",
        "predict/triplets.parquet",
        "settings.yaml",
    ]
    assert world.about(3)["mlflow_run_id"] == world.about(3, "evaluate")["mlflow_run_id"] == one.info.run_id

    note = one.data.tags["mlflow.note.content"]
    assert note.startswith("One training run of variant `rmlr` on vcoco, seed 3, profile `tiny`: 2 epochs on trainval;")
    assert "| vcoco_ap_role_1 | 175.00 |" in note
    assert "`results/tiny/runs/shared/rmlr/3`" in note

    # its model can be registered: weights and how they score
    [model] = json.loads(one.data.tags["mlflow.log-model.history"])
    assert (model["artifact_path"], model["run_id"]) == ("model", one.info.run_id)

    # an interrupted run resumes as the same run
    with world.start(9, "interrupted") as process:
        process.communicate()
    interrupted = runs_of(uri)[2]["shared", "9"]
    assert interrupted.info.status == "KILLED"
    world.finish(world.start(9, "train"))
    ended = runs_of(uri)[2]["shared", "9"]
    assert (ended.info.run_id, ended.info.status) == (interrupted.info.run_id, "FINISHED")

    # a table marks the runs that it is made of, and saves a view of them; made again of others, it marks those alone
    monkeypatch.setenv("RMLR_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match="no"):
        make_table(world, world.folder / "tables" / "table2", [0, 1, 2], fails=True)
    assert ("study", None) not in runs_of(uri)[2], "a table that failed leaves nothing"
    make_table(world, world.folder / "tables" / "table2", [0, 1, 2])
    make_table(world, world.folder / "tables" / "table2", [1, 3], row="another name")
    make_table(world, world.folder / "tables" / "table3", [0])
    client, experiment, runs = runs_of(uri)
    marked = {seed: one.data.tags["table2"] for (_, seed), one in runs.items() if "table2" in one.data.tags}
    assert marked == {"1": "another name", "3": "another name"}
    study = runs["study", None]
    assert artifacts(client, study.info.run_id) == [
        f"tables/{table}/{table}.{kind}" for table in ("table2", "table3") for kind in ("csv", "md")
    ]
    view = json.loads(client.get_experiment(experiment.experiment_id).tags["mlflow.sharedViewState.table2"])
    assert view["name"] == "Table 2"
    state = json.loads(view["state"])
    charted = [chart["metricKey"] for chart in state["compareRunCharts"]]
    curves = ["train/loss", "val/vcoco_ap_role_1"]
    assert charted == ["hicodet_default_rare", "vcoco_ap_role_1", *curves], "the paper's columns alone"
    found = client.search_runs([experiment.experiment_id], filter_string=state["searchFilter"])
    assert {one.data.tags["seed"] for one in found} == {"1", "3"}

    # descriptions: what there is, its links, the tables; each run says which row it feeds
    place = experiment.experiment_id
    found = links(client, place)
    assert list(found) == ["Runs", "Table 2", "Table 3"]
    assert found["Runs"]["list"] == f"#/experiments/{place}/runs?viewStateShareKey=runs&workflowType=machine_learning"
    listed = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.runs"])["state"])
    assert listed["selectedColumns"][:2] == ["metrics.`hicodet_default_rare`", "metrics.`vcoco_ap_role_1`"]
    note = client.get_experiment(place).tags["mlflow.note.content"]
    assert note == runs["study", None].data.tags["mlflow.note.content"]
    assert all(address in note for addresses in found.values() for address in addresses.values())
    assert note.index("| another name |") < note.index("| RmLR |"), "both tables"
    assert "Feeds Table 2, another name." in runs["shared", "1"].data.tags["mlflow.note.content"]

    # `make ui` prints the links
    program = [sys.executable, Path(__file__).parents[2] / "workflow" / "ui.py", "--links", "--port", "5055"]
    printed = subprocess.run(
        program, cwd=world.folder, env=world.environment, check=True, capture_output=True, text=True
    )
    wanted = [where for addresses in found.values() for where in addresses.values()]
    assert [line.strip() for line in printed.stdout.splitlines() if "http" in line] == [
        f"http://127.0.0.1:5055/{where}" for where in wanted
    ]

    # what somebody wrote on a page stays
    client.set_experiment_tag(place, "mlflow.note.content", "my own words")
    make_table(world, world.folder / "tables" / "table2", [0, 1])
    assert client.get_experiment(place).tags["mlflow.note.content"] == "my own words"
    make_table(world, world.folder / "tables" / "table4", [0], row="one")
    make_table(world, world.folder / "tables" / "table4", [0], row="two")
    assert (
        "Feeds Table 2, RmLR; Table 3, RmLR; Table 4, two."
        in (runs_of(uri)[2]["shared", "0"].data.tags["mlflow.note.content"])
    )


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_the_model_of_a_run_is_registered_from_it_and_loads_where_its_detector_is_found(
    photo_run, tmp_path, monkeypatch
):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    place = client.create_experiment("rmlr-tiny", artifact_location=str(tmp_path / "files"))
    tracker = Tracker()
    tracker._client, tracker.run_id = client, client.create_run(place).info.run_id
    tracker._model(photo_run.run)
    client.create_registered_model("ours")
    client.create_model_version("ours", f"runs:/{tracker.run_id}/model", tracker.run_id)
    code = "import sys, mlflow.pyfunc as m; print(m.load_model(sys.argv[1]).loader_module)"
    command = [sys.executable, "-W", "ignore", "-c", code, "models:/ours/1"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, cwd=photo_run.run, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "rmlr.commands.export", done.stderr


@needs_mlflow
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_run_is_not_running_for_ever(world):
    """The same settings continue it; with other settings it is closed, and a run of its own begins."""
    settings = world.folder / "train.yaml"
    for before, after in (("epochs: 2", "epochs: 7"), ("epochs: 7", "epochs: 8")):
        with world.start(0, "killed") as process:
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        content = settings.read_text()
        assert before in content
        settings.write_text(content.replace(before, after))
    world.finish(world.start(0, "train"))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{world.folder / 'mlflow.db'}")
    [experiment] = [one for one in client.search_experiments() if one.name == "rmlr-tiny"]
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    assert [one.info.status for one in runs if one.data.tags.get("seed") == "0"] == ["KILLED", "KILLED", "FINISHED"]


@needs_mlflow
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sixteen_runs_that_start_at_once_on_a_new_database_lose_no_metric(world):
    world.finish(*[world.start(seed, "train", "evaluate") for seed in range(16)])
    client, _, runs = runs_of(f"sqlite:///{world.folder}/mlflow.db")
    assert set(runs) == {("shared", str(seed)) for seed in range(16)}
    for (_, seed), one in runs.items():
        assert one.info.status == "FINISHED"
        assert len(client.get_metric_history(one.info.run_id, "train/loss")) == 3
        assert one.data.metrics["vcoco_ap_role_1"] == 0.25 + int(seed) / 2


def test_a_lost_tracker_is_said_once_and_stops_nothing(caplog, tmp_path):
    class Gone:
        def log_batch(self, *_, **__):
            raise ConnectionError("the server is gone")

    tracker = Tracker()
    tracker._client = Gone()
    for step in range(100):
        tracker.add({"loss": 1.0}, step)
    tracker.close("FINISHED", tmp_path)
    assert len(caplog.messages) == 1
    assert "untracked" in caplog.text
    assert "the server is gone" in caplog.text


# ---- a store that hangs: a stage waits so long and no longer


def test_how_long_a_stage_waits_is_a_number_of_seconds(monkeypatch):
    assert longest_wait() == 60
    monkeypatch.setenv("RMLR_TRACKING_SECONDS", "0.5")
    assert longest_wait() == 0.5
    for given in ("soon", "0", "-1", "nan", "inf", ""):
        monkeypatch.setenv("RMLR_TRACKING_SECONDS", given)
        with pytest.raises(ValueError, match=r"RMLR_TRACKING_SECONDS is .*expected a number of seconds"):
            longest_wait()


@needs_mlflow
def test_calls_share_one_bound_and_what_was_given_up_begins_nothing(caplog, tmp_path, monkeypatch):
    monkeypatch.setenv("RMLR_TRACKING_SECONDS", "1")
    free, called = threading.Event(), []

    class Slow:
        def log_batch(self, *_, **__):
            called.append("log_batch")
            time.sleep(0.4)
            if len(called) > 2:
                free.wait(60)

        def get_run(self, *_):
            called.append("get_run")

    tracker = Tracker()
    tracker._client = Guarded(Slow(), lambda: tracker._lost)
    began = time.monotonic()
    for step in range(100):
        tracker.add({"loss": 1.0}, step)
    tracker.add({"vcoco_roles": 3.0})
    tracker.close("FINISHED", tmp_path)
    assert 0.9 < time.monotonic() - began < 10
    assert "no answer within the 1 seconds that a stage waits (RMLR_TRACKING_SECONDS)" in caplog.text
    assert len(caplog.messages) == 1
    free.set()
    tracker._patience._thread.join(0.5)
    assert called == ["log_batch"] * 3


@contextmanager
def deaf_server():
    """Accepts connections and never answers."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def dying_server():
    """Answers the first requests as a store that knows nothing would, then closes every connection in its middle."""

    class Handler(BaseHTTPRequestHandler):
        left = 3

        def do_POST(self):
            Handler.left -= 1
            if Handler.left < 0:
                self.connection.close()
                return
            content = b'{"experiments": [], "experiment_id": "1"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def held_lock(folder):
    """The lock of a database that nobody has made yet, held by somebody else."""
    with FileLock(folder / "mlflow.db.lock"):
        yield None


@contextmanager
def damaged(folder):
    (folder / "mlflow.db").write_bytes(b"no database" * 1000)
    yield None
    assert (folder / "mlflow.db").read_bytes() == b"no database" * 1000, "it is the user's"


@contextmanager
def folder_in_its_place(folder):
    (folder / "mlflow.db").mkdir()
    yield None


@contextmanager
def read_only(folder):
    """Whoever runs this: root may write to files without the permission to write."""
    connect_in(folder)
    yield f"sqlite:///file:{folder}/mlflow.db?mode=ro&uri=true"


def connect_in(folder):
    code = "from rmlr.study.store import connect; connect()"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (held_lock, r"mlflow\.db\.lock has been held by another process for"),
        (lambda _: deaf_server(), "opening a run failed"),
        (lambda _: dying_server(), "opening a run failed"),
        (damaged, r"mlflow\.db: file is not a database\. Repair or replace it"),
        (folder_in_its_place, r"unable to open database file"),
        (read_only, r"mlflow\.db: it is read-only\. Repair"),
    ],
    ids=["a held lock", "a deaf server", "a server that dies", "a damaged file", "a folder", "a read-only file"],
)
def test_a_store_in_trouble_holds_no_stage_up_longer_than_said_and_costs_it_no_number(world, trouble, said):
    seconds = 4.0
    with trouble(world.folder) as uri:
        variables = {"RMLR_TRACKING_SECONDS": str(seconds)} | ({"MLFLOW_TRACKING_URI": uri} if uri else {})
        process = subprocess.Popen(
            [sys.executable, "-c", f"{TIMED}{STAGES}", "0", "train", "evaluate"],
            cwd=world.folder, env=world.environment | variables,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        out, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    waits = [float(line) for line in out.split()]
    opened = world.about(0)["mlflow_run_id"] is not None  # then evaluation, a stage of its own, tries too
    assert sum(waits) < (1 + opened) * seconds + 1
    assert messages.count("untracked") == 1 + opened, messages
    assert re.search(said, messages), messages
    assert world.about(0, "evaluate")["metrics"]["vcoco_ap_role_1"] == 0.25


# Prints how long each call of the tracker was waited for.
TIMED = """
import logging, time
from rmlr.study.store import Patience
logging.basicConfig()
call = Patience.call
def timed(self, action):
    began = time.monotonic()
    try:
        call(self, action)
    finally:
        print(time.monotonic() - began, flush=True)
Patience.call = timed
"""


@needs_mlflow
def test_what_training_left_damaged_costs_the_evaluation_its_tracking_only(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RMLR_TRACKING", "on")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "run.json").write_text('{"mlflow_run')
    with run("evaluate", NODE, settings=None, out=tmp_path / "evaluate") as record:
        record.log_metrics({"vcoco_ap_role_1": 0.5})
    assert json.loads((tmp_path / "evaluate" / "run.json").read_text())["metrics"] == {"vcoco_ap_role_1": 0.5}
    assert "finding the run failed" in caplog.text


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_a_table_of_a_form_that_the_tracker_does_not_know_is_made_all_the_same(world, monkeypatch, caplog):
    uri = f"sqlite:///{world.folder}/mlflow.db"
    world.finish(world.start(0, "train", "evaluate"))
    monkeypatch.setenv("RMLR_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    inputs = [world.folder / "tiny/runs/shared/rmlr/0/evaluate"]
    out = world.folder / "tables" / "table2"
    node = TableOfRuns(title="Ablations", rows=[{}], controls=[])
    with run("table", node, settings=None, out=out, inputs=inputs) as record:
        (record.folder / "table2.csv").write_text("variant")
    assert (out / "table2.csv").is_file()
    assert len(caplog.messages) == 1
    assert "sending files failed" in caplog.text


def test_what_a_table_of_no_run_or_untracked_runs_reads_is_no_run(tmp_path):
    assert _runs_behind({}) == {}
    folder = tmp_path / "0" / "train"
    folder.mkdir(parents=True)
    tags = {"settings": {"tags": {"group": "shared", "run": "rmlr"}}}
    (folder / "run.json").write_text(json.dumps({"mlflow_run_id": None, **tags}))
    metrics = str(tmp_path / "0" / "evaluate" / "metrics.json")
    assert _runs_behind({metrics: {}}) == {}
    (folder / "run.json").write_text(json.dumps({"mlflow_run_id": "a1", **tags}))
    assert _runs_behind({metrics: {}, str(folder): {}, str(tmp_path): {}}) == {"shared/rmlr": ["a1"]}


def test_a_run_is_called_by_the_cells_of_its_row_and_by_all_rows_that_it_feeds():
    rows = [
        {"row": {"method": "RmLR", "backbone": "R50"}, "sources": [{"run": "a/x"}, {"run": "b/x"}]},
        {"row": {"hoi": "2", "irm_word": "0.1", "note": ""}, "sources": [{"run": "a/x"}, {"run": "cost"}]},
        {"row": {"method": "UPT"}, "sources": []},
    ]
    both = "RmLR, R50 | hoi 2, irm_word 0.1"
    assert _rows_of_runs(rows) == {"a/x": both, "b/x": "RmLR, R50", "cost": "hoi 2, irm_word 0.1"}
    assert _rows_of_runs([]) == {}


def test_without_tracking_nothing_of_it_is_loaded_or_left(world):
    with world.start(0, "train", RMLR_TRACKING="off", PYTHONPROFILEIMPORTTIME="1") as process:
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert "mlflow" not in said
    assert not (world.folder / "mlflow.db").exists()


def test_the_users_own_server_wins(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    assert tracking_uri() == "https://tracking.example"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == f"sqlite:///{Path('mlflow.db').resolve()}"


# ---- a PostgreSQL-backed server


def postgres_program(name):
    """A program of PostgreSQL, which Debian keeps off the path; None where it is not installed."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, places)]))


@contextmanager
def postgres():
    """A new database cluster, reached by a socket in its folder alone; gives the URI of an empty database."""
    folder = Path(tempfile.mkdtemp())  # not below pytest's, which are root's alone
    as_whom = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root; Debian's package brings a user
        shutil.chown(folder, "postgres")
        as_whom = ["runuser", "-u", "postgres", "--"]

    def call(*command):
        subprocess.run([*as_whom, *command], check=True, cwd="/", capture_output=True, text=True)

    control, data = postgres_program("pg_ctl"), str(folder / "data")
    call(control, "initdb", "-D", data, "-o", "--auth=trust --username=rmlr --no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    call(control, "start", "-w", "-D", data, "-l", str(folder / "log"), "-o", options)
    try:
        yield f"postgresql://rmlr@/postgres?host={folder}"
    finally:
        call(control, "stop", "-m", "immediate", "-D", data)
        shutil.rmtree(folder)


@contextmanager
def server(folder: Path, store: str):
    """`mlflow server` with proxied artifacts; gives its address."""
    folder.mkdir()
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"--host 127.0.0.1 --port {port} --workers 1 --artifacts-destination {folder}/store".split()
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, *where]
    with (folder / "server.txt").open("w") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, (folder / "server.txt").read_text()
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@needs_mlflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(postgres_program("pg_ctl") is None, reason="no pg_ctl: install PostgreSQL")
@pytest.mark.parametrize("way", ["by its server", "by the database itself"])
def test_a_users_postgresql_takes_runs_of_several_processes_at_once(world, way, monkeypatch):
    pytest.importorskip("psycopg2")
    with ExitStack() as stack:
        uri = store = stack.enter_context(postgres())
        if way == "by its server":
            uri = stack.enter_context(server(world.folder / "server", store))
        world.finish(*[world.start(seed, "train", "evaluate", MLFLOW_TRACKING_URI=uri) for seed in range(4)])
        monkeypatch.setenv("RMLR_TRACKING", "on")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        make_table(world, world.folder / "tables" / "table2", range(4))
        client, experiment, runs = runs_of(uri)
        assert set(runs) == {("study", None)} | {("shared", str(seed)) for seed in range(4)}
        assert {one.info.status for one in runs.values()} == {"FINISHED"}
        for seed in range(4):
            one = runs["shared", str(seed)]
            assert len(client.get_metric_history(one.info.run_id, "train/loss")) == 3
            assert one.data.metrics["vcoco_ap_role_1"] == 0.25 + seed / 2
            assert one.data.tags["table2"] == "RmLR"
            assert "predict/triplets.parquet" in artifacts(client, one.info.run_id)
        assert artifacts(client, runs["study", None].info.run_id) == [
            f"tables/table2/table2.{kind}" for kind in ("csv", "md")
        ]
        if way == "by its server":  # files go through it, to where it keeps them, and not to a folder of the client
            assert experiment.artifact_location.startswith("mlflow-artifacts:")
            assert len(list((world.folder / "server" / "store").rglob("triplets.parquet"))) == 4
            assert not (world.folder / "mlruns").exists()
