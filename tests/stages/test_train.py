"""The train stage: records and caches in, a checkpoint and curves out."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rmlr
from rmlr.data.features import Features
from rmlr.learning import assembly
from rmlr.learning.examples import choose_share
from rmlr.model.checkpoint import load_card, load_checkpoint, start_from
from rmlr.model.network import build, build_objective
from rmlr.stages.evaluate import evaluate
from rmlr.stages.predict import predict
from rmlr.stages.text import text
from rmlr.stages.train import train
from rmlr.study.encoder import Encoder
from rmlr.study.nodes import PredictNode, TextNode, TrainNode
from rmlr.study.settings import Alignment, Losses, Network, Train, TransformerSizes, Variant

from . import conftest
from .conftest import DETECTOR, VOCABULARY, write_features

SIZES = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=0.1)
SWITCHES = ("ire_sentence", "ire_word", "irm_sentence", "irm_word")


def node(network: str = "rmlr", aligned: bool = True, **schedule) -> TrainNode:
    ire = network == "rmlr"
    values = {"split": "trainval", "share": 1.0, "epochs": 2, "batch_size": 4, "micro_batch_size": 2}
    values |= {"learning_rate": 1e-2, "weight_decay": 1e-4, "clip_norm": 0.1, "precision": "fp32"}
    return TrainNode(
        code="",
        variant=Variant.model_validate(
            {"network": network, "global_context": ire, "ire": ire, "pose": False}
            | dict.fromkeys(SWITCHES, ire and aligned)
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
    def call(chosen: TrainNode, out: str = "train", features=study.features, seed=0, start=None):
        folder = tmp_path / out
        train(
            settings=settings_of(chosen),
            annotations=study.prepare,
            features=features,
            text=embeddings,
            seed=seed,
            out=folder,
            start=start,
        )
        return folder

    return call


def test_a_checkpoint_describes_itself_and_loads_without_any_text(run_train, study):
    chosen = node()
    folder = run_train(chosen, seed=3)
    card = load_card(folder)
    for section in ("variant", "network", "alignment", "losses", "train"):
        assert getattr(card, section) == getattr(chosen, section)
    assert card.seed == 3
    assert card.versions == {"rmlr": rmlr.__version__, **{name: version(name) for name in ("torch", "safetensors")}}
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


def test_information_in_a_token_is_learnt(run_train, study):
    network = load_checkpoint(run_train(node(epochs=12)))
    cached = Features.load(study.features, "test")
    logits = network(cached.batch(list(range(5)))).logits
    assert logits.argmax(1).tolist() == [image_id % 2 for image_id in study.image_ids["test"][:5]]


def test_changed_settings_train_again_and_tags_do_not(run_train, tmp_path):
    run_train(node())
    state = tmp_path / ".train.resume" / "epoch.pt"
    before = torch.load(state, weights_only=True)["identity"]
    run_train(node().model_copy(update={"tags": {"variant": "renamed"}}))
    assert torch.load(state, weights_only=True)["identity"] == before
    run_train(node(epochs=1))
    assert torch.load(state, weights_only=True)["identity"] != before


# ---- a held-out split


def test_a_run_starts_from_the_weights_of_another(run_train):
    """With a learning rate near 0 they stay what they were; the heads of text are the run's own."""
    before = run_train(node(), out="first")
    after = run_train(node(learning_rate=1e-12).model_copy(update={"start": "group/first"}), start=before)
    fresh = run_train(node(learning_rate=1e-12), out="fresh")
    trained, given, drawn = (load_file(folder / "weights.safetensors") for folder in (after, before, fresh))
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, given[name], atol=1e-6, rtol=1e-6)
    assert any((drawn[name] - given[name]).abs().max() > 1e-3 for name in given)
    assert str(before) in (after / "run.json").read_text()


