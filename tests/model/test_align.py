from dataclasses import replace

import pytest
import torch
from torch import nn

from rmlr.model.align import Alignment, AnchoredWords, LiteralWords, Matched, SentenceAlignment, phrase_targets
from rmlr.model.transformer import Encoder, Layout

DIM, HIDDEN = 6, 8


def counts(text, *numbers):
    return torch.tensor(numbers) if numbers else torch.ones(len(text.phrases), dtype=torch.long)


def targets_of(text, *numbers, whiten=True, residual=False):
    return phrase_targets(text, counts(text, *numbers), whiten=whiten, residual=residual)


def matched(small, *rows: tuple[int, int, int]) -> Matched:
    """Rows of (pair, image, phrase)."""
    return Matched(*torch.tensor(rows, dtype=torch.long).reshape(-1, 3).unbind(1))


def level(small, form: str, word: bool = True, sentence: bool = True) -> Alignment:
    torch.manual_seed(0)
    if form == "literal":
        return Alignment(
            nn.Linear(DIM, HIDDEN),
            Encoder(1, HIDDEN, 2, 16, 0.0, "relu"),
            LiteralWords(HIDDEN, 2, small.text_dim) if word else None,
            SentenceAlignment(HIDDEN, HIDDEN, small.text_dim) if sentence else None,
        )
    return Alignment(
        None,
        None,
        AnchoredWords(DIM, small.text_dim, attends=form == "anchored_attention") if word else None,
        SentenceAlignment(DIM, HIDDEN, small.text_dim) if sentence else None,
    )


# ---- targets


def test_words_are_whitened_and_the_person_is_left_out(small):
    text = small.text()
    targets = targets_of(text)
    torch.testing.assert_close(targets.vocabulary.mean(0), torch.zeros(small.text_dim), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.vocabulary.std(0, correction=0), torch.ones(small.text_dim))
    for phrase in range(4):
        _, verb, object_ = targets.vocabulary[3 * phrase : 3 * phrase + 3]
        torch.testing.assert_close(targets.words[phrase], (verb + object_) / 2)


def test_sentences_are_whitened_only_when_told(small):
    text = small.text()
    assert torch.equal(targets_of(text, whiten=False).sentences[:, 0], text.sentences)
    whitened = targets_of(text).sentences[:, 0]
    torch.testing.assert_close(whitened.std(0, correction=0), torch.ones(small.text_dim))


def test_large_sentences_that_are_not_whitened_are_warned_of(small, caplog):
    text = small.text()
    large = replace(text, sentences=1000 * text.sentences)
    targets_of(text, whiten=False), targets_of(large)
    assert not caplog.messages
    targets_of(large, whiten=False)
    assert "may outweigh all others. Set alignment.whiten to true" in caplog.text


def test_equal_states_are_whitened_to_zero_and_not_to_nan(small):
    text = replace(small.text(), phrase_words=torch.ones(12, small.text_dim))
    assert torch.equal(targets_of(text).words, torch.zeros(4, small.text_dim))


def test_a_residual_does_not_contain_the_object(small):
    text = small.text()
    words, residual = targets_of(text).words, targets_of(text, residual=True).words
    for phrases in ([0, 1], [2, 3]):  # of the ball, of the kite
        torch.testing.assert_close(residual[phrases].sum(0), torch.zeros(small.text_dim), atol=1e-5, rtol=0)
        torch.testing.assert_close(residual[phrases[0]] - residual[phrases[1]], words[phrases[0]] - words[phrases[1]])


def test_floors_are_those_of_the_weighted_median(small):
    text = replace(small.text(dim=1), sentences=torch.tensor([[0.0], [4.0], [1.0], [10.0]]))
    targets = targets_of(text, 1, 1, 3, 2, whiten=False)  # seven rows: 0 1 1 1 4 10 10, median 1
    assert targets.sentence_floor.tolist() == [1, 3, 0, 9]
    assert targets.sentence_object_floor.tolist() == [0, 4, 0, 9]  # ball: 0 or 4; kite: 1, thrice


