"""A trained run with its detector as one model: what it says of a photo is what the study's stages say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rmlr
from rmlr.detections.triplets import load_triplets
from rmlr.learning.answers import COLUMNS
from rmlr.learning.inference import Model, load
from rmlr.model.checkpoint import load_card, save_checkpoint
from rmlr.model.detector import FrozenDetector
from rmlr.model.network import build
from rmlr.model.transformer import EncoderLayer


@pytest.fixture(scope="module")
def model(photo_run) -> Model:
    return load(photo_run.run)


@pytest.fixture
def copy(photo_run, tmp_path) -> Path:
    """A run's folder to spoil; its run.json goes on naming where things lie."""
    return Path(shutil.copytree(photo_run.run, tmp_path / "copy"))


def numbers(triplets) -> np.ndarray:
    return np.array([(*triplet.human_box, *triplet.object_box, triplet.score) for triplet in triplets])


# ---- what it says


def test_the_answer_for_a_photo_equals_the_output_of_predict(photo_run, model):
    table, vocabulary = load_triplets(photo_run.run / "predict" / "triplets.parquet"), model.card.vocabulary
    assert len(table.score)
    for path in photo_run.photos:
        rows = np.flatnonzero(table.image_id == int(path.stem.rpartition("_")[2]))
        rows = rows[np.argsort(-table.score[rows], kind="stable")]
        found = model(path, min_score=0.0)
        assert [vocabulary.verbs.index(triplet.verb) for triplet in found] == table.verb[rows].tolist()
        assert [vocabulary.objects.index(triplet.object) for triplet in found] == table.object_category[rows].tolist()
        expected = np.column_stack([table.human_boxes[rows], table.object_boxes[rows], table.score[rows]])
        np.testing.assert_allclose(numbers(found), expected, rtol=1e-4, atol=1e-4)


def test_triplets_come_strongest_first_and_no_more_than_asked_for(photo_run, model):
    everything = model(photo_run.photos[0], min_score=0.0)
    scores = [triplet.score for triplet in everything]
    assert scores == sorted(scores, reverse=True)
    limit = scores[len(scores) // 2]
    assert model(photo_run.photos[0], min_score=limit) == [item for item in everything if item.score >= limit]
    assert model(photo_run.photos[0], min_score=0.0, top=3) == everything[:3]


def test_other_items_of_a_batch_change_nothing(photo_run, model):
    whole = [Image.open(path).convert("RGB") for path in photo_run.photos]
    pictures = [whole[0], whole[1].crop((0, 0, 128, 80)), whole[2], whole[3].crop((0, 0, 90, 128))]
    alone = [model(picture, min_score=0.0) for picture in pictures]
    for batch_size in (3, 8):
        together = list(model.many(pictures, min_score=0.0, batch_size=batch_size))
        assert [len(triplets) for triplets in together] == [len(triplets) for triplets in alone]
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-4, atol=1e-4)


def test_no_more_pictures_are_taken_than_one_batch_holds(photo_run, model):
    taken = []
    answers = model.many((taken.append(path) or path for path in photo_run.photos), batch_size=2)
    next(answers)
    assert len(taken) == 2


def test_no_picture_gives_nothing(model):
    assert list(model.many([])) == []


def test_a_picture_without_a_pair_has_no_triplet_and_no_trace(photo_run, copy):
    path = copy / "train" / "checkpoint.json"
    card = json.loads(path.read_text())
    card["view"]["selection"] |= {"min_score": 1.0, "min_instances": 0}
    path.write_text(json.dumps(card))
    blind = load(copy)
    assert blind(photo_run.photos[0], min_score=0.0) == []
    assert blind.trace(photo_run.photos[0], min_score=0.0) == []