def test_a_run_that_starts_from_another_needs_it_and_one_that_does_not_ignores_it(run_train, tmp_path):
    with pytest.raises(ValueError, match=r"starts from the weights of group/first\. Give --start FOLDER"):
        run_train(node().model_copy(update={"start": "group/first"}))
    before = run_train(node(), out="first")
    ignored = run_train(node(), out="ignored", start=before)
    assert (ignored / "weights.safetensors").read_bytes() == (before / "weights.safetensors").read_bytes()


def test_weights_of_other_sizes_are_no_start(run_train):
    before = run_train(node("boxes", aligned=False), out="first")
    with pytest.raises(ValueError, match=r"first: \d+ of its tensors, e\.g\. .*, do not fit this run's network"):
        run_train(node(aligned=False).model_copy(update={"start": "group/first"}), start=before)


def test_a_network_of_other_heads_is_no_start(run_train):
    """Its tensors have the same shapes."""
    before, chosen = run_train(node(), out="first"), node()
    other = chosen.network.model_copy(update={"irm": SIZES.model_copy(update={"heads": 4})})
    with pytest.raises(ValueError, match="first: its sizes do not fit this run's network"):
        run_train(chosen.model_copy(update={"start": "group/first", "network": other}), start=before)


@pytest.mark.parametrize("network", ["rmlr", "boxes"])
def test_a_start_on_other_classes_takes_rows_by_name(run_train, network):
    before = run_train(node(network, aligned=False), out="first")
    given = load_file(before / "weights.safetensors")
    verbs = ("fly obj", *reversed(VOCABULARY.verbs))
    own = replace(VOCABULARY, verbs=verbs, objects=(*VOCABULARY.objects, "kite"), hois=())
    chosen = node(network, aligned=False)
    built = build(
        chosen.variant, chosen.network, channels=conftest.CHANNELS, token_dim=conftest.TOKEN_DIM, vocabulary=own
    )
    random = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    taken = start_from(built, chosen.network, own, before)
    found = built.state_dict()
    assert taken[f"of {len(verbs)} verbs"] == len(VOCABULARY.verbs)
    for name in ("reason.classify.weight", "reason.classify.bias"):
        assert torch.equal(found[name][1:], given[name].flip(0))
        assert torch.equal(found[name][0], random[name][0])
    if network == "boxes":
        objects = "describe.embed_object.weight"
        assert torch.equal(found[objects][:-1], given[objects])
        assert torch.equal(found[objects][-1], random[objects][-1])
        assert taken[f"of {len(own.objects)} objects"] == len(VOCABULARY.objects)
    others = [name for name in found if "classify" not in name and "embed_object" not in name]
    assert others
    assert all(torch.equal(found[name], given[name]) for name in others)


def held_out(**schedule) -> TrainNode:
    content = node(split="train", epochs=4, **schedule).model_dump()
    content["train"]["validate_every"] = 2
    content["held_out"] = {"split": "val", "batch_size": 3, "prior_power": 2.8, "min_score": 0.0}
    return TrainNode.model_validate(content)