def test_no_constant_pays_less_than_the_floor(small):
    text, number = small.text(), torch.tensor([5, 1, 2, 4])
    targets = targets_of(text, *number.tolist())
    floor = (targets.word_floor * number).sum()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        constant = torch.randn(small.text_dim, generator=generator)
        assert ((targets.words - constant).abs().mean(1) * number).sum() >= floor
    assert (targets.word_object_floor * number).sum() < floor


def test_a_phrase_that_training_never_annotates_has_a_floor_all_the_same(small):
    targets = targets_of(small.text(), 0, 0, 3, 1)
    assert targets.word_object_floor.isfinite().all()


def test_targets_move_with_the_module_and_are_not_saved(small):
    targets = targets_of(small.text())
    assert not targets.state_dict()
    assert len(list(targets.buffers())) == 9


# ---- terms


@pytest.mark.parametrize("several", [False, True])
def test_with_one_target_for_a_pair_its_rows_have_the_mean_of_their_texts(small, several):
    text = small.text()
    if several:
        text = replace(text, sentences=torch.randn(6, small.text_dim), sentence_counts=[1, 2, 1, 2])
    targets = targets_of(text)
    align = level(small, "anchored")
    align.of_pair = True
    features = torch.randn(3, DIM)
    rows = matched(small, (0, 0, 1), (1, 0, 0), (1, 0, 2), (1, 0, 3), (2, 1, 2))
    sentence, word = align(features, Layout.of_rows(torch.tensor([0, 0, 1]), 2), rows, targets, None)
    said = torch.stack(
        [of_phrase[w > 0].mean(0) for of_phrase, w in zip(targets.sentences, targets.sentence_weights, strict=True)]
    )
    for term, head, texts in ((sentence, align.sentence, said), (word, align.word, targets.words)):
        predicted = head(features) if head is align.sentence else head(features, targets.vocabulary)
        expected = 3 * (predicted[1] - texts[[0, 2, 3]].mean(0)).abs().mean()
        expected += (predicted[0] - texts[1]).abs().mean() + (predicted[2] - texts[2]).abs().mean()
        torch.testing.assert_close(term.loss, expected)
        assert term.floor is None


def test_a_vector_can_be_equal_to_the_one_target_of_its_pair_and_not_to_two(small):
    rows, targets = matched(small, (0, 0, 0), (0, 0, 1)), targets_of(small.text())
    layout = Layout.of_rows(torch.tensor([0]), 1)
    least = {}
    for of_pair in (False, True):
        align = level(small, "anchored", sentence=False)
        align.of_pair = of_pair
        found = []
        optimizer = torch.optim.Adam(align.parameters(), lr=0.03)
        for _ in range(400):
            _, word = align(torch.ones(1, DIM), layout, rows, targets, None)
            optimizer.zero_grad()
            word.loss.backward()
            optimizer.step()
            found.append(word.loss.item())
        least[of_pair] = min(found)
    between = (targets.words[0] - targets.words[1]).abs().mean().item()
    assert least[False] == pytest.approx(between, rel=0.01), "the distance of the two texts, at least"
    assert least[True] < 0.2 * between


@pytest.mark.parametrize("form", ["anchored", "anchored_attention", "literal"])
def test_no_row_means_no_loss_and_no_gradient(small, form):
    text = small.text()
    align, features = level(small, form), torch.randn(3, DIM, requires_grad=True)
    layout = Layout.of_rows(torch.tensor([0, 1, 1]), 2)
    words = text.image_words(torch.tensor([0, 1]))
    terms = align(features, layout, matched(small), targets_of(text), words)
    loss = sum(term.loss for term in terms)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(features.grad, torch.zeros(3, DIM))
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in align.parameters())


