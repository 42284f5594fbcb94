"""UPT's own code (fredzzhang/upt with fredzzhang/pocket) and ours, on the same weights, images and detections.

Needs RMLR_PEERS, a folder that holds checkouts of both as upt/ and pocket/. Nothing of them is part of this repository.
UPT's submodules are not needed: DETR is stood in for by drawn detections and maps.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from benchmarks.upt_modules import upt_modules
from rmlr.hoi import Vocabulary
from rmlr.hoi.batch import Batch, Instances, Truth
from rmlr.hoi.boxes import cxcywh_from_xyxy
from rmlr.model.detector import Detections, select_instances
from rmlr.model.losses import Objective
from rmlr.model.network import build
from rmlr.model.pairs import Pairs, detector_prior, enumerate_pairs, pair_geometry
from rmlr.model.scoring import score_triplets
from rmlr.model.upt import VCOCO_VERBS, load_upt_weights
from rmlr.study.settings import Network, Selection, Variant

PAPER = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["profiles"]["paper"]
NETWORK = Network(**PAPER["network"])  # at UPT's published sizes
SELECTION = Selection(**PAPER["features"]["selection"])
POWER = PAPER["prediction"]["prior_power"]
SWITCHES = dict.fromkeys("global_context ire pose ire_sentence ire_word irm_sentence irm_word".split(), False)  # noqa: SIM905
CHANNELS, TOKEN_DIM, QUERIES = 2048, 256, 100
SIZES = [(480, 640), (500, 333), (427, 640), (640, 480), (300, 400), (375, 500)]  # height and width of each image

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")  # UPT leaves `indexing` out


@pytest.fixture(scope="module")
def official():
    """UPT's modules, imported from their folders; forgotten afterwards."""
    folder = os.environ.get("RMLR_PEERS")
    if folder is None or not Path(folder, "upt/upt.py").is_file() or not Path(folder, "pocket/pocket").is_dir():
        pytest.skip("set RMLR_PEERS to a folder that holds checkouts of fredzzhang/upt and fredzzhang/pocket")
    with upt_modules(Path(folder)) as found:
        yield found


class DrawnDetr(nn.Module):
    """Where UPT asks its DETR, the answers that were drawn."""

    def __init__(self):
        super().__init__()
        self.query_embed = nn.Embedding(QUERIES, TOKEN_DIM)
        self.drawn: "Drawn | None" = None

    def backbone(self, _images):
        maps = self.drawn.map[None]
        return [SimpleNamespace(tensors=maps, decompose=lambda: (maps, torch.zeros(())))], [None]

    def input_proj(self, maps):
        return maps

    def transformer(self, *_):
        return self.drawn.tokens[None, None], None  # layers, images, queries, channels

    def class_embed(self, tokens):
        return tokens

    def bbox_embed(self, tokens):
        return tokens

    def postprocess(self, _results, _sizes):
        return [{"scores": self.drawn.scores, "labels": self.drawn.labels, "boxes": self.drawn.boxes}]


@dataclass
class Drawn:
    """What a detector might say of one image."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    tokens: Tensor
    map: Tensor
    size: tuple[int, int]


def draw(number: int, vocabulary: Vocabulary, labels: list[int]) -> Drawn:
    """An image with classes from `labels`: unevenly many are certain, and some boxes near enough to be suppressed."""
    generator = torch.Generator().manual_seed(number)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    height, width = SIZES[number]
    extent = torch.tensor([width, height])
    clusters = uniform(12, 2) * 0.7 * extent
    corner = clusters[torch.randint(12, (QUERIES,), generator=generator)] + 8 * uniform(QUERIES, 2)
    end = torch.minimum(corner + (0.1 + 0.3 * uniform(QUERIES, 1)) * extent * (0.8 + 0.4 * uniform(QUERIES, 2)), extent)
    scores = uniform(QUERIES) ** (1 + 2 * number)
    classes = torch.tensor(labels)[torch.randint(len(labels), (QUERIES,), generator=generator)]
    cells = (-(-height // 32), -(-width // 32))
    seen = torch.randn(CHANNELS, *cells, generator=generator).relu()
    tokens = torch.randn(QUERIES, TOKEN_DIM, generator=generator)
    return Drawn(torch.cat([corner, end], dim=1), scores, classes, tokens, seen, (height, width))


@dataclass
class Case:
    """A dataset's sizes, images, and UPT with random weights in both programs."""

    vocabulary: Vocabulary
    images: list[Drawn]
    upt: nn.Module
    network: nn.Module


