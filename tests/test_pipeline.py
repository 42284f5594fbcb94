"""The real Snakefile and dvc.yaml, on a drawn world of a few pictures and a tiny DETR: what holds from a user's chair.

The study is made once; each test works on a copy that keeps all times.
"""

import base64
import csv
import fcntl
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from rmlr.study.params import PAPER_TABLES
from rmlr.study.plan import Study
from rmlr.study.source import PACKAGE, stage_files

from .small_study import TABLE, Project, checkout
from .web import Server

ROOT = Path(__file__).parents[1]
PLAIN = {f"runs/table2/plain/0/{stage}" for stage in ("train", "predict", "evaluate")}

pytest.importorskip("snakemake")
pytest.importorskip("dvc")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Project:
    """What is in this checkout, but for results."""
    return checkout(tmp_path_factory.mktemp("source") / "study")


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Project:
    """The study, made by Snakemake."""
    project = source.copy(tmp_path_factory.mktemp("finished") / "study")
    said = project.snakemake()
    assert "1 of" in said
    assert "left" in said
    assert "RmLR" in said, "the table is printed at the end"
    assert "CPU seconds" in said
    return project


@pytest.fixture(scope="module")
def committed(finished, tmp_path_factory) -> Project:
    """The finished study, then known to DVC, pushed, and committed to git."""
    project = finished.copy(tmp_path_factory.mktemp("committed") / "study")
    before = project.made()
    project("dvc", "remote", "add", "-q", "-d", "store", str(project.folder.parent / "remote"))
    project("dvc", "repro", "-q")
    assert project.changed_since(before) == set()
    project("git", "add", "-A")
    project("git", "commit", "-q", "-m", "results")
    project("dvc", "push", "-q")
    return project


def test_the_study_ends_in_a_table_with_every_row(finished):
    with (finished.folder / "results/table2.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = [row["variant"] for row in rows if row["source"] == "measured"]
    assert measured == ["Plain model", "RmLR", "control: boxes only"]
    assert len(rows) == 9, "what was not run is reported"
    assert all((finished.folder / name).read_text() for name in TABLE)
    assert finished("snakemake", "-n").count("Nothing to be done") == 1
    assert "Nothing to be done" in finished.snakemake()


@pytest.mark.slow
def test_the_whole_study_by_one_engine_is_whole_to_the_other(source, tmp_path):
    """All nine tables and every figure of the tiny profile: some 170 jobs."""
    project = source.copy(tmp_path / "study")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, project.folder / name)
    project.edit(lambda content: content.update(profile="tiny"))
    project.snakemake()
    assert project.wanted() == set()
    study = Study.load(ROOT / "params.yaml")
    for number in range(1, 10):
        assert all((project.folder / f"results/table{number}.{kind}").read_text() for kind in ("csv", "md", "tex"))
    tables = [f"tables/table{number}/table{number}.html" for number in range(1, 10)]
    must_hold(project, [*tables, *(f"figures/{name}/figure.png" for name in study.figures_in("tiny"))])
    before = project.made()
    project("dvc", "repro", "-q")
    assert project.changed_since(before) == set()
    assert "up to date" in project("dvc", "status")


PAGES = ("statement.html", "settings.html", "times.html")


def must_hold(project: Project, results: list[str]) -> None:
    """The report shows these results, and pages about all, each in the file itself, with the statement at its top."""
    project("snakemake", "--report", "report.html")
    report = (project.folder / "report.html").read_text()
    for name in [*results, *(f"statement/{page}" for page in PAGES)]:
        entry = report.partition(f'"results/tiny/{name}": {{')[2]
        assert entry, f"{name} is not in the report"
        shown = base64.b64decode(entry.partition(";base64,")[2].partition('"')[0])
        assert shown == (project.folder / "results/tiny" / name).read_bytes(), name
    top = report.partition("var workflow_desc = ")[2].partition("</script>")[0]
    assert "were judged here" in top
    assert (project.folder / "workflow/report/style.css").read_text() in report  # else tall pages lose their top
    said = (project.folder / "results/statement.md").read_text()
    assert said == (project.folder / "results/tiny/statement/statement.md").read_text()
    assert "| Re-mining (IRE) helps where no text is learnt" in said


