"""Each family of `transformers` is seen as its own library sees it; padding, saving and loading change nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from rmlr.model.adapter import PICTURE, Picture
from rmlr.model.detector import Detections, FrozenDetector, load_detector, save_detector, weights_digest
from rmlr.model.families import FAMILIES, class_names, read_picture
from rmlr.study.settings import FixedSize, ImageSize

from ..tiny_detr import tiny_detr
from ..tiny_families import save_family

NAMES = ("person", "ball", "bat")
PROCESSORS = {  # whose post-processing the library's documentation calls with a family
    "conditional_detr": transformers.ConditionalDetrImageProcessor,
    "dab-detr": transformers.ConditionalDetrImageProcessor,
    "deformable_detr": transformers.DeformableDetrImageProcessor,
    "table-transformer": transformers.DetrImageProcessor,
    "rt_detr": transformers.RTDetrImageProcessor,
    "rt_detr_v2": transformers.RTDetrImageProcessor,
    "d_fine": transformers.RTDetrImageProcessor,
    "deimv2": transformers.RTDetrImageProcessor,
    "lw_detr": transformers.DeformableDetrImageProcessor,
    "rf_detr": transformers.RfDetrImageProcessor,
    "yolos": transformers.YolosImageProcessor,
}
HEADS = {  # what reads a box's class from its token
    "conditional_detr": "class_labels_classifier",
    "dab-detr": "class_embed",
    "deformable_detr": "class_embed.1",
    "table-transformer": "class_labels_classifier",
    "lw_detr": "class_embed",
    "yolos": "class_labels_classifier",
    **dict.fromkeys(("rt_detr", "rt_detr_v2"), "model.decoder.class_embed.1"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of `save_pretrained` for each family."""
    found = {}
    for kind in FAMILIES:
        found[kind] = tmp_path_factory.mktemp(kind)
        save_family(kind, found[kind], NAMES)
    return found


def sizes_for(frozen: FrozenDetector, *wanted: tuple[int, int]) -> list[tuple[int, int]]:
    """These heights and widths, or the only one that it sees."""
    size = frozen.size(None)
    return [(size.height, size.width)] * len(wanted) if isinstance(size, FixedSize) else list(wanted)


