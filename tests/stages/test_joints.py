"""The joints stage: a small pose network trained on the drawn people, in the form in which MMPose's are read."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.models.resnet import BasicBlock

from rmlr.data.keypoints import Crop, Posed, load_people
from rmlr.learning import joints as learning
from rmlr.learning.joints import measure
from rmlr.model.pose import JointNetwork, load_pose_network
from rmlr.stages.draw import draw
from rmlr.stages.joints import joints
from rmlr.study.frozen import PoseArchitecture, PoseSchedule
from rmlr.study.nodes import DrawNode, JointsNode
from rmlr.study.settings import World
from rmlr.world.joints import CROWDPOSE

ARCHITECTURE = PoseArchitecture(
    embedding_size=16, hidden_sizes=[16, 16, 24, 32], depths=[1, 2, 1, 1], deconvolutions=[16, 24, 16]
)
SCHEDULE = PoseSchedule(
    steps=4, batch_size=4, learning_rate=3e-3, weight_decay=1e-4, warmup_steps=1, crop=64, margin=1.25, shift=0.1,
    zoom=0.1, sigma=1.0,
)  # fmt: skip
TRAIN, TEST = "person_keypoints_train2014.json", "person_keypoints_val2014.json"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A drawn world of few pictures."""
    folder = tmp_path_factory.mktemp("world")
    sizes = World(seed=0, train=4, val=2, test=3, size=128)
    (folder / "draw.yaml").write_text(DrawNode(code="", world=sizes).dump())
    draw(settings=folder / "draw.yaml", out=folder / "draw")
    return folder / "draw"


@pytest.fixture
def learn(world, tmp_path):
    """Runs the stage; gives its folder."""

    def call(name: str = "joints", annotations: Path = world / "coco", seed: int = 0, **schedule) -> Path:
        chosen = SCHEDULE.model_copy(update=schedule)
        settings, out = tmp_path / "settings.yaml", tmp_path / name
        settings.write_text(JointsNode(code="", architecture=ARCHITECTURE, schedule=chosen).dump())
        joints(settings=settings, annotations=annotations, images=world / "images", seed=seed, out=out)
        return out

    return call


@pytest.fixture
def copied(world, tmp_path) -> Path:
    """The annotations, to be changed."""
    return Path(shutil.copytree(world / "coco", tmp_path / "coco"))


def change(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_its_file_is_read_like_mmposes_with_equal_results(learn):
    state = torch.load(learn() / "weights.pth", weights_only=True)["state_dict"]
    assert state["keypoint_head.final_layer.weight"].shape == (len(CROWDPOSE), 16, 1, 1)
    trained = JointNetwork(len(CROWDPOSE), **ARCHITECTURE.model_dump()).eval()
    trained.load_state_dict({name.removeprefix("keypoint_head."): value for name, value in state.items()})
    frozen = load_pose_network(learn() / "weights.pth")
    assert (frozen.channels, frozen.stride) == (16, 4)
    assert isinstance(frozen.backbone.layer2[1], BasicBlock)
    pixels = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(trained.final_layer(frozen(pixels)), trained(pixels))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(learn):
    first, again, other = ((learn(name, seed=seed) / "weights.pth").read_bytes() for name, seed in
                           (("first", 0), ("again", 0), ("other", 1)))  # fmt: skip
    assert first == again
    assert first != other


def test_what_was_interrupted_ends_as_if_it_was_not(learn, tmp_path, monkeypatch, caplog):
    whole = learn("whole") / "weights.pth"
    real, calls = learning.load_crops, iter(range(9))

    def fails_at_the_third(*given):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(learning, "load_crops", fails_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            learn("cut")
    assert not (tmp_path / "cut").exists()
    with caplog.at_level("INFO"):
        assert (learn("cut") / "weights.pth").read_bytes() == whole.read_bytes()
    assert "resuming from step 2" in caplog.text


def test_what_is_asked_to_end_keeps_the_step_at_hand(learn, tmp_path, monkeypatch, caplog):
    whole = learn("whole") / "weights.pth"
    real, calls = learning.load_crops, iter(range(9))

    def asked_at_the_second(*given):
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(learning, "SAVES", 1)
        patch.setattr(learning, "load_crops", asked_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            learn("cut")
    assert not (tmp_path / "cut").exists()
    with caplog.at_level("INFO"):
        assert (learn("cut") / "weights.pth").read_bytes() == whole.read_bytes()
    assert "resuming from step 2" in caplog.text


def test_it_learns_where_joints_are(learn, copied):
    """On people that it has seen, more than a pose that is the same for all of them."""
    shutil.copyfile(copied / TRAIN, copied / TEST)
    schedule = {"steps": 200, "batch_size": 8, "shift": 0.0, "zoom": 0.0}
    metrics = json.loads((learn(annotations=copied, **schedule) / "metrics.json").read_text())
    assert metrics.keys() == {f"{what}pck_{share}" for what in ("", "mean_pose_") for share in (5, 10, 20)}
    assert metrics["pck_5"] <= metrics["pck_10"] <= metrics["pck_20"] <= 1
    assert metrics["pck_10"] > metrics["mean_pose_pck_10"] + 0.1


def test_a_test_file_without_people_gives_no_metrics(learn, copied):
    change(copied / TEST, lambda content: content.update(annotations=[]))
    assert json.loads((learn(annotations=copied) / "metrics.json").read_text()) == {}


def test_a_perfect_network_has_a_perfect_score(world, tmp_path, monkeypatch):
    _, people = load_people(world / "coco" / TEST)
    inside = [Crop.around(person, SCHEDULE.margin).place(person.joints) for person in people]
    waiting = iter(np.array_split(np.stack(inside), range(SCHEDULE.batch_size, len(people), SCHEDULE.batch_size)))
    monkeypatch.setattr(learning, "peaks", lambda _: torch.from_numpy(next(waiting)))
    network = JointNetwork(len(CROWDPOSE), **ARCHITECTURE.model_dump()).eval()
    metrics = measure(network, people, people, world / "images", SCHEDULE)
    assert metrics["pck_5"] == 1
    assert metrics["mean_pose_pck_5"] < 1
    nobody: list[Posed] = []
    assert measure(network, people, nobody, world / "images", SCHEDULE) == {}


def test_no_person_to_train_on_is_an_error(learn, copied):
    change(copied / TRAIN, lambda content: content.update(annotations=[]))
    with pytest.raises(ValueError, match=rf"{TRAIN}: no person with a known joint"):
        learn(annotations=copied)


def test_files_of_different_joints_are_refused(learn, copied):
    change(copied / TEST, lambda content: content["categories"][0]["keypoints"].reverse())
    with pytest.raises(ValueError, match=rf"{TRAIN} has the joints left_shoulder, .*{TEST} neck, top_head"):
        learn(annotations=copied)


def test_an_annotation_folder_without_joints_is_named(learn, copied):
    (copied / TRAIN).unlink()
    with pytest.raises(ValueError, match=rf"{TRAIN}: input of 'joints' does not exist"):
        learn(annotations=copied)


def test_settings_with_an_unknown_key_are_refused(learn, tmp_path):
    settings = learn().parent / "settings.yaml"
    content = yaml.safe_load(settings.read_text())
    content["schedule"]["epochs"] = 3
    settings.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"settings\.yaml: .*\n.*schedule\.epochs: Extra"):
        joints(settings=settings, annotations=tmp_path, images=tmp_path, seed=0, out=tmp_path / "refused")
