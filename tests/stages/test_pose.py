"""The pose stage: what the frozen pose network sees, over the cells of the features; and its cue, trained and used."""

import dataclasses
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rmlr.commands.export import export
from rmlr.data.augment import load_view
from rmlr.data.features import Features, FeatureWriter, Index, ShardBuilder
from rmlr.data.images import load_batch, resized_size
from rmlr.data.records import save_annotations, save_vocabulary
from rmlr.detections.triplets import load_triplets
from rmlr.hoi.batch import Instances, Level
from rmlr.learning.inference import load
from rmlr.model.checkpoint import load_card, load_checkpoint
from rmlr.model.pose import load_pose_network, pose_digest
from rmlr.stages import pose as stage
from rmlr.stages.pose import pose
from rmlr.stages.predict import predict
from rmlr.stages.text import text
from rmlr.stages.train import train
from rmlr.study.frozen import Pose
from rmlr.study.nodes import PoseNode
from rmlr.study.plan import Study
from rmlr.study.settings import ImageSize

from ..photo_records import unannotated
from .conftest import VIEW, VOCABULARY

PARAMS = Path(__file__).parents[2] / "params.yaml"
PHOTOS = {5: (48, 64), 3: (64, 48), 9: (48, 48), 4: (96, 128), 8: (48, 64)}  # height, width
assert isinstance(VIEW.image, ImageSize)
SIDES = VIEW.image.shortest, VIEW.image.longest
STRIDE = 16  # of the detector
EXTRA = 3  # this image's map has a row of cells more than its photo fills, as padding may leave one


def grid_of(image_id: int) -> tuple[int, int]:
    """Cells of an image's map."""
    height, width = (-(-side // STRIDE) for side in resized_size(*PHOTOS[image_id], *SIDES))
    return height + (image_id == EXTRA), width


def write_features(folder: Path, image_ids: list[int], detector: str = "d" * 64) -> None:
    """As `rmlr features` would, of a detector that found nothing."""
    index = Index(
        detector_digest=detector, view=VIEW, objects=["person"], person=0, channels=2, token_dim=2,
        map_dtype="float32", shard_images=2, image_ids=image_ids, views=1, augment=None,
    )  # fmt: skip
    writer = FeatureWriter(index, folder.parent / f".{folder.name}.resume", "test")
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, 2))
    for shard, members in writer.missing():
        builder = ShardBuilder(index)
        for image_id in members:
            sizes, resized = torch.tensor([PHOTOS[image_id]]), resized_size(*PHOTOS[image_id], *SIDES)
            builder.add(
                [image_id], nothing, torch.zeros(0).long(),
                [Level(torch.full((1, 2, *grid_of(image_id)), float(image_id)),
                       torch.zeros(1, *grid_of(image_id), dtype=torch.bool), STRIDE * sizes / torch.tensor([resized]))],
                sizes,
            )  # fmt: skip
        writer.write(shard, builder)
    folder.mkdir(parents=True)
    writer.finish(folder)


def given(weights: Path, batch_size: int) -> Pose:
    """A pose network whose file is the user's."""
    return Pose(weights=str(weights), architecture=None, schedule=None, batch_size=batch_size)


@dataclasses.dataclass(frozen=True)
class Corner:
    """Where a test's files lie, and the stage over them."""

    root: Path
    weights: Path

    def run(self, split: str = "train", batch_size: int = 2, weights: Path | None = None) -> Path:
        settings, out = self.root / "settings.yaml", self.root / "pose" / split
        settings.write_text(PoseNode(code="x", pose=given(weights or self.weights, batch_size)).dump())
        prepare, images, features = (self.root / name for name in ("prepare", "images", "features"))
        pose(settings=settings, annotations=prepare, split=split, images=images, features=features, out=out)
        return out

    def load(self, split: str = "train") -> Features:
        return Features.load(self.root / "features", split, self.root / "pose")


@pytest.fixture
def corner(tmp_path, pose_weights) -> Corner:
    for name in ("prepare", "images"):
        (tmp_path / name).mkdir()
    rng = np.random.default_rng(0)
    for image_id, (height, width) in PHOTOS.items():
        pixels = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(tmp_path / "images" / f"{image_id}.png")
    annotations = [unannotated(image_id, *size) for image_id, size in PHOTOS.items()]
    save_vocabulary(tmp_path / "prepare" / "vocabulary.json", VOCABULARY)
    for split, members in (("train", annotations), ("val", [])):
        save_annotations(tmp_path / "prepare" / f"{split}.json", members)
        write_features(tmp_path / "features" / split, [item.image_id for item in members])
    return Corner(tmp_path, pose_weights)


