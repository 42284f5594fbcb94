"""The text stage: records in, embeddings out, of train and val only."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from rmlr.model.text import TextEmbeddings
from rmlr.stages.text import text
from rmlr.study.encoder import Encoder
from rmlr.study.nodes import TextNode


def node(model: str = "random:6", sha256: str | None = None) -> TextNode:
    encoder = Encoder(name="random vectors", model=model, revision=None, sha256=sha256, pooling="mean")
    return TextNode(code="", encoder=encoder)


def save_bert(folder: Path) -> str:
    """A tiny one, as files; gives the digest of its weights."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "person", "hold", "throw", "point", "ball"]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=7, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_annotations_of_train_and_val_become_embeddings(study, settings_of, tmp_path):
    text(settings=settings_of(node()), annotations=study.prepare, out=tmp_path / "text")
    embeddings = TextEmbeddings.load(tmp_path / "text")
    assert embeddings.image_ids.tolist() == study.image_ids["train"] + study.image_ids["val"]
    assert embeddings.phrases == ["person hold ball", "person throw ball"]
    assert len(embeddings.text_offsets) == 1 + 2  # "hold ball, point" and "throw ball, point"
    assert (~embeddings.image_words(torch.tensor([100]))[1]).sum() == 3 + 2
    metrics = json.loads((tmp_path / "text" / "run.json").read_text())["metrics"]
    assert metrics == {"phrases": 2, "image_texts": 2, "words": 10, "phrases_cut": 0}


def test_an_encoder_from_a_folder_is_known_by_its_digest_and_what_does_not_fit_is_counted(
    study, settings_of, tmp_path, caplog
):
    digest = save_bert(tmp_path / "bert")
    chosen = node(str(tmp_path / "bert"), digest)
    for out in ("text", "again"):
        text(settings=settings_of(chosen), annotations=study.prepare, out=tmp_path / out)
    embeddings = TextEmbeddings.load(tmp_path / "text")
    assert (embeddings.model, embeddings.digest, embeddings.word_dim) == (str(tmp_path / "bert"), digest, 8)
    first, second = (tmp_path / out / "embeddings.safetensors" for out in ("text", "again"))
    assert first.read_bytes() == second.read_bytes()
    metrics = json.loads((tmp_path / "text" / "run.json").read_text())["metrics"]
    assert metrics["phrases_cut"] == embeddings.cut == len(embeddings.image_ids)  # of 5 tokens, 3 + 1 + 2 are too many
    assert f"{embeddings.cut} phrases of image texts did not fit" in caplog.text


def with_sentences(**how) -> TextNode:
    node_ = node(how.pop("model", "random:6"))
    return node_.model_copy(update={"encoder": Encoder.model_validate(node_.encoder.model_dump() | how)})


def test_sentences_come_from_a_template_or_from_a_file_whose_digest_is_recorded(study, settings_of, tmp_path):
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"person hold ball": ["a", "b"], "person throw ball": "c"}))
    chosen = {
        "plain": node(),
        "template": with_sentences(prompt="a photo of a person {verb} a {object}"),
        "file": with_sentences(descriptions=str(said)),
        "each": with_sentences(descriptions=str(said), several="each"),
    }
    made = {}
    for name, one in chosen.items():
        text(settings=settings_of(one), annotations=study.prepare, out=tmp_path / name)
        made[name] = TextEmbeddings.load(tmp_path / name)
        assert made[name].phrases == ["person hold ball", "person throw ball"]
        assert torch.equal(made[name].phrase_words, made["plain"].phrase_words)
    assert made["each"].sentence_counts == [2, 1]
    assert len({tuple(one.sentences.mean(0).tolist()) for one in made.values()}) == 4
    assert str(said) in json.loads((tmp_path / "file" / "run.json").read_text())["inputs"]


def test_a_file_that_does_not_fit_leaves_nothing(study, settings_of, tmp_path):
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"person hold ball": "a"}))
    with pytest.raises(ValueError, match=r"said\.json: has no sentence for 'person throw ball'"):
        text(settings=settings_of(with_sentences(descriptions=str(said))), annotations=study.prepare,
             out=tmp_path / "text")  # fmt: skip
    assert not (tmp_path / "text").exists()


def test_weights_of_another_digest_leave_nothing(study, settings_of, tmp_path):
    save_bert(tmp_path / "bert")
    with pytest.raises(ValueError, match="but the settings say 000"):
        text(settings=settings_of(node(str(tmp_path / "bert"), "0" * 64)), annotations=study.prepare,
             out=tmp_path / "text")  # fmt: skip
    assert not (tmp_path / "text").exists()


def test_test_annotations_are_never_read(study, settings_of, tmp_path):
    text(settings=settings_of(node()), annotations=study.prepare, out=tmp_path / "text")
    with pytest.raises(ValueError, match=r"image\(s\) \[300\]"):
        TextEmbeddings.load(tmp_path / "text").image_words(torch.tensor([300]))


def test_an_encoder_that_is_not_there_leaves_nothing(study, settings_of, tmp_path):
    with pytest.raises(ValueError, match="no such package"):
        text(settings=settings_of(node("package:nowhere")), annotations=study.prepare, out=tmp_path / "text")
    assert not (tmp_path / "text").exists()
