"""The train stage: records and caches in, a checkpoint and curves out."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from rmlr.data.features import Features
from rmlr.model.checkpoint import load_card, load_checkpoint
from rmlr.settings import Alignment, Encoder, Losses, Network, TextNode, Train, TrainNode, TransformerSizes, Variant
from rmlr.stages.text import text
from rmlr.stages.train import train

from .conftest import DETECTOR, write_features

SIZES = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=0.1)
SWITCHES = ("ire_sentence", "ire_word", "irm_sentence", "irm_word")


def node(network: str = "rmlr", aligned: bool = True, **schedule) -> TrainNode:
    ire = network == "rmlr"
    values = {"split": "trainval", "share": 1.0, "epochs": 2, "batch_size": 4, "micro_batch_size": 2}
    values |= {"learning_rate": 1e-2, "weight_decay": 1e-4, "clip_norm": 0.1, "precision": "fp32"}
    return TrainNode(
        code="",
        variant=Variant.model_validate(
            {"network": network, "global_context": ire, "ire": ire} | dict.fromkeys(SWITCHES, ire and aligned)
        ),
        network=Network(pool="covered", feature_dim=8, ire=SIZES, pair_dim=8, irm=SIZES),
        alignment=Alignment(form="anchored", residual=False, whiten=True, stack=SIZES),
        losses=Losses(
            focal_balance=0.5, focal_gamma=0.2, hoi=2.0, irm_sentence=1.0, irm_word=1.0, ire_sentence=0.1, ire_word=0.1
        ),
        train=Train.model_validate(values | schedule),
        tags={"variant": "rmlr"},
    )


@pytest.fixture
def embeddings(study, settings_of, tmp_path):
    encoder = Encoder(name="random vectors", model="random:6", revision=None, sha256=None, pooling="mean")
    text(settings=settings_of(TextNode(code="", encoder=encoder)), annotations=study.prepare, out=tmp_path / "text")
    return tmp_path / "text"


@pytest.fixture
def run_train(study, settings_of, embeddings, tmp_path):
    def call(chosen: TrainNode, out: str = "train", features=study.features, seed=0):
        folder = tmp_path / out
        train(
            settings=settings_of(chosen),
            annotations=study.prepare,
            features=features,
            text=embeddings,
            seed=seed,
            out=folder,
        )
        return folder

    return call


def test_a_checkpoint_describes_itself_and_loads_without_any_text(run_train, study):
    folder = run_train(node())
    card = load_card(folder)
    assert card.vocabulary == study.vocabulary
    assert card.detector_digest == DETECTOR
    assert card.text_encoder == "random vectors"
    network = load_checkpoint(folder)
    assert not network.training
    batch = Features.load(study.features, "test").batch([0, 1])
    assert network(batch).logits.shape == (2, 2)
    stored = load_file(folder / "weights.safetensors")
    assert stored.keys() == network.state_dict().keys()
    assert load_file(folder / "alignment.safetensors").keys().isdisjoint(stored)


def test_every_epoch_is_a_row_of_the_curves(run_train):
    folder = run_train(node())
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    terms = {"hoi": 2.0, "irm_sentence": 1.0, "irm_word": 1.0, "ire_sentence": 0.1, "ire_word": 0.1}
    for row in rows:
        assert float(row["loss"]) == pytest.approx(sum(weight * float(row[term]) for term, weight in terms.items()))
        assert float(row["positives"]) == float(row["rows"]) == 20  # 18 images, the last batch filled up
    metrics = json.loads((folder / "run.json").read_text())["metrics"]
    assert metrics["final_hoi"] == float(rows[-1]["hoi"])
    assert (metrics["images"], metrics["images_without_pair"]) == (18, 2)


def test_a_variant_without_alignment_has_no_heads_and_reads_no_text(run_train, embeddings):
    (embeddings / "embeddings.safetensors").unlink()
    folder = run_train(node(aligned=False))
    assert not (folder / "alignment.safetensors").exists()
    assert load_card(folder).text_encoder is None
    assert "irm_word" not in (folder / "curves.csv").read_text()


def test_the_boxes_only_control_is_trained_by_the_same_stage(run_train, study):
    network = load_checkpoint(run_train(node("boxes")))
    batch = Features.load(study.features, "test").batch([0, 1])
    assert network(batch).logits.shape == (2, 2)


def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(run_train):
    folders = [run_train(node(), out, seed=seed) for out, seed in (("a", 0), ("b", 0), ("c", 1))]
    for name in ("weights.safetensors", "curves.csv", "checkpoint.json"):
        first, second, third = ((folder / name).read_bytes() for folder in folders)
        assert first == second != third


def test_what_a_token_tells_is_learnt(run_train, study):
    network = load_checkpoint(run_train(node(epochs=30)))
    cached = Features.load(study.features, "test")
    logits = network(cached.batch(list(range(5)))).logits
    assert logits.argmax(1).tolist() == [image_id % 2 for image_id in study.image_ids["test"][:5]]


def test_changed_settings_train_anew_and_tags_do_not(run_train, tmp_path):
    run_train(node())
    state = tmp_path / ".train.resume" / "epoch.pt"
    before = torch.load(state, weights_only=True)["identity"]
    run_train(node().model_copy(update={"tags": {"variant": "renamed"}}))
    assert torch.load(state, weights_only=True)["identity"] == before
    run_train(node(epochs=1))
    assert torch.load(state, weights_only=True)["identity"] != before


def test_features_of_other_object_classes_are_refused(run_train, study, tmp_path):
    for split in ("train", "val"):
        write_features(tmp_path / "features" / split, study.image_ids[split], ["person", "kite"])
    with pytest.raises(ValueError, match=r"objects: .*kite"):
        run_train(node(), features=tmp_path / "features")


def test_features_without_annotations_are_refused(run_train, tmp_path):
    for split in ("train", "val"):
        write_features(tmp_path / "features" / split, [1, 2], ["person", "ball"])
    with pytest.raises(ValueError, match=r"4 image.*have features but no annotation"):
        run_train(node(), features=tmp_path / "features")
    assert not (tmp_path / "train").exists()


def test_training_never_loads_the_text_encoder_or_tables():
    code = "import sys, rmlr.stages.train; sys.exit(bool({'transformers', 'pandas', 'mlflow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
