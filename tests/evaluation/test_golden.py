"""Our AP equals the official programs' recorded output (tests/golden)."""

import importlib.util
import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from rmlr.data.hicodet import read_hicodet
from rmlr.data.records import Corpus, load_image_objects, save_image_objects, save_vocabulary
from rmlr.data.vcoco import read_vcoco
from rmlr.detections.hicodet import read_hicodet_results, write_hicodet_results
from rmlr.detections.triplets import load_agents, load_triplets
from rmlr.detections.vcoco import read_vcoco_results, write_vcoco_results
from rmlr.evaluation import hicodet, vcoco
from rmlr.hoi import Agents, Annotation, Triplets, Vocabulary

GOLDEN = Path(__file__).parents[1] / "golden"


def official(benchmark: str) -> dict:
    return json.loads((GOLDEN / benchmark / "official.json").read_text())


def load_record(benchmark: str, name: str = "record"):
    """record.py, or another script beside the cases, as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_{benchmark}", GOLDEN / benchmark / f"{name}.py")
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    return record


@pytest.fixture(scope="module")
def vcoco_cases() -> Corpus:
    return read_vcoco(GOLDEN / "vcoco", ["point instr"])


def load_vcoco(cases: Corpus, split: str) -> tuple[Triplets, Agents]:
    known = {"vocabulary": cases.vocabulary, "image_ids": [image.image_id for image in cases.splits[split]]}
    folder = GOLDEN / "vcoco"
    return (
        load_triplets(folder / f"triplets_{split}.parquet", **known),
        load_agents(folder / f"agents_{split}.parquet", **known),
    )


def meets(scores: vcoco.RoleScores, agents: vcoco.AgentScores, expected: dict, tolerance: float) -> None:
    """Assert that every role, every action, and their means are as expected."""
    for ap, scenario in ((scores.ap_role_1, "scenario_1"), (scores.ap_role_2, "scenario_2")):
        assert ap == pytest.approx([expected[scenario][verb] for verb in scores.verbs], abs=tolerance)
    assert agents.ap_agent == pytest.approx([expected["agent"][action] for action in agents.actions], abs=tolerance)


@pytest.mark.parametrize("split", ["train", "val"])
def test_ap_role_and_ap_agent_are_those_of_the_official_program(vcoco_cases, split):
    images, words, expected = vcoco_cases.splits[split], vcoco_cases.vocabulary, official("vcoco")[split]
    triplets, agents = load_vcoco(vcoco_cases, split)
    scores, agent_scores = vcoco.evaluate(images, words, triplets), vcoco.evaluate_agents(images, words, agents)
    meets(scores, agent_scores, expected, 1e-6)
    metrics = scores.metrics() | agent_scores.metrics()
    means = {name: np.mean(list(values.values())) for name, values in expected.items()}
    assert metrics["vcoco_ap_role_1_all_roles"] == pytest.approx(means["scenario_1"], abs=1e-6)
    assert metrics["vcoco_ap_role_2_all_roles"] == pytest.approx(means["scenario_2"], abs=1e-6)
    assert metrics["vcoco_ap_agent"] == pytest.approx(means["agent"], abs=1e-6)
    headline = [value for verb, value in expected["scenario_1"].items() if verb != "point instr"]
    assert metrics["vcoco_ap_role_1"] == pytest.approx(np.mean(headline), abs=1e-6)
    assert (metrics["vcoco_roles"], metrics["vcoco_all_roles"], metrics["vcoco_actions"]) == (24, 25, 26)


def test_ap_on_all_test_images_of_vcoco_is_that_of_the_official_program(real_vcoco):
    """4,946 images, positives without an object box included; detections are drawn near the truth by a fixed seed."""
    corpus, expected = read_vcoco(real_vcoco, ["point instr"]), official("vcoco_2015")
    images, words = corpus.splits["test"], corpus.vocabulary
    triplets, agents = load_record("vcoco_2015").draw(images, words)
    found = {"images": len(images), "triplets": len(triplets.score), "agents": len(agents.score)}
    assert found == {name: expected[name] for name in found}
    assert found["images"] == 4946
    scores, agent_scores = vcoco.evaluate(images, words, triplets), vcoco.evaluate_agents(images, words, agents)
    meets(scores, agent_scores, expected, 1e-6)
    assert (scores.positives[: scores.headline].sum(), scores.metrics()["vcoco_roles"]) == (16361, 24)


def test_ap_of_a_real_detector_on_real_photos_is_that_of_the_official_program(real_vcoco):
    """CenterNet on the 592 test photos that are at hand, with an answer for each pair, and with none for each human."""
    record = load_record("vcoco_2015", "centernet")
    expected, kept = json.loads(record.SAID.read_text()), record.load_boxes()
    corpus = read_vcoco(real_vcoco, ["point instr"])
    images, words = corpus.splits["test"], corpus.vocabulary
    triplets, agents = record.answer(kept, images, [*corpus.splits["train"], *corpus.splits["val"]], words)
    found = {"images": len(images), "photos": len(set(kept["image_id"].tolist())), "boxes": len(kept["score"])}
    found |= {"triplets": len(triplets.score), "agents": len(agents.score)}
    assert found == {name: expected[name] for name in found}
    assert (found["images"], found["photos"]) == (4946, 592)
    scores, agent_scores = vcoco.evaluate(images, words, triplets), vcoco.evaluate_agents(images, words, agents)
    meets(scores, agent_scores, expected, 1e-6)


def interleaved(rows: Triplets | Agents, seed: int) -> Triplets | Agents:
    """The rows in an order in which images alternate; those of one image keep their order."""
    places = np.argsort(np.random.default_rng(seed).permutation(rows.image_id), kind="stable")
    order = np.empty_like(places)
    order[places] = np.argsort(rows.image_id, kind="stable")
    return type(rows)(*(getattr(rows, name)[order] for name in rows.__slots__))


@pytest.mark.parametrize("seed", range(5))
def test_ap_with_tied_scores_is_that_of_the_official_program_in_any_order_of_images(vcoco_cases, seed):
    """The program walks image by image, and sorts stably here; its own sort leaves equal scores in any order."""
    images, words = vcoco_cases.splits["test"], vcoco_cases.vocabulary
    triplets, agents = (interleaved(rows, seed) for rows in load_vcoco(vcoco_cases, "test"))
    assert (np.diff(triplets.image_id) < 0).sum() > 100
    scores, agent_scores = vcoco.evaluate(images, words, triplets), vcoco.evaluate_agents(images, words, agents)
    meets(scores, agent_scores, official("vcoco")["test, sorted stably"], 1e-6)


def test_ap_with_tied_scores_is_near_one_of_the_official_answers(vcoco_cases):
    images, words, expected = vcoco_cases.splits["test"], vcoco_cases.vocabulary, official("vcoco")["test"]
    triplets, agents = load_vcoco(vcoco_cases, "test")
    metrics = vcoco.evaluate(images, words, triplets).metrics() | vcoco.evaluate_agents(images, words, agents).metrics()
    for metric, name in (
        ("vcoco_ap_role_1_all_roles", "scenario_1"),
        ("vcoco_ap_role_2_all_roles", "scenario_2"),
        ("vcoco_ap_agent", "agent"),
    ):
        assert metrics[metric] == pytest.approx(np.mean(list(expected[name].values())), abs=0.02)


# ---- the official V-COCO program itself, where it is at hand


@pytest.fixture
def vcoco_program():
    """record.py, and the folder of the program that it runs: v-coco/ in RMLR_PEERS."""
    if "RMLR_PEERS" not in os.environ:
        pytest.skip("needs RMLR_PEERS set to a folder with a checkout of s-gupta/v-coco, v-coco/")
    return load_record("vcoco"), Path(os.environ["RMLR_PEERS"]) / "v-coco"


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_official_vcoco_program_prints_the_recorded_results(vcoco_cases, vcoco_program, tmp_path, split):
    record, checkout = vcoco_program
    write_vcoco_results(tmp_path / "d.pkl", *load_vcoco(vcoco_cases, split), vcoco_cases.vocabulary)
    said = record.run_official(checkout, GOLDEN / "vcoco", split, tmp_path / "d.pkl")
    assert {name: pytest.approx(ap, abs=1e-9) for name, ap in said.items()} == official("vcoco")[split]


def test_the_official_vcoco_program_prints_the_recorded_results_for_equal_scores_in_any_order(
    vcoco_cases, vcoco_program, tmp_path
):
    record, checkout = vcoco_program
    rows = (interleaved(rows, 0) for rows in load_vcoco(vcoco_cases, "test"))
    write_vcoco_results(tmp_path / "d.pkl", *rows, vcoco_cases.vocabulary)
    patches = record.PATCHES + record.STABLE
    said = record.run_official(checkout, GOLDEN / "vcoco", "test", tmp_path / "d.pkl", patches)
    expected = official("vcoco")["test, sorted stably"]
    assert {name: pytest.approx(ap, abs=1e-9) for name, ap in said.items()} == expected


class CacheTemplate(dict):
    """What UPT and PViC write: the official program gets the answers for absent keys from it."""

    def __missing__(self, key: str):
        return 0.0 if key.endswith("_agent") else [0.0, 0.0, 0.1, 0.1, 0.0]


def as_written_by_qpic(items: list[dict]) -> list[dict]:
    """All roles and agents of every item scored, those that were not with no object or some."""
    chance = random.Random(0)
    for item in items:
        for key in item.keys() - {"image_id", "person_box"}:
            score = chance.random() * 0.5
            if key.endswith("_agent") and np.isnan(item[key]):
                item[key] = score
            elif not key.endswith("_agent") and np.isnan(item[key][4]):
                item[key] = [*chance.choice([[float("nan")] * 4, item["person_box"]]), score]
    return items


def as_written_by_upt(items: list[dict]) -> list[CacheTemplate]:
    """Image by image, the program's order; only what is scored stands in an item."""
    items = sorted(items, key=lambda item: item["image_id"])
    return [CacheTemplate({key: value for key, value in item.items() if not np.isnan(value).any()}) for item in items]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("convert", [list, as_written_by_qpic, as_written_by_upt])