def test_a_photo_is_seen_upright_wherever_it_comes_from(photo_run, model, tmp_path):
    upright = Image.open(photo_run.photos[0]).convert("RGB").crop((0, 0, 128, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    lying, path = upright.transpose(Image.Transpose.ROTATE_90), tmp_path / "phone.png"
    lying.save(path, exif=exif)
    expected = model(upright, min_score=0.0)
    assert expected != model(lying, min_score=0.0)
    assert model(path, min_score=0.0) == model(str(path), min_score=0.0) == expected
    with Image.open(path) as opened:
        assert model(opened, min_score=0.0) == expected


def test_what_is_not_a_picture_is_named(photo_run, model, tmp_path):
    (tmp_path / "notes.jpg").write_text("no photo")
    with pytest.raises(ValueError, match=r"notes\.jpg: not a readable image"):
        model(tmp_path / "notes.jpg")
    with pytest.raises(ValueError, match=r"picture 5 \(from 0\) is an array of uint8 of shape \(8, 8\)"):
        model([*[photo_run.photos[0]] * 5, np.zeros((8, 8), dtype=np.uint8)])


def test_paths_images_arrays_and_lists_of_them_are_all_taken(photo_run, model):
    path = photo_run.photos[0]
    image = Image.open(path).convert("RGB")
    expected = model(path, min_score=0.0)
    assert len(expected) > 1
    for answer in model([str(path), image, np.asarray(image)], min_score=0.0):
        np.testing.assert_allclose(numbers(answer), numbers(expected), rtol=1e-4, atol=1e-4)
        assert [triplet.phrase for triplet in answer] == [triplet.phrase for triplet in expected]
    assert model((path,), min_score=0.0, top=1) == [expected[:1]]
    assert model([]) == []
    assert expected.picture == path
    assert expected.draw().size == model(image, min_score=0.0).draw(title=path.name).size


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"min_score": float("nan")}, "min_score"),
        ({"top": 0}, "top"),
        ({"batch_size": 0}, r"batch_size \(--batch-size\) is 0"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(photo_run, model, asked, message):
    with pytest.raises(ValueError, match=message):
        model.many(photo_run.photos, **asked)
    asked.pop("batch_size", None)
    if asked:
        with pytest.raises(ValueError, match=message):
            model.trace(photo_run.photos[0], **asked)


def test_a_triplet_reads_as_a_phrase_and_as_a_line_of_a_table(photo_run, model):
    triplet = model(photo_run.photos[0], min_score=0.0)[0]
    assert triplet.phrase == str(model.card.vocabulary.phrase(
        model.card.vocabulary.verbs.index(triplet.verb), model.card.vocabulary.objects.index(triplet.object)
    ))  # fmt: skip
    assert str(triplet).startswith(f"{triplet.score:.2f} {triplet.phrase} [")
    row = triplet.row()
    assert list(row) == list(COLUMNS)
    assert (row["human_x1"], row["object_y2"], row["score"]) == (
        triplet.human_box[0],
        triplet.object_box[3],
        triplet.score,
    )


def test_scores_hold_the_detectors_to_the_power_that_is_asked_for(photo_run, model):
    def by_verb(answers):
        return {(item.human_box, item.object_box, item.verb): item for item in answers}

    squared = by_verb(load(photo_run.run, prior_power=2.0)(photo_run.photos[0], min_score=0.0))
    usual = by_verb(model(photo_run.photos[0], min_score=0.0))
    assert squared.keys() == usual.keys()
    for key, item in usual.items():
        ratio = (item.human_score * item.object_score) ** (model.prior_power - 2.0)
        assert squared[key].score * ratio == pytest.approx(item.score, rel=1e-4)


def test_a_power_that_would_lift_scores_above_1_is_refused(photo_run):
    with pytest.raises(ValueError, match=r"prior_power \(--prior-power\) is -5\.0: expected a number above 0"):
        load(photo_run.run, prior_power=-5.0)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(photo_run, device):
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here: .*Give cpu"):
        load(photo_run.run, device=device)


# ---- where it looked


def test_tracing_changes_no_triplet_and_its_maps_sum_to_one(photo_run, model):
    picture = Image.open(photo_run.photos[1]).convert("RGB").crop((0, 0, 128, 80))
    before = model(picture, min_score=0.0, top=5)
    traces = model.trace(picture, min_score=0.0, top=5)
    assert [trace.triplet for trace in traces] == before == model(picture, min_score=0.0, top=5)
    for trace in traces:
        assert trace.remined.shape == trace.detected.shape == (5, 8)
        np.testing.assert_allclose([trace.remined.sum(), trace.detected.sum()], 1, rtol=1e-5)
        assert min(trace.remined.min(), trace.detected.min()) >= 0
        assert trace.cell_size == pytest.approx((16.0, 16.0), rel=0.02)


def test_maps_belong_to_their_pair(photo_run, model):
    pairs = {}
    for trace in model.trace(photo_run.photos[0], min_score=0.0):
        first = pairs.setdefault((trace.triplet.human_box, trace.triplet.object_box), trace)
        np.testing.assert_array_equal(trace.remined, first.remined)
        np.testing.assert_array_equal(trace.detected, first.detected)
    one, *others = pairs.values()
    assert others
    assert not any(np.allclose(one.remined, other.remined) for other in others)
    of_human = [other for other in others if other.triplet.human_box == one.triplet.human_box]
    assert of_human
    assert not any(np.allclose(one.detected, other.detected) for other in of_human)


def test_no_attention_is_computed_without_tracing(photo_run, model, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("attention weights were asked for")

    monkeypatch.setattr(EncoderLayer, "attention", forbidden)
    monkeypatch.setattr(FrozenDetector, "attention", forbidden)
    assert model(photo_run.photos[0], min_score=0.0)
    with pytest.raises(AssertionError, match="asked for"):
        model.trace(photo_run.photos[0], min_score=0.0)


def test_a_network_that_re_mines_nothing_cannot_be_traced(photo_run, copy):
    card = load_card(copy / "train")
    card = card.model_copy(update={"variant": card.variant.model_copy(update={"ire": False})})
    network = build(card.variant, card.network, channels=card.channels, token_dim=card.token_dim,
                    vocabulary=card.vocabulary)  # fmt: skip
    save_checkpoint(copy / "train", card, network, torch.nn.Identity())
    plain = load(copy)
    assert plain(photo_run.photos[0], min_score=0.0)
    with pytest.raises(ValueError, match="no IRE"):
        plain.trace(photo_run.photos[0])


# ---- where its parts are found


def test_training_folder_and_run_folder_are_the_same_model(photo_run, model):
    other = rmlr.load(str(photo_run.run / "train"))
    assert other(photo_run.photos[0]) == model(photo_run.photos[0])


def test_paths_of_run_json_are_found_from_any_folder(photo_run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(photo_run.root, tmp_path / "elsewhere")
    for path in root.rglob("run.json"):  # as after a study that was run with relative paths, and then moved
        path.write_text(path.read_text().replace(f"{photo_run.root}/", ""))
    moved = root / photo_run.run.relative_to(photo_run.root)
    assert load(moved).detector.adapter.name == str(root / "results" / "detector")


def test_a_detector_in_the_runs_folder_comes_first(photo_run, copy):
    shutil.copytree(photo_run.detector, copy / "detector")
    assert load(copy).detector.adapter.name == str(copy / "detector")


def test_a_checkpoint_alone_needs_only_its_detector_and_a_power(photo_run, model, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("checkpoint.json", "weights.safetensors"):
        shutil.copy(photo_run.run / "train" / name, alone)
    with pytest.raises(ValueError, match=r"the detector network .* was not found in .*alone.*--detector"):
        load(alone)
    with pytest.raises(ValueError, match=r"predict/settings\.yaml: does not exist.*--prior-power"):
        load(alone, detector=photo_run.detector)
    moved = load(alone, detector=photo_run.detector, prior_power=model.prior_power)
    assert moved(photo_run.photos[0]) == model(photo_run.photos[0])


def test_another_detector_is_refused(photo_run, tmp_path):
    other = Path(shutil.copytree(photo_run.detector, tmp_path / "other"))
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"other: is not the detector network that .* was trained with"):
        load(photo_run.run, detector=other)
    with pytest.raises(ValueError, match="nowhere: has no weights"):
        load(photo_run.run, detector=tmp_path / "nowhere")


def test_a_folder_without_a_network_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="has no trained network"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flavors: [", r"MLmodel: not YAML"),
        ("[" * 10_000, r"MLmodel: expected at most 50 levels of nesting"),
        ("- a list", r"MLmodel: \(top\): .* got \['a list'\]"),
        ("flavors: {}", r"MLmodel: flavors\.python_function: Field required"),
        ("flavors: {python_function: {data: 3}}", r"flavors\.python_function\.data: .*got 3"),
        ("flavors: {python_function: {data: ../elsewhere}}", r"flavors\.python_function\.data: .*without '\.\.'"),
        ("\udcff", r"MLmodel: byte 0xff at 0 is not text in UTF-8"),
    ],
)
def test_a_damaged_description_of_an_exported_model_is_named(tmp_path, text, message):
    (tmp_path / "MLmodel").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)