def other_network(pose_weights: Path, path: Path) -> Path:
    """Another pose network's file."""
    content = torch.load(pose_weights, weights_only=True)
    content["state_dict"]["backbone.conv1.weight"] *= 2
    torch.save(content, path)
    return path


def test_each_cell_has_the_pose_networks_mean_over_it(corner, pose_weights):
    corner.run()
    cached, network = corner.load(), load_pose_network(pose_weights)
    assert (cached.pose_channels, cached.pose_digest) == (8, pose_digest(pose_weights))
    for position, image_id in enumerate(PHOTOS):
        photo = load_batch([corner.root / "images" / f"{image_id}.png"], VIEW.image)
        seen = network(photo.pixels)[0]
        batch = cached.batch([position])
        assert batch.pose.shape == (1, 8, *grid_of(image_id))
        assert (batch.maps == image_id).all()
        assert batch.pose.std() > 0
        height, width = (-(-side // STRIDE) for side in photo.resized[0].tolist())
        for y in range(height):
            for x in range(width):
                mean = seen[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2))  # a cell: 16 pixels, 4 of the map's
                torch.testing.assert_close(batch.pose[0, :, y, x], mean, atol=1e-4, rtol=1e-4)
        assert not batch.pose[:, :, height:].any()


def test_the_batch_size_changes_no_map(corner):
    corner.run(batch_size=1)
    alone = corner.load().batch(range(len(PHOTOS)))
    corner.run(batch_size=5)
    together = corner.load().batch(range(len(PHOTOS)))
    torch.testing.assert_close(alone.pose, together.pose, atol=1e-5, rtol=1e-4)
    assert alone.pose.shape[2:] == alone.is_padding.shape[1:]
    assert not alone.pose.permute(0, 2, 3, 1)[alone.is_padding].any()


def test_without_pose_maps_a_batch_has_none(corner):
    assert Features.load(corner.root / "features", "train").batch([0]).pose is None


def test_a_split_without_images_has_a_cache_without_images(corner):
    corner.run("val")
    assert len(corner.load("val")) == 0
    assert corner.load("val").batch([]).pose.shape == (0, 8, 0, 0)
    corner.run()
    assert len(corner.load("trainval")) == len(PHOTOS)


def test_a_killed_run_resumes_after_its_last_complete_shard(corner, monkeypatch):
    class Killed(Exception):
        pass

    read = []

    def load_some(annotations, *rest):
        if len(read) == 4:
            raise Killed
        read.extend(item.image_id for item in annotations)
        return load_view(annotations, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "load_view", load_some)
        with pytest.raises(Killed):
            corner.run()
    assert not (corner.root / "pose" / "train").exists()
    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "load_view", load_some)
        corner.run()
    assert read == [8]  # two shards of two were whole
    resumed = corner.load().batch(range(len(PHOTOS)))
    corner.run()
    assert torch.equal(resumed.pose, corner.load().batch(range(len(PHOTOS))).pose)