@pytest.fixture(scope="module", params=["vcoco", "hicodet"])
def case(official, request, tmp_path_factory) -> Case:
    """V-COCO: 24 verbs, person first. HICO-DET: 117 verbs, 600 combinations, person is class 49."""
    person = {"vcoco": 0, "hicodet": 49}[request.param]
    verbs = {"vcoco": VCOCO_VERBS.split(", "), "hicodet": [f"verb {number:03}" for number in range(117)]}[request.param]
    rng = np.random.default_rng(0)
    hois = rng.choice(len(verbs) * 80, 220 if request.param == "vcoco" else 600, replace=False)
    vocabulary = Vocabulary(
        dataset=request.param,
        objects=tuple(f"object {number}" for number in range(80)),
        person=person,
        verbs=tuple(verbs),
        hois=tuple((int(hoi % len(verbs)), int(hoi // len(verbs))) for hoi in sorted(hois)),
    )
    torch.manual_seed(0)
    possible = [np.flatnonzero(row).tolist() for row in vocabulary.is_valid_verb]
    sizes = (TOKEN_DIM, NETWORK.upt.dim, CHANNELS, len(verbs), person, possible)
    head = official.InteractionHead(nn.Linear(2 * NETWORK.upt.dim, len(verbs)), *sizes)
    for module in head.modules():
        if isinstance(module, nn.LayerNorm):  # which starts as nothing
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    nn.init.normal_(head.box_pair_predictor.weight, std=0.05)  # logits of some size
    detr = DrawnDetr()
    upt = official.UPT(detr, detr.postprocess, head, person, len(verbs), alpha=0.5, gamma=0.2).eval()
    path = tmp_path_factory.mktemp("upt") / "upt.pt"
    torch.save({"iteration": 1, "epoch": 1, "model_state_dict": upt.state_dict()}, path)
    network = build(
        Variant(network="upt", **SWITCHES), NETWORK, channels=CHANNELS, token_dim=TOKEN_DIM, vocabulary=vocabulary
    ).eval()
    network.load_state_dict(load_upt_weights(path, vocabulary), strict=True)
    things = [int(label) for label in rng.choice(80, 10, replace=False) if label != person]
    images = [draw(number, vocabulary, [person, person, *things]) for number in range(4)]
    images += [draw(4, vocabulary, things), draw(5, vocabulary, [person])]
    images[5].labels[:] = person
    return Case(vocabulary, images, upt, network.requires_grad_(False))


def selected(case: Case, images: list[Drawn]) -> Batch:
    """Our batch: the detections that our rule keeps, maps padded to the largest."""
    height, width = (max(image.map.shape[axis] for image in images) for axis in (1, 2))
    maps, is_padding = torch.zeros(len(images), CHANNELS, height, width), torch.ones(len(images), height, width).bool()
    for index, image in enumerate(images):
        maps[index, :, : image.map.shape[1], : image.map.shape[2]] = image.map
        is_padding[index, : image.map.shape[1], : image.map.shape[2]] = False
    cell_sizes = torch.full((len(images), 2), 32.0)
    boxes, scores, labels, tokens = (
        torch.stack([getattr(image, name) for image in images]) for name in ("boxes", "scores", "labels", "tokens")
    )
    detections = Detections(boxes, scores, labels, tokens, maps, is_padding, cell_sizes)
    instances, of = select_instances(detections, case.vocabulary.person, SELECTION)
    sizes = torch.tensor([image.size for image in images]).float()
    return Batch(torch.arange(len(images)), maps, is_padding, cell_sizes, sizes, instances, of)


def region_proposals(batch: Batch) -> list[dict[str, Tensor]]:
    """A batch's instances as UPT's head takes them."""
    found = batch.instances
    parts = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "hidden_states": found.tokens}
    return [{name: part[own] for name, part in parts.items()} for own in rows_of_images(batch)]


def test_scores_are_upts_from_detections_to_triplets(case):
    """UPT sees one image at a time, as in its own evaluation; we see all of them at once, padded."""
    batch = selected(case, case.images)
    is_valid_verb = torch.from_numpy(case.vocabulary.is_valid_verb)
    ours = score_triplets(case.network, batch, is_valid_verb, prior_power=POWER, min_score=0.0)
    counts = []
    for number, image in enumerate(case.images):
        case.upt.detector.drawn = image
        with torch.no_grad():
            found = case.upt([SimpleNamespace(size=lambda size=image.size: (3, *size), device="cpu")])
        own = ours.image_id == number
        counts.append(int(own.sum()))
        if not found:  # UPT gives no answer where there is no pair
            assert not own.any()
            continue
        (found,) = found
        human, thing = found["pairing"]
        np.testing.assert_array_equal(ours.human_boxes[own], found["boxes"][human].numpy())
        np.testing.assert_array_equal(ours.object_boxes[own], found["boxes"][thing].numpy())
        np.testing.assert_array_equal(ours.object_category[own], found["objects"].numpy())
        np.testing.assert_array_equal(ours.verb[own], found["labels"].numpy())
        np.testing.assert_allclose(ours.score[own], found["scores"].numpy(), rtol=0, atol=1e-5)
    assert counts[4] == 0  # no person
    assert sum(counts) > 500
    assert np.ptp(ours.score) > 0.3


def test_logits_and_prior_are_upts_on_a_batch(case):
    """UPT's interaction head on several images at once, in any order of the instances."""
    batch = on_one_canvas(selected(case, case.images))
    order = torch.cat([own[torch.randperm(len(own))] for own in rows_of_images(batch)])
    found = Instances(*(getattr(batch.instances, name)[order] for name in Instances.__slots__))
    output = case.network(replace(batch, instances=found))
    for training, power in ((False, POWER), (True, 1.0)):
        head = without_dropout(case.upt.interaction_head.train(training))
        with torch.no_grad():
            logits, prior, humans, objects, _, _ = head(batch.maps, batch.image_sizes, region_proposals(batch))
        # UPT brings people to the front, which they are in `batch`; ours found its pairs in another order
        ours = Pairs(order[output.pairs.human], order[output.pairs.object], output.pairs.image)
        rank = torch.from_numpy(np.lexsort((ours.object, ours.human)))
        first = torch.tensor([len(own) for own in rows_of_images(batch)]).cumsum(0).roll(1)
        first[0] = 0
        assert torch.equal(ours.human[rank], torch.cat([h + start for h, start in zip(humans, first, strict=True)]))
        assert torch.equal(ours.object[rank], torch.cat([o + start for o, start in zip(objects, first, strict=True)]))
        torch.testing.assert_close(output.logits[rank], logits, rtol=0, atol=1e-5)
        is_valid_verb = torch.from_numpy(case.vocabulary.is_valid_verb)
        here = detector_prior(batch, ours, is_valid_verb, power)[rank]
        torch.testing.assert_close(here, torch.cat([one.prod(0) for one in prior]), rtol=0, atol=1e-6)
    case.upt.eval()
    assert logits.std(0).mean() > 0.3  # from pair to pair


def test_the_loss_is_upts(case):
    """On truth that moved boxes of pairs make; to the precision that UPT's epsilons leave."""
    batch = on_one_canvas(selected(case, case.images))
    pairs = enumerate_pairs(batch, case.vocabulary.person)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(pairs), generator=generator)[:40].sort().values
    moved = [batch.instances.boxes[index[chosen]] + 6 * torch.rand(40, 4, generator=generator)
             for index in (pairs.human, pairs.object)]  # fmt: skip
    labels = batch.instances.labels[pairs.object[chosen]]
    possible = [np.flatnonzero(case.vocabulary.is_valid_verb[label]) for label in labels]
    verbs = torch.tensor([verbs[0] if len(verbs) else 0 for verbs in possible])
    truth = Truth(*moved, verbs, labels, pairs.image[chosen])
    objective = Objective(
        person=case.vocabulary.person,
        is_valid_verb=torch.from_numpy(case.vocabulary.is_valid_verb),
        focal_balance=0.5,
        focal_gamma=0.2,
        irm=None,
        ire=None,
        targets=None,
    )
    terms = objective(case.network(batch), batch, truth, None)
    targets = []
    for image, size in enumerate(batch.image_sizes):
        own, scale = truth.image == image, size.flip(0).repeat(2)
        boxes = {f"boxes_{name}": cxcywh_from_xyxy(box[own]) / scale for name, box in zip("ho", moved, strict=True)}
        targets.append(boxes | {"labels": verbs[own], "size": size})
    head, regions = without_dropout(case.upt.interaction_head.train()), region_proposals(batch)
    with torch.no_grad():
        logits, prior, humans, objects, _, _ = head(batch.maps, batch.image_sizes, regions)
        boxes = [region["boxes"] for region in regions]
        loss = case.upt.compute_interaction_loss(boxes, humans, objects, logits, prior, targets)
    case.upt.eval()
    assert terms.counts.positives > 20
    torch.testing.assert_close(terms.hoi / terms.counts.positives, loss, rtol=1e-4, atol=0)


def test_spatial_codes_are_upts(official):
    """Of boxes that are apart, overlap, touch, contain each other, are equal and are a pixel wide."""
    boxes = torch.tensor(
        [[10, 20, 110, 220], [60, 20, 300, 90], [110, 20, 200, 200], [20, 30, 50, 60], [10, 20, 110, 220],
         [400, 300, 401, 479], [0, 0, 640, 480], [399.5, 0, 640, 0.25]]
    )  # fmt: skip
    number = len(boxes)
    first, second = (index.flatten() for index in torch.meshgrid(*[torch.arange(number)] * 2, indexing="ij"))
    batch = Batch(
        image_ids=torch.zeros(1, dtype=torch.long),
        maps=torch.zeros(1, 1, 1, 1),
        is_padding=torch.zeros(1, 1, 1, dtype=torch.bool),
        cell_sizes=torch.ones(1, 2),
        image_sizes=torch.tensor([[480.0, 640.0]]),
        instances=Instances(boxes, torch.ones(number), torch.zeros(number, dtype=torch.long), torch.zeros(number, 1)),
        instance_image=torch.zeros(number, dtype=torch.long),
    )
    ours = pair_geometry(batch, Pairs(first, second, torch.zeros_like(first)))
    theirs = official.ops.compute_spatial_encodings([boxes[first]], [boxes[second]], [(480, 640)])
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def on_one_canvas(batch: Batch) -> Batch:
    """No cell is padding: UPT's mean takes padding in, ours does not."""
    return replace(batch, is_padding=torch.zeros_like(batch.is_padding))


def rows_of_images(batch: Batch) -> list[Tensor]:
    """The instances of each image."""
    return [(batch.instance_image == image).nonzero()[:, 0] for image in range(len(batch.image_ids))]


def without_dropout(head: nn.Module) -> nn.Module:
    """The head in its own mode, its dropout off."""
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return head