def test_ap_on_val_is_a_curve_that_equals_what_predict_and_evaluate_say_and_moves_no_weight(
    run_train, study, settings_of, tmp_path
):
    chosen = held_out()
    assert chosen.held_out is not None
    folder = run_train(chosen)
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["val/vcoco_ap_role_1"]) for row in rows] == [False, True, False, True]
    assert not [name for name in rows[0] if name.startswith("val/") and "ap_role" not in name]

    settings = settings_of(PredictNode(code="", prediction=chosen.held_out))
    given = {"annotations": study.prepare, "out": tmp_path / "predict"}
    predict(settings=settings, features=study.features, weights=folder, **given)
    triplets = tmp_path / "predict" / "triplets.parquet"
    evaluate(annotations=study.prepare, triplets=triplets, out=tmp_path / "evaluate", split="val")
    metrics = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    for name in ("vcoco_ap_role_1", "vcoco_ap_role_2"):
        assert float(rows[-1][f"val/{name}"]) == metrics[name] > 0
    about = json.loads((folder / "run.json").read_text())
    assert about["metrics"]["final_val/vcoco_ap_role_1"] == metrics["vcoco_ap_role_1"]

    plain = run_train(node(split="train", epochs=4), "plain")
    for name in ("weights.safetensors", "alignment.safetensors"):
        assert (plain / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(("split", "chosen"), [("trainval", "val"), ("val", "val"), ("train", "trainval")])
def test_what_is_learnt_from_is_not_held_out(split, chosen):
    content = held_out().model_dump()
    content["train"]["split"], content["held_out"]["split"] = split, chosen
    with pytest.raises(ValueError, match=f"held_out.split is {chosen}, which is trained on"):
        TrainNode.model_validate(content)
    with pytest.raises(ValueError, match="go together"):
        TrainNode.model_validate(content | {"held_out": None})


def test_held_out_features_of_another_detector_are_refused(run_train, study, tmp_path, monkeypatch):
    shutil.copytree(study.features / "train", tmp_path / "features" / "train")
    monkeypatch.setattr(conftest, "DETECTOR", "e" * 64)
    write_features(tmp_path / "features" / "val", study.image_ids["val"], list(VOCABULARY.objects))
    with pytest.raises(ValueError, match="val: its detector_digest differs from that of the training features"):
        run_train(held_out(), features=tmp_path / "features")


# ---- a share of the labels


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1, float("nan")])
def test_an_invalid_share_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        node(share=share)


def test_all_variants_and_seeds_learn_from_the_same_share(run_train, monkeypatch, study):
    seen: list[set[int]] = []
    whole = Features.batch

    def batch(self, positions, view):
        found = whole(self, positions, view)
        seen[-1].update(found.image_ids.tolist())
        return found

    monkeypatch.setattr(Features, "batch", batch)
    for number, chosen in enumerate((node(share=0.5), node("boxes", share=0.5), node(share=0.5, split="train"))):
        seen.append(set())
        folder = run_train(chosen, str(number), seed=number)
    ids = study.image_ids["train"] + study.image_ids["val"]
    drawn = {ids[at] for at in choose_share(ids, 0.5)}
    persons_alone = {study.image_ids["train"][-1], study.image_ids["val"][-1]}
    assert seen[0] == seen[1] == drawn - persons_alone
    assert seen[2] < set(study.image_ids["train"])
    metrics = json.loads((folder / "run.json").read_text())["metrics"]
    assert metrics["images"] == len(seen[2])
    assert metrics["images"] + metrics["images_without_pair"] == metrics["images_left_out"] == 8
    assert load_card(folder).train.share == 0.5


def test_floors_are_those_of_the_share(run_train, monkeypatch, study):
    counted = []

    def spy(*settings, **inputs):
        counted.append(inputs["phrase_counts"].tolist())
        return build_objective(*settings, **inputs)

    monkeypatch.setattr(assembly, "build_objective", spy)
    run_train(node(share=0.25), "part")
    run_train(node(), "whole")
    ids = study.image_ids["train"] + study.image_ids["val"]
    odd = sum(ids[at] % 2 for at in choose_share(ids, 0.25))
    assert counted == [[5 - odd, odd], [10, 10]]


# ---- frozen, finite, interrupted


def digests(*folders: Path) -> dict[str, str]:
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_only_what_is_saved_was_optimised(run_train, study, embeddings, tmp_path):
    """Neither features nor text change, and the optimiser has a state for each saved weight and for nothing else."""
    before = digests(study.features, study.prepare, embeddings)
    folder = run_train(node())
    assert digests(study.features, study.prepare, embeddings) == before
    saved = load_file(folder / "weights.safetensors")
    assert saved.keys() == {name for name, _ in load_checkpoint(folder).named_parameters()}
    saved |= load_file(folder / "alignment.safetensors")
    state = torch.load(tmp_path / ".train.resume" / "epoch.pt", weights_only=True)["optimiser"]["state"]
    shapes = sorted(tuple(slot["exp_avg"].shape) for slot in state.values())
    assert shapes == sorted(tuple(weight.shape) for weight in saved.values())


