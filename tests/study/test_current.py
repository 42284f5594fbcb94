"""Which results are current: settings and inputs decide, never the clock."""

import json
import os
import shutil
from pathlib import Path

import pytest

from rmlr.study.current import Results, is_same
from rmlr.study.frozen import Detector
from rmlr.study.nodes import EvaluateNode, PredictNode
from rmlr.study.run import run
from rmlr.study.settings import Prediction, Variant

NODES = {
    "learnt": EvaluateNode(code="abc", split="train"),
    "scored": EvaluateNode(code="abc", split="test"),
    "other": EvaluateNode(code="abc", split="val"),
}
BEFORE = {"learnt": [], "scored": ["learnt"], "other": []}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Three nodes: `scored` was made from `learnt` and from raw data, `other` from raw data alone."""
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    Path("raw/rows.json").write_text("[1]")
    for name, inputs in {
        "learnt": [Path("raw/rows.json")],
        "scored": [Path("results/learnt"), Path("raw")],
        "other": [Path("raw")],
    }.items():
        with run("evaluate", NODES[name], settings=None, out=Path("results", name), inputs=inputs) as record:
            (record.folder / "weights.bin").write_bytes(name.encode())
    return tmp_path


def stale(nodes=NODES, known=None, outside=("raw",), before=BEFORE) -> dict[str, str]:
    return Results(Path("results")).stale(nodes, before.__getitem__, outside, known or {})


def test_what_was_just_made_is_current(made):
    assert stale() == {}


def test_a_copy_with_other_times_is_current(made, monkeypatch):
    for number, path in enumerate(sorted(made.rglob("*"), reverse=True)):
        os.utime(path, (1_000_000_000 + number, 1_000_000_000 + number))
    assert stale() == {}
    shutil.copytree(made, made / "copy", ignore=shutil.ignore_patterns("copy"), copy_function=shutil.copyfile)
    monkeypatch.chdir(made / "copy")
    assert stale() == {}


def test_other_bytes_of_the_same_size_and_time_are_seen(made):
    path = Path("results/learnt/weights.bin")
    times = path.stat()
    path.write_bytes(b"LEARNT")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stale() == {"scored": "results/learnt has changed"}


def test_changed_data_are_seen_by_all_that_read_them_and_by_what_stands_on_these(made):
    Path("raw/rows.json").write_text("[2]")
    assert stale().keys() == {"learnt", "scored", "other"}


def test_a_new_run_json_with_the_same_results_changes_nothing(made):
    about = Path("results/learnt/run.json")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"began": "another day"}))
    assert stale() == {}


def test_other_settings_are_seen_and_what_stands_on_them(made):
    nodes = NODES | {"learnt": EvaluateNode(code="def", split="train")}
    assert stale(nodes) == {"learnt": "other settings", "scored": "learnt is not current"}


def test_a_folder_without_its_record_is_not_made(made):
    Path("results/other/run.json").write_text("{")
    shutil.rmtree("results/learnt")
    assert stale() == {"learnt": "not made", "other": "not made", "scored": "results/learnt has changed"}


def test_what_is_known_beforehand_counts_with_what_stands_on_it(made):
    assert stale(known={"learnt": "its source is another"}).keys() == {"learnt", "scored"}


def test_what_was_made_from_another_node_or_another_folder_of_data_is_not_current(made):
    assert stale(before=BEFORE | {"scored": ["other"]}) == {"scored": "made from results/learnt"}
    assert stale(outside=("my/data",)).keys() == {"learnt", "scored", "other"}


def test_results_may_be_kept_where_the_data_are_not(made):
    shutil.rmtree("raw")
    assert stale() == {}


def test_nodes_that_stand_on_each_other_are_named(made):
    with pytest.raises(ValueError, match="each other: learnt, scored"):
        stale(before={"learnt": ["scored"], "scored": ["learnt"], "other": []})


def test_a_field_at_its_default_may_be_there_or_not(tmp_path):
    path = tmp_path / "settings.yaml"
    detector = {
        "dataset": "vcoco",
        "weights": "weights.pth",
        "revision": None,
        "seen": [],
        "architecture": None,
        "schedule": None,
        "image": {"shortest": 64, "longest": 64},
    }
    section = Detector.check(detector, "here")
    assert "repeats_iou" not in section.dump()
    path.write_text(section.dump())
    assert is_same(section, path)
    path.write_text(section.dump() + "repeats_iou: null\nall_of_coco: false\n")
    assert is_same(section, path)
    path.write_text(section.dump() + "repeats_iou: 0.5\n")
    assert not is_same(section, path)
    path.write_text("{")
    assert not is_same(section, path)
    assert not is_same(section, tmp_path / "nothing.yaml")


def test_a_number_that_differs_is_seen(tmp_path):
    path = tmp_path / "settings.yaml"
    node = PredictNode(code="a", prediction=Prediction(split="test", batch_size=4, prior_power=2.8, min_score=0.0))
    path.write_text(node.dump().replace("2.8", "2.80"))
    assert is_same(node, path)
    path.write_text(node.dump().replace("2.8", "2.9"))
    assert not is_same(node, path)


def test_switches_are_always_written_out():
    off = dict.fromkeys(Variant.model_fields.keys() - {"network"}, False)
    assert "irm_word: false" in Variant.check({"network": "boxes", **off}, "here").dump()
