from dataclasses import replace

import pytest
import torch

from rmlr.hoi.batch import Truth
from rmlr.model.align import Alignment, AnchoredWords, LiteralWords, phrase_targets
from rmlr.model.losses import Objective, assign_targets, focal_loss, means
from rmlr.model.pairs import enumerate_pairs
from rmlr.model.reason import Output
from rmlr.study.settings import Losses

WEIGHTS = Losses(
    focal_balance=0.5, focal_gamma=0.2, hoi=2.0, irm_sentence=1.0, irm_word=0.5, ire_sentence=0.1, ire_word=0.1
)
DIM = 6


def rows_of(batch, truth, person):
    pairs = enumerate_pairs(batch, person)
    rows = assign_targets(batch, pairs, truth)
    return [
        (int(pairs.human[pair]), int(pairs.object[pair]), int(true))
        for pair, true in zip(rows.pair, rows.truth, strict=True)
    ]


# ---- target assignment


def test_a_pair_gets_every_interaction_whose_two_boxes_it_overlaps(small):
    batch = small.batch([0, 0, 1], [0, 1])
    boxes = torch.tensor([[0, 0, 10, 10], [40, 0, 50, 10], [20, 0, 30, 10], [0, 0, 10, 10], [20, 0, 30, 10]]).float()
    batch = replace(batch, instances=replace(batch.instances, boxes=boxes))
    truth = small.truth(batch, (0, 0, 2), (0, 1, 2), (3, 1, 4))
    assert rows_of(batch, truth, small.person) == [(0, 2, 0), (0, 2, 1), (3, 4, 2)]


def test_half_an_overlap_matches_and_less_does_not(small):
    batch = small.batch([0, 1])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    batch = replace(batch, instances=replace(batch.instances, boxes=boxes))
    truth = small.truth(batch, (0, 0, 1))
    assert rows_of(batch, replace(truth, human_boxes=torch.tensor([[0.0, 0.0, 10.0, 20.0]])), 0) == [(0, 1, 0)]
    assert rows_of(batch, replace(truth, human_boxes=torch.tensor([[0.0, 0.0, 10.0, 20.5]])), 0) == []
    assert rows_of(batch, replace(truth, object_boxes=torch.tensor([[26.0, 0.0, 36.0, 10.0]])), 0) == []


def test_the_objects_class_does_not_matter_for_a_match(small):
    batch = small.batch([0, 1])
    truth = small.truth(batch, (0, 0, 1))
    assert rows_of(batch, replace(truth, objects=torch.tensor([small.kite])), small.person) == [(0, 1, 0)]


@pytest.mark.parametrize("images", [[[]], [[1], []], [[0, 1], [0, 0, 2]]])
def test_without_truth_or_pairs_there_are_no_rows(small, images):
    batch = small.batch(*images)
    assert rows_of(batch, small.truth(batch), small.person) == []


# ---- focal loss


def naive(logits, prior, is_true, balance, gamma):
    """Equation 21 as it stands, in double precision, entry by entry."""
    total = logits.new_zeros(())
    for x, weight, yes in zip(logits.flatten(), prior.flatten(), is_true.flatten(), strict=True):
        if weight > 0:
            p = x.sigmoid() * weight
            p, factor = (p, balance) if yes else (1 - p, 1 - balance)
            total = total - factor * (1 - p) ** gamma * p.log()
    return total


