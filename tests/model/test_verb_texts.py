"""Cosines of the texts of verbs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rmlr.model.text import TextEmbeddings
from rmlr.model.verb_texts import verb_cosines


def embeddings(sentences, phrase_of, counts=None) -> TextEmbeddings:
    sentences = torch.tensor(sentences, dtype=torch.float32)
    phrases = len(counts) if counts else len(sentences)
    return TextEmbeddings(
        encoder="made up",
        model="made up",
        revision=None,
        digest="",
        cut=0,
        phrases=[str(number) for number in range(phrases)],
        sentences=sentences,
        phrase_of=torch.tensor(phrase_of),
        phrase_words=torch.zeros(0, 2),
        phrase_offsets=torch.zeros(phrases + 1, dtype=torch.long),
        phrase_parts=torch.zeros(0, dtype=torch.long),
        text_words=torch.zeros(0, 2),
        text_offsets=torch.zeros(1, dtype=torch.long),
        image_ids=torch.zeros(0, dtype=torch.long),
        text_of_image=torch.zeros(0, dtype=torch.long),
        sentence_counts=counts,
    )


def test_a_verbs_text_is_the_mean_of_its_phrases_less_that_of_all_verbs():
    text = embeddings([[3.0, 1.0], [1.0, 1.0], [0.0, 1.0], [-2.0, 1.0], [-1.0, 4.0]], [[0, 1], [2, -1], [3, 4]])
    verbs = np.array([[2.0, 1.0], [0.0, 1.0], [-1.5, 2.5]])
    verbs -= verbs.mean(0)
    verbs /= np.linalg.norm(verbs, axis=1)[:, None]
    assert verb_cosines(text) == pytest.approx(verbs @ verbs.T, abs=1e-6)


def test_several_sentences_of_a_phrase_count_as_their_mean():
    one = embeddings([[1.0, 0.0], [0.0, 1.0], [-1.0, -2.0]], [[0], [1], [2]])
    several = embeddings([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [-1.0, -2.0]], [[0], [1], [2]], [2, 1, 1])
    assert verb_cosines(several) == pytest.approx(verb_cosines(one))


def test_a_verb_without_a_phrase_is_like_no_other():
    found = verb_cosines(embeddings([[1.0, 0.0], [0.0, 1.0]], [[0], [-1], [1]]))
    assert found[1].tolist() == [0.0, 0.0, 0.0]
    assert found[0, 2] == pytest.approx(-1.0)


def test_a_text_without_phrases_has_no_cosines():
    text = replace(embeddings([[1.0, 0.0]], [[-1], [-1]]), phrases=[], sentences=torch.zeros(0, 2))
    assert verb_cosines(text).tolist() == [[0.0, 0.0], [0.0, 0.0]]