def photos(*sizes: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise of these heights and widths, padded to one; shown twice as large."""
    torch.manual_seed(1)
    resized = torch.tensor(sizes)
    height, width = resized.amax(0).tolist()
    pixels, is_padding = torch.zeros(len(sizes), 3, height, width), torch.ones(len(sizes), height, width).bool()
    for index, (h, w) in enumerate(sizes):
        pixels[index, :, :h, :w] = torch.randn(3, h, w)
        is_padding[index, :h, :w] = False
    return pixels, is_padding, resized, 2 * resized


def test_every_family_that_is_supported_is_tested():
    assert FAMILIES.keys() == PROCESSORS.keys()


@pytest.mark.parametrize("kind", FAMILIES)
def test_boxes_scores_and_classes_are_those_of_the_librarys_post_processing(folders, kind):
    network: Any = load_detector(str(folders[kind]))
    frozen = FrozenDetector(network, NAMES)
    pixels, is_padding, resized, original = photos(*sizes_for(frozen, (64, 96), (64, 96)))
    seen = frozen(pixels, is_padding, resized, original)
    shown: list[Tensor] = []
    with torch.no_grad():
        hook = network.register_forward_pre_hook(lambda _module, inputs: shown.append(inputs[0]))
        frozen(pixels, is_padding, resized, original)  # what it is shown is normalised as it wants
        hook.remove()
        output = network(shown[0])
    theirs = PROCESSORS[kind]().post_process_object_detection(output, threshold=-1.0, target_sizes=original)
    for image, said in enumerate(theirs):
        edges = torch.tensor([original[image, 1], original[image, 0]] * 2)
        boxes = said["boxes"].clamp(min=0).minimum(edges)
        order = said["scores"].argsort(descending=True, stable=True)
        best: dict[tuple, tuple] = {}  # of a box, whose classes they list apart
        for row in order.tolist():
            best.setdefault(tuple(said["boxes"][row].tolist()), (said["scores"][row], said["labels"][row], boxes[row]))
        ours = seen.scores[image].argsort(descending=True, stable=True)[: len(best)]
        scores, labels, corners = (torch.stack(part) for part in zip(*best.values(), strict=True))
        torch.testing.assert_close(seen.scores[image, ours], scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen.boxes[image, ours], corners, atol=1e-3, rtol=1e-5)
        assert torch.equal(seen.labels[image, ours], labels)
        assert len(best) > 1


@pytest.mark.parametrize("kind", HEADS)
def test_the_token_of_a_box_is_what_its_class_is_read_from(folders, kind):
    network: Any = load_detector(str(folders[kind]))
    frozen = FrozenDetector(network, NAMES)
    read: list[Tensor] = []
    network.get_submodule(HEADS[kind]).register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    seen = frozen(*photos(*sizes_for(frozen, (64, 96))))
    torch.testing.assert_close(seen.tokens, read[-1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_seen_does_not_depend_on_padding_or_neighbours(folders, kind):
    frozen = FrozenDetector(load_detector(str(folders[kind])), NAMES)
    sizes = sizes_for(frozen, (64, 96), (96, 64), (64, 80))
    pixels, is_padding, resized, original = photos(*sizes)
    together = frozen(pixels, is_padding, resized, original)
    for index, (height, width) in enumerate(sizes):
        own = slice(index, index + 1)
        alone = frozen(pixels[own, :, :height, :width], is_padding[own, :height, :width], resized[own], original[own])
        rows, columns = alone.maps.shape[2:]
        for name in ("boxes", "scores", "tokens", "cell_sizes"):
            torch.testing.assert_close(getattr(together, name)[own], getattr(alone, name), atol=2e-3, rtol=1e-2)
        torch.testing.assert_close(together.maps[own, :, :rows, :columns], alone.maps, atol=2e-3, rtol=1e-2)
        assert (~together.is_padding[index]).sum() == rows * columns


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_detector_is_the_same_and_knows_its_picture(folders, kind, tmp_path):
    network: Any = load_detector(str(folders[kind]))
    before = FrozenDetector(network, NAMES)
    inputs = photos(*sizes_for(before, (64, 96)))
    save_detector(network, tmp_path)
    after = FrozenDetector(load_detector(str(tmp_path)), NAMES)
    assert after.adapter.picture == before.adapter.picture
    first, second = before(*inputs), after(*inputs)
    for name in set(Detections.__slots__) - {"finer"}:
        torch.testing.assert_close(getattr(first, name), getattr(second, name), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_each_map_that_a_family_has_is_given_with_its_stride(folders, kind):
    network: Any = load_detector(str(folders[kind]))
    for name in ("backbone", "projected", "encoder"):
        if not getattr(FAMILIES[kind], name):
            with pytest.raises(ValueError, match=rf"a {kind} has no map '{name}'. Set map to "):
                FrozenDetector(network, NAMES, name)
            continue
        frozen = FrozenDetector(network, NAMES, name)
        seen = frozen(*photos(*sizes_for(frozen, (64, 128))))
        (height, width), (rows, columns) = seen.cell_sizes[0].tolist(), seen.maps.shape[2:]
        [stride] = frozen.strides
        assert (height, width) == (2 * stride, 2 * stride)
        assert rows == 64 // stride
        assert columns in (64 // stride, 128 // stride)
        assert seen.maps.shape[1] == frozen.channels


def test_a_finer_map_is_chosen_by_its_stride(folders):
    network: Any = load_detector(str(folders["rt_detr"]))
    for stride in (8, 16, 32):
        frozen = FrozenDetector(network, NAMES, "encoder", [stride])
        seen = frozen(*photos((64, 64)))
        assert (frozen.strides, seen.maps.shape[2:]) == ((stride,), (64 // stride, 64 // stride))
    with pytest.raises(ValueError, match="its map 'encoder' has stride 8 or 16 or 32, the settings ask for 4"):
        FrozenDetector(network, NAMES, "encoder", [4])


@pytest.mark.parametrize(
    ("kind", "name", "strides"),
    [
        ("rt_detr", "backbone", [32, 16, 8]),
        ("rt_detr_v2", "encoder", [32, 8]),
        ("d_fine", "projected", [16, 8]),
        ("deimv2", "encoder", [32, 16, 8]),
        ("deformable_detr", "encoder", [64, 32, 16, 8]),
        ("lw_detr", "projected", [32, 8]),
    ],
)
def test_several_maps_are_those_of_each_stride(folders, kind, name, strides):
    network: Any = load_detector(str(folders[kind]))
    frozen = FrozenDetector(network, NAMES, name, strides)
    assert frozen.strides == tuple(strides)
    inputs = photos(*sizes_for(frozen, (64, 96), (96, 64)))
    together = frozen(*inputs)
    assert len(together.levels) == len(strides)
    for level, stride, channels in zip(
        together.levels, strides, (frozen.channels, *frozen.finer_channels), strict=True
    ):
        alone = FrozenDetector(network, NAMES, name, [stride])(*inputs)
        assert alone.finer == ()
        assert level.maps.shape[1] == channels
        for part in ("maps", "is_padding", "cell_sizes"):
            assert torch.equal(getattr(level, part), getattr(alone, part)), part


def test_a_map_is_found_whatever_the_size_of_a_photo(folders):
    """A side that is no multiple of the stride is rounded at each halving, so its cells are wider than the stride."""
    frozen = FrozenDetector(load_detector(str(folders["deformable_detr"])), NAMES, "encoder")
    assert frozen.strides == (64,)
    assert frozen(*photos((200, 333))).maps.shape[2:] == (4, 6)


def test_a_map_of_the_encoder_is_what_the_decoder_reads(folders):
    """Of a family with one map its cells stand in the order of the encoder's sequence."""
    network: Any = load_detector(str(folders["conditional_detr"]))
    kept: list[Any] = []
    network.model.encoder.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    seen = FrozenDetector(network, NAMES, "encoder")(*photos((64, 96)))
    assert torch.equal(seen.maps[0].flatten(1).T, kept[-1].last_hidden_state[0])


def test_a_detector_of_one_size_sees_no_other(folders):
    frozen = FrozenDetector(load_detector(str(folders["rt_detr"])), NAMES)
    assert frozen.size(None) == FixedSize(height=64, width=64)
    assert frozen.size(FixedSize(height=96, width=96)) == FixedSize(height=96, width=96)
    with pytest.raises(ValueError, match="does not accept a picture of 70 x 64 pixels"):
        frozen.size(FixedSize(height=70, width=64))
    with pytest.raises(ValueError, match="the settings say image: shortest=800 longest=1333"):
        frozen.size(ImageSize(shortest=800, longest=1333))


@pytest.mark.parametrize(
    ("content", "picture"),
    [
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, Picture()),
        ({"size": 480, "max_size": 640, "format": "coco_detection"}, {"size": ImageSize(shortest=480, longest=640)}),
        (
            {"size": {"height": 640, "width": 512}, "do_normalize": False},
            {"size": FixedSize(height=640, width=512), "mean": (0, 0, 0), "deviation": (1, 1, 1)},
        ),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, {"mean": (0.5,) * 3, "deviation": (0.25,) * 3}),
        ({"do_rescale": False, "do_normalize": False}, {"mean": (0, 0, 0), "deviation": (1 / 255,) * 3}),
    ],
)
def test_an_image_processor_says_size_and_normalisation(tmp_path, content, picture):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(content))
    assert read_picture(path) == (Picture.model_validate(picture) if isinstance(picture, dict) else picture)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "not JSON"),
        ('{"size": {"max_height": 5, "max_width": 6}}', "size is .*. Expected height and width, or shortest_edge and"),
        ('{"image_mean": [1, 2]}', "image_mean"),
    ],
)
def test_an_image_processor_that_is_not_understood_is_refused_by_its_file(tmp_path, content, said):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json\b.*{said}"):
        read_picture(path)