def test_the_report_holds_tables_figures_and_the_statement(finished, tmp_path):
    project = finished.copy(tmp_path / "study")
    must_hold(project, ["tables/table2/table2.html", "figures/predictions/figure.png"])


def test_a_report_shows_what_there_is_of_a_study_that_is_not_whole(finished, tmp_path):
    project = finished.copy(tmp_path / "study")
    for name in ("figures", "statement", "runs/table7"):
        shutil.rmtree(project.folder / "results/tiny" / name)
    project("snakemake", "--report", "report.html")
    report = (project.folder / "report.html").read_text()
    assert '"results/tiny/tables/table2/table2.html": {' in report
    assert "figure.png" not in report
    assert "The study is not complete yet" in report


def test_the_default_profile_is_found(finished):
    assert "profile profiles/default" in finished("snakemake", "-n")


# ---- one order, two engines: points 1 to 5 of docs/pipeline.md


def test_point_1_after_snakemake_dvc_makes_nothing_and_is_clean(committed):
    assert "up to date" in committed("dvc", "status", "--with-deps", "table2")
    assert "up to date" in committed("dvc", "status")
    assert committed.wanted() == set()


def test_point_2_after_dvc_snakemake_makes_nothing(finished, tmp_path):
    project = finished.copy(tmp_path / "study")
    for name in ("results/tiny/runs", "results/tiny/tables"):
        shutil.rmtree(project.folder / name)
    project("dvc", "repro", "-q", "table2")
    assert project.wanted(*TABLE) == set()
    assert "up to date" in project("dvc", "status", "--with-deps", "table2")
    needed = {name: content for name, content in finished.numbers().items() if "/table7/" not in name}
    assert project.numbers() == needed, "same seed, same numbers, and no run that the table does not read"


def test_point_3_one_number_redoes_one_run_and_its_table_whichever_engine_is_first(committed, tmp_path):
    project = committed.copy(tmp_path / "study")
    redone = PLAIN | {"tables/table2"}
    before = project.made()
    project.epochs_of_plain(3)
    project.snakemake(*TABLE, RMLR_TRACKING="on")
    assert project.changed_since(before) == redone
    once = project.made()
    project("dvc", "repro", "-q")
    assert project.changed_since(once) == {"statement"}, "it is of the whole study"
    redone = PLAIN | {"statement"}  # and not the table: by itself it is made of metrics, which are as they were
    once = project.made()
    metrics = "results/tiny/runs/table2/plain/0/evaluate/metrics.json"
    assert project.numbers()[metrics] == committed.numbers()[metrics]
    assert "up to date" in project("dvc", "status")
    tracked = project.numbers()

    project.epochs_of_plain(None)
    project("dvc", "repro", "-q")
    assert project.changed_since(once) == redone
    assert project.wanted() == set()
    assert project.numbers() == committed.numbers()

    # back to three epochs by the other engine, without tracking: every number the same
    again = project.made()
    project.epochs_of_plain(3)
    project("dvc", "repro", "-q")
    assert project.changed_since(again) == redone
    assert project.numbers() == tracked


def test_point_4_a_clone_pulls_and_continues_from_there(committed, tmp_path):
    clone = Project(tmp_path / "clone")
    committed("git", "clone", "-q", ".", str(clone.folder))
    said = clone(sys.executable, "workflow/pull.py")
    assert re.fullmatch(r"(\d+) of \1 milestones are here and current\n", said)
    assert clone.wanted() == set()
    assert "up to date" in clone("dvc", "status")
    before = clone.made()
    clone("dvc", "repro", "-q")
    assert clone.changed_since(before) == set()
    clone.epochs_of_plain(3)
    clone.snakemake(*TABLE)
    assert clone.changed_since(before) == PLAIN | {"tables/table2"}

    # back to what is committed, without training
    clone("git", "checkout", "-q", ".")
    clone("dvc", "checkout", "-q", "-f")
    clone(sys.executable, "workflow/pull.py")
    assert clone.wanted() == set()
    assert "up to date" in clone("dvc", "status")
    assert clone.numbers() == committed.numbers()


