"""Other detectors than a DETR, from weights to triplets: the stages, features on-line and cached, and `rmlr photo`."""

import importlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rmlr.__main__ import STAGES
from rmlr.commands.photo import photo
from rmlr.data.features import Features
from rmlr.data.images import load_batch
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.learning.inference import load
from rmlr.learning.photos import Photos
from rmlr.learning.trained import Trained
from rmlr.model.detector import FrozenDetector, load_detector
from rmlr.model.families import FAMILIES
from rmlr.stages import detector, features, predict, train
from rmlr.study.current import recorded_inputs
from rmlr.study.nodes import DetectorNode, FeaturesNode
from rmlr.study.plan import Study
from rmlr.study.section import Section
from rmlr.study.settings import AskedView, Augment, Online

from ..tiny_families import save_family

ROOT = Path(__file__).parents[2]
RUN = "runs/table2/wo_cl/0"
QUICK = "rt_detr_v2"
Form = TypeVar("Form", bound=Section)
AUGMENT = Augment(
    flip=0.5, jitter=0.4, shortest=[64], longest=64, crop=0.0, crop_from=[64], crop_smallest=32, crop_largest=48
)


class Chain:
    """The stages of profile tiny from a detector on, on the drawn world of `photo_run`."""

    def __init__(self, root: Path, photo_run, changes: dict, strides: list[int] | None = None) -> None:
        self.root, self.images, self.strides = root, photo_run.root / "raw" / "images", strides
        self.prepare = photo_run.root / "results" / "prepare"
        self.nodes = Study.load(ROOT / "params.yaml").nodes("tiny", dict.fromkeys([*STAGES, "cost"], "digest"))
        if changes:
            node = self.node("detector/base", DetectorNode)
            given = node.detector.model_dump() | {"architecture": None, "schedule": None, "image": None} | changes
            self.nodes["detector/base"] = DetectorNode.check(node.model_dump() | {"detector": given}, "a test")

    def node(self, name: str, form: type[Form]) -> Form:
        node = self.nodes[name]
        assert isinstance(node, form)
        return node

    def settings(self, node: Section) -> Path:
        path = self.root / "settings.yaml"
        path.write_text(node.dump())
        return path

    def run(self, *splits: Literal["train", "val", "test"]) -> None:
        annotations, seen = self.prepare, self.root / "features"
        where = {"annotations": annotations, "images": self.images}
        out = self.root / "detector"
        detector.detector(settings=self.settings(self.nodes["detector/base"]), **where, seed=0, out=out)
        for split in splits:
            node = self.node(f"vcoco/features/base/{split}", FeaturesNode)
            rule = node.features.model_copy(update={"strides": self.strides})
            settings = self.settings(node.model_copy(update={"image": None, "features": rule}))
            features.features(settings=settings, **where, split=split, detector=out, out=seen / split)

    def finish(self) -> Path:
        """Train and predict; gives the run's folder."""
        given = {"annotations": self.prepare, "features": self.root / "features"}
        run, text = self.root / "run", self.root / "text"
        text.mkdir()
        train.train(settings=self.settings(self.nodes[f"{RUN}/train"]), **given, text=text, seed=0, out=run / "train")
        settings = self.settings(self.nodes[f"{RUN}/predict"])
        predict.predict(settings=settings, **given, weights=run / "train", out=run / "predict")
        return run


@torch.no_grad()
def teach_two_classes(folder: Path, names: Sequence[str], photos: Sequence[Path]) -> None:
    """Let about half of a detector's boxes in each of these photos be called persons, the others balls."""
    network: Any = load_detector(str(folder))
    frozen = FrozenDetector(network, names)
    heads = [
        part
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear)
        and part.out_features in (len(names), len(names) + 1)
        and "class" in name
        and "enc_" not in name
    ]
    read: list[torch.Tensor] = []
    for head in heads:
        head.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    batch = load_batch(photos, frozen.size(None))
    seen = frozen(batch.pixels, batch.is_padding, batch.resized, batch.original)
    vectors = read[-1].view(*seen.scores.shape, -1)  # b q d, of the last layer
    middle, shared = vectors.mean((0, 1)), vectors.mean(1)  # what the boxes of a photo share must not decide
    away = (vectors - shared[:, None]).flatten(0, 1)
    between = torch.linalg.svd(shared - middle, full_matrices=False).Vh[: len(photos) - 1]
    away -= away @ between.T @ between
    direction = torch.linalg.svd(away, full_matrices=False).Vh[0]
    direction /= (away @ direction).std()
    for head in heads:
        head.weight.zero_()
        head.bias.fill_(-9.0)
        for name, sign in (("person", 1), ("ball", -1)):
            head.weight[names.index(name)] = sign * direction
            head.bias[names.index(name)] = -sign * middle @ direction
    network.save_pretrained(folder)