def test_a_detector_of_one_size_without_its_image_processor_is_refused(tmp_path):
    save_family("d_fine", tmp_path, NAMES)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(
        ValueError, match=r"has no preprocessor_config\.json, which specifies the input size of a d_fine"
    ):
        load_detector(str(tmp_path))


def test_pixels_are_normalised_as_the_checkpoint_says(folders, tmp_path):
    """The same weights with another mean see another picture; a DETR's own normalisation is what it was."""
    save_family("conditional_detr", tmp_path, NAMES)
    inputs = photos((64, 96))
    shown: dict[str, Tensor] = {}
    for name in ("plain", "other"):
        network: Any = load_detector(str(tmp_path))
        network.register_forward_pre_hook(lambda _module, given, name=name: shown.update({name: given[0]}))
        FrozenDetector(network, NAMES)(*inputs)
        content = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    assert torch.equal(shown["plain"], inputs[0])
    colours = inputs[0] * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    colours += torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    torch.testing.assert_close(shown["other"], (colours - 0.5) / 0.5)


def test_what_the_image_processor_says_is_in_the_digest(folders, tmp_path):
    digests = set()
    for content in ({}, {"image_mean": [0.5] * 3}):
        source, folder = tmp_path / f"source{len(content)}", tmp_path / f"saved{len(content)}"
        save_family("conditional_detr", source, NAMES)
        (source / "preprocessor_config.json").write_text(json.dumps(content))
        folder.mkdir()
        save_detector(load_detector(str(source)), folder)
        digests.add(weights_digest(folder))
    assert len(digests) == 2


@pytest.mark.parametrize("kind", ["owlvit", "grounding-dino", "detr_of_mine"])
def test_a_detector_of_another_kind_is_refused_with_what_there_is(tmp_path, kind):
    from rmlr.model.anchored import build_detector

    save_detector(build_detector(tiny_detr(), NAMES, 0.1), tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"model_type": kind}))
    with pytest.raises(ValueError, match=rf"model_type '{kind}'. Expected a detector .* detr, conditional_detr.*docs"):
        load_detector(str(tmp_path))


def test_an_id_without_a_name_is_a_class_that_was_never_annotated():
    config = transformers.ConditionalDetrConfig(id2label={1: "person", 3: "bat"})
    assert class_names(config) == ["N/A", "person", "N/A", "bat"]


def test_a_detr_keeps_what_its_checkpoint_says_of_pictures(tmp_path):
    from rmlr.model.anchored import build_detector

    save_detector(build_detector(tiny_detr(), NAMES, 0.1), tmp_path)
    assert not hasattr(load_detector(str(tmp_path)).config, PICTURE)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 64, "longest_edge": 96}}')
    frozen = FrozenDetector(load_detector(str(tmp_path)), NAMES)
    assert frozen.size(None) == ImageSize(shortest=64, longest=96)
    assert isinstance(frozen.adapter, nn.Module)