def test_pulling_names_what_is_not_current_and_does_not_mark_it(committed, tmp_path):
    clone = Project(tmp_path / "clone")
    committed("git", "clone", "-q", ".", str(clone.folder))
    clone.epochs_of_plain(3)
    said = clone(sys.executable, "workflow/pull.py")
    assert "runs@table2: does not match dvc.lock: params.yaml" in said
    assert "here, but not all that it was made from: table2" in said
    assert "features" not in clone.wanted(*TABLE)
    assert "train" in clone.wanted(*TABLE)


def wait_until(happened, process: subprocess.Popen) -> None:
    """Poll, as long as the process lives and for two minutes at most."""
    end = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it did not happen in two minutes"
        time.sleep(0.02)


def test_point_5_a_killed_study_resumes_where_it_was(committed, tmp_path):
    project = committed.copy(tmp_path / "study")
    project.epochs_of_plain(1000)
    run = project.folder / "results/tiny/runs/table2/plain/0"
    shutil.rmtree(run / ".train.resume", ignore_errors=True)

    # everything killed at once
    first = project.start("dvc", "repro", "-q", "table2")
    wait_until((run / ".train.resume/epoch.pt").exists, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (run / "train" / "weights.safetensors").exists()

    # only the scheduler killed: its job lives on, and the next call waits for it
    log = project.folder / "results/tiny/logs/runs/table2/plain/0/train.txt"
    second = project.start("snakemake", "--cores", "2", *TABLE)
    wait_until(lambda: log.exists() and "resuming" in log.read_text(), second)
    os.kill(second.pid, signal.SIGKILL)
    before = project.made()
    said = project("dvc", "repro", "table2")
    second.communicate()
    assert "another process is writing it" in log.read_text()
    assert project.changed_since(before) == PLAIN, "AP is 0 as before, and a table of the same metrics is current"
    assert project.wanted(*TABLE) == set()
    assert "up to date" in project("dvc", "status", "--with-deps", "table2")
    assert json.loads((run / "train" / "run.json").read_text())["settings"]["train"]["epochs"] == 1000
    assert len((run / "train" / "curves.csv").read_text().splitlines()) == 1001, said


def test_a_stage_that_outlives_its_snakemake_is_not_run_again(source, tmp_path):
    project, target = source.copy(tmp_path / "study"), "results/tiny/world/draw/run.json"
    world = project.folder / "results/tiny/world"
    first = project.start("snakemake", "--cores", "1", target)
    wait_until((world / ".draw.part").exists, first)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()  # the stage has its end of the pipe, and lives on
    assert not (world / "draw/run.json").exists(), "or the next call might remove it"
    made = (world / ".draw.part/run.json").read_bytes()
    assert project.wanted(target) == set()
    assert "Nothing to be done" in project.snakemake(target)
    assert (world / "draw/run.json").read_bytes() == made

    # killed when the stage had ended, and before that was noted
    marker = project.folder / ".snakemake/incomplete" / base64.b64encode(target.encode()).decode()
    marker.parent.mkdir(exist_ok=True)
    marker.touch()
    assert "Nothing to be done" in project.snakemake(target)
    assert (world / "draw/run.json").read_bytes() == made


def test_what_a_user_puts_into_a_folder_of_results_stops_its_stage_and_stays(source, tmp_path):
    project, target = source.copy(tmp_path / "study"), "results/tiny/world/draw/run.json"
    draw = project.folder / "results/tiny/world/draw"
    project.snakemake(target)
    project.edit(lambda content: content["profiles"]["tiny"]["world"].update(train=7))
    (draw / "notes.txt").write_text("mine")
    said = project("snakemake", "--cores", "1", target, fails=True)
    assert "has files that `rmlr draw` did not make" in said
    assert "'notes.txt'" in said
    assert (draw / "notes.txt").read_text() == "mine"
    (draw / "notes.txt").rename(project.folder / "notes.txt")
    project.snakemake(target)
    about = json.loads((draw / "run.json").read_text())
    assert about["settings"]["world"]["train"] == 7


@pytest.mark.slow
def test_experiments_in_workspaces_of_their_own_make_what_the_number_touches_and_keep_their_runs(committed, tmp_path):
    project = committed.copy(tmp_path / "study")
    before = project.made()
    one = ("-S", "+runs.table2.plain.overrides={train.epochs: 3}", "table2")
    said = project("dvc", "exp", "run", "--temp", *one, RMLR_TRACKING="on")
    skipped = ("fetch", "data", "detector@base", "features@vcoco-base", "text@vcoco", "runs@shared")
    assert all(f"Stage '{milestone}' didn't change, skipping" in said for milestone in skipped)
    assert " of 4 jobs" in said, "one run's three stages, and their milestone"
    for rate in ("0.002", "0.003"):
        overrides = f"+runs.table2.plain.overrides={{train.learning_rate: {rate}}}"
        project("dvc", "exp", "run", "--queue", "-S", overrides, "table2", RMLR_TRACKING="on")
    project("dvc", "exp", "run", "--run-all", RMLR_TRACKING="on")
    assert project.changed_since(before) == set(), "the checkout's own results are as they were"

    with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
        rates = "select value from params join runs using (run_uuid) where key = 'train.learning_rate' and {}"
        found = [row[0] for row in store.execute(rates.format("status = 'FINISHED'"))]
        [files] = store.execute("select artifact_location from experiments where name = 'rmlr-tiny'").fetchone()
    assert sorted(found) == ["0.001", "0.002", "0.003"]
    assert files == (project.folder / "mlruns/rmlr-tiny").as_uri()
    assert len(list(project.folder.glob("mlruns/rmlr-tiny/*/artifacts/curves.csv"))) == 3


@pytest.mark.slow
def test_a_grid_makes_its_points_and_their_table_and_nothing_else(finished, tmp_path):
    """The sweep of docs/tracking.md by Snakemake."""
    project, rates = finished.copy(tmp_path / "study"), ("0.002", "0.003")
    [block] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/tracking.md").read_text(), re.DOTALL)
    added = yaml.safe_load(block)
    project.edit(lambda content: [content[key].update(entry) for key, entry in added.items()])
    before = project.made()
    assert project.wanted("results/rates.md") == {"train", "predict", "evaluate", "table", "copy_rates"}
    project.snakemake("results/rates.md", RMLR_TRACKING="on")
    stages = {f"plain-learning_rate_{rate}/0/{stage}" for rate in rates for stage in ("train", "predict", "evaluate")}
    assert project.changed_since(before) == {f"runs/rates/{stage}" for stage in stages} | {"tables/rates"}
    table = (project.folder / "results/rates.md").read_text()
    assert all(rate in table for rate in rates)
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
        points = store.execute(
            "select value from tags where key = 'grid.train.learning_rate' order by value"
        ).fetchall()
    assert points == [(rate,) for rate in rates]


# ---- what is an input and what is not


def copied(project: Project, folder: Path) -> Project:
    """A copy by `cp -r`, whose files have the times of the copying, in no order of the study."""
    subprocess.run(["cp", "-r", project.folder, folder], check=True)
    return Project(folder)


def test_a_plain_copy_plans_nothing_and_a_changed_input_in_it_is_seen(finished, tmp_path):
    project = copied(finished, tmp_path / "study")
    assert project.wanted() == set()
    shutil.rmtree(project.folder / ".snakemake")
    assert project.wanted() == set(), "nor where Snakemake's own records were left behind"
    before = project.made()
    project.snakemake(*TABLE)
    assert project.changed_since(before) == set()

    weights = project.folder / "results/tiny/runs/shared/rmlr/0/train/weights.safetensors"
    kept, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = copied(project, tmp_path / "again")
    assert "train" not in again.wanted(*TABLE)
    assert again.wanted(*TABLE) >= {"predict", "evaluate", "table"}, "other bytes, of the same size and time"
    weights.write_bytes(kept)
    records = project.folder / "results/tiny/vcoco/prepare/train.json"
    records.write_text(records.read_text() + " ")
    assert project.wanted(*TABLE) >= {"text", "detector", "features", "train", "predict", "table"}


def test_accepted_results_are_current_although_their_code_has_changed(finished, tmp_path):
    project = finished.copy(tmp_path / "study")
    path = project.folder / "rmlr/model/upt.py"
    path.write_text(path.read_text() + "\nMORE = 1\n")
    assert project.wanted(*TABLE) == set(), "no run of these has such a head"
    path = project.folder / "rmlr/model/losses.py"
    path.write_text(path.read_text() + "\nMORE = 1\n")
    assert "train" in project.wanted(*TABLE)
    project("snakemake", "--touch", *TABLE)
    assert "train" in project.wanted(), "times alone change nothing; and this call writes all settings"
    said = project("rmlr", "accept", "--because", "a name that nothing uses")
    assert "/train: accepted, code " in said
    assert project.wanted() == set()


def test_code_counts_by_stage_and_words_do_not(finished, tmp_path):
    project = finished.copy(tmp_path / "study")
    path = project.folder / "rmlr/evaluation/vcoco.py"
    path.write_text(path.read_text().replace('"""', '"""Other words. ', 1) + "\n# a comment\n")
    (project.folder / "paper/table2.csv").touch()
    assert project.wanted() == set()
    path.write_text(path.read_text() + "\nMORE = 1\n")
    copies = {"copy_table2", "copy_statement"}
    redone = {"evaluate", "table", "figure_examples", "statement", "all"} | copies
    assert project.wanted() == redone


def test_a_copied_table_that_was_changed_by_hand_or_by_git_is_copied_again(finished, tmp_path):
    project = finished.copy(tmp_path / "study")
    (project.folder / "results/table2.csv").write_text("of another branch\n")
    assert project.wanted(*TABLE) == {"copy_table2"}
    before = project.made()
    project.snakemake(*TABLE)
    assert project.changed_since(before) == set()
    assert project.wanted() == set()


def test_a_restored_older_output_is_made_again_though_it_is_newer_than_its_settings(finished, tmp_path):
    project = finished.copy(tmp_path / "study")
    copy = project.folder / "results/tiny/runs/table2/plain/0/evaluate/settings.yaml"
    copy.write_text(copy.read_text().replace("code: ", "code: other"))
    assert "evaluate" in project.wanted(*TABLE)


def test_dvc_sees_every_file_that_a_milestone_runs():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    runs = {
        "fetch": (),
        "data": ("draw", "prepare"),
        "detector": ("detector",),
        "features": ("features",),
        "pose": ("joints", "pose"),
        "text": ("text",),
        "runs": ("train", "predict", "evaluate"),
        "pose_runs": ("train", "predict", "evaluate"),
        "cost": ("cost",),
        **{f"table{number}": ("table",) for number in range(1, 10)},
        "figures": ("separation", "figure"),
        "statement": ("statement",),
    }
    assert runs.keys() == stages.keys()
    for name, milestone in stages.items():
        deps = [ROOT / dep for dep in milestone.get("do", milestone)["deps"]]
        for file in {file for stage in runs[name] for file in stage_files(stage)}:
            seen = file.name == "__init__.py" or any(file == dep or dep in file.parents for dep in deps)
            assert seen, f"{name} runs {file.relative_to(PACKAGE.parent)}, which is not among its deps in dvc.yaml"


def test_dvc_makes_for_a_table_what_its_runs_read_and_nothing_else():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    study = Study.load(ROOT / "params.yaml")
    results = "results/${profile}/"
    groups = stages["runs"]["foreach"] | stages["pose_runs"]["foreach"]
    of_one_profile = {group for profile in study.profiles.values() for group in profile.groups or []}
    assert groups.keys() == study.runs.keys() - of_one_profile
    for group, item in groups.items():
        runs = study.runs[group].values()
        backbones = {run.backbone for run in runs}
        assert {run.dataset for run in runs} == {item["dataset"]}
        assert {study.variants[run.variant].pose for run in runs} == {group in stages["pose_runs"]["foreach"]}
        both = f"{item['dataset']}/features"
        assert item.get("features", both) == (both if len(backbones) > 1 else f"{both}/{min(backbones)}"), group
    for name in PAPER_TABLES:
        table = study.tables[name]
        fed = {run.partition("/")[0] for row in [*table.rows, *table.controls] for run in row.runs}
        wanted = {f"{results}cost" if group == "cost" else f"{results}runs/{group}" for group in fed}
        assert {path for path in stages[name]["deps"] if path.startswith(results)} == wanted, name
    for profile in study.profiles.values():
        if profile.groups:
            continue  # made by Snakemake alone
        assert profile.backbones.keys() == set(stages["detector"]["foreach"])
        assert stages["features"]["matrix"] == {"dataset": list(profile.train), "backbone": list(profile.backbones)}
        for detector in profile.detectors:
            assert detector.partition("/")[0] in profile.backbones, "each detector lies in its backbone's folder"


def test_dvc_keeps_locks_and_resume_folders_out(committed):
    lists = [path.read_text() for path in (committed.folder / ".dvc/cache/files/md5").rglob("*.dir")]
    assert any("weights.safetensors" in text for text in lists)
    assert not any(name in text for text in lists for name in (".lock", ".resume", ".part"))
    assert not list((committed.folder / "results").rglob(".gitignore"))


def test_metrics_and_parameters_show_in_dvc(committed):
    shown = json.loads(committed("dvc", "metrics", "show", "--json"))
    files = shown[""]["data"]
    assert "vcoco_ap_role_1" in files["results/tiny/tables/table2/metrics/shared/rmlr.json"]["data"]
    assert "ap50" in files["results/tiny/detector/base/metrics.json"]["data"]


# ---- one at a time


def test_a_second_call_fails_and_names_the_first_while_a_dry_run_works(finished, tmp_path):
    project = finished.copy(tmp_path / "study")
    project.epochs_of_plain(5)
    with (project.folder / ".snakemake/rmlr.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4711")
        held.flush()
        written = {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*") if path.is_file()}
        assert project.wanted(*TABLE) == set(), "what another process may be changing is left alone"
        (project.folder / "results/table2.csv").unlink()
        said = project("snakemake", *TABLE, fails=True)
        assert "4711 is at work" in said
        now = {path: path.stat().st_mtime_ns for path in (project.folder / "results").rglob("*") if path.is_file()}
        assert now.items() <= written.items()


# ---- the other profiles, and errors


def test_the_paper_profile_can_be_planned_without_its_data(source, tmp_path):
    project = source.copy(tmp_path / "study")
    said = project("snakemake", "-n", "--config", "profile=paper")
    assert "rule together_vcoco_base_0" in said
    assert "rule draw" not in said


def test_a_pose_network_is_run_for_the_runs_that_read_it_alone(source, tmp_path):
    project = source.copy(tmp_path / "study")
    planned = ("snakemake", "-n", "-p", "--config", "profile=paper_cached")
    plan = project(*planned)
    assert "rmlr pose" not in plan
    assert "--pose" not in plan
    project.edit(lambda content: content["runs"]["shared"]["rmlr"].update(variant="pose"))
    commands = [line.partition("rmlr ")[2] for line in project(*planned).splitlines() if "Shell command: rmlr " in line]
    looks = sorted(line for line in commands if line.startswith("pose "))
    folder, features = "results/paper_cached/pose/vcoco/base", "results/paper_cached/vcoco/features/base"
    outs = [line.split(" --out ")[1].split()[0] for line in looks]
    assert outs == [f"{folder}/{split}" for split in ("test", "train", "val")]
    assert all(f" --features {features} " in line for line in looks)
    readers = [line for line in commands if f" --pose {folder} " in line]
    assert [line.split()[0] for line in readers] == ["train", "predict"]
    assert all("/shared/rmlr/" in line for line in readers)


def test_a_run_on_photos_is_given_photos_and_detector_and_nothing_of_its_training_photos_is_cached(source, tmp_path):
    project = source.copy(tmp_path / "study")
    augment = yaml.safe_load((project.folder / "params.yaml").read_text())["profiles"]["paper"]["features"]["augment"]
    project.edit(lambda content: content["profiles"]["tiny"]["features"].update(views=0, augment=augment))
    project.edit(lambda content: content["runs"]["shared"]["rmlr"].update(variant="pose"))
    plan = project("snakemake", "-n", "-p", "--config", "profile=tiny")
    commands = [line.partition("rmlr ")[2] for line in plan.splitlines() if "Shell command: rmlr " in line]
    trainings = [line for line in commands if line.startswith("train ")]
    assert trainings
    assert all(" --images results/tiny/world/draw/images --detector results/tiny/" in line for line in trainings)
    assert not any(" --features " in line for line in trainings)
    cached = {line.split(" --split ")[1].split()[0] for line in commands if line.startswith("features ")}
    assert cached == {"test"}
    readers = {line.split(" --pose ")[1].split()[0] for line in trainings if " --pose " in line}
    assert readers == {"results/tiny/pose/joints/weights.pth"}


def test_a_clone_without_data_plans_to_fetch_what_the_paper_profile_reads_and_then_all_the_rest(source, tmp_path):
    project = source.copy(tmp_path / "study")
    plan = project("snakemake", "-n", "--config", "profile=paper")
    fetched = {line.partition("source=")[2] for line in plan.splitlines() if "wildcards: source=" in line}
    assert fetched >= {"coco-train2014", "coco-val2014", "coco-annotations2014", "vcoco", "hicodet", "hicodet-json"}
    assert {"upt-detr-r50-vcoco", "hub-mobilebert"} <= fetched
    assert not {name for name in fetched if "2017" in name}, "nothing reads COCO 2017"
    for rule in (
        "prepare",
        "detector",
        "features",
        "text",
        "together_vcoco_base_0",
        "evaluate",
        "copy_table2",
        "receipts",
    ):
        assert f"rule {rule}:" in plan
    for detector in Study.load(project.folder / "params.yaml").profiles["paper"].detectors.values():
        if detector.weights and "/" in detector.weights:  # a plan for the user's own data asks for given weights
            given = project.folder / detector.weights
            given.parent.mkdir(parents=True, exist_ok=True)
            given.touch()
    own = project("snakemake", "-n", "--config", "profile=paper", "raw=my/data")
    assert "rule fetch:" not in own
    assert "rule together_vcoco_base_0:" in own


def test_a_source_is_fetched_once_and_again_when_its_entry_in_the_table_changes(source, tmp_path):
    project = source.copy(tmp_path / "study")
    content = b'{"rows": []}'
    item = {"file": "rows.json", "about": 9, "sha256": "unpublished", "gives": [{"to": "vcoco/rows.json"}]}
    entry = {"what": "rows", "licence": "none", "serves": ["vcoco"], "evidence": "computed"}
    path, table = tmp_path / "table.yaml", {}
    receipt = tmp_path / "raw/receipts/rows.ok"
    settings = ("--config", "profile=paper", f"raw={tmp_path / 'raw'}", f"sources={path}")

    def planned() -> set[str]:
        said = project("snakemake", "-n", *settings, "--", receipt)
        return {line.split()[1] for line in said.splitlines() if line.startswith(("rule ", "localrule "))}

    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        table["rows"] = entry | {"items": [item | {"urls": [server.put("/rows.json", content, "drop")]}]}
        path.write_text(yaml.safe_dump(table))
        project("snakemake", "--cores", "1", *settings, "--", receipt)
        assert (tmp_path / "raw/vcoco/rows.json").read_bytes() == content
        table["rows"]["what"] = "the same rows"
        path.write_text(yaml.safe_dump(table))
        assert planned() == set()
        table["rows"]["items"][0]["sha256"] = "0" * 64
        path.write_text(yaml.safe_dump(table))
        assert planned() == {"fetch:"}
        said = project("snakemake", "--cores", "1", "--retries", "0", *settings, "--", receipt, fails=True)
        server.shutdown()
    assert "expected 0000" in said, "the file does not match the present entry"
    assert (tmp_path / "raw/vcoco/rows.json").read_bytes() == content
    assert not receipt.exists()


def test_missing_real_data_is_one_clear_message(source, tmp_path):
    project = source.copy(tmp_path / "study")
    target = "results/paper/vcoco/prepare/run.json"
    said = project("snakemake", target, "--config", "profile=paper", "raw=my/data", fails=True)
    assert "my/data" in said
    assert "does not exist" in said
    assert not (project.folder / "results/paper/vcoco/prepare/run.json").exists()


def test_a_misspelt_key_in_params_is_named_by_snakemake(source, tmp_path):
    project = source.copy(tmp_path / "study")
    project.edit(lambda content: content["profiles"]["tiny"]["losses"].update(focal_gama=1.0))
    said = project("snakemake", "-n", fails=True)
    assert "params.yaml" in said
    assert "profiles.tiny.losses.focal_gama" in said


def test_the_plan_can_be_drawn_and_linted(finished):
    assert "flowchart" in finished("snakemake", "--dag", "mermaid-js")
    assert "flowchart" in finished("dvc", "dag", "--mermaid")
    complaints = [line for line in finished("snakemake", "--lint", fails=True).splitlines() if line.startswith("    *")]
    assert all("conda environment or container" in line for line in complaints)  # ours is made by the Makefile
