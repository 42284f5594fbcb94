"""Our AP equals the official programs' recorded output (tests/golden)."""

import json
from pathlib import Path

import numpy as np
import pytest

from rmlr.data.hicodet import read_hicodet
from rmlr.data.records import Corpus
from rmlr.data.triplets import load_triplets
from rmlr.data.vcoco import read_vcoco
from rmlr.evaluation import hicodet, vcoco

GOLDEN = Path(__file__).parents[1] / "golden"


def official(benchmark: str) -> dict:
    return json.loads((GOLDEN / benchmark / "official.json").read_text())


@pytest.fixture(scope="module")
def vcoco_cases() -> Corpus:
    return read_vcoco(GOLDEN / "vcoco", ["point instr"])


def score_vcoco(cases: Corpus, split: str) -> vcoco.RoleScores:
    images = cases.splits[split]
    table = load_triplets(
        GOLDEN / "vcoco" / f"triplets_{split}.parquet",
        vocabulary=cases.vocabulary,
        image_ids=[image.image_id for image in images],
    )
    return vcoco.evaluate(images, cases.vocabulary, table)


@pytest.mark.parametrize("split", ["train", "val"])
def test_ap_role_is_that_of_the_official_program(vcoco_cases, split):
    scores, expected = score_vcoco(vcoco_cases, split), official("vcoco")[split]
    assert scores.ap_role_1 == pytest.approx([expected["scenario_1"][verb] for verb in scores.verbs], abs=1e-6)
    assert scores.ap_role_2 == pytest.approx([expected["scenario_2"][verb] for verb in scores.verbs], abs=1e-6)
    metrics = scores.metrics()
    assert metrics["vcoco_ap_role_1_all_roles"] == pytest.approx(
        np.mean(list(expected["scenario_1"].values())), abs=1e-6
    )
    assert metrics["vcoco_ap_role_2_all_roles"] == pytest.approx(
        np.mean(list(expected["scenario_2"].values())), abs=1e-6
    )
    headline = [value for verb, value in expected["scenario_1"].items() if verb != "point instr"]
    assert metrics["vcoco_ap_role_1"] == pytest.approx(np.mean(headline), abs=1e-6)
    assert (metrics["vcoco_roles"], metrics["vcoco_all_roles"]) == (24, 25)


def test_ap_role_with_tied_scores_is_near_one_of_the_official_answers(vcoco_cases):
    metrics, expected = score_vcoco(vcoco_cases, "test").metrics(), official("vcoco")["test"]
    assert metrics["vcoco_ap_role_1_all_roles"] == pytest.approx(
        np.mean(list(expected["scenario_1"].values())), abs=0.02
    )
    assert metrics["vcoco_ap_role_2_all_roles"] == pytest.approx(
        np.mean(list(expected["scenario_2"].values())), abs=0.02
    )


@pytest.mark.parametrize("case", ["clean", "crowded", "tied"])
def test_hicodet_ap_is_that_of_the_official_program(case):
    corpus, expected = read_hicodet(GOLDEN / "hicodet" / case, 1), official("hicodet")[case]
    images = corpus.splits["test"]
    table = load_triplets(
        GOLDEN / "hicodet" / case / "triplets.parquet",
        vocabulary=corpus.vocabulary,
        image_ids=[image.image_id for image in images],
    )
    scores = hicodet.evaluate(images, corpus.vocabulary, table)
    assert scores.default == pytest.approx(expected["default"], abs=1e-6)
    assert scores.known_object == pytest.approx(expected["known_object"], abs=1e-6)
    rare = list(corpus.vocabulary.rare)
    metrics = scores.metrics()
    assert metrics["hicodet_default_full"] == pytest.approx(np.mean(expected["default"]), abs=1e-6)
    assert metrics["hicodet_known_object_rare"] == pytest.approx(
        np.mean(np.array(expected["known_object"])[rare]), abs=1e-6
    )
