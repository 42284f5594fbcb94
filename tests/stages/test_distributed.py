"""The train stage in several processes: same numbers as one, one writer, one message."""

import csv
import json
import os
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rmlr.data.features import FeatureWriter, Index, ShardBuilder
from rmlr.data.records import save_annotations, save_vocabulary
from rmlr.hoi import Annotation
from rmlr.hoi.batch import Instances, Level
from rmlr.stages.text import text
from rmlr.stages.train import train
from rmlr.study.encoder import Encoder
from rmlr.study.made import MADE
from rmlr.study.nodes import TextNode, TrainNode
from rmlr.study.run import run
from rmlr.study.settings import Alignment, Losses, Network, Train, TransformerSizes, Variant

from .conftest import CHANNELS, DETECTOR, TOKEN_DIM, VIEW, VOCABULARY, launch

IMAGES, SPOILT = range(500, 514), 505
SIZES = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=0.0)


def boxes_of(image_id: int) -> np.ndarray:
    """A person, or two, then one to three balls."""
    rng = np.random.default_rng(image_id)
    corner = rng.uniform(0, 30, (people_of(image_id) + 1 + image_id % 3, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 30, corner.shape)], axis=1)


def people_of(image_id: int) -> int:
    return 1 + image_id % 2


def annotation(image_id: int) -> Annotation:
    """Of every three images two show nothing that is done, the third one to five interactions."""
    boxes, people = boxes_of(image_id), people_of(image_id)
    rows = [(0, 0, people), (0, 1, people), (people - 1, 1, len(boxes) - 1), (0, 0, len(boxes) - 1), (0, 1, people)]
    rows = rows[: image_id % 5 + 1] if image_id % 3 == 0 else []
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=64,
        width=64,
        boxes=boxes,
        labels=(np.arange(len(boxes)) >= people).astype(int),
        interactions=np.array(rows, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(len(boxes), dtype=bool),
        is_listed=np.arange(len(boxes)) < people,
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def write_features(folder: Path, spoilt: int | None = None) -> None:
    """As `rmlr features` would; the tokens of one image may be spoilt: too large for what is made of them."""
    generator = torch.Generator().manual_seed(0)
    index = Index(
        detector_digest=DETECTOR,
        view=VIEW,
        objects=list(VOCABULARY.objects),
        person=0,
        channels=CHANNELS,
        token_dim=TOKEN_DIM,
        map_dtype="float32",
        shard_images=10,
        image_ids=list(IMAGES),
        views=1,
        augment=None,
    )
    writer = FeatureWriter(index, folder.parent / f".{folder.name}.resume", "test")
    for shard, members in writer.missing():
        builder = ShardBuilder(index)
        for image_id in members:
            boxes = torch.from_numpy(boxes_of(image_id)).float()
            tokens = torch.randn(len(boxes), TOKEN_DIM, generator=generator)
            builder.add(
                [image_id],
                Instances(
                    boxes,
                    0.2 + 0.7 * torch.rand(len(boxes), generator=generator),
                    (torch.arange(len(boxes)) >= people_of(image_id)).long(),
                    tokens * (1e38 if image_id == spoilt else 1.0),
                ),
                torch.zeros(len(boxes), dtype=torch.long),
                [
                    Level(
                        torch.randn(1, CHANNELS, 4, 4, generator=generator),
                        torch.zeros(1, 4, 4, dtype=torch.bool),
                        torch.full((1, 2), 16.0),
                    )
                ],
                torch.full((1, 2), 64),
            )
        writer.write(shard, builder)
    folder.mkdir(parents=True)
    writer.finish(folder)


def node(**schedule) -> TrainNode:
    return TrainNode(
        code="",
        variant=Variant(
            network="rmlr",
            global_context=True,
            ire=True,
            pose=False,
            ire_sentence=True,
            ire_word=True,
            irm_sentence=True,
            irm_word=True,
        ),
        network=Network(pool="covered", feature_dim=8, ire=SIZES, pair_dim=8, irm=SIZES),
        alignment=Alignment(form="anchored", residual=False, whiten=True, stack=SIZES),
        losses=Losses(
            focal_balance=0.5, focal_gamma=0.2, hoi=2.0, irm_sentence=1.0, irm_word=1.0, ire_sentence=0.1, ire_word=0.1
        ),
        train=Train.model_validate(
            {"split": "train", "share": 1.0, "epochs": 3, "batch_size": 4, "micro_batch_size": 1, "precision": "fp32"}
            | {"learning_rate": 1e-2, "weight_decay": 1e-4, "clip_norm": 0.1}
            | schedule
        ),
        tags={"profile": "test", "run": "rmlr"},
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Records, features (one folder of them spoilt), text and settings."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "prepare").mkdir()
    save_vocabulary(folder / "prepare" / "vocabulary.json", VOCABULARY)
    save_annotations(folder / "prepare" / "train.json", [annotation(image_id) for image_id in IMAGES])
    save_annotations(folder / "prepare" / "val.json", [])
    write_features(folder / "features" / "train")
    write_features(folder / "spoilt" / "train", spoilt=SPOILT)
    encoder = Encoder(name="random vectors", model="random:6", revision=None, sha256=None, pooling="mean")
    (folder / "text.yaml").write_text(TextNode(code="", encoder=encoder).dump())
    text(settings=folder / "text.yaml", annotations=folder / "prepare", out=folder / "text")
    (folder / "train.yaml").write_text(node().dump())
    return folder


def arguments(world: Path, out: str, features: str = "features") -> list[str]:
    given = {"settings": "train.yaml", "annotations": "prepare", "features": features, "text": "text", "out": out}
    flags = [text for name, value in given.items() for text in (f"--{name}", str(world / value))]
    return ["train", *flags, "--seed", "0"]


def messages(done: subprocess.CompletedProcess) -> list[str]:
    """What we say to the user."""
    return [line for line in done.stderr.splitlines() if line.startswith("rmlr: ")]


def curves(folder: Path) -> list[dict[str, float]]:
    with (folder / "curves.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def of_run(world: Path, out: str) -> list[str]:
    """All that a run has left beside what it was given."""
    return sorted(path.name for path in world.iterdir() if out in path.name)


@pytest.fixture(scope="module")
def two(world) -> subprocess.CompletedProcess:
    """A run in two processes, whose output is `two`."""
    done = launch("-m", "rmlr", *arguments(world, "two"))
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_learn_what_one_learns_from_batches_twice_as_large(world, two):
    """Dealt unevenly: two of three images have nothing to learn, the others one to five interactions."""
    larger = world / "larger.yaml"
    larger.write_text(node(micro_batch_size=2).dump())
    train(
        settings=larger,
        annotations=world / "prepare",
        features=world / "features",
        text=world / "text",
        seed=0,
        out=world / "one",
    )
    for row, expected in zip(curves(world / "two"), curves(world / "one"), strict=True):
        names = [name for name in expected if "spread" not in name]  # a spread is that of a micro-batch
        assert {name: row[name] for name in names} == pytest.approx(
            {name: expected[name] for name in names}, rel=1e-3, abs=1e-4
        )
    for name in ("weights.safetensors", "alignment.safetensors"):
        found, expected = (load_file(world / out / name) for out in ("two", "one"))
        assert found.keys() == expected.keys()
        for key in found:
            torch.testing.assert_close(found[key], expected[key], atol=2e-3, rtol=1e-3)


def test_one_of_two_processes_writes_and_speaks(world, two):
    files = {"alignment.safetensors", "checkpoint.json", "curves.csv", "run.json", "settings.yaml", MADE}
    assert {path.name for path in (world / "two").iterdir()} == files | {"weights.safetensors"}
    assert of_run(world, "two") == [".two.lock", ".two.resume", "two"]
    assert [path.name for path in (world / ".two.resume").iterdir()] == ["epoch.pt"]
    assert two.stderr.count("of them with a candidate pair") == 1
    about = json.loads((world / "two" / "run.json").read_text())
    assert (about["processes"], about["device"]) == (2, "cpu")
    assert about["metrics"]["images"] == len(IMAGES)


def test_a_loss_that_is_not_finite_in_one_of_two_processes_ends_both_with_one_message(world):
    done = launch("-m", "rmlr", *arguments(world, "ended", "spoilt"))
    assert done.returncode != 0
    [said] = messages(done)
    assert said.startswith(f"rmlr: the loss is nan on images [{SPOILT}].")
    assert of_run(world, "ended") == [".ended.lock"]


def test_the_devices_of_a_distributed_run_are_shared_and_not_locked(world, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\nGPU-c\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "locks"))
    with run("train", node(), settings=world / "train.yaml", out=tmp_path / "out"):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert json.loads((tmp_path / "out" / "run.json").read_text())["device"] == "GPU-a, GPU-b"
    assert not (tmp_path / "locks").exists()


ENDING = """
import os, signal, sys
from rmlr.__main__ import main
from rmlr.data.features import Features

rank, how, whole, calls = *sys.argv[1:3], Features.batch, []

def batch(self, *given):
    calls.append(given)
    if os.environ["RANK"] == rank and len(calls) == 12:  # in the second epoch
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("a disk is gone")
    return whole(self, *given)

Features.batch = batch
main(sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "how"), [("0", "error"), ("1", "error"), ("0", "kill"), ("1", "kill")])
def test_what_ends_one_of_two_processes_ends_both_and_they_go_on_from_the_last_epoch(world, two, rank, how):
    out, script = f"broken{rank}{how}", world / "ending.py"
    script.write_text(ENDING)
    done = launch(str(script), rank, how, *arguments(world, out))
    assert done.returncode != 0
    assert messages(done) == (["rmlr: a disk is gone"] if how == "error" else [])
    killed = [f".{out}.part"] if (rank, how) == ("0", "kill") else []
    assert of_run(world, out) == [f".{out}.lock", *killed, f".{out}.resume"]
    assert launch("-m", "rmlr", *arguments(world, out)).returncode == 0
    assert of_run(world, out) == [f".{out}.lock", f".{out}.resume", out]
    for name in ("weights.safetensors", "alignment.safetensors", "curves.csv"):
        assert (world / out / name).read_bytes() == (world / "two" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_are_one_run_of_the_tracker(world, tmp_path):
    pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking = {"RMLR_TRACKING": "on", "RMLR_TRACKING_SECONDS": "600", "MLFLOW_TRACKING_URI": uri}  # of a busy machine
    done = launch("-m", "rmlr", *arguments(world, "tracked"), **tracking)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        [(run_id, status)] = database.execute("select run_uuid, status from runs").fetchall()
        [(points,)] = database.execute("select count(*) from metrics where key = 'train/loss'").fetchall()
    assert status == "FINISHED"
    assert points == 3
    assert json.loads((world / "tracked" / "run.json").read_text())["mlflow_run_id"] == run_id
