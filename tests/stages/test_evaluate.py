"""The evaluate stage: records and a table in, metrics out, whole or not at all."""

import csv
import json
import logging
import shutil
from pathlib import Path

import pytest

from rmlr.detections.triplets import load_agents, load_triplets, save_agents, save_triplets
from rmlr.hoi import Agents, Triplets
from rmlr.learning.benchmark import evaluate as score
from rmlr.learning.benchmark import read_annotations
from rmlr.stages.evaluate import evaluate

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def settings(tmp_path):
    """Writes the settings for a split and gives their path."""

    def write(split):
        path = tmp_path / "evaluate.yaml"
        path.write_text(f"code: ''\nsplit: {split}\n")
        return path

    return write


def read_rows(path: Path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_vcoco_gets_both_scenarios_and_a_row_per_role(vcoco_records, settings, tmp_path, caplog):
    out, table = tmp_path / "evaluate", GOLDEN / "vcoco" / "triplets_val.parquet"
    with caplog.at_level(logging.INFO):
        evaluate(settings=settings("val"), annotations=vcoco_records, triplets=table, out=out)
    metrics = json.loads((out / "metrics.json").read_text())
    official = json.loads((GOLDEN / "vcoco" / "official.json").read_text())["val"]
    for scenario in (1, 2):
        expected = [value for verb, value in official[f"scenario_{scenario}"].items() if verb != "point instr"]
        assert metrics[f"vcoco_ap_role_{scenario}"] == pytest.approx(sum(expected) / 24, abs=1e-6)
    rows = read_rows(out / "per_verb.csv")
    assert len(rows) == 25
    assert rows[0]["verb"] == "hold obj"
    assert float(rows[0]["ap_role_1"]) == pytest.approx(official["scenario_1"]["hold obj"], abs=1e-6)
    assert "mean over 24 of 24 action-roles" in caplog.text
    assert json.loads((out / "run.json").read_text())["metrics"] == metrics


def test_hicodet_gets_both_settings_and_a_row_per_class(hicodet_records, settings, tmp_path):
    out, table = tmp_path / "evaluate", GOLDEN / "hicodet" / "clean" / "triplets.parquet"
    evaluate(settings=settings("test"), annotations=hicodet_records, triplets=table, out=out)
    metrics = json.loads((out / "metrics.json").read_text())
    official = json.loads((GOLDEN / "hicodet" / "official.json").read_text())["clean"]
    assert metrics["hicodet_default_full"] == pytest.approx(sum(official["default"]) / 10, abs=1e-6)
    assert metrics["hicodet_known_object_full"] == pytest.approx(sum(official["known_object"]) / 10, abs=1e-6)
    full, rare = metrics["hicodet_default_full"], metrics["hicodet_default_rare"]
    assert full == pytest.approx((7 * rare + 3 * metrics["hicodet_default_nonrare"]) / 10)
    assert [row["hoi"] for row in read_rows(out / "per_class.csv")][:2] == ["ride airplane", "no_interaction airplane"]
    said = (out / "summary.txt").read_text()
    assert "recall grid ('step')" in said
    assert "by visible pairs" in said


def test_a_split_without_any_positive_has_null_metrics(vcoco_records, settings, tmp_path):
    records = tmp_path / "prepare"
    shutil.copytree(vcoco_records, records)
    (records / "val.json").write_text("[]\n")
    whole = load_triplets(GOLDEN / "vcoco" / "triplets_val.parquet")
    save_triplets(tmp_path / "none.parquet", Triplets(*[getattr(whole, name)[:0] for name in Triplets.__slots__]))
    out = tmp_path / "evaluate"
    evaluate(settings=settings("val"), annotations=records, triplets=tmp_path / "none.parquet", out=out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["vcoco_ap_role_1"], metrics["vcoco_roles"]) == (None, 0)


def test_triplets_of_another_split_are_an_error_and_leave_nothing(vcoco_records, settings, tmp_path):
    out, table = tmp_path / "evaluate", GOLDEN / "vcoco" / "triplets_val.parquet"
    with pytest.raises(ValueError, match=r"triplets_val\.parquet: row 0 .*not one of the 25 of the split"):
        evaluate(settings=settings("test"), annotations=vcoco_records, triplets=table, out=out)
    assert not out.exists()


def read_metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture
def agents(vcoco_records, tmp_path) -> Path:
    """An agent score for the person of every row of the val table."""
    rows = load_triplets(GOLDEN / "vcoco" / "triplets_val.parquet")
    save_agents(tmp_path / "agents.parquet", Agents(rows.image_id, rows.human_boxes, rows.verb, rows.score))
    return tmp_path / "agents.parquet"


def test_vcoco_exported_as_the_official_pickle_scores_the_same(vcoco_records, agents, tmp_path):
    table, one, two = GOLDEN / "vcoco" / "triplets_val.parquet", tmp_path / "one", tmp_path / "two"
    evaluate(annotations=vcoco_records, triplets=table, agents=agents, split="val", out=one, export="official")
    evaluate(annotations=vcoco_records, triplets=one / "vcoco.pkl", split="val", out=two, export="tables")
    assert read_metrics(one) == read_metrics(two)
    assert read_metrics(one)["vcoco_actions"] > 0
    assert [row["action"] for row in read_rows(two / "per_action.csv")][:3] == ["hold", "stand", "sit"]
    assert len(load_triplets(two / "triplets.parquet").score) == len(load_triplets(table).score)
    assert len(load_agents(two / "agents.parquet").score) == len(load_agents(agents).score)


def test_hicodet_exported_as_the_official_files_scores_the_same(hicodet_records, tmp_path):
    table, one, two = GOLDEN / "hicodet" / "clean" / "triplets.parquet", tmp_path / "one", tmp_path / "two"
    evaluate(annotations=hicodet_records, triplets=table, out=one, export="official")
    assert sorted(path.name for path in (one / "hicodet").iterdir())[0] == "detections_01.mat"
    evaluate(annotations=hicodet_records, triplets=one / "hicodet", out=two)
    assert read_metrics(one) == read_metrics(two)
    assert "split: test" in (two / "settings.yaml").read_text()


def test_detections_in_the_form_of_the_other_benchmark_are_refused(vcoco_records, hicodet_records, tmp_path):
    out, pickle, folder = tmp_path / "out", tmp_path / "some.pkl", tmp_path / "some"
    pickle.touch()
    folder.mkdir()
    with pytest.raises(ValueError, match=r"some\.pkl: a pickle is V-COCO's form; the annotations are of hicodet"):
        evaluate(annotations=hicodet_records, triplets=pickle, out=out)
    with pytest.raises(ValueError, match=r"some: a folder of \.mat files is HICO-DET's form"):
        evaluate(annotations=vcoco_records, triplets=folder, out=out)
    table = GOLDEN / "hicodet" / "clean" / "triplets.parquet"
    with pytest.raises(ValueError, match=r"agent AP is V-COCO's; the annotations are of hicodet"):
        evaluate(annotations=hicodet_records, triplets=table, agents=pickle, out=out)
    with pytest.raises(ValueError, match="has its own agent scores"):
        evaluate(annotations=vcoco_records, triplets=pickle, agents=folder, out=out)
    assert not out.exists()


def test_a_zero_shot_split_has_metrics_of_seen_and_unseen_classes(hicodet_records, tmp_path):
    out, table = tmp_path / "evaluate", GOLDEN / "hicodet" / "clean" / "triplets.parquet"
    evaluate(annotations=hicodet_records, triplets=table, zero_shot="rare_first", out=out)
    metrics = json.loads((out / "metrics.json").read_text())
    rows = read_rows(out / "per_class.csv")
    unseen = [row["is_unseen"] == "True" for row in rows]
    assert sum(unseen) == metrics["hicodet_unseen_classes"] == 2
    of_unseen = [float(row["default"]) for row, is_unseen in zip(rows, unseen, strict=True) if is_unseen]
    assert metrics["hicodet_default_unseen"] == pytest.approx(sum(of_unseen) / 2)
    full = 2 * metrics["hicodet_default_unseen"] + 8 * metrics["hicodet_default_seen"]
    assert metrics["hicodet_default_full"] == pytest.approx(full / 10)
    assert "unseen (2 classes)" in (out / "summary.txt").read_text()
    again = read_annotations(hicodet_records, zero_shot="rare_first")
    assert score(table, again)["hicodet_default_unseen"] == metrics["hicodet_default_unseen"]


def test_a_split_is_named_once(vcoco_records, settings, tmp_path):
    table = GOLDEN / "vcoco" / "triplets_val.parquet"
    with pytest.raises(ValueError, match=r"--split val: .*evaluate\.yaml names the split"):
        evaluate(annotations=vcoco_records, triplets=table, settings=settings("val"), split="val", out=tmp_path / "out")
    given = {"settings": settings("val"), "zero_shot": "rare_first"}
    with pytest.raises(ValueError, match=r"--zero-shot rare_first: .*evaluate\.yaml names the split"):
        evaluate(annotations=vcoco_records, triplets=table, out=tmp_path / "out", **given)
