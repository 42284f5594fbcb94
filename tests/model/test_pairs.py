import math
from dataclasses import replace

import pytest
import torch

from rmlr.model.pairs import detector_prior, enumerate_pairs, pair_geometry


def as_tuples(pairs):
    return list(zip(pairs.image.tolist(), pairs.human.tolist(), pairs.object.tolist(), strict=True))


def test_every_human_goes_with_every_other_instance_of_its_image(small):
    batch = small.batch([small.person, small.person, small.ball], [small.ball], [small.person, small.kite])
    pairs = enumerate_pairs(batch, small.person)
    assert as_tuples(pairs) == [(0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 2), (2, 4, 5)]


@pytest.mark.parametrize("images", [[[]], [[0], [1, 2]], [[], []]])
def test_an_image_without_a_pair_has_none(small, images):
    batch = small.batch(*images)
    pairs = enumerate_pairs(batch, small.person)
    assert len(pairs) == 0
    assert detector_prior(batch, pairs, torch.ones(3, 2, dtype=torch.bool), 1.0).shape == (0, 2)
    assert pair_geometry(batch, pairs).shape == (0, 36)


def test_the_person_is_whatever_class_the_vocabulary_says(small):
    batch = small.batch([0, 1])
    assert as_tuples(enumerate_pairs(batch, 1)) == [(0, 1, 0)]


def test_the_prior_is_a_power_of_both_scores_where_the_verb_is_possible(small):
    batch = small.batch([small.person, small.ball, small.kite])
    batch = replace(batch, instances=replace(batch.instances, scores=torch.tensor([0.5, 0.8, 0.6])))
    is_valid_verb = torch.from_numpy(small.vocabulary.is_valid_verb)
    prior = detector_prior(batch, enumerate_pairs(batch, small.person), is_valid_verb, 2.0)
    torch.testing.assert_close(prior, torch.tensor([[0.16, 0.16, 0.0], [0.09, 0.0, 0.09]]))


def test_geometry_is_what_can_be_worked_out_by_hand(small):
    batch = small.batch([small.person, small.ball])
    boxes = torch.tensor([[0.0, 0.0, 20.0, 40.0], [10.0, 20.0, 50.0, 40.0]])
    batch = replace(
        batch,
        instances=replace(batch.instances, boxes=boxes),
        image_sizes=torch.tensor([[80.0, 100.0]]),
    )
    numbers, logarithms = pair_geometry(batch, enumerate_pairs(batch, small.person))[0].split(18)
    expected = [
        *(0.1, 0.25),  # human's centre (10, 20) in an image 100 wide and 80 high
        *(0.3, 0.375),  # object's centre (30, 30)
        *(0.2, 0.5, 0.4, 0.25),  # sizes
        *(0.1, 0.1),  # areas, 800 each of 8000
        1.0,  # ratio of the areas
        *(0.5, 2.0),  # aspect ratios
        200 / 1400,  # IoU: 10 x 20 shared
        *(1.0, 0.0, 0.25, 0.0),  # 20 to the right of a human 20 wide, 10 below one 40 high
    ]
    torch.testing.assert_close(numbers, torch.tensor(expected))
    torch.testing.assert_close(logarithms, torch.tensor([math.log(x + 1e-10) for x in expected]))


def test_geometry_does_not_know_the_scale(small):
    batch = small.batch([small.person, small.person, small.ball])
    pairs = enumerate_pairs(batch, small.person)
    doubled = replace(
        batch,
        instances=replace(batch.instances, boxes=batch.instances.boxes * 2),
        image_sizes=batch.image_sizes * 2,
    )
    torch.testing.assert_close(pair_geometry(doubled, pairs), pair_geometry(batch, pairs), atol=1e-5, rtol=1e-5)


def test_an_empty_box_has_a_finite_geometry(small):
    batch = small.batch([small.person, small.ball])
    batch = replace(batch, instances=replace(batch.instances, boxes=torch.zeros(2, 4)))
    assert pair_geometry(batch, enumerate_pairs(batch, small.person)).isfinite().all()