def test_a_loss_that_is_not_finite_stops_the_stage_and_names_the_image(run_train, monkeypatch, tmp_path):
    whole = Features.batch

    def batch(self, positions, view):
        found = whole(self, positions, view)
        if 107 in found.image_ids:
            found.instances.tokens.fill_(float("nan"))
        return found

    monkeypatch.setattr(Features, "batch", batch)
    with pytest.raises(ValueError, match=r"the loss is nan on images \[[^]]*107[^]]*\]\. Look at"):
        run_train(node())
    assert sorted(path.name for path in tmp_path.glob("*train*")) == [".train.lock"]


KILLED = """
import os, signal, sys
from rmlr.__main__ import main
from rmlr.data.features import Features

at, whole, calls = int(sys.argv[1]), Features.batch, []

def batch(self, positions, view):
    calls.append(positions)
    if len(calls) == at:
        os.kill(os.getpid(), int(os.environ["BY"]))
    return whole(self, positions, view)

Features.batch = batch
try:
    main(sys.argv[2:])
finally:
    print(len(calls))
"""


@pytest.mark.parametrize(
    ("number", "status", "left"),
    [
        (signal.SIGKILL, -signal.SIGKILL, 10),
        (signal.SIGTERM, 128 + signal.SIGTERM, 2),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_stage_resumes_in_a_new_process_to_the_same_bytes(
    run_train, study, embeddings, settings_of, tmp_path, number, status, left
):
    """In the fourth of five steps, two micro-batches each, of the last of three epochs.

    By SIGKILL that epoch is lost. By SIGTERM or Ctrl-C the step is completed, and nothing is lost.
    """
    chosen = node(epochs=3)
    whole = run_train(chosen, "whole")
    given = {"settings": settings_of(chosen), "annotations": study.prepare, "features": study.features}
    given |= {"text": embeddings, "seed": 0, "out": tmp_path / "train"}
    flags = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "BY": str(int(number))}

    def start(at: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", KILLED, str(at), "train", *flags]
        return subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True, timeout=120)

    assert start(27).returncode == status
    kept = {path.name for path in tmp_path.glob("*train*")}
    assert kept == {".train.lock", ".train.resume", *([".train.part"] if number == signal.SIGKILL else [])}
    assert start(0).stdout == f"{left}\n"
    for name in ("weights.safetensors", "alignment.safetensors", "curves.csv", "checkpoint.json"):
        assert (tmp_path / "train" / name).read_bytes() == (whole / name).read_bytes()


# ---- what does not fit


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"channels": 9}, "channels: the weights were trained with 4, given is 9"),
        ({"token_dim": 6}, "token_dim: the weights were trained with 5, given is 6"),
        ({"detector_digest": "e" * 64}, "detector_digest: the weights were trained with ddd.*, given is eee"),
        ({"objects": ("ball", "person")}, "objects: the features have other classes, .* or another order"),
        ({"objects": ("person", "kite")}, r"objects: the features have other classes, e\.g\. \['kite'\]"),
        ({"vocabulary": replace(VOCABULARY, verbs=("throw obj", "hold obj"))}, "vocabulary: .* in another order"),
        ({"vocabulary": replace(VOCABULARY, person=1)}, "vocabulary: .* in another order"),
    ],
)
def test_a_checkpoint_is_refused_by_whatever_it_was_not_trained_for(run_train, changed, said):
    card = load_card(run_train(node("boxes", epochs=1)))
    fitting = {"channels": 4, "token_dim": 5, "detector_digest": DETECTOR, "objects": VOCABULARY.objects}
    fitting |= {"vocabulary": VOCABULARY}
    card.must_fit(Path("features"), **fitting)
    with pytest.raises(
        ValueError, match=rf"^features: network, features and annotations do not fit together:\n  {said}"
    ):
        card.must_fit(Path("features"), **fitting | changed)


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
