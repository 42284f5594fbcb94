"""The predict stage, and the checkpoint it reads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmlr.data.features import Features
from rmlr.data.records import load_annotations, save_annotations, save_vocabulary
from rmlr.detections.triplets import load_triplets
from rmlr.hoi import NO_BOX
from rmlr.model.checkpoint import load_card, load_checkpoint
from rmlr.stages.predict import predict
from rmlr.study.nodes import PredictNode
from rmlr.study.settings import Prediction

from .conftest import BOXES, CARD, VOCABULARY, write_features


def node(min_score: float = 0.0, batch_size: int = 4, **more) -> PredictNode:
    return PredictNode(
        code="",
        prediction=Prediction(split="test", batch_size=batch_size, prior_power=2.8, min_score=min_score, **more),
    )


@pytest.fixture
def run_predict(study, settings_of, weights, tmp_path):
    def call(chosen: PredictNode, features=study.features, annotations=study.prepare, out="predict"):
        folder = tmp_path / out
        predict(settings=settings_of(chosen), annotations=annotations, features=features, weights=weights, out=folder)
        return load_triplets(folder / "triplets.parquet")

    return call


def test_a_triplet_is_a_pair_with_a_possible_verb_scored_by_sigmoid_and_prior(run_predict, study, weights):
    triplets = run_predict(node())
    with_pair = study.image_ids["test"][:-1]  # the last image shows a person alone
    assert triplets.image_id.tolist() == [image_id for image_id in with_pair for _ in range(2)]
    assert triplets.verb.tolist() == [0, 1] * 5
    assert (triplets.object_category == 1).all()
    np.testing.assert_array_equal(triplets.human_boxes, np.tile(BOXES[0], (10, 1)))
    np.testing.assert_array_equal(triplets.object_boxes, np.tile(BOXES[1], (10, 1)))
    logits = load_checkpoint(weights)(Features.load(study.features, "test").batch(list(range(6)))).logits
    expected = logits.sigmoid().flatten() * (0.9 * 0.9) ** 2.8
    np.testing.assert_allclose(triplets.score, expected.numpy(), rtol=1e-5)


def test_rows_without_an_object_are_added_on_request(run_predict, study):
    learnt = load_annotations(study.prepare, "trainval")
    for one in learnt[:2]:
        one.interactions[:, 2] = NO_BOX
    save_annotations(study.prepare / "train.json", learnt)
    save_annotations(study.prepare / "val.json", [])
    plain, more = run_predict(node()), run_predict(node(no_object=True), out="more")
    rows = len(plain.score)
    np.testing.assert_array_equal(more.object_boxes[:rows], plain.object_boxes)
    assert len(more.score) > rows
    assert np.isnan(more.object_boxes[rows:]).all()
    assert (more.score[rows:] < plain.score.max()).all()


def test_the_batch_size_changes_nothing(run_predict):
    one, many = run_predict(node(batch_size=1), out="one"), run_predict(node(batch_size=6), out="many")
    np.testing.assert_array_equal(one.image_id, many.image_id)
    np.testing.assert_allclose(one.score, many.score, rtol=1e-5)


def test_scores_below_the_smallest_are_not_written(run_predict):
    everything = run_predict(node(), out="everything")
    limit = float(np.median(everything.score))
    some = run_predict(node(min_score=limit), out="some")
    assert (everything.score >= limit).sum() == len(some.score) < len(everything.score)
    assert len(run_predict(node(min_score=2.0), out="none").score) == 0


def test_a_split_without_images_gives_an_empty_table(run_predict, tmp_path):
    write_features(tmp_path / "features" / "test", [], ["person", "ball"])
    assert len(run_predict(node(), features=tmp_path / "features").score) == 0


# ---- what does not fit


def test_weights_of_another_detector_or_vocabulary_are_refused(run_predict, study, weights, tmp_path):
    card = CARD.model_copy(update={"detector_digest": "e" * 64, "channels": 9})
    (weights / "checkpoint.json").write_text(card.model_dump_json())
    with pytest.raises(ValueError, match=r"channels: .* 9, given is 4\n  detector_digest: .*eee, given is ddd"):
        run_predict(node())
    assert not (tmp_path / "predict").exists()


def test_annotations_of_another_vocabulary_are_refused(run_predict, tmp_path):
    other = tmp_path / "prepare"
    other.mkdir()
    save_vocabulary(other / "vocabulary.json", replace(VOCABULARY, verbs=("hold obj",), hois=((0, 1),)))
    with pytest.raises(
        ValueError, match="vocabulary: vcoco with 2 verbs and 2 combinations, given is vcoco with 1 and 1"
    ):
        run_predict(node(), annotations=other)


def test_weights_of_another_architecture_are_refused(weights):
    other = CARD.network.model_copy(update={"feature_dim": 12})
    (weights / "checkpoint.json").write_text(CARD.model_copy(update={"network": other}).model_dump_json())
    with pytest.raises(
        ValueError, match=r"weights\.safetensors: tensor '.*' is float32 of shape .*, expected .*checkpoint\.json"
    ):
        load_checkpoint(weights)


def test_a_missing_weight_is_refused(weights):
    variant = CARD.variant.model_copy(update={"ire": False})
    (weights / "checkpoint.json").write_text(CARD.model_copy(update={"variant": variant}).model_dump_json())
    with pytest.raises(ValueError, match=r"weights\.safetensors: tensor 'describe\.ire\..* is not expected"):
        load_checkpoint(weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [("checkpoint.json", r"checkpoint\.json: .*cut off"), ("weights.safetensors", "cannot be read")],
)
def test_a_truncated_file_is_one_clear_error(weights, name, message):
    path = weights / name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=message):
        load_checkpoint(weights)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda card: card.update(channels=10**15),
            r"expected float32 of shape \[8, 1000000000000000\].*checkpoint\.json",
        ),
        (lambda card: card.update(channels=-1), "channels: .*greater than 0"),
        (lambda card: card.update(format=9), "format: "),
        (lambda card: card["network"]["irm"].update(heads=3), r"network\.irm: dim 8 cannot be shared evenly by 3"),
        (lambda card: card["vocabulary"].update(person=7), "hois or person name more than its 2 verbs and 2 objects"),
        (lambda card: card["vocabulary"].update(hois=[[0, 1], [2, 1]]), "hois or person name more"),
        (lambda card: card["variant"].update(ire=False, pose=True), "cannot be built .*pose network's map"),
    ],
)
def test_a_damaged_card_is_one_clear_error(weights, edit, said):
    path = weights / "checkpoint.json"
    card = json.loads(path.read_text())
    edit(card)
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match=rf"weights/(checkpoint\.json|weights\.safetensors): .*{said}") as raised:
        load_checkpoint(weights)
    assert "\n" not in str(raised.value)


def test_a_number_that_is_not_finite_in_the_weights_is_named(run_predict, weights, tmp_path):
    """It would give no score that is at least the smallest, so an empty table."""
    path = weights / "weights.safetensors"
    state = load_file(path)
    state["reason.classify.bias"][1] = torch.nan
    save_file(state, path)
    with pytest.raises(
        ValueError, match=r"weights\.safetensors: tensor 'reason\.classify\.bias' holds nan at \[1\].*Train again"
    ):
        run_predict(node())
    assert not (tmp_path / "predict").exists()


def test_a_bit_that_flips_anywhere_in_the_weights_is_one_error_that_names_them(weights):
    path = weights / "weights.safetensors"
    content = path.read_bytes()
    for at in range(0, len(content), len(content) // 150):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"weights/weights\.safetensors: "):
            load_checkpoint(weights)


def test_weights_that_were_saved_before_there_were_checksums_are_read(weights):
    before = load_checkpoint(weights).state_dict()
    save_file(load_file(weights / "weights.safetensors"), weights / "weights.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_checkpoint(weights).state_dict().items())


def test_a_score_that_is_not_finite_is_an_error_that_names_the_image(run_predict, weights, study, tmp_path):
    """Weights may be finite and too large: infinity minus infinity."""
    path = weights / "weights.safetensors"
    state = load_file(path)
    for name in ("reason.classify.weight", "reason.classify.bias"):
        state[name] = torch.full_like(state[name], torch.finfo(torch.float32).max)
    state["reason.classify.weight"][:, ::2] *= -1
    save_file(state, path)
    first = study.image_ids["test"][0]
    with pytest.raises(ValueError, match=rf"image {first}: the score of verb 0 for its instances 0 .* and 1 .* is nan"):
        run_predict(node())
    assert not (tmp_path / "predict").exists()


def test_a_folder_without_a_checkpoint_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_card(tmp_path)


def test_a_card_is_read_as_it_was_written(weights):
    assert load_card(weights) == CARD
    assert json.loads((weights / "checkpoint.json").read_text())["format"] == 2