def test_maps_of_other_features_or_of_two_pose_networks_are_not_joined(corner, tmp_path, pose_weights):
    corner.run()
    write_features(tmp_path / "other" / "train", list(PHOTOS), detector="e" * 64)
    with pytest.raises(ValueError, match=r"does not belong to the features in .*other/train, .* in detector_digest"):
        Features.load(tmp_path / "other", "train", tmp_path / "pose")
    write_features(tmp_path / "fewer" / "train", list(PHOTOS)[:-1])
    with pytest.raises(ValueError, match=r"it differs in image_ids\. Run `rmlr pose`"):
        Features.load(tmp_path / "fewer", "train", tmp_path / "pose")
    corner.run("val", weights=other_network(pose_weights, tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="pose/val: its maps are of another pose network"):
        corner.load("trainval")


def test_features_made_again_with_other_cells_are_refused(corner, tmp_path, monkeypatch):
    corner.run()
    monkeypatch.setitem(PHOTOS, 5, (64, 64))
    write_features(tmp_path / "other" / "train", list(PHOTOS))
    with pytest.raises(ValueError, match=r"shard-00000.*'maps' is .*\[27, 8\], expected .*\[31, 8\].*`rmlr pose`"):
        Features.load(tmp_path / "other", "train", tmp_path / "pose")


def test_a_network_that_was_trained_here_is_read_from_its_folder(corner, tmp_path):
    corner.run()
    expected = [corner.load().batch([at]).pose for at in range(len(PHOTOS))]
    (tmp_path / "joints").mkdir()
    shutil.copyfile(corner.weights, tmp_path / "joints" / "weights.pth")
    own = Study.load(PARAMS).profiles["tiny"].pose
    where = {name: tmp_path / name for name in ("images", "features")} | {"annotations": tmp_path / "prepare"}
    flags = where | {"settings": tmp_path / "own.yaml", "split": "train", "out": tmp_path / "pose" / "train"}
    flags["settings"].write_text(PoseNode(code="x", pose=own).dump())
    pose(**flags, joints=tmp_path / "joints")
    for at, maps in enumerate(expected):
        assert torch.equal(corner.load().batch([at]).pose, maps)
    with pytest.raises(ValueError, match=r"--joints is None: .*give what `rmlr joints` made"):
        pose(**flags)
    with pytest.raises(ValueError, match=r"pose\.weights is .*pth and --joints is .*one of the two"):
        pose(**flags | {"settings": tmp_path / "settings.yaml"}, joints=tmp_path / "joints")


def test_what_is_missing_is_named(corner, tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pth: .*cannot be read \(No such file.*pose\.weights"):
        corner.run(weights=tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"pose/train/index\.json: cannot be read .*Run `rmlr pose`"):
        corner.load()
    save_annotations(corner.root / "prepare" / "train.json", [])
    with pytest.raises(ValueError, match=r"features/train: 5 images have features but no annotation, e\.g\. \[5, 3, 9"):
        corner.run()
    assert not (corner.root / "pose").joinpath("train").exists()


# ---- the cue, from photos to triplets by the stages of the tiny profile


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run of variant `pose`, and what it was made from."""

    root: Path
    results: Path  # of the stages before
    nodes: dict

    def settings(self, name: str) -> Path:
        path = self.root / "settings.yaml"
        path.write_text(self.nodes[name].dump())
        return path

    def train(self, out: str, **more) -> Path:
        given = {"annotations": self.results / "prepare", "features": self.results / "features"}
        given |= {"text": self.root / "text", "pose": self.root / "pose", "seed": 0, "out": self.root / out} | more
        train(settings=self.settings("runs/shared/rmlr/0/train"), **given)
        return self.root / out

    def predict(self, out: str, **more) -> Path:
        given = {"annotations": self.results / "prepare", "features": self.results / "features"}
        given |= {"weights": self.root / "train", "pose": self.root / "pose", "out": self.root / out} | more
        predict(settings=self.settings("runs/shared/rmlr/0/predict"), **given)
        return self.root / out


def look(run: Trained, images: Path, out: str) -> None:
    for split in ("train", "val", "test"):
        where = {"images": images, "features": run.results / "features", "out": run.root / out / split}
        settings = run.settings(f"pose/vcoco/base/{split}")
        pose(settings=settings, annotations=run.results / "prepare", split=split, **where)


@pytest.fixture(scope="module")
def trained(photo_run, pose_weights, tmp_path_factory) -> Trained:
    content = yaml.safe_load(PARAMS.read_text())
    content["profiles"]["tiny"]["pose"] = given(pose_weights, 3).model_dump()
    content["runs"]["shared"]["rmlr"]["variant"] = "pose"
    nodes = Study.check(content, "params.yaml").nodes("tiny", defaultdict(lambda: "digest"))
    run = Trained(tmp_path_factory.mktemp("trained"), photo_run.root / "results", nodes)
    text(settings=run.settings("vcoco/text/main"), annotations=run.results / "prepare", out=run.root / "text")
    look(run, photo_run.root / "raw" / "images", "pose")
    run.train("train")
    return run


def test_the_cue_is_trained_and_predicted_with(trained, pose_weights):
    triplets = load_triplets(trained.predict("predict") / "triplets.parquet")
    assert len(triplets.score) > 0
    card = load_card(trained.root / "train")
    assert (card.pose_channels, card.pose_digest) == (8, pose_digest(pose_weights))
    network = load_checkpoint(trained.root / "train")
    names = network.state_dict().keys()
    assert {name for name in names if "pose" in name} == {
        "describe.pose.project.0.weight",
        "describe.pose.project.0.bias",
    }
    assert not any(".ire." in name for name in names)
    batch = Features.load(trained.results / "features", "test", trained.root / "pose").batch(range(4))
    logits = network(batch).logits
    assert len(logits)
    assert not torch.equal(network(dataclasses.replace(batch, pose=-batch.pose)).logits, logits)
    with pytest.raises(ValueError, match="reads a pose network's map, and there is none"):
        network(dataclasses.replace(batch, pose=None))
    about = json.loads((trained.root / "train" / "run.json").read_text())
    assert str(trained.root / "pose" / "train") in about["inputs"]


def test_alignment_teaches_the_cue_of_a_pose_network_as_it_teaches_ire(trained):
    curves = (trained.root / "train" / "curves.csv").read_text().splitlines()[0]
    assert {"ire_sentence", "ire_word", "irm_sentence", "irm_word"} <= set(curves.split(","))


def test_the_same_seed_gives_the_same_weights(trained):
    again = trained.train("again") / "weights.safetensors"
    assert again.read_bytes() == (trained.root / "train" / "weights.safetensors").read_bytes()


def test_a_checkpoint_refuses_the_maps_of_another_pose_network(trained, photo_run, pose_weights):
    weights = other_network(pose_weights, trained.root / "other.pth")
    node = PoseNode(code="x", pose=given(weights, 3))
    other = dataclasses.replace(trained, nodes={name: node for name in trained.nodes if name.startswith("pose/")})
    look(other, photo_run.root / "raw" / "images", "other")
    digests = [pose_digest(path) for path in (pose_weights, weights)]
    with pytest.raises(ValueError, match=rf"pose_digest: .* trained with {digests[0]}, given is {digests[1]}"):
        trained.predict("refused", pose=trained.root / "other")
    assert not (trained.root / "refused").exists()


def test_a_variant_with_the_cue_needs_maps(trained):
    for call in (trained.train, trained.predict):
        with pytest.raises(ValueError, match="give what `rmlr pose` made, --pose FOLDER"):
            call("refused", pose=None)


def test_a_variant_without_the_cue_reads_no_maps(trained, photo_run):
    out = trained.predict("plain", weights=photo_run.run / "train", pose=trained.root / "nowhere")
    assert "nowhere" not in (out / "run.json").read_text()


def test_a_photo_is_shown_to_the_pose_network_that_was_trained_with(trained, photo_run, pose_weights):
    table = load_triplets(trained.predict("shown") / "triplets.parquet")
    model = load(trained.root / "train", prior_power=2.8)
    for path in photo_run.photos:
        scores = sorted(table.score[table.image_id == int(path.stem.rpartition("_")[2])])
        found = sorted(triplet.score for triplet in model(path, min_score=0.0))
        np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-5)
    given = load(trained.root / "train", pose=pose_weights, prior_power=2.8)
    assert given(photo_run.photos[0]) == model(photo_run.photos[0])
    with pytest.raises(ValueError, match=r"another\.pth: is not the pose network that .* was trained with"):
        load(trained.root / "train", pose=other_network(pose_weights, trained.root / "another.pth"))
    with pytest.raises(ValueError, match=r"lost\.pth: has no weights"):
        load(trained.root / "train", pose=trained.root / "lost.pth")
    carried = trained.root / "carried"
    shutil.copytree(photo_run.detector, carried / "detector")
    for name in ("train/checkpoint.json", "train/weights.safetensors", "predict/settings.yaml"):
        (carried / name).parent.mkdir(exist_ok=True)
        shutil.copy(trained.root / name.replace("predict", "shown"), carried / name)
    (carried / "pose").mkdir()
    shutil.copy(pose_weights, carried / "pose")
    assert load(carried)(photo_run.photos[0]) == model(photo_run.photos[0])
    export(carried, out=trained.root / "exported")
    assert (trained.root / "exported" / "pose" / "weights.safetensors").is_file()
    assert not list((trained.root / "exported").rglob("*.pth"))
    assert load(trained.root / "exported")(photo_run.photos[0]) == model(photo_run.photos[0])