def test_the_focal_loss_is_the_formula(small):
    torch.manual_seed(0)
    logits = (3 * torch.randn(5, 4, dtype=torch.float64)).requires_grad_()
    prior = torch.rand(5, 4, dtype=torch.float64)
    prior[0, 0], prior[1] = 1.0, 0.0
    is_true = torch.rand(5, 4) < 0.4
    expected = naive(logits, prior, is_true, 0.3, 0.2)
    found = focal_loss(logits, prior, is_true, 0.3, 0.2)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits)[0], torch.autograd.grad(expected, logits)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("logit", [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("prior", [1e-30, 1e-3, 0.5, 1 - 1e-7, 1.0])
@pytest.mark.parametrize("is_true", [True, False])
def test_the_focal_loss_and_its_gradient_stay_finite(logit, prior, is_true):
    logits = torch.tensor([[logit]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[prior]]), torch.tensor([[is_true]]), 0.5, 0.2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert loss >= 0
    assert gradient.isfinite().all()
    assert gradient.abs() <= 1.1 * max(1.0, loss.item())


def test_an_entry_without_a_prior_has_neither_loss_nor_gradient():
    logits = torch.tensor([[1.0, 2.0]], requires_grad=True)
    is_true = torch.tensor([[False, True]])
    loss = focal_loss(logits, torch.tensor([[0.5, 0.0]]), is_true, 0.5, 0.2)
    torch.testing.assert_close(loss, focal_loss(logits[:, :1], torch.tensor([[0.5]]), is_true[:, :1], 0.5, 0.2))
    assert torch.autograd.grad(loss, logits)[0][0, 1] == 0


def test_no_pairs_have_no_focal_loss():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = focal_loss(logits, torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool), 0.5, 0.2)
    loss.backward()
    assert loss.item() == 0


# ---- the objective


def objective(small, *, literal: bool = False, aligned: bool = True) -> Objective:
    torch.manual_seed(0)
    text = small.text()
    word = LiteralWords(DIM, 2, small.text_dim) if literal else AnchoredWords(DIM, small.text_dim, attends=False)
    return Objective(
        person=small.person,
        is_valid_verb=torch.from_numpy(small.vocabulary.is_valid_verb),
        focal_balance=0.5,
        focal_gamma=0.2,
        irm=Alignment(None, None, word, None) if aligned else None,
        ire=None,
        targets=phrase_targets(text, torch.ones(4, dtype=torch.long), whiten=True, residual=False) if aligned else None,
    )


def output_of(small, batch, features) -> Output:
    """As a network would have answered: each pair's vector stands under the index of its two instances."""
    pairs = enumerate_pairs(batch, small.person)
    reasoned = features[pairs.human] - features[pairs.object].flip(1)
    return Output(pairs, reasoned[:, : len(small.vocabulary.verbs)], None, reasoned)


def test_sums_of_images_are_the_sums_of_their_batch(small):
    batch = small.batch([0, 0, 1, 2], [1], [0, 2])
    truth = small.truth(batch, (0, 0, 2), (0, 1, 2), (1, 2, 3), (5, 2, 6))
    features, ask = torch.randn(7, DIM), objective(small)
    together = ask(output_of(small, batch, features), batch, truth, None).sums()
    apart = []
    for image in range(3):
        own = truth.image == image
        part = Truth(*(getattr(truth, name)[own] for name in ("human_boxes", "object_boxes", "verbs", "objects")),
                     image=torch.zeros(int(own.sum()), dtype=torch.long))  # fmt: skip
        alone = small.image_of(batch, image)
        output = output_of(small, alone, features[batch.instance_image == image])
        apart.append(ask(output, alone, part, None).sums())
    assert together["rows"] == 4
    assert together["positives"] == 4
    for name in ("hoi", "positives", "rows", "irm_word", "irm_word_floor", "irm_word_object_floor"):
        torch.testing.assert_close(together[name], sum(sums[name] for sums in apart), rtol=1e-5, atol=1e-5)


def test_counting_needs_no_network(small):
    batch = small.batch([0, 0, 1, 2], [0, 1])
    truth = small.truth(batch, (0, 0, 2), (1, 0, 0), (4, 1, 5))  # nothing valid is done to a person
    ask = objective(small, aligned=False)
    counts = ask(output_of(small, batch, torch.randn(6, DIM)), batch, truth, None).counts
    assert (counts.positives, counts.rows) == (2, 3)
    assert ask.count(batch, truth) == counts


def test_the_total_is_the_weighted_sum_of_the_means(small):
    batch = small.batch([0, 1, 2])
    truth = small.truth(batch, (0, 0, 1), (0, 2, 2))
    terms = objective(small)(output_of(small, batch, torch.randn(3, DIM)), batch, truth, None)
    expected = 2.0 * terms.hoi / 5 + 0.5 * terms.irm_word.loss / 4
    torch.testing.assert_close(terms.total(WEIGHTS, 5, 4), expected)
    logged = means({name: value.item() for name, value in terms.sums().items()})
    assert logged["hoi"] == pytest.approx(terms.hoi.item() / 2)
    assert logged["irm_word"] == pytest.approx(terms.irm_word.loss.item() / 2)
    assert logged["irm_word_gain"] == pytest.approx(1 - (terms.irm_word.loss / terms.irm_word.floor).item())
    assert "ire_word" not in logged


def test_means_of_nothing_are_zero():
    assert means({"hoi": 0.0, "positives": 0.0, "rows": 0.0, "irm_word": 0.0, "irm_word_spread": 0.0,
                  "irm_word_spread_within": 0.0, "irm_word_floor": 0.0}) == {
        "hoi": 0.0, "irm_word": 0.0, "irm_word_spread": 0.0, "irm_word_spread_within": 0.0}  # fmt: skip


def test_a_pair_that_does_one_thing_twice_is_one_positive_and_two_rows(small):
    batch = small.batch([0, 1])
    truth = small.truth(batch, (0, 0, 1), (0, 0, 1))
    counts = objective(small).count(batch, truth)
    assert (counts.positives, counts.rows) == (1, 2)


def test_an_interaction_without_a_phrase_is_an_error_that_names_it(small):
    batch = small.batch([0, 1])
    truth = small.truth(batch, (0, 2, 1))  # to fly a ball
    with pytest.raises(ValueError, match="verb 2 with object class 1"):
        objective(small)(output_of(small, batch, torch.randn(2, DIM)), batch, truth, None)


def test_literal_word_alignment_requires_the_text(small):
    batch = small.batch([0, 1])
    truth, output = small.truth(batch, (0, 0, 1)), output_of(small, batch, torch.randn(2, DIM))
    with pytest.raises(ValueError, match="give the text embeddings"):
        objective(small, literal=True)(output, batch, truth, None)
    assert objective(small, literal=True)(output, batch, truth, small.text()).irm_word.loss > 0


def test_without_alignment_only_the_verbs_are_learnt(small):
    batch = small.batch([0, 1])
    ask = objective(small, aligned=False)
    terms = ask(output_of(small, batch, torch.randn(2, DIM)), batch, small.truth(batch, (0, 2, 1)), None)
    assert not list(ask.parameters())
    assert set(terms.sums()) == {"hoi", "positives", "rows"}