def test_pickles_of_any_method_score_as_officially_if_the_program_sorts_equal_scores_stably(
    vcoco_cases, vcoco_program, tmp_path, split, convert
):
    """UPT's answers for absent keys tie, as do the scores of `test`; the program's own sort leaves their order open."""
    record, checkout = vcoco_program
    images, words = vcoco_cases.splits[split], vcoco_cases.vocabulary
    write_vcoco_results(tmp_path / "plain.pkl", *load_vcoco(vcoco_cases, split), words)
    items = convert(pickle.loads((tmp_path / "plain.pkl").read_bytes()))
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(items, protocol=2))
    triplets, agents = read_vcoco_results(tmp_path / "d.pkl", words, [image.image_id for image in images])
    scores, agent_scores = vcoco.evaluate(images, words, triplets), vcoco.evaluate_agents(images, words, agents)
    patches = record.PATCHES + record.STABLE
    said = record.run_official(checkout, GOLDEN / "vcoco", split, tmp_path / "d.pkl", patches)
    meets(scores, agent_scores, said, 1e-6)


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


@pytest.mark.parametrize("seed", range(3))
def test_hicodet_ap_is_that_of_the_official_program_in_any_order_of_images(hicodet_case, tmp_path, seed):
    """The program reads image by image: the files are the same, whatever the order of the table."""
    vocabulary, images, table, labels, expected = hicodet_case
    mixed = interleaved(table, seed)
    assert (np.diff(mixed.image_id) < 0).sum() > 10
    scores = hicodet.evaluate(images, vocabulary, mixed, labels)
    assert scores.default == pytest.approx(expected["default"], abs=1e-6)
    assert scores.known_object == pytest.approx(expected["known_object"], abs=1e-6)
    read = []
    for name, rows in (("grouped", table), ("mixed", mixed)):
        image_ids = [image.image_id for image in images]
        write_hicodet_results(tmp_path / name, rows, vocabulary, image_ids)
        read.append(read_hicodet_results(tmp_path / name, vocabulary, image_ids))
    for name in Triplets.__slots__:
        assert np.array_equal(getattr(read[0], name), getattr(read[1], name))


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
def test_the_official_hicodet_program_prints_the_recorded_results(case, tmp_path):
    """It reads our files of results; RMLR_PEERS is a folder that holds a checkout of ywchao/ho-rcnn as ho-rcnn/."""
    peers = os.environ.get("RMLR_PEERS")
    if peers is None or shutil.which("octave-cli") is None:
        pytest.skip("needs GNU Octave, and RMLR_PEERS set to a folder with a checkout of ywchao/ho-rcnn, ho-rcnn/")
    record = load_record("hicodet")
    (chosen,) = (one for one in record.CASES if one[0] == case)
    said = record.record(chosen, Path(peers) / "ho-rcnn", tmp_path)
    assert {setting: pytest.approx(ap, abs=1e-12) for setting, ap in said.items()} == official("hicodet")[case]
    for file in sorted((tmp_path / "hicodet").glob("*.json")):
        assert file.read_bytes() == (GOLDEN / "hicodet" / case / "hicodet" / file.name).read_bytes()
