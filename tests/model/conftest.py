"""The smallest world for the network: three object classes, three verbs, and boxes, maps and words at random."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rmlr.hoi import Vocabulary
from rmlr.hoi.batch import Batch, Instances, Truth
from rmlr.model.text import OBJECT, SUBJECT, VERB, TextEmbeddings

PERSON, BALL, KITE = 0, 1, 2
STRIDE = 16.0
CHANNELS, TOKEN_DIM, TEXT_DIM, POSE_CHANNELS = 6, 5, 7, 3


def make_vocabulary() -> Vocabulary:
    """Balls are held and thrown, kites held and flown, nothing is done to people."""
    return Vocabulary(
        dataset="vcoco",
        objects=("person", "ball", "kite"),
        person=PERSON,
        verbs=("hold obj", "throw obj", "fly obj"),
        hois=((0, BALL), (1, BALL), (0, KITE), (2, KITE)),
    )


def make_batch(*images: list[int], height: int = 4, width: int = 5, seed: int = 0) -> Batch:
    """One image for each list of labels (people first); boxes, scores, tokens and maps are random."""
    generator = torch.Generator().manual_seed(seed)
    number = sum(map(len, images))
    extent = torch.tensor([width, height]) * STRIDE
    corner = torch.rand(number, 2, generator=generator) * extent / 2
    boxes = torch.cat([corner, corner + (0.1 + 0.4 * torch.rand(number, 2, generator=generator)) * extent], dim=1)
    return Batch(
        image_ids=torch.arange(len(images)),
        maps=torch.randn(len(images), CHANNELS, height, width, generator=generator),
        is_padding=torch.zeros(len(images), height, width, dtype=torch.bool),
        cell_sizes=torch.full((len(images), 2), STRIDE),
        image_sizes=(extent.flip(0)).expand(len(images), 2).clone(),
        instances=Instances(
            boxes,
            0.2 + 0.8 * torch.rand(number, generator=generator),
            torch.tensor([label for labels in images for label in labels], dtype=torch.long),
            torch.randn(number, TOKEN_DIM, generator=generator),
        ),
        instance_image=torch.tensor([i for i, labels in enumerate(images) for _ in labels], dtype=torch.long),
        pose=torch.randn(len(images), POSE_CHANNELS, height, width, generator=generator),
    )


def make_truth(batch: Batch, *rows: tuple[int, int, int]) -> Truth:
    """Interactions (human, verb, object) between instances of the batch, in order of their images."""
    human, verbs, object_ = torch.tensor(rows, dtype=torch.long).reshape(-1, 3).unbind(1)
    boxes, labels = batch.instances.boxes, batch.instances.labels
    return Truth(boxes[human], boxes[object_], verbs, labels[object_], batch.instance_image[human])


def make_text(images: int = 4, dim: int = TEXT_DIM, seed: int = 0) -> TextEmbeddings:
    """A phrase of three words for every HOI; image i is told by i words, so image 0 has none."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = make_vocabulary()
    phrase_of = torch.full((len(vocabulary.verbs), len(vocabulary.objects)), -1)
    for phrase, (verb, object_) in enumerate(vocabulary.hois):
        phrase_of[verb, object_] = phrase
    phrases = len(vocabulary.hois)
    lengths = torch.arange(images)
    return TextEmbeddings(
        encoder="random",
        model="random",
        revision=None,
        digest="",
        cut=0,
        phrases=[str(vocabulary.phrase(*hoi)) for hoi in vocabulary.hois],
        sentences=torch.randn(phrases, dim, generator=generator),
        phrase_of=phrase_of,
        phrase_words=torch.randn(3 * phrases, dim, generator=generator),
        phrase_offsets=3 * torch.arange(phrases + 1),
        phrase_parts=torch.tensor([SUBJECT, VERB, OBJECT]).repeat(phrases),
        text_words=torch.randn(int(lengths.sum()), dim, generator=generator),
        text_offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]),
        image_ids=torch.arange(images),
        text_of_image=torch.arange(images),
    )


def image_of(batch: Batch, position: int) -> Batch:
    """One image of a batch, alone."""
    chosen = slice(position, position + 1)
    is_own = batch.instance_image == position
    instances = Instances(*(getattr(batch.instances, name)[is_own] for name in Instances.__slots__))
    whole = ("image_ids", "maps", "is_padding", "cell_sizes", "image_sizes", "pose")
    return Batch(
        **{name: getattr(batch, name)[chosen] for name in whole},
        instances=instances,
        instance_image=torch.zeros(int(is_own.sum()), dtype=torch.long),
    )


def on_larger_canvas(batch: Batch, rows: int, columns: int) -> Batch:
    """The same images with padding below and to the right; its values are wild, and must not matter."""
    is_padding = nn.functional.pad(batch.is_padding, (0, columns, 0, rows), value=True)
    maps, pose = (nn.functional.pad(cells, (0, columns, 0, rows), value=1e3) for cells in (batch.maps, batch.pose))
    return replace(batch, maps=maps, is_padding=is_padding, pose=pose)


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """The helpers above, for tests cannot import a conftest."""
    return SimpleNamespace(
        person=PERSON,
        ball=BALL,
        kite=KITE,
        stride=STRIDE,
        channels=CHANNELS,
        token_dim=TOKEN_DIM,
        text_dim=TEXT_DIM,
        pose_channels=POSE_CHANNELS,
        vocabulary=make_vocabulary(),
        batch=make_batch,
        truth=make_truth,
        text=make_text,
        image_of=image_of,
        on_larger_canvas=on_larger_canvas,
    )
