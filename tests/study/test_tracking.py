"""The tracker: what the stages of a study leave in MLflow, and that it costs them nothing but that."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from rmlr.study.nodes import EvaluateNode, TrainNode
from rmlr.study.plan import Study
from rmlr.study.run import run
from rmlr.study.section import Section
from rmlr.study.tracking import Tracker, _rows_of_runs, _runs_behind, tracking_uri

NODE = EvaluateNode(code="abc", split="test")
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed")

# A run as the study lays it out: trained, let loose, evaluated. Arguments: seed, what to do.
STAGES = """
import sys
from pathlib import Path
from rmlr.study.run import run
from rmlr.study.nodes import EvaluateNode, TrainNode
seed, wanted = int(sys.argv[1]), sys.argv[2:]
folder, data = Path(f"tiny/runs/shared/rmlr/{seed}"), Path("tiny/vcoco/prepare")
settings = Path("train.yaml")
if "train" in wanted or "interrupted" in wanted:
    node = TrainNode.load(settings)
    with run("train", node, settings=settings, out=folder / "train", inputs=[data], seed=seed) as record:
        for epoch in range(3):
            record.log_metrics({"loss": 1.0 / (epoch + 1)}, step=epoch + 1)
        if "interrupted" in wanted:
            raise KeyboardInterrupt
        record.log_metrics({"images": 4.0})
        (record.folder / "curves.csv").write_text("epoch,loss")
if "evaluate" in wanted:
    triplets = folder / "predict" / "triplets.parquet"
    triplets.parent.mkdir()
    triplets.write_bytes(b"scored")
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


def make_table(world, out, seeds, row="RmLR"):
    """A table of one row, made of the runs of some seeds, as the stage does it."""
    inputs = [world.folder / f"tiny/runs/shared/rmlr/{seed}/evaluate" for seed in seeds]
    rows = [{"row": {"variant": row}, "sources": [{"run": "shared/rmlr"}]}]
    node = TableOfRuns(title="Ablations", rows=rows, controls=[])
    with run("table", node, settings=None, out=out, inputs=inputs) as record:
        (record.folder / f"{out.name}.csv").write_text("variant")


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
    assert one.data.metrics["train/images"] == 4.0
    assert one.data.metrics["vcoco_ap_role_1"] == 1.75, "what evaluate measures joins the run of the train beside it"
    [data] = one.inputs.dataset_inputs
    digest = world.about(3)["inputs"]["tiny/vcoco/prepare"]["sha256"]
    assert (data.dataset.name, data.dataset.digest) == ("vcoco/prepare", digest[:16])
    assert json.loads(data.dataset.source) == {"uri": "tiny/vcoco/prepare"}
    assert artifacts(client, one.info.run_id) == [
        "curves.csv",
        "evaluate/metrics.json",
        "evaluate/per_verb.csv",
        "predict/triplets.parquet",
        "settings.yaml",
    ]
    assert world.about(3)["mlflow_run_id"] == world.about(3, "evaluate")["mlflow_run_id"] == one.info.run_id

    # an interrupted run goes on as the same run
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
    make_table(world, world.folder / "tables" / "table2", [0, 1, 2])
    make_table(world, world.folder / "tables" / "table2", [1, 3], row="another name")
    make_table(world, world.folder / "tables" / "table3", [0])
    client, experiment, runs = runs_of(uri)
    marked = {seed: one.data.tags["table2"] for (_, seed), one in runs.items() if "table2" in one.data.tags}
    assert marked == {"1": "another name", "3": "another name"}
    study = runs["study", None]
    assert artifacts(client, study.info.run_id) == ["tables/table2/table2.csv", "tables/table3/table3.csv"]
    view = json.loads(client.get_experiment(experiment.experiment_id).tags["mlflow.sharedViewState.table2"])
    assert view["name"] == "Table 2"
    state = json.loads(view["state"])
    charted = [chart["metricKey"] for chart in state["compareRunCharts"]]
    assert charted == ["hicodet_default_rare", "vcoco_ap_role_1", "train/loss"], "the paper's columns alone"
    found = client.search_runs([experiment.experiment_id], filter_string=state["searchFilter"])
    assert {one.data.tags["seed"] for one in found} == {"1", "3"}


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
    assert "finding the study failed" in caplog.text


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
        assert artifacts(client, runs["study", None].info.run_id) == ["tables/table2/table2.csv"]
        if way == "by its server":  # files go through it, to where it keeps them, and not to a folder of the client
            assert experiment.artifact_location.startswith("mlflow-artifacts:")
            assert len(list((world.folder / "server" / "store").rglob("triplets.parquet"))) == 4
            assert not (world.folder / "mlruns").exists()