@pytest.mark.parametrize("form", ["anchored", "anchored_attention", "literal"])
def test_neither_pairs_nor_words_are_needed_for_a_graph(small, form):
    text = small.text()
    align, features = level(small, form), torch.zeros(0, DIM, requires_grad=True)
    layout = Layout.of_rows(torch.zeros(0, dtype=torch.long), 1)
    terms = align(features, layout, matched(small), targets_of(text), text.image_words(torch.tensor([0])))
    sum(term.loss for term in terms).backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in align.parameters())


def test_anchored_terms_are_the_l1_distance_to_the_rows_own_phrase(small):
    targets = targets_of(small.text())
    align, features = level(small, "anchored"), torch.randn(3, DIM)
    layout = Layout.of_rows(torch.tensor([0, 1, 1]), 2)
    sentence, word = align(features, layout, matched(small, (0, 0, 2), (2, 1, 0), (2, 1, 3)), targets, None)
    rows, phrases = features[[0, 2, 2]], [2, 0, 3]
    expected = (align.word.to_text(rows) - targets.words[phrases]).abs().sum() / small.text_dim
    torch.testing.assert_close(word.loss, expected)
    expected = (align.sentence(rows) - targets.sentences[phrases, 0]).abs().sum() / small.text_dim
    torch.testing.assert_close(sentence.loss, expected)
    torch.testing.assert_close(word.floor, targets.word_floor[phrases].sum())
    torch.testing.assert_close(sentence.object_floor, targets.sentence_object_floor[phrases].sum())


def several_sentences(text, counts: list[int]):
    """The same phrases, but so many sentences of each."""
    sentences = torch.randn(sum(counts), text.sentence_dim, generator=torch.Generator().manual_seed(1))
    return replace(text, sentences=sentences, sentence_counts=counts)


def test_the_distance_to_several_sentences_is_the_mean_over_them(small):
    text = several_sentences(small.text(), [1, 3, 2, 1])
    align, features = level(small, "anchored", word=False), torch.randn(3, DIM)
    layout = Layout.of_rows(torch.zeros(3, dtype=torch.long), 1)
    phrases, first = [2, 1, 0], [0, 1, 4, 6]
    rows = matched(small, *((pair, 0, phrase) for pair, phrase in enumerate(phrases)))
    term, _ = align(features, layout, rows, targets_of(text, whiten=False), None)
    predicted = align.sentence(features)
    expected = sum(
        (predicted[pair] - text.sentences[first[phrase] + k]).abs().mean() / text.sentence_counts[phrase]
        for pair, phrase in enumerate(phrases)
        for k in range(text.sentence_counts[phrase])
    )
    torch.testing.assert_close(term.loss, expected)


