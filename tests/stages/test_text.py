"""The text stage: records in, embeddings out, of train and val only."""

import json

import pytest
import torch

from rmlr.model.text import TextEmbeddings
from rmlr.settings import Encoder, TextNode
from rmlr.stages.text import text


def node(model: str = "random:6") -> TextNode:
    encoder = Encoder(name="random vectors", model=model, revision=None, sha256=None, pooling="mean")
    return TextNode(code="", encoder=encoder)


def test_annotations_of_train_and_val_become_embeddings(study, settings_of, tmp_path):
    text(settings=settings_of(node()), annotations=study.prepare, out=tmp_path / "text")
    embeddings = TextEmbeddings.load(tmp_path / "text")
    assert embeddings.image_ids.tolist() == study.image_ids["train"] + study.image_ids["val"]
    assert embeddings.phrases == ["person hold ball", "person throw ball"]
    assert len(embeddings.text_offsets) == 1 + 2  # "hold ball, point" and "throw ball, point"
    assert (~embeddings.image_words(torch.tensor([100]))[1]).sum() == 3 + 2
    metrics = json.loads((tmp_path / "text" / "run.json").read_text())["metrics"]
    assert metrics == {"phrases": 2, "image_texts": 2, "words": 10, "phrases_cut": 0}


def test_test_annotations_are_never_read(study, settings_of, tmp_path):
    text(settings=settings_of(node()), annotations=study.prepare, out=tmp_path / "text")
    with pytest.raises(ValueError, match=r"image\(s\) \[300\]"):
        TextEmbeddings.load(tmp_path / "text").image_words(torch.tensor([300]))


def test_an_encoder_that_is_not_there_leaves_nothing(study, settings_of, tmp_path):
    with pytest.raises(ValueError, match="no such package"):
        text(settings=settings_of(node("package:nowhere")), annotations=study.prepare, out=tmp_path / "text")
    assert not (tmp_path / "text").exists()
