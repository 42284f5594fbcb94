"""A small study up to training: records of drawn numbers, and features in which a ball's token tells its verb."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from rmlr.data.features import FeatureWriter, Index, ShardBuilder
from rmlr.data.records import save_annotations, save_vocabulary
from rmlr.hoi import NO_BOX, Annotation, Vocabulary
from rmlr.hoi.batch import Instances, Level
from rmlr.model.checkpoint import Card, save_checkpoint
from rmlr.model.network import build
from rmlr.study.section import Section
from rmlr.study.settings import Alignment, ImageSize, Losses, Network, Selection, Train, TransformerSizes, Variant, View

SPLITS = {"train": range(100, 116), "val": range(200, 204), "test": range(300, 306)}
CHANNELS, TOKEN_DIM, DETECTOR = 4, 5, "d" * 64
VIEW = View(
    image=ImageSize(shortest=64, longest=64),
    selection=Selection(nms_iou=0.5, min_score=0.2, min_instances=1, max_instances=4),
    map="backbone",
)
VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=("person", "ball"),
    person=0,
    verbs=("hold obj", "throw obj"),
    hois=((0, 1), (1, 1)),
    unscored_verbs=("point instr",),
    actions=("hold", "throw", "point"),
)
BOXES = np.array([[4.0, 4.0, 30.0, 60.0], [32.0, 20.0, 48.0, 40.0]])


SIZES = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=0.1)
CARD = Card(
    variant=Variant.model_validate(
        {"network": "rmlr", "global_context": True, "ire": True, "pose": False}
        | dict.fromkeys(("ire_sentence", "ire_word", "irm_sentence", "irm_word"), False)
    ),
    network=Network(pool="covered", feature_dim=8, ire=SIZES, pair_dim=8, irm=SIZES),
    alignment=Alignment(form="anchored", residual=False, whiten=True, stack=SIZES),
    channels=CHANNELS,
    token_dim=TOKEN_DIM,
    vocabulary=VOCABULARY,
    detector_digest=DETECTOR,
    view=VIEW,
    pose_channels=None,
    pose_digest=None,
    text_encoder=None,
    losses=Losses(
        focal_balance=0.5, focal_gamma=0.2, hoi=2.0, irm_sentence=1.0, irm_word=1.0, ire_sentence=0.1, ire_word=0.1
    ),
    train=Train(
        split="train",
        share=1.0,
        epochs=1,
        batch_size=4,
        micro_batch_size=4,
        learning_rate=1e-3,
        weight_decay=1e-4,
        clip_norm=0.1,
        precision="fp32",
    ),
    seed=0,
    versions={},
)


def launch(*command: str, **environment: str) -> subprocess.CompletedProcess:
    """Two processes through torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([*torchrun, *command], env=given, capture_output=True, text=True, check=False, timeout=240)


def verb_of(image_id: int) -> int:
    """What the person does with the ball."""
    return image_id % 2


def annotation(image_id: int) -> Annotation:
    rows = [(0, verb_of(image_id), 1), (0, 2, NO_BOX)]
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=64,
        width=64,
        boxes=BOXES,
        labels=np.array([0, 1]),
        interactions=np.array(rows, dtype=np.int64),
        is_crowd=np.zeros(2, dtype=bool),
        is_listed=np.array([True, False]),
        actions=np.array([[0, verb_of(image_id)]]),
    )


def write_features(folder: Path, image_ids: list[int], objects: list[str]) -> None:
    """As `rmlr features` would: the ball's first number is its verb; the last image has a person only."""
    generator = torch.Generator().manual_seed(0)
    index = Index(
        detector_digest=DETECTOR,
        view=VIEW,
        objects=objects,
        person=0,
        channels=CHANNELS,
        token_dim=TOKEN_DIM,
        map_dtype="float32",
        shard_images=10,
        image_ids=image_ids,
        views=1,
        augment=None,
    )
    writer = FeatureWriter(index, folder.parent / f".{folder.name}.resume", "test")
    for shard, members in writer.missing():
        builder = ShardBuilder(index)
        for image_id in members:
            count = 1 if image_id == image_ids[-1] else 2
            tokens = 0.1 * torch.randn(count, TOKEN_DIM, generator=generator)
            tokens[1:, 0] = 2.0 * verb_of(image_id) - 1
            builder.add(
                [image_id],
                Instances(torch.from_numpy(BOXES[:count]).float(), torch.full((count,), 0.9),
                          torch.arange(count), tokens),
                torch.zeros(count, dtype=torch.long),
                [Level(torch.randn(1, CHANNELS, 4, 4, generator=generator), torch.zeros(1, 4, 4, dtype=torch.bool),
                       torch.full((1, 2), 16.0))],
                torch.full((1, 2), 64),
            )  # fmt: skip
        writer.write(shard, builder)
    folder.mkdir(parents=True)
    writer.finish(folder)


@dataclass(frozen=True)
class Study:
    """Where things lie."""

    prepare: Path
    features: Path
    vocabulary: Vocabulary
    image_ids: dict[str, list[int]]


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    root = tmp_path_factory.mktemp("study")
    prepare, features = root / "prepare", root / "features"
    prepare.mkdir()
    save_vocabulary(prepare / "vocabulary.json", VOCABULARY)
    image_ids = {split: list(ids) for split, ids in SPLITS.items()}
    for split, ids in image_ids.items():
        save_annotations(prepare / f"{split}.json", [annotation(image_id) for image_id in ids])
        write_features(features / split, ids, list(VOCABULARY.objects))
    return Study(prepare, features, VOCABULARY, image_ids)


@pytest.fixture
def settings_of(tmp_path):
    """Writes a node's settings and gives their path."""

    def write(node: Section) -> Path:
        path = tmp_path / f"{type(node).__name__}.yaml"
        path.write_text(node.dump())
        return path

    return write


@pytest.fixture
def weights(tmp_path):
    """A random checkpoint, of a variant with IRE."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    network = build(CARD.variant, CARD.network, channels=CHANNELS, token_dim=TOKEN_DIM, vocabulary=VOCABULARY)
    save_checkpoint(folder, CARD, network, torch.nn.Identity())
    return folder
