"""The baseline through the stages: trained, described by its card, and used to predict."""

import csv

import numpy as np
import pytest
import torch

from rmlr.data.features import Features
from rmlr.detections.triplets import load_triplets
from rmlr.model.checkpoint import load_card, load_checkpoint
from rmlr.stages.predict import predict
from rmlr.stages.train import train
from rmlr.study.nodes import PredictNode, TrainNode
from rmlr.study.settings import Alignment, Losses, Network, Prediction, Train, TransformerSizes, Upt, Variant

UNUSED = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=0.1)
SIZES = Upt(code_dims=[8], dim=16, layers=2, heads=4, ffn_dim=8, dropout=0.0)
SWITCHES = ("global_context", "ire", "pose", "ire_sentence", "ire_word", "irm_sentence", "irm_word")
WEIGHTS = {"hoi": 2.0, "irm_sentence": 1.0, "irm_word": 1.0, "ire_sentence": 0.1, "ire_word": 0.1}


def node(sizes: Upt | None = SIZES) -> TrainNode:
    schedule = {"split": "trainval", "epochs": 20, "batch_size": 6, "micro_batch_size": 3, "learning_rate": 1e-2}
    schedule |= {"share": 1.0, "weight_decay": 1e-4, "clip_norm": 1.0, "precision": "fp32"}
    return TrainNode(
        code="",
        variant=Variant.model_validate({"network": "upt"} | dict.fromkeys(SWITCHES, False)),
        network=Network(pool="covered", feature_dim=8, ire=UNUSED, pair_dim=8, irm=UNUSED, upt=sizes),
        alignment=Alignment(form="anchored", residual=False, whiten=True, stack=UNUSED),
        losses=Losses(focal_balance=0.5, focal_gamma=0.2, **WEIGHTS),
        train=Train.model_validate(schedule),
        tags={"variant": "upt"},
    )


@pytest.fixture
def trained(study, settings_of, tmp_path):
    """The baseline, taught by features in which a ball's token tells what is done with it. There is no text."""
    folder = tmp_path / "train"
    text = tmp_path / "text"
    text.mkdir()
    train(
        settings=settings_of(node()),
        annotations=study.prepare,
        features=study.features,
        text=text,
        seed=0,
        out=folder,
    )
    return folder


def test_the_baseline_learns_and_its_checkpoint_predicts(trained, study, settings_of, tmp_path):
    card = load_card(trained)
    assert card.variant.network == "upt"
    assert card.network.upt == SIZES
    assert card.text_encoder is None
    assert not (trained / "alignment.safetensors").exists()
    with (trained / "curves.csv").open() as file:
        losses = [float(row["hoi"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.5 * losses[0]

    chosen = PredictNode(code="", prediction=Prediction(split="test", batch_size=4, prior_power=2.8, min_score=0.0))
    predict(
        settings=settings_of(chosen),
        annotations=study.prepare,
        features=study.features,
        weights=trained,
        out=tmp_path / "predict",
    )
    triplets = load_triplets(tmp_path / "predict" / "triplets.parquet")
    with_pair = study.image_ids["test"][:-1]  # the last image shows a person alone
    assert triplets.image_id.tolist() == [image_id for image_id in with_pair for _ in range(2)]
    assert triplets.score.reshape(-1, 2).argmax(1).tolist() == [image_id % 2 for image_id in with_pair]
    network = load_checkpoint(trained)
    with torch.no_grad():
        logits = network(Features.load(study.features, "test").batch(list(range(6)))).logits
    np.testing.assert_allclose(triplets.score, logits.sigmoid().flatten() * (0.9 * 0.9) ** 2.8, rtol=1e-5)


def test_the_baseline_without_sizes_is_refused():
    with pytest.raises(ValueError, match=r"give network\.upt"):
        node(sizes=None)
