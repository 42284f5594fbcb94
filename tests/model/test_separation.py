"""People at the same place, and what stands for them in the network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jaxtyping import Float

from rmlr.hoi import NO_BOX, Annotation
from rmlr.hoi.batch import Batch
from rmlr.model.network import build
from rmlr.model.pairs import enumerate_pairs
from rmlr.model.separation import KINDS, Interactions, Vectors, compare_places, distances, find_interactions, join
from rmlr.study.settings import Network, Variant

STUDY = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
SIZES = {"layers": 1, "dim": 8, "heads": 2, "ffn_dim": 16, "dropout": 0.0}
NETWORK = Network(pool="covered", feature_dim=4, ire=SIZES, pair_dim=8, irm=SIZES)
PLACE, SHIFTED, OTHER = [0.1, 0.1, 0.5, 0.9], [0.12, 0.1, 0.5, 0.9], [0.6, 0.1, 0.9, 0.9]


def network_of(small, variant: str = "wo_cl"):
    torch.manual_seed(0)
    sizes = {"channels": small.channels, "token_dim": small.token_dim, "vocabulary": small.vocabulary}
    return build(Variant(**STUDY["variants"][variant]), NETWORK, **sizes).eval()


def annotation(batch: Batch, image: int, *rows: tuple[int, int, int]) -> Annotation:
    """Interactions (human, verb, object or NO_BOX) between the instances of one image, at their very boxes."""
    own = batch.instance_image == image
    boxes = batch.instances.boxes[own].double().numpy()
    return Annotation(
        image_id=image,
        file_name="",
        height=64,
        width=80,
        boxes=boxes,
        labels=batch.instances.labels[own].numpy(),
        interactions=np.array(rows, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(len(boxes), dtype=bool),
        is_listed=np.ones(len(boxes), dtype=bool),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def interactions(*rows: tuple[int, list[float], int, set[int], set[int]]) -> Interactions:
    """One of each: image, place, object, verbs of the pair, verbs of the human besides; vectors are their numbers."""
    does, more = (
        torch.tensor([[verb in row[at] for verb in range(4)] for row in rows], dtype=torch.bool).view(-1, 4)
        for at in (3, 4)
    )
    places = torch.tensor([row[1] for row in rows]).view(-1, 4)
    vectors: Float[torch.Tensor, "u 2"] = torch.arange(2.0 * len(rows)).view(-1, 2)
    return Interactions(
        image=torch.tensor([row[0] for row in rows], dtype=torch.long),
        human_boxes=100 * places,
        object_boxes=100 * places,
        places=places,
        objects=torch.tensor([row[2] for row in rows], dtype=torch.long),
        does=does,
        human_does=does | more,
        network=torch.zeros(len(rows), dtype=torch.long),
        vectors=Vectors(torch.zeros(len(rows), 8), *[vectors] * 5),
    )


def kinds(found: Interactions, min_iou: float = 0.7) -> set[tuple[int, int, str]]:
    compared = compare_places(found, min_iou, seed=0)
    columns = compared.first.tolist(), compared.second.tolist(), compared.kind.tolist()
    return {(first, second, KINDS[kind]) for first, second, kind in zip(*columns, strict=True)}


def test_people_at_one_place_do_the_same_or_different_things():
    found = interactions((0, PLACE, 1, {0}, set()), (1, SHIFTED, 1, {0}, set()), (2, PLACE, 1, {2}, set()))
    assert kinds(found) == {(0, 1, "same"), (0, 2, "different"), (1, 2, "different")}
    assert kinds(found, min_iou=0.99) == {(0, 2, "different")}


@pytest.mark.parametrize(
    "other",
    [
        (0, PLACE, 1, {2}, set()),  # of the same image
        (1, PLACE, 3, {2}, set()),  # with another kind of object
        (1, OTHER, 1, {2}, set()),  # elsewhere
        (1, PLACE, 1, {0, 2}, set()),  # does some of it
        (1, PLACE, 1, {2}, {0}),  # the pair does not, but its human does, with another object
    ],
)
def test_pairs_that_differ_in_something_else_are_not_compared(other):
    assert kinds(interactions((0, PLACE, 1, {0}, set()), other)) == set()


def test_for_each_pair_that_does_the_same_one_from_elsewhere_is_drawn_if_there_is_one():
    same = [(0, PLACE, 1, {0}, set()), (1, PLACE, 1, {0}, set())]
    assert (kinds(interactions(*same, (2, OTHER, 1, {0}, set()))) - {(0, 1, "same")}) < {
        (0, 2, "elsewhere"),
        (1, 2, "elsewhere"),
    }
    several = interactions(*same, *((image, OTHER, 1, {0}, set()) for image in range(2, 5)))
    drawn = [kind for _, _, kind in kinds(several)]
    assert drawn.count("same") == drawn.count("elsewhere") == 4
    assert kinds(interactions(*same)) == {(0, 1, "same")}


def test_nothing_is_compared_with_nothing():
    assert kinds(interactions()) == set()
    assert kinds(interactions((0, PLACE, 1, {0}, set()))) == set()
    empty = interactions()
    columns = distances(empty, compare_places(empty, 0.7, 0))
    assert {len(column) for column in columns.values()} == {0}


def test_distances_are_those_of_the_rows_that_are_compared():
    found = interactions((0, PLACE, 1, {0}, set()), (1, PLACE, 1, {0}, set()))
    columns = distances(found, compare_places(found, 0.7, 0))
    assert columns.keys() == {f"{kind}_{name}" for kind in ("cosine", "euclidean") for name in Vectors.__slots__}
    assert columns["euclidean_cue"].tolist() == pytest.approx([8**0.5])
    assert columns["cosine_human_token"].tolist() == pytest.approx([1 - 3 / 13**0.5])


def test_detected_pairs_do_what_is_annotated_of_boxes_that_they_overlap(small):
    batch = small.batch([small.person, small.ball, small.kite], [small.person, small.person, small.ball])
    images = [annotation(batch, 0, (0, 0, 1), (0, 1, 1), (0, 2, NO_BOX)), annotation(batch, 1, (1, 1, 2))]
    found = find_interactions(network_of(small), batch, images, [7, 9], small.vocabulary)
    boxes = batch.instances.boxes
    assert found.image.tolist() == [7, 9]
    assert torch.equal(found.human_boxes, boxes[[0, 4]])
    assert torch.equal(found.object_boxes, boxes[[1, 5]])
    assert found.does.tolist() == [[True, True, False], [False, True, False]]
    assert found.human_does.tolist() == [[True, True, True], [False, True, False]]
    assert found.objects.tolist() == [small.ball] * 2
    assert torch.allclose(found.places * torch.tensor([80.0, 64.0, 80.0, 64.0]), boxes[[0, 4]])


def test_vectors_are_the_tokens_and_the_cues_of_those_pairs(small):
    batch, network = small.batch([small.person, small.ball, small.kite]), network_of(small)
    found = find_interactions(network, batch, [annotation(batch, 0, (0, 2, 2))], [0], small.vocabulary)
    output = network(batch)
    row = (output.pairs.object == 2).nonzero()[0]
    tokens = batch.instances.tokens
    assert torch.equal(found.vectors.human_token, tokens[:1])
    assert torch.equal(found.vectors.pair_tokens, torch.cat([tokens[:1], tokens[2:]], dim=1))
    assert torch.allclose(found.vectors.cue, output.cues[row])
    assert found.vectors.cells.shape == (1, small.channels)


def test_to_interact_in_no_way_is_not_a_thing_done(small):
    batch = small.batch([small.person, small.ball])
    vocabulary = replace(small.vocabulary, dataset="hicodet", verbs=("hold", "no_interaction", "fly"))
    images = [annotation(batch, 0, (0, 1, 1))]
    assert not len(find_interactions(network_of(small), batch, images, [0], vocabulary).image)


def test_images_without_people_or_without_interactions_have_none_and_join_with_others(small):
    batch = small.batch([small.person, small.ball], [small.ball], [])
    images = [annotation(batch, image) for image in range(3)]
    nothing = find_interactions(network_of(small), batch, images, [0, 1, 2], small.vocabulary)
    assert len(nothing.image) == 0
    images[0] = annotation(batch, 0, (0, 0, 1))
    something = find_interactions(network_of(small), batch, images, [0, 1, 2], small.vocabulary)
    both = join([nothing, something])
    assert both.image.tolist() == [0]
    assert torch.equal(both.vectors.cue, something.vectors.cue)


@pytest.mark.parametrize("variant", ["plain", "boxes"])
def test_a_network_without_cues_is_refused(small, variant):
    batch = small.batch([small.person, small.ball])
    assert len(enumerate_pairs(batch, small.person)) == 1
    with pytest.raises(ValueError, match="no IRE"):
        find_interactions(network_of(small, variant), batch, [annotation(batch, 0)], [0], small.vocabulary)