def test_one_sentence_of_each_phrase_told_as_several_changes_no_bit(small):
    text = small.text()
    several = replace(text, sentence_counts=[1] * 4)
    for one, other in zip(targets_of(text).buffers(), targets_of(several).buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_floor_of_several_sentences_is_what_the_best_constant_pays(small):
    """Every sentence counts as its phrase's share: here the medians of the whole list, as all phrases occur alike."""
    text = several_sentences(small.text(), [2, 2, 2, 2])
    median = text.sentences.sort(0).values[3]
    expected = (text.sentences - median).abs().mean(1).view(4, 2).mean(1)
    torch.testing.assert_close(targets_of(text, whiten=False).sentence_floor, expected)


def test_only_rows_that_vary_come_below_the_floor(small):
    """Learning moves the row's projection alone; a row that does not depend on its phrase cannot do it."""
    text = small.text()
    targets = targets_of(text)
    layout = Layout.of_rows(torch.zeros(4, dtype=torch.long), 1)
    rows = matched(small, (0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3))
    gains = []
    for features in (torch.ones(4, DIM), torch.eye(4, DIM)):
        align = level(small, "anchored")
        optimiser = torch.optim.Adam(align.parameters(), 0.05)
        for _ in range(200):
            _, word = align(features, layout, rows, targets, None)
            optimiser.zero_grad()
            word.loss.backward()
            optimiser.step()
        gains.append(1 - (word.loss / word.floor).item())
    assert gains[0] <= 0
    assert gains[1] > 0.5


def test_attention_over_the_vocabulary_finds_a_word(small):
    vocabulary = 3 * torch.eye(small.text_dim)
    words = AnchoredWords(small.text_dim, small.text_dim, attends=True)
    nn.init.eye_(words.to_text.weight)
    nn.init.zeros_(words.to_text.bias)
    rows = 100 * torch.eye(small.text_dim)[2:3]
    torch.testing.assert_close(words(rows, vocabulary), vocabulary[2:3])


def test_spread_distinguishes_constant_rows_from_rows_that_differ_only_between_images(small):
    targets = targets_of(small.text())
    align = level(small, "anchored", sentence=False)
    layout = Layout.of_rows(torch.tensor([0, 0, 1, 1]), 2)
    rows = matched(small, (0, 0, 0), (1, 0, 1), (2, 1, 2), (3, 1, 3))
    one, two = torch.randn(2, DIM)
    _, constant = align(one.expand(4, DIM), layout, rows, targets, None)
    assert constant.spread.item() == pytest.approx(0, abs=1e-5)
    _, between = align(torch.stack([one, one, two, two]), layout, rows, targets, None)
    expected = 4 * align.word.to_text(torch.stack([one, two])).std(0, correction=0).square().mean().sqrt()
    torch.testing.assert_close(between.spread, expected)
    assert between.spread_within.item() == pytest.approx(0, abs=1e-5)


# ---- literal


def test_literal_words_are_one_attention_to_the_words_of_the_rows_image(small):
    torch.manual_seed(0)
    text, words = small.text(), LiteralWords(HIDDEN, 2, small.text_dim)
    for parameter in words.parameters():
        nn.init.normal_(parameter)
    reference = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([words.to_query.weight, words.to_key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([words.to_query.bias, words.to_key_value.bias]))
    reference.out_proj = words.mix
    rows, image = torch.randn(4, HIDDEN), torch.tensor([0, 1, 3, 3])
    found = words(rows, image, *text.image_words(torch.arange(4)))
    for row, position, expected in zip(rows, image, found, strict=True):
        own = text.text_words[text.text_offsets[position] : text.text_offsets[position + 1]]
        said = words.reduce(own if len(own) else torch.zeros(1, small.text_dim))  # image 0 has no words
        torch.testing.assert_close(reference(row[None], said, said)[0][0], expected, atol=1e-4, rtol=1e-4)


def test_a_row_in_an_image_without_words_is_finite_both_ways(small):
    text, align = small.text(), level(small, "literal")
    features = torch.randn(3, DIM, requires_grad=True)
    layout = Layout.of_rows(torch.tensor([0, 1, 1]), 2)
    terms = align(
        features, layout, matched(small, (0, 0, 0), (2, 1, 1)), targets_of(text), text.image_words(torch.arange(2))
    )
    sum(term.loss for term in terms).backward()
    assert features.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in align.parameters())


def test_literal_word_alignment_has_a_constant_solution(small):
    """The paper's reading: true and shuffled words alike are reached by rows that no longer tell pairs apart."""
    text = small.text()
    targets, words = targets_of(text), text.image_words(torch.tensor([2, 3]))
    align = level(small, "literal", sentence=False)
    torch.manual_seed(0)
    features = torch.randn(6, DIM)
    layout = Layout.of_rows(torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    rows = matched(small, *[(pair, pair // 3, pair % 4) for pair in range(6)])
    optimiser = torch.optim.Adam(align.parameters(), 0.01)
    history = []
    for _ in range(300):
        _, word = align(features, layout, rows, targets, words)
        history.append(word)
        optimiser.zero_grad()
        word.loss.backward()
        optimiser.step()
    assert word.loss < 0.1 * history[0].loss
    assert word.floor is None
