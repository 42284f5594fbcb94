"""Our AP equals the official programs' recorded output (tests/golden)."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from rmlr.data.hicodet import read_hicodet
from rmlr.data.hicodet_results import read_hicodet_results, write_hicodet_results
from rmlr.data.records import Corpus, load_image_objects, save_image_objects, save_vocabulary
from rmlr.data.triplets import load_triplets
from rmlr.data.vcoco import read_vcoco
from rmlr.evaluation import hicodet, vcoco
from rmlr.hoi import Annotation, Triplets, Vocabulary

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


class HicodetCase(NamedTuple):
    vocabulary: Vocabulary
    images: list[Annotation]
    table: Triplets
    labels: dict[int, list[int]] | None
    expected: dict[str, list[float]]


HICODET_CASES = ["clean", "crowded", "tied", "labelled"]


@pytest.fixture(params=HICODET_CASES)
def hicodet_case(request, tmp_path) -> HicodetCase:
    """A case as `rmlr evaluate` would see it: its images, its table, and the labels of whole images if it has any."""
    corpus = read_hicodet(GOLDEN / "hicodet" / request.param, 1)
    save_vocabulary(tmp_path / "vocabulary.json", corpus.vocabulary)
    if corpus.image_objects is not None:
        save_image_objects(tmp_path / "image_objects.json", corpus.splits, corpus.image_objects)
    images = corpus.splits["test"]
    image_ids = [image.image_id for image in images]
    path = GOLDEN / "hicodet" / request.param / "triplets.parquet"
    table = load_triplets(path, vocabulary=corpus.vocabulary, image_ids=image_ids)
    expected = official("hicodet")[request.param]
    return HicodetCase(corpus.vocabulary, images, table, load_image_objects(tmp_path, "test"), expected)


def test_hicodet_ap_is_that_of_the_official_program(hicodet_case):
    vocabulary, images, table, labels, expected = hicodet_case
    scores = hicodet.evaluate(images, vocabulary, table, labels)
    assert scores.default == pytest.approx(expected["default"], abs=1e-6)
    assert scores.known_object == pytest.approx(expected["known_object"], abs=1e-6)
    rare = list(vocabulary.rare)
    metrics = scores.metrics()
    assert metrics["hicodet_default_full"] == pytest.approx(np.mean(expected["default"]), abs=1e-6)
    assert metrics["hicodet_known_object_rare"] == pytest.approx(
        np.mean(np.array(expected["known_object"])[rare]), abs=1e-6
    )


def test_files_of_results_score_as_the_table_that_they_were_written_from(hicodet_case, tmp_path):
    vocabulary, images, table, labels, expected = hicodet_case
    image_ids = [image.image_id for image in images]
    write_hicodet_results(tmp_path / "results", table, vocabulary, image_ids)
    read = read_hicodet_results(tmp_path / "results", vocabulary, image_ids)
    scores = hicodet.evaluate(images, vocabulary, read, labels)
    assert scores.default == pytest.approx(expected["default"], abs=1e-6)
    assert scores.known_object == pytest.approx(expected["known_object"], abs=1e-6)


@pytest.mark.parametrize("hicodet_case", ["labelled"], indirect=True)
def test_labels_of_images_without_a_visible_pair_lower_known_object(hicodet_case):
    by_pairs = hicodet.evaluate(hicodet_case.images, hicodet_case.vocabulary, hicodet_case.table).known_object
    expected = np.array(hicodet_case.expected["known_object"])
    assert (by_pairs >= expected - 1e-6).all()
    assert by_pairs.mean() > expected.mean() + 0.01


@pytest.mark.parametrize("case", HICODET_CASES)
def test_the_official_hicodet_program_says_what_is_recorded(case, tmp_path):
    """It reads our files of results; RMLR_PEERS is a folder that holds a checkout of ywchao/ho-rcnn as ho-rcnn/."""
    peers = os.environ.get("RMLR_PEERS")
    if peers is None or shutil.which("octave-cli") is None:
        pytest.skip("needs GNU Octave, and RMLR_PEERS set to a folder with a checkout of ywchao/ho-rcnn, ho-rcnn/")
    spec = importlib.util.spec_from_file_location("record", GOLDEN / "hicodet" / "record.py")
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    (chosen,) = (one for one in record.CASES if one[0] == case)
    said = record.record(chosen, Path(peers) / "ho-rcnn", tmp_path)
    assert {setting: pytest.approx(ap, abs=1e-12) for setting, ap in said.items()} == official("hicodet")[case]
    for file in sorted((tmp_path / "hicodet").glob("*.json")):
        assert file.read_bytes() == (GOLDEN / "hicodet" / case / "hicodet" / file.name).read_bytes()
