"""The separation stage: people at the same place, before and after re-mining."""

import csv
import json
import shutil

import numpy as np
import pytest
from pyarrow import parquet

from rmlr.data.records import save_annotations, save_vocabulary
from rmlr.stages.separation import separation
from rmlr.study.nodes import SeparationNode
from rmlr.study.settings import Separation

from .conftest import BOXES, VOCABULARY, annotation, write_features

NODE = SeparationNode(code="", split="test", separation=Separation(min_iou=0.7, batch_size=4, samples=20, seed=0))


@pytest.fixture
def made(study, settings_of, weights, tmp_path):
    def call(annotations=study.prepare, features=study.features, out="separation"):
        return run_separation(settings_of, annotations, features, weights, tmp_path / out)

    return call


def run_separation(settings_of, annotations, features, weights, out, node=NODE):
    separation(settings=settings_of(node), annotations=annotations, features=features, weights=weights, out=out)
    return out


def test_every_two_interactions_at_one_place_are_compared(made, study):
    folder = made()
    found = parquet.read_table(folder / "interactions.parquet").to_pylist()
    assert [row["image_id"] for row in found] == study.image_ids["test"][:-1], "the last has no ball"
    assert [row["does"] for row in found] == ["hold ball", "throw ball", "hold ball", "throw ball", "hold ball"]
    assert found[0]["human_does"] == "hold obj; point instr"
    assert [found[0][f"human_{edge}"] for edge in ("x1", "y1", "x2", "y2")] == BOXES[0].tolist()
    pairs = parquet.read_table(folder / "pairs.parquet").to_pandas()
    assert len(pairs) == 4, "all point as well, so nobody does different things"
    assert set(pairs["kind"]) == {"same"}
    assert np.allclose(pairs["place_iou"], 1)


def test_with_folds_people_of_one_fold_are_compared_by_its_network(study, settings_of, weights, tmp_path):
    whole = parquet.read_table(
        run_separation(settings_of, study.prepare, study.features, weights, tmp_path / "whole") / "interactions.parquet"
    ).to_pylist()
    ids = study.image_ids["test"]
    records, networks = tmp_path / "prepare", tmp_path / "run"
    for fold, own in enumerate((ids[:2], ids[2:])):
        folder = records / f"fold{fold}"
        folder.mkdir(parents=True)
        save_vocabulary(folder / "vocabulary.json", VOCABULARY)
        save_annotations(folder / "test.json", [annotation(image_id) for image_id in own])
        shutil.copytree(weights, networks / f"fold{fold}" / "train")
    node = NODE.model_copy(update={"folds": 2})
    out = run_separation(settings_of, records, study.features, networks, tmp_path / "folds", node)
    found = parquet.read_table(out / "interactions.parquet").to_pylist()
    assert found == whole, "the folds are in the order of the images here, and their networks the same"
    pairs = parquet.read_table(out / "pairs.parquet").to_pandas()
    first, second = (pairs[side].map(lambda at: found[at]["image_id"] in ids[:2]) for side in ("first", "second"))
    assert (first == second).all()
    assert 0 < len(pairs) < 4
    assert json.loads((out / "metrics.json").read_text())["pairs_same"] == len(pairs)


def test_a_vector_of_the_verb_separates_all_pairs_and_the_boxes_none(made, study, tmp_path):
    prepare = tmp_path / "prepare"
    prepare.mkdir()
    save_vocabulary(prepare / "vocabulary.json", VOCABULARY)
    images = [annotation(image_id) for image_id in study.image_ids["test"]]
    for image in images:
        image.interactions.resize((1, 3), refcheck=False)  # without what all of them do
    save_annotations(prepare / "test.json", images)
    folder = made(annotations=prepare)
    with (folder / "separation.csv").open() as file:
        rows = {(row["question"], row["vector"], row["distance"]): row for row in csv.DictReader(file)}
    told = rows["verb", "pair_tokens", "euclidean"]  # a ball's token tells its verb
    assert (told["same"], told["apart"]) == ("4", "6")
    assert [float(told[name]) for name in ("auc", "low", "high")] == [1.0, 1.0, 1.0]
    assert float(rows["verb", "boxes", "euclidean"]["auc"]) == 0.5
    assert rows["place", "cue", "cosine"]["auc"] == "nan", "all are at one place"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["separation_verb_euclidean_pair_tokens"] == 1.0
    assert metrics["pairs_different"] == 6.0
    assert not any("_place_" in name for name in metrics)
    assert json.loads((folder / "run.json").read_text())["metrics"]["interactions"] == 5.0


def test_the_same_settings_give_the_same_bytes(made):
    one, other = made(out="one"), made(out="other")
    for name in ("interactions.parquet", "pairs.parquet", "separation.csv", "metrics.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_split_without_images_or_with_unknown_ones_is_refused(made, study, tmp_path):
    prepare = tmp_path / "prepare"
    prepare.mkdir()
    save_vocabulary(prepare / "vocabulary.json", VOCABULARY)
    save_annotations(prepare / "test.json", [annotation(image_id) for image_id in study.image_ids["test"][1:]])
    with pytest.raises(ValueError, match=r"features/test: 1 images have features but no annotation, e\.g\. \[300\]"):
        made(annotations=prepare)
    write_features(tmp_path / "features" / "test", [], ["person", "ball"])
    with pytest.raises(ValueError, match=r"features/test: the split has no image"):
        made(features=tmp_path / "features")


def test_a_split_without_an_interaction_has_nothing_to_compare(made, study, tmp_path):
    prepare = tmp_path / "prepare"
    prepare.mkdir()
    save_vocabulary(prepare / "vocabulary.json", VOCABULARY)
    images = [annotation(image_id) for image_id in study.image_ids["test"]]
    for image in images:
        image.interactions.resize((0, 3), refcheck=False)
    save_annotations(prepare / "test.json", images)
    folder = made(annotations=prepare)
    assert parquet.read_table(folder / "pairs.parquet").num_rows == 0
    assert json.loads((folder / "metrics.json").read_text()) == {
        "pairs_same": 0.0,
        "pairs_different": 0.0,
        "pairs_elsewhere": 0.0,
    }