def family(tmp_path: Path, photo_run, kind: str, strides: list[int] | None = None) -> Chain:
    names = load_vocabulary(photo_run.root / "results" / "prepare").objects
    save_family(kind, tmp_path / "weights", names)
    teach_two_classes(tmp_path / "weights", names, photo_run.photos)
    return Chain(tmp_path, photo_run, {"weights": str(tmp_path / "weights")}, strides)


def must_look(chain: Chain, photo_run) -> None:
    run, out = chain.finish(), chain.root / "found"
    photo(*map(str, photo_run.photos), run=run, detector=chain.root / "detector", out=out, min_score=0.0)
    assert (out / "triplets.csv").read_text().count("\n") > 1
    assert list(out.glob("*-triplets.png"))
    with pytest.raises(ValueError, match="has no attention maps of its queries"):
        load(run, detector=chain.root / "detector").trace(photo_run.photos[0], min_score=0.0)


@pytest.mark.parametrize(
    "kind", [kind if kind == QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in FAMILIES]
)
def test_a_run_learns_from_a_family_and_looks_at_photos(tmp_path, photo_run, kind):
    chain = family(tmp_path, photo_run, kind)
    chain.run("train", "val", "test")
    must_look(chain, photo_run)


def test_a_run_reads_several_maps_of_its_detector(tmp_path, photo_run):
    chain = family(tmp_path, photo_run, QUICK, [32, 16, 8])
    chain.run("train", "val", "test")
    must_look(chain, photo_run)
    card = load(tmp_path / "run", detector=tmp_path / "detector").card
    assert card.view.strides == [32, 16, 8]
    assert len(card.finer_channels) == 2
    node = chain.node("vcoco/features/base/test", FeaturesNode)
    other = tmp_path / "other" / "test"
    settings = chain.settings(node.model_copy(update={"image": None}))
    where = {"annotations": chain.prepare, "images": chain.images, "detector": tmp_path / "detector"}
    features.features(settings=settings, **where, split="test", out=other)
    with pytest.raises(ValueError, match=r"finer_channels: the weights were trained with \[24, 16\], given is \[\]"):
        Trained.open(chain.prepare, other.parent, "test", tmp_path / "run" / "train")


@pytest.mark.parametrize(("kind", "strides"), [(QUICK, None), ("conditional_detr", None), ("deformable_detr", [32, 8])])
def test_features_on_line_are_those_that_are_cached(tmp_path, photo_run, kind, strides):
    chain = family(tmp_path, photo_run, kind, strides)
    chain.run("test")
    cache = Features.load(tmp_path / "features", "test")
    vocabulary, annotated = load_vocabulary(chain.prepare), load_annotations(chain.prepare, "test")
    view = AskedView(image=None, selection=cache.view.selection, map="backbone", strides=strides)
    online = Photos(
        chain.images, tmp_path / "detector", annotated, Online(view=view, augment=AUGMENT), 1.0, vocabulary, None, 0
    )
    assert online.view == cache.view
    _, read = online.tested("test", annotated)
    positions = list(range(len(annotated)))
    seen, kept = read(positions, torch.device("cpu")), cache.batch(positions)
    for one, other in zip(seen.levels, kept.levels, strict=True):
        torch.testing.assert_close(one.maps, other.maps, atol=1e-4, rtol=1e-4)
        assert torch.equal(one.cell_sizes, other.cell_sizes)
    torch.testing.assert_close(seen.instances.boxes, kept.instances.boxes, atol=1e-2, rtol=1e-4)
    assert torch.equal(seen.instances.labels, kept.instances.labels)
    _, batch, _ = online.load(positions, epoch=1)
    if kind == QUICK:  # however a photo is augmented, it is of the one size that the detector sees
        assert set(map(tuple, batch.resized.tolist())) == {(64, 64)}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The class of docs/detectors.md in the current folder, with weights."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/detectors.md").read_text(), re.MULTILINE | re.DOTALL)
    [text] = blocks
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("mine.py").write_text(text)
    importlib.invalidate_caches()
    torch.manual_seed(0)
    sizes = {"trunk": (16, 3, 16, 16), "classes": (7, 16, 1, 1), "sides": (2, 16, 1, 1)}
    weights = {f"{name}.weight": torch.randn(shape) / shape[1] ** 0.5 / shape[2] for name, shape in sizes.items()}
    torch.save(weights | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in sizes.items()}, "mine.pt")
    yield
    sys.modules.pop("mine", None)


