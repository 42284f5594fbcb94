"""Frozen text encoders: those that are read, what they must hold, and where they come from."""

import hashlib
import json
import re
import sys
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmlr.model.encoders import load_encoder

from ..tiny_encoders import KINDS, save_other, save_tiny


@pytest.mark.parametrize("kind", KINDS)
def test_each_encoder_has_its_own_separator(tmp_path, kind):
    encoder = load_encoder(str(save_tiny(tmp_path, kind)), None, None)
    between = "".join(encoder._tokenizer.convert_ids_to_tokens(encoder.separator))
    assert between == ("</s></s>" if encoder._model.config.model_type == "roberta" else "[SEP]")


def test_a_roberta_keeps_the_first_positions_of_its_table_for_itself(tmp_path):
    encoder = load_encoder(str(save_tiny(tmp_path, "roberta", positions=12)), None, None)
    assert encoder.limit == 12 - 2 - 2  # those up to the padding's (1), <s>, </s>
    encoder.states([encoder.framed([4] * encoder.limit)[0]])
    with pytest.raises((IndexError, RuntimeError)):
        encoder.states([encoder.framed([4] * (encoder.limit + 1))[0]])


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

    caplog.set_level("INFO", logger="rmlr.model.encoders")
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


# ---- what is no encoder, or damaged


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("clip", "model_type 'clip' is more than a text tower; of CLIP, give the folder of a CLIPTextModel"),
        ("siglip", "model_type 'siglip' is more than a text tower"),
        ("siglip_text", "SiglipTextConfig"),
        ("t5", "model_type 't5' is an encoder with a decoder"),
        ("t5_encoder", "weights lack .*decoder"),
        ("vit", "does not encode 'person'"),
    ],
)
def test_what_is_no_encoder_of_text_is_one_clear_error(tmp_path, kind, said):
    with pytest.raises(ValueError, match=rf"{tmp_path}: .*{said}.*Expected is the folder of an encoder such as BERT"):
        load_encoder(str(save_other(tmp_path, kind)), None, None)


def test_a_number_that_is_not_finite_in_an_encoders_weights_is_named(tmp_path):
    path = save_tiny(tmp_path, "bert") / "model.safetensors"
    weights = load_file(path)
    weights["embeddings.word_embeddings.weight"][3, 2] = torch.nan
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"tensor 'embeddings\.word_embeddings\.weight' holds nan at \[3, 2\]"):
        load_encoder(str(tmp_path), None, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "bert", "hidden_size": "wide"}'),
        ("model.safetensors", b"no tensors"),
        ("tokenizer_config.json", b"\xff"),
        ("vocab.txt", None),
    ],
)
def test_a_damaged_folder_is_one_error_that_names_it(tmp_path, name, content):
    path = save_tiny(tmp_path, "bert") / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as raised:
        load_encoder(str(tmp_path), None, None)
    assert "\n" not in str(raised.value)
