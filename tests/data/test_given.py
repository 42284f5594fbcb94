"""Features of another framework: a file for each image, checked before anything is taken from it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rmlr.data.given import GivenFeatures
from rmlr.hoi import Annotation

from ..photo_records import unannotated

ABOUT = {
    "detector": "mine 1.0",
    "objects": ["person", "ball"],
    "image": {"shortest": 64, "longest": 100},
    "stride": 16,
    "channels": 4,
    "token_dim": 5,
}
HEIGHT, WIDTH = 128, 150  # seen as 64 x 75


def record() -> Annotation:
    return unannotated(7, HEIGHT, WIDTH, ".jpg")


def tensors(count: int = 2) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor([[0.0, 1.0, 60.0, 90.0], [20.0, 0.0, 150.4, 128.0]])[:count],
        "scores": torch.tensor([0.9, 0.1])[:count],
        "labels": torch.tensor([0, 1])[:count],
        "tokens": torch.randn(2, 5)[:count],
        "map": torch.randn(4, 4, 5),
    }


def write(folder: Path, **changes) -> GivenFeatures:
    (folder / "about.json").write_text(json.dumps(ABOUT))
    save_file({**tensors(), **changes}, folder / "7.safetensors")
    return GivenFeatures(folder)


def test_an_images_features_are_read_and_boxes_end_where_it_ends(tmp_path):
    found = write(tmp_path).read(record())
    assert found.instances.boxes[1].tolist() == [20.0, 0.0, 150.0, 128.0]
    assert found.cell_size.tolist() == [32.0, 32.0]  # 16 pixels of an image that was shown at half its size
    assert found.size.tolist() == [HEIGHT, WIDTH]
    assert found.maps.shape == (4, 4, 5)


def test_an_image_without_any_detection_is_read(tmp_path):
    assert (
        len(write(tmp_path, **{k: v for k, v in tensors(0).items() if k != "map"}).read(record()).instances.boxes) == 0
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"boxes": torch.rand(2, 3)}, r"tensor 'boxes' is float32 of shape \[2, 3\], expected"),
        ({"scores": torch.tensor([0.5, 1.5])}, r"tensor 'scores' holds 1.5 at \[1\]"),
        ({"labels": torch.tensor([0, 2])}, r"tensor 'labels' holds 2 at \[1\]"),
        ({"labels": torch.tensor([0, 1], dtype=torch.int32)}, "tensor 'labels' is int32"),
        ({"tokens": torch.randn(2, 6)}, "tensor 'tokens' is .* expected"),
        ({"tokens": torch.full((2, 5), torch.nan)}, "tensor 'tokens' holds nan"),
        (
            {"map": torch.randn(4, 8, 10)},
            r"'map' has \(8, 10\) cells, but about.json says cells of 16 pixels of 64 x 75",
        ),
        ({"boxes": torch.tensor([[0.0, 0, 9, 9], [0, 0, 900, 9]])}, r"'boxes' holds .*900.* at \[1\]: expected x1, y1"),
        ({"boxes": torch.tensor([[9.0, 0, 0, 9], [0, 0, 9, 9]])}, r"'boxes' holds .* at \[0\]: expected x1, y1"),
        ({"more": torch.zeros(1)}, "tensor 'more' is not expected"),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_tensor(tmp_path, changes, said):
    given = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"7\.safetensors: .*{said}"):
        given.read(record())


def test_a_file_that_is_missing_and_an_about_that_does_not_fit_are_named(tmp_path):
    given = write(tmp_path)
    (tmp_path / "7.safetensors").unlink()
    with pytest.raises(ValueError, match=r"7\.safetensors: cannot be read"):
        given.read(record())
    (tmp_path / "about.json").write_text(json.dumps(ABOUT | {"stride": 0}))
    with pytest.raises(ValueError, match=r"about\.json.*stride"):
        GivenFeatures(tmp_path)