def test_the_class_that_the_page_shows_serves_a_run(tmp_path, photo_run, mine):
    chain = Chain(tmp_path, photo_run, {"python": "mine.Centres", "weights": "mine.pt"})
    chain.run("train", "val", "test")
    must_look(chain, photo_run)
    assert {"mine.py", "mine.pt"} <= {Path(path).name for path in recorded_inputs(tmp_path / "detector") or {}}


def write_features(folder: Path, cache: Features, objects: list[str]) -> None:
    """The images of a cache as files of another framework, whose classes stand in another order."""
    folder.mkdir(exist_ok=True)
    about = {"detector": "mine 1", "objects": objects, "image": cache.view.image.model_dump(), "stride": 16}
    (folder / "about.json").write_text(json.dumps(about | {"channels": cache.channels, "token_dim": cache.token_dim}))
    for position, image_id in enumerate(cache.image_ids):
        batch = cache.batch([position])
        tensors = {name: getattr(batch.instances, name) for name in ("boxes", "scores", "tokens")}
        tensors["labels"] = torch.tensor([objects.index(cache.objects[label]) for label in batch.instances.labels])
        save_file(tensors | {"map": batch.maps[0].contiguous()}, folder / f"{image_id}.safetensors")


def test_features_of_another_framework_become_the_cache_that_a_detector_would_have_made(tmp_path, photo_run):
    chain = Chain(tmp_path, photo_run, {})
    seen = photo_run.root / "results" / "features"
    node = chain.node("vcoco/features/base/train", FeaturesNode)
    for split in ("train", "val", "test"):
        expected = Features.load(seen, split)
        write_features(tmp_path / "given", expected, list(reversed(expected.objects)))
        out = tmp_path / "features" / split
        features.features(
            settings=chain.settings(node), annotations=chain.prepare, split=split, out=out, from_=tmp_path / "given"
        )
        found = Features.load(tmp_path / "features", split)
        positions = list(range(len(expected.image_ids)))
        before, after = expected.batch(positions), found.batch(positions)
        assert found.image_ids == expected.image_ids
        assert found.detector_digest != expected.detector_digest
        for name in ("maps", "is_padding", "cell_sizes", "image_sizes", "instance_image"):
            assert torch.equal(getattr(before, name), getattr(after, name)), name
        for name in ("boxes", "scores", "labels", "tokens"):
            assert torch.equal(getattr(before.instances, name), getattr(after.instances, name)), name
    chain.finish()


@pytest.mark.parametrize("changed", [{"strides": [32, 16]}, {"strides": [8]}, {"map": "encoder"}])
def test_other_maps_of_another_framework_than_it_has_are_refused(tmp_path, photo_run, changed):
    chain = Chain(tmp_path, photo_run, {})
    cache = Features.load(photo_run.root / "results" / "features", "test")
    write_features(tmp_path / "given", cache, list(cache.objects))
    node = chain.node("vcoco/features/base/test", FeaturesNode)
    settings = chain.settings(node.model_copy(update={"features": node.features.model_copy(update=changed)}))
    given = {"annotations": chain.prepare, "split": "test", "out": tmp_path / "out", "from_": tmp_path / "given"}
    with pytest.raises(ValueError, match=r"given: files of another framework have one map, of stride 16; .* null"):
        features.features(settings=settings, **given)


def test_a_features_stage_with_both_or_neither_of_its_sources_is_refused(tmp_path, photo_run):
    chain = Chain(tmp_path, photo_run, {})
    settings = chain.settings(chain.nodes["vcoco/features/base/train"])
    for given in (
        {},
        {"images": chain.images},
        {"images": chain.images, "detector": photo_run.detector, "from_": tmp_path},
    ):
        with pytest.raises(ValueError, match="give either --images and --detector, or --from"):
            features.features(settings=settings, annotations=chain.prepare, split="test", out=tmp_path / "out", **given)


def test_a_missing_file_of_another_framework_leaves_nothing(tmp_path, photo_run):
    chain = Chain(tmp_path, photo_run, {})
    cache = Features.load(photo_run.root / "results" / "features", "test")
    write_features(tmp_path / "given", cache, list(cache.objects))
    (tmp_path / "given" / f"{cache.image_ids[-1]}.safetensors").unlink()
    settings = chain.settings(chain.nodes["vcoco/features/base/test"])
    given = {"annotations": chain.prepare, "split": "test", "out": tmp_path / "out", "from_": tmp_path / "given"}
    with pytest.raises(ValueError, match=rf"{cache.image_ids[-1]}\.safetensors: cannot be read"):
        features.features(settings=settings, **given)
    assert not (tmp_path / "out").exists()
