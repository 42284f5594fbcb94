"""The evaluate stage: records and a table in, metrics out, whole or not at all."""

import csv
import json
import logging
import shutil
from pathlib import Path

import pytest

from rmlr.data.hicodet import read_hicodet
from rmlr.data.records import Corpus, save_annotations, save_vocabulary
from rmlr.data.triplets import load_triplets, save_triplets
from rmlr.data.vcoco import read_vcoco
from rmlr.hoi import Triplets
from rmlr.stages.evaluate import evaluate

GOLDEN = Path(__file__).parents[1] / "golden"


def write_records(folder: Path, corpus: Corpus) -> Path:
    folder.mkdir()
    save_vocabulary(folder / "vocabulary.json", corpus.vocabulary)
    for split, images in corpus.splits.items():
        save_annotations(folder / f"{split}.json", images)
    return folder


@pytest.fixture(scope="module")
def vcoco_records(tmp_path_factory) -> Path:
    return write_records(tmp_path_factory.mktemp("vcoco") / "prepare", read_vcoco(GOLDEN / "vcoco", ["point instr"]))


@pytest.fixture(scope="module")
def hicodet_records(tmp_path_factory) -> Path:
    corpus = read_hicodet(GOLDEN / "hicodet" / "clean", 1)
    return write_records(tmp_path_factory.mktemp("hicodet") / "prepare", corpus)


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
