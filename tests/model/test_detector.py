"""The detector: what is learnt comes back, classes go by name, boxes are pixels, frozen is frozen."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from rmlr.hoi.batch import Instances
from rmlr.model.adapter import match_names
from rmlr.model.anchored import AnchoredDetrForObjectDetection, build_detector, grid_anchors, thaw
from rmlr.model.detector import (
    WEIGHTS_FILE,
    Detections,
    FrozenDetector,
    load_detector,
    save_detector,
    select_instances,
    weights_digest,
)
from rmlr.model.detr import adapt_classes, class_names, detection_loss, freeze_batch_norms
from rmlr.study.settings import Selection

from ..tiny_detr import tiny_detr

NAMES = ("person", "ball", "bat")
SIZES = tiny_detr(hidden_sizes=[16] * 3, depths=[1] * 3, decoder_layers=2, grid=2)
RULE = Selection(nms_iou=0.5, min_score=0.2, min_instances=1, max_instances=2)


@pytest.fixture
def fresh() -> AnchoredDetrForObjectDetection:
    torch.manual_seed(0)
    return build_detector(SIZES, NAMES, no_object_weight=0.1)


@pytest.fixture
def learnt(fresh) -> AnchoredDetrForObjectDetection:
    """Every weight, anchor and batch statistic has moved away from its beginning."""
    thaw(fresh)
    optimizer = torch.optim.SGD(fresh.parameters(), lr=0.01)
    for _ in range(3):
        pixels, is_padding, _, original = photos(2)
        boxes = [torch.tensor([[4.0, 4.0, 30.0, 40.0]]), torch.zeros(0, 4)]
        labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.long)]
        optimizer.zero_grad()
        detection_loss(fresh, pixels, is_padding, boxes, labels, original).backward()
        optimizer.step()
    return fresh


def photos(count: int, height: int = 64, width: int = 64, scale: int = 1):
    """Noise of one size without padding, as `FrozenDetector` takes it."""
    sizes = torch.tensor([[height, width]] * count).view(-1, 2)
    return torch.randn(count, 3, height, width), torch.zeros(count, height, width).bool(), sizes, sizes * scale


def test_a_learnt_detector_is_the_same_after_saving_and_loading(learnt, tmp_path):
    inputs = photos(3)
    save_detector(learnt, tmp_path)
    before = FrozenDetector(learnt, NAMES)(*inputs)
    after = FrozenDetector(load_detector(str(tmp_path)), NAMES)(*inputs)
    for name in set(Detections.__slots__) - {"finer"}:
        assert torch.equal(getattr(before, name), getattr(after, name)), name


def test_a_loaded_detector_has_its_grid_and_its_position_code(learnt, tmp_path):
    save_detector(learnt, tmp_path)
    loaded = load_detector(str(tmp_path))
    assert isinstance(loaded, AnchoredDetrForObjectDetection)
    assert loaded.model.position_embedding.temperature == 20.0
    assert class_names(loaded.config) == list(NAMES)


def test_frozen_batch_norms_do_what_the_trained_ones_did(learnt):
    pixels, is_padding, _, _ = photos(2)
    learnt.eval()
    with torch.no_grad():
        before = learnt(pixels, pixel_mask=(~is_padding).long()).pred_boxes
        freeze_batch_norms(learnt)
        after = learnt(pixels, pixel_mask=(~is_padding).long()).pred_boxes
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in learnt.modules())
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


def test_everything_of_a_thawed_detector_learns(fresh):
    thaw(fresh)
    pixels, is_padding, _, original = photos(2)
    boxes, labels = [torch.tensor([[4.0, 4.0, 30.0, 40.0]])] * 2, [torch.tensor([1])] * 2
    with torch.no_grad():  # the last layer of the box head starts at zero, which stops what lies before it
        fresh.bbox_predictor.layers[-1].weight.normal_()
    detection_loss(fresh, pixels, is_padding, boxes, labels, original).backward()
    still = [name for name, parameter in fresh.named_parameters() if not parameter.grad.any()]
    assert [name for name in still if not name.endswith("k_proj.bias")] == []  # softmax ignores a constant


def test_a_batch_without_any_box_has_a_loss(fresh):
    pixels, is_padding, _, original = photos(2)
    nothing = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
    assert detection_loss(fresh, pixels, is_padding, *nothing, original).isfinite()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("bbox_predictor.anchors"), "1 missing: bbox_predictor.anchors"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda weights: weights.update({"bbox_predictor.anchors": torch.zeros(3, 4)}), "of another shape: .*anchors"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(fresh, tmp_path, change, said):
    save_detector(fresh, tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    change(weights)
    save_file(weights, tmp_path / WEIGHTS_FILE, {"format": "pt"})
    with pytest.raises(ValueError, match=said):
        load_detector(str(tmp_path))


def test_a_number_that_is_not_finite_is_named(fresh, tmp_path):
    save_detector(fresh, tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    weights["bbox_predictor.anchors"][3, 1] = torch.inf
    save_file(weights, tmp_path / WEIGHTS_FILE, {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor 'bbox_predictor\.anchors' holds inf at \[3, 1\]"):
        load_detector(str(tmp_path))


def test_a_bit_that_flips_anywhere_in_the_weights_is_found(fresh, tmp_path):
    save_detector(fresh, tmp_path)
    path = tmp_path / WEIGHTS_FILE
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for at in range(start, len(content), (len(content) - start) // 100):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"model\.safetensors: tensor '.*' (does not have the checksum|holds)"):
            load_detector(str(tmp_path))


def test_the_same_detector_has_the_same_digest_however_often_it_is_saved(fresh, tmp_path):
    for number in range(4):
        save_detector(fresh, tmp_path / f"{number}")
    assert len({weights_digest(folder) for folder in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "detr", "d_model": "wide"}', '{"model_type": "detr"}'])
def test_a_damaged_configuration_is_one_error_that_names_the_folder(fresh, tmp_path, config):
    save_detector(fresh, tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        load_detector(str(tmp_path))


def test_truncated_weights_are_refused(fresh, tmp_path):
    save_detector(fresh, tmp_path)
    whole = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors: cannot be read .* Is it truncated"):
        load_detector(str(tmp_path))


def test_a_model_that_is_no_detector_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"says model_type 'bert'. Expected a detector that has a token for each box"):
        load_detector(str(tmp_path))


def test_a_folder_without_weights_is_refused(fresh, tmp_path):
    save_detector(fresh, tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: does not exist"):
        load_detector(str(tmp_path))


def test_a_folder_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="neither a folder with a detector"):
        load_detector(str(tmp_path / "nothing"))


def test_the_digest_is_that_of_the_weights(fresh, tmp_path):
    save_detector(fresh, tmp_path)
    before = weights_digest(tmp_path)
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert weights_digest(tmp_path) != before


def test_anchors_are_the_cells_of_the_image():
    cells = grid_anchors(4).sigmoid()
    torch.testing.assert_close(cells[0], torch.tensor([0.125, 0.125, 0.25, 0.25]))
    torch.testing.assert_close(cells[1], torch.tensor([0.375, 0.125, 0.25, 0.25]))  # row by row
    torch.testing.assert_close(grid_anchors(1).sigmoid(), torch.tensor([[0.5, 0.5, 0.5, 0.5]]))


def test_boxes_are_pixels_of_the_original_image_whatever_the_padding(fresh):
    pixels, is_padding, _, _ = photos(2)
    is_padding[1, :, 32:] = True
    resized, original = torch.tensor([[64, 64], [64, 32]]), torch.tensor([[128, 128], [640, 320]])
    seen = FrozenDetector(fresh, NAMES)(pixels, is_padding, resized, original)
    torch.testing.assert_close(seen.boxes[0, 1], torch.tensor([64.0, 0.0, 128.0, 64.0]))  # a fresh one says its anchors
    torch.testing.assert_close(seen.boxes[1, 1], torch.tensor([160.0, 0.0, 320.0, 320.0]))


def test_boxes_end_where_the_image_ends(fresh):
    with torch.no_grad():
        fresh.bbox_predictor.layers[-1].bias[2:] = 20.0  # as wide and as high as the image, around every anchor
    seen = FrozenDetector(fresh, NAMES)(*photos(1, scale=2))
    torch.testing.assert_close(seen.boxes[0, 0], torch.tensor([0.0, 0.0, 96.0, 96.0]))
    torch.testing.assert_close(seen.boxes[0, 3], torch.tensor([32.0, 32.0, 128.0, 128.0]))


def test_cells_of_the_map_and_their_size_follow_the_resized_image(fresh):
    pixels, is_padding, _, _ = photos(2)
    is_padding[1, :, 32:] = True
    resized, original = torch.tensor([[64, 64], [64, 32]]), torch.tensor([[64, 64], [640, 160]])
    frozen = FrozenDetector(fresh, NAMES)
    seen = frozen(pixels, is_padding, resized, original)
    assert frozen.strides == (16,)
    assert seen.maps.shape == (2, frozen.channels, 4, 4)
    assert seen.is_padding[1].tolist() == [[False, False, True, True]] * 4
    assert seen.cell_sizes.tolist() == [[16, 16], [160, 80]]


def test_a_single_image_is_seen_as_in_a_batch(learnt):
    inputs = photos(3)
    freeze_batch_norms(learnt)
    frozen = FrozenDetector(learnt, NAMES)
    together, alone = frozen(*inputs), frozen(*(part[1:2] for part in inputs))
    torch.testing.assert_close(together.boxes[1:2], alone.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(together.tokens[1:2], alone.tokens, atol=1e-4, rtol=1e-4)


def test_a_frozen_detector_stays_frozen(learnt):
    frozen = FrozenDetector(learnt, NAMES)
    frozen.train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_no_image_gives_no_instance():
    chosen, image = select_instances(detections([], [], []), person=0, rule=RULE)
    assert chosen.boxes.shape == (0, 4)
    assert image.tolist() == []


def test_classes_are_given_in_the_order_asked_for(fresh):
    with torch.no_grad():
        fresh.class_labels_classifier.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))  # everything is a ball
    assert FrozenDetector(fresh, NAMES)(*photos(1)).labels.unique().tolist() == [1]
    assert FrozenDetector(fresh, ("bat", "person", "ball"))(*photos(1)).labels.unique().tolist() == [2]


def test_names_match_across_spaces_underscores_and_classes_never_annotated():
    of = ["N/A", "person", "sports ball", "street sign", "Bat"]
    assert match_names(of, ["bat", "person", "sports_ball"]) == [-1, 1, 2, -1, 0]


def test_names_of_pascal_voc_are_those_of_coco():
    """RT-DETR's and D-FINE's checkpoints have them."""
    voc = ["motorbike", "aeroplane", "sofa", "pottedplant", "diningtable", "tvmonitor"]
    coco = ["tv", "dining table", "potted plant", "couch", "airplane", "motorcycle"]
    assert match_names(voc, coco) == [5, 4, 3, 2, 1, 0]
    assert match_names(coco, ["motorcycle", "airplane", "couch", "potted_plant", "dining_table", "tv"]) == [
        5,
        4,
        3,
        2,
        1,
        0,
    ]


def test_names_without_a_partner_are_listed():
    with pytest.raises(ValueError, match=r"has \['kite'\] in addition, and \['bat'\] are missing"):
        match_names(["person", "kite"], ["person", "bat"])


def test_a_class_that_was_never_annotated_is_never_chosen(fresh):
    fresh.config.id2label = {0: "person", 1: "N/A", 2: "bat"}
    with torch.no_grad():
        fresh.class_labels_classifier.bias.copy_(torch.tensor([0.0, 9.0, 1.0, 0.0]))
    seen = FrozenDetector(fresh, ("person", "bat"))(*photos(1))
    assert seen.labels.unique().tolist() == [1]
    assert (seen.scores < 0.01).all()  # the share of its probability is not handed on


def test_adapted_classes_keep_their_rows(fresh):
    with torch.no_grad():
        fresh.class_labels_classifier.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    rows = fresh.class_labels_classifier.weight.clone()
    adapt_classes(fresh, ("bat", "person", "ball"))
    assert fresh.class_labels_classifier.bias.tolist() == [3.0, 1.0, 2.0, 4.0]
    assert torch.equal(fresh.class_labels_classifier.weight, rows[[2, 0, 1, 3]])
    assert class_names(fresh.config) == ["bat", "person", "ball"]


def detections(boxes: list, scores: list, labels: list) -> Detections:
    """Of one image, or of none; token i is i."""
    count, images = len(scores), 1 if scores else 0
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float).view(images, count, 4),
        scores=torch.tensor(scores, dtype=torch.float).view(images, count),
        labels=torch.tensor(labels, dtype=torch.long).view(images, count),
        tokens=torch.arange(count, dtype=torch.float).view(images, count, 1),
        maps=torch.zeros(images, 1, 1, 1),
        is_padding=torch.zeros(images, 1, 1, dtype=torch.bool),
        cell_sizes=torch.ones(images, 2),
    )


def kept(boxes: list, scores: list, labels: list, **changes) -> list[int]:
    chosen, _ = select_instances(detections(boxes, scores, labels), 0, RULE.model_copy(update=changes))
    return chosen.tokens[:, 0].int().tolist()


APART = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10]]


def test_people_come_first_then_others_each_by_descending_score():
    assert kept(APART, [0.3, 0.9, 0.5, 0.8, 0.4], [0, 1, 0, 2, 1], max_instances=5) == [2, 0, 1, 3, 4]


def test_of_equal_scores_the_earlier_query_comes_first():
    assert kept(APART, [0.5] * 5, [1, 0, 1, 0, 1], max_instances=5) == [1, 3, 0, 2, 4]


def test_weak_detections_fill_up_to_the_least_number():
    assert kept(APART, [0.01, 0.02, 0.9, 0.1, 0.15], [0, 0, 1, 1, 1]) == [1, 2]
    assert kept(APART, [0.01, 0.02, 0.9, 0.1, 0.15], [0, 0, 1, 1, 1], min_instances=2) == [1, 0, 2, 4]
    assert kept(APART, [0.01, 0.02, 0.9, 0.1, 0.15], [0, 0, 1, 1, 1], min_instances=0) == [2]


def test_strong_detections_are_cut_at_the_largest_number():
    assert kept(APART, [0.9, 0.8, 0.7, 0.6, 0.5], [0, 0, 0, 1, 1], max_instances=1) == [0, 3]


def test_of_two_boxes_of_a_class_on_one_spot_the_stronger_stays_and_other_classes_do_not_matter():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 10]]
    assert kept(boxes, [0.6, 0.8, 0.7], [1, 1, 2]) == [1, 2]
    assert kept(boxes, [0.6, 0.8, 0.7], [0, 0, 1], min_instances=2) == [1, 2]  # what is suppressed fills nothing


def test_each_instance_has_its_image():
    both = [detections(APART, [0.3, 0.9, 0.5, 0.8, 0.4], labels) for labels in ([0, 1, 1, 1, 1], [0, 0, 0, 0, 0])]
    names = [name for name in Detections.__slots__ if name != "finer"]
    together = Detections(*(torch.cat([getattr(one, name) for one in both]) for name in names))
    chosen, image = select_instances(together, 0, RULE)
    assert image.tolist() == [0, 0, 0, 1, 1]
    assert chosen.tokens[:, 0].tolist() == [0, 1, 3, 1, 3]
    assert isinstance(chosen, Instances)


def test_a_plain_detr_is_loaded_as_the_librarys_own_class(tmp_path: Path):
    stages = {"hidden_sizes": [4, 8], "depths": [1, 1], "out_features": ["stage2"]}
    backbone = ResNetConfig(embedding_size=16, layer_type="basic", **stages)
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5}
    config = DetrConfig(backbone_config=backbone, id2label=dict(enumerate(NAMES)), **sizes, **heads)
    DetrForObjectDetection(config).save_pretrained(tmp_path)
    detr = load_detector(str(tmp_path))
    assert type(detr) is DetrForObjectDetection
    assert FrozenDetector(detr, NAMES)(*photos(2)).boxes.shape == (2, 5, 4)


# ---- where it looked


def test_attention_sums_to_one_over_valid_cells_and_changes_nothing(fresh, caplog):
    frozen = FrozenDetector(fresh, NAMES)
    pixels, is_padding, resized, original = photos(2)
    is_padding[1, 32:] = True
    before = frozen(pixels, is_padding, resized, original)
    found = frozen.attention(pixels, is_padding)
    after = frozen(pixels, is_padding, resized, original)
    for name in set(Detections.__slots__) - {"finer"}:
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert found.shape == (*before.tokens.shape[:2], *before.maps.shape[2:])
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(found.shape[:2]))
    assert found[before.is_padding[:, None].expand_as(found)].eq(0).all()
    assert before.is_padding.any()
    assert not caplog.records


def test_attention_is_the_last_decoder_layers_over_the_map(fresh):
    cross = fresh.model.decoder.layers[-1].encoder_attn
    frozen = FrozenDetector(fresh, NAMES)
    pixels, is_padding, *_ = photos(1)
    assert frozen.attention(pixels, is_padding).std() > 0
    with torch.no_grad():
        cross.q_proj.weight.zero_()
        cross.q_proj.bias.zero_()
    found = frozen.attention(pixels, is_padding)
    torch.testing.assert_close(found, torch.full_like(found, 1 / found[0, 0].numel()))
