"""A detector of the user's own: found by its import path, checked, and told apart by its file and its weights."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rmlr.hoi.batch import DEVIATION, MEAN
from rmlr.model.detector import (
    FrozenDetector,
    detector_files,
    load_detector,
    save_detector,
    select_instances,
    weights_digest,
)
from rmlr.model.foreign import Foreign
from rmlr.study.settings import FixedSize, ImageSize, Selection

NAMES = ("bat", "person", "ball")
MODULE = "tests.own_detectors"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "given.safetensors"
    torch.manual_seed(0)
    save_file({"weight": torch.randn(8, 3), "bias": torch.randn(8)}, path)
    return path


def make(name: str, weights: Path | None) -> Foreign:
    return Foreign(f"{MODULE}.{name}", weights)


def photos(*sizes: tuple[int, int]):
    """Noise of these heights and widths, normalised and padded as `FrozenDetector` takes it; shown twice as large."""
    resized = torch.tensor(sizes)
    height, width = resized.amax(0).tolist()
    pixels, is_padding = torch.zeros(len(sizes), 3, height, width), torch.ones(len(sizes), height, width).bool()
    for index, (h, w) in enumerate(sizes):
        pixels[index, :, :h, :w] = torch.rand(3, h, w) - 0.5
        is_padding[index, :h, :w] = False
    return pixels, is_padding, resized, 2 * resized


def test_its_boxes_are_brought_to_the_original_image_and_its_classes_go_by_name(weights):
    frozen = FrozenDetector(make("Grid", weights), NAMES)
    pixels, *rest = photos((48, 64))
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    colours = pixels * deviation + mean
    seen = frozen(pixels, *rest)
    assert seen.boxes[0, 5].tolist() == [32.0, 32.0, 64.0, 64.0]
    torch.testing.assert_close(seen.maps[0, :, 0, 0], colours[0, :, :16, :16].mean((1, 2)))
    own = colours[0, :, :16, :16].mean((1, 2))
    assert seen.labels[0, 0] == [1, 2, 0][int(own.argmax())]
    assert seen.scores[0, 0] == pytest.approx(float(own.max()), abs=1 / 255)
    assert seen.cell_sizes.tolist() == [[32.0, 32.0]]


def test_detections_do_not_depend_on_the_other_pictures_of_a_batch(weights):
    frozen = FrozenDetector(make("Grid", weights), NAMES)
    sizes = [(48, 64), (64, 40), (48, 64)]
    pixels, is_padding, resized, original = photos(*sizes)
    together = frozen(pixels, is_padding, resized, original)
    assert together.scores.shape == (3, 12)  # the second has 4 x 3 cells as well
    assert together.is_padding.sum((1, 2)).tolist() == [4, 4, 4]
    for index, (height, width) in enumerate(sizes):
        own = slice(index, index + 1)
        alone = frozen(pixels[own, :, :height, :width], is_padding[own, :height, :width], resized[own], original[own])
        for name in ("boxes", "scores", "labels", "tokens", "cell_sizes"):
            torch.testing.assert_close(getattr(together, name)[own], getattr(alone, name), rtol=0, atol=2e-6)
        rows, columns = alone.maps.shape[2:]
        assert torch.equal(together.maps[own, :, :rows, :columns], alone.maps)
        assert not together.is_padding[own, :rows, :columns].any()


def test_pictures_may_have_different_numbers_of_boxes_and_those_of_score_0_are_none(weights):
    frozen = FrozenDetector(make("Grid", weights), NAMES)
    pixels, is_padding, resized, original = photos((48, 64), (32, 48))
    pixels[0, :, :16, :16] = (-torch.tensor(MEAN) / torch.tensor(DEVIATION)).view(3, 1, 1)  # black
    seen = frozen(pixels, is_padding, resized, original)
    assert (seen.scores < 0).sum(1).tolist() == [1, 6]
    every = Selection(nms_iou=1.0, min_score=0.0, min_instances=50, max_instances=50)
    _, image = select_instances(seen, 0, every)
    assert image.bincount().tolist() == [11, 6]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("InWrongUnits", r"boxes from .* Expected: x1, y1, x2, y2 in pixels of a picture of 48 x 64"),
        (
            "OfAnotherWidth",
            r"`tokens` of torch.float32 and shape \(1, 12, 5\). Expected: torch.float32 and \(1, 12, 8\)",
        ),
        ("NotFinite", "`maps` with a number that is not finite"),
        ("OfDoubles", "`scores` of torch.float64"),
        ("BeyondOne", r"scores from 1\.\d+ to 1\.\d+. Expected: numbers in \[0, 1\]"),
        ("OfUnknownClasses", "labels up to \\d. Expected: 0 to 2"),
        ("OfAnotherStride", r"a map of \(6, 8\) cells for 48 x 64 pixels"),
    ],
)
def test_output_that_does_not_fit_is_one_error_that_names_the_field(weights, name, said):
    with pytest.raises(ValueError, match=rf"{MODULE}.{name}: `detect` returned {said}"):
        FrozenDetector(make(name, weights), NAMES)(*photos((48, 64)))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nameless", "its attribute `names` must be a sequence of names, got 'person'"),
        ("WithoutImage", "its attribute `image` must be an ImageSize or a FixedSize"),
        ("Blind", r"has no method `detect\(pixels\)`"),
        ("NowhereToBeFound", "own_detectors.py: has no class 'NowhereToBeFound'"),
    ],
)
def test_a_class_that_is_not_of_the_form_is_refused(weights, name, said):
    with pytest.raises(ValueError, match=said):
        make(name, weights)


def test_a_module_or_weights_that_are_not_there_are_named(weights):
    with pytest.raises(ValueError, match=r"tests\.nothing\.Grid: there is no module .*PYTHONPATH"):
        Foreign("tests.nothing.Grid", weights)
    with pytest.raises(ValueError, match=r"nothing\.pt: does not exist, but is named as the weights of tests"):
        make("Grid", Path("nothing.pt"))


def test_a_saved_one_is_the_same_and_its_digest_is_of_its_class_and_its_weights(weights, tmp_path):
    folder = tmp_path / "detector"
    folder.mkdir()
    foreign = make("Grid", weights)
    save_detector(foreign, folder)
    inputs = photos((48, 64))
    before = FrozenDetector(foreign, NAMES)(*inputs)
    after = FrozenDetector(load_detector(str(folder)), NAMES)(*inputs)
    assert torch.equal(before.tokens, after.tokens)
    digest = weights_digest(folder)
    assert [path.name for path in detector_files(folder)] == ["config.json", "detector.py", "given.safetensors"]
    (folder / "weights" / "given.safetensors").write_bytes(b"other")
    assert weights_digest(folder) != digest


def test_a_class_that_has_changed_since_is_refused(weights, tmp_path):
    folder = tmp_path / "detector"
    folder.mkdir()
    save_detector(make("Grid", weights), folder)
    before = weights_digest(folder)
    with (folder / "detector.py").open("a") as file:
        file.write("# older\n")
    assert weights_digest(folder) != before
    with pytest.raises(ValueError, match=re.escape("tests.own_detectors.Grid has changed since. Make the detector")):
        load_detector(str(folder))


def test_it_sees_at_its_own_size_unless_the_settings_say_another_of_that_form(weights):
    frozen = FrozenDetector(make("Grid", weights), NAMES)
    assert frozen.size(None) == ImageSize(shortest=48, longest=64)
    assert frozen.size(ImageSize(shortest=32, longest=64)).shortest == 32
    with pytest.raises(
        ValueError, match="Grid: takes pictures of shortest=48 longest=64, the settings say image: height"
    ):
        frozen.size(FixedSize(height=64, width=64))


def test_another_map_than_it_has_is_refused(weights):
    with pytest.raises(ValueError, match="has one map, `map: backbone`; asked for is 'encoder'"):
        FrozenDetector(make("Grid", weights), NAMES, "encoder")
    with pytest.raises(ValueError, match=r"its map has stride 16, but the settings ask for \[8\]"):
        FrozenDetector(make("Grid", weights), NAMES, "backbone", [8])
