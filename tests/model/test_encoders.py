"""Frozen text encoders: those that are read, what they must hold, and where they come from."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rmlr.model.encoders import load_encoder

from ..tiny_encoders import KINDS, save_other, save_tiny


@pytest.mark.parametrize("kind", KINDS)
def test_each_encoder_has_its_own_separator(tmp_path, kind):
    encoder = load_encoder(str(save_tiny(tmp_path, kind)), None, None, "mean")
    between = "".join(encoder._tokenizer.convert_ids_to_tokens(encoder.separator))
    assert between == ("</s></s>" if encoder._model.config.model_type == "roberta" else "[SEP]")


def test_a_roberta_keeps_the_first_positions_of_its_table_for_itself(tmp_path):
    encoder = load_encoder(str(save_tiny(tmp_path, "roberta", positions=12)), None, None, "mean")
    assert encoder.limit == 12 - 2 - 2  # those up to the padding's (1), <s>, </s>
    encoder.encode([encoder.framed([4] * encoder.limit)[0]])
    with pytest.raises((IndexError, RuntimeError)):
        encoder.encode([encoder.framed([4] * (encoder.limit + 1))[0]])


def test_weights_of_another_digest_are_refused(tmp_path):
    folder = save_tiny(tmp_path, "bert")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert load_encoder(str(folder), None, digest, "mean").digest == digest
    with pytest.raises(ValueError, match=f"sha256 is {digest}, but the settings say"):
        load_encoder(str(folder), None, "0" * 64, "mean")


def test_weights_of_another_architecture_are_refused(tmp_path):
    folder = save_tiny(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"weights are missing: .*encoder\.layer\.1"):
        load_encoder(str(folder), None, None, "mean")


def test_a_packages_folder_is_found_without_running_the_package(tmp_path, monkeypatch):
    package = tmp_path / "ships_a_bert"
    save_tiny(package / "inside" / "model", "bert")
    (package / "__init__.py").write_text("raise RuntimeError('run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_encoder("package:ships_a_bert", None, None, "mean").dim == 8
    assert "ships_a_bert" not in sys.modules


def test_a_hub_id_is_asked_for_at_its_revision(tmp_path, monkeypatch):
    folder, asked = save_tiny(tmp_path, "bert"), []

    def snapshot_download(model, *, revision, allow_patterns):
        asked.append((model, revision, allow_patterns[-1]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load_encoder("someone/bert", "abc123", None, "mean").dim == 8
    assert asked == [("someone/bert", "abc123", "model*.safetensors")]


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
    assert load_encoder("someone/bert", commit, None, "mean").dim == 8
    assert not caplog.text
    assert load_encoder("someone/bert", "main", None, "mean").dim == 8
    assert f"revision main, is commit {commit} now" in caplog.text


@pytest.mark.parametrize(("revision", "option"), [(None, ""), ("abc123", " --revision abc123")])
def test_a_hub_id_that_is_nowhere_is_one_error_that_says_what_to_do(tmp_path, monkeypatch, revision, option):
    hub_cache(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=rf"'someone/bert' \(revision {revision}\): not a local folder") as raised:
        load_encoder("someone/bert", revision, None, "mean")
    assert f"run `hf download someone/bert{option}`; or name a folder" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "some/where/else"])
def test_a_folder_that_is_not_there_is_not_asked_for_at_the_hub(model, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(ValueError, match="the folder does not exist"):
        load_encoder(model, None, None, "mean")


def test_published_weights_of_pretraining_give_their_encoder_and_leave_their_heads(tmp_path, caplog):
    """As google/mobilebert-uncased comes: pytorch_model.bin, every tensor below `mobilebert.`, heads beside it."""
    from transformers import AutoConfig, MobileBertForPreTraining

    caplog.set_level("INFO", logger="rmlr.model.encoders")
    folder = save_tiny(tmp_path, "mobilebert")
    base = load_encoder(str(folder), None, None, "mean")
    whole = MobileBertForPreTraining(AutoConfig.from_pretrained(folder))
    whole.mobilebert.load_state_dict(base._model.state_dict(), strict=False)
    (folder / "model.safetensors").unlink()
    torch.save(whole.state_dict(), folder / "pytorch_model.bin")
    encoder = load_encoder(str(folder), None, None, "mean")
    ids = encoder.framed([5, 6])[0]
    assert torch.equal(encoder.encode([ids])[0], base.encode([ids])[0])
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
        load_encoder(model, None, None, "mean")


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no weights"):
        load_encoder(str(tmp_path), None, None, "mean")


# ---- other towers

TEXTS = ["person hit sports ball", "person talk on phone with bat"]  # of different lengths
PAIRS = ["clip", "siglip", "siglip2"]
TOWERS = ["clip_text", "clip_projection", "siglip_text"]
ENCODERS = ["t5", "t5_encoder", "bart", "gpt2"]


def vectors(encoder, texts=TEXTS) -> torch.Tensor:
    """The pooled vector of each text, encoded alone."""
    return torch.cat([encoder.encode([encoder.framed(encoder.tokens(text))[0]])[1] for text in texts])


def library_inputs(folder: Path, text: str, kind: str) -> dict[str, torch.Tensor]:
    """A text as the library's documentation has it tokenised for a kind of network."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 32} if kind.startswith("siglip") else {}
    return dict(tokenizer([text], return_tensors="pt", **padding))


@pytest.mark.parametrize("kind", PAIRS)
def test_eos_of_a_pair_is_the_librarys_own_text_feature(tmp_path, kind):
    save_other(tmp_path, kind)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    expected = torch.cat([model.get_text_features(**library_inputs(tmp_path, t, kind)).pooler_output for t in TEXTS])
    encoder = load_encoder(str(tmp_path), None, None, "eos")
    torch.testing.assert_close(vectors(encoder), expected, rtol=0, atol=1e-5)
    assert (encoder.dim, encoder.sentence_dim) == (8, 6 if kind == "clip" else 8)
    assert (expected[0] - expected[1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", TOWERS)
def test_eos_of_a_text_tower_is_its_own_pooled_output(tmp_path, kind):
    save_other(tmp_path, kind)
    network = {"clip_text": transformers.CLIPTextModel, "siglip_text": transformers.SiglipTextModel}
    model = network.get(kind, transformers.CLIPTextModelWithProjection).from_pretrained(tmp_path).eval()
    outputs = [model(**library_inputs(tmp_path, text, kind)) for text in TEXTS]
    expected = torch.cat(
        [getattr(out, "text_embeds" if kind == "clip_projection" else "pooler_output") for out in outputs]
    )
    torch.testing.assert_close(vectors(load_encoder(str(tmp_path), None, None, "eos")), expected, rtol=0, atol=1e-5)


def test_an_early_version_that_gives_the_text_feature_alone_gives_the_same(tmp_path, monkeypatch):
    save_other(tmp_path, "clip")
    encoder = load_encoder(str(tmp_path), None, None, "eos")
    batch = [encoder.framed(encoder.tokens(TEXTS[0]))[0]]
    expected, features = encoder.encode(batch), encoder._model.get_text_features
    monkeypatch.setattr(encoder._model, "get_text_features", lambda **inputs: features(**inputs).pooler_output)
    for found, other in zip(encoder.encode(batch), expected, strict=True):
        assert torch.equal(found, other)


@pytest.mark.parametrize("pooling", ["mean", "eos"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_without_cls_is_pooled_by_mean_or_its_last_token(tmp_path, kind, pooling):
    save_other(tmp_path, kind)
    model = transformers.AutoModel.from_pretrained(tmp_path) if kind in ("bart", "gpt2") else None
    model = model or transformers.T5EncoderModel.from_pretrained(tmp_path)
    network = model.get_encoder() if kind == "bart" else model
    network.eval()
    states = [network(**library_inputs(tmp_path, text, kind)).last_hidden_state[0] for text in TEXTS]
    expected = torch.stack([text.mean(0) if pooling == "mean" else text[-1] for text in states])
    torch.testing.assert_close(vectors(load_encoder(str(tmp_path), None, None, pooling)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [*PAIRS, *TOWERS, *ENCODERS])
def test_states_are_those_of_the_texts_own_tokens(tmp_path, kind):
    """Padding of a fixed length is read by SigLIP and left out of what it gives."""
    encoder = load_encoder(str(save_other(tmp_path, kind)), None, None, "mean")
    sequence, where = encoder.framed(encoder.tokens(TEXTS[0]))
    states, mean = encoder.encode([sequence])
    assert states.shape == (1, len(sequence), encoder.dim)
    assert list(sequence[where]) == encoder.tokens(TEXTS[0])
    torch.testing.assert_close(mean, states.mean(1))
    assert encoder.limit <= 32


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_reads_texts_padded_to_its_fixed_length(tmp_path, kind):
    save_other(tmp_path, kind)
    encoder = load_encoder(str(tmp_path), None, None, "eos")
    found = vectors(encoder)
    encoder._padded_length = max(len(encoder.framed(encoder.tokens(text))[0]) for text in TEXTS)
    assert (vectors(encoder) - found).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["t5_encoder", "siglip"])
def test_pooling_by_cls_without_one_is_an_error_that_names_the_setting(tmp_path, kind):
    with pytest.raises(ValueError, match=r"no \[CLS\] before a text.*Set its pooling to mean or eos"):
        load_encoder(str(save_other(tmp_path, kind)), None, None, "cls")


def test_own_pooling_without_modules_is_an_error_that_names_the_setting(tmp_path):
    with pytest.raises(ValueError, match=r"pooling: own is for a sentence-transformers folder.*Set its pooling to cls"):
        load_encoder(str(save_tiny(tmp_path, "bert")), None, None, "own")


@pytest.mark.parametrize("pooling", ["eos", "own"])
def test_random_vectors_are_pooled_by_cls_or_mean_only(pooling):
    with pytest.raises(ValueError, match=f"random vectors have no pooling: {pooling}. Set it to cls or mean"):
        load_encoder("random:8", None, None, pooling)


def test_weights_in_several_files_are_read_and_digested_together(tmp_path):
    folder = save_tiny(tmp_path / "whole", "bert")
    whole = load_encoder(str(folder), None, None, "mean")
    whole._model.save_pretrained(tmp_path / "parts", max_shard_size=2000)
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "parts" / name)
    files = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(files) > 1
    digests = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    digest = hashlib.sha256(digests.encode()).hexdigest()
    parts = load_encoder(str(tmp_path / "parts"), None, digest, "mean")
    assert torch.equal(vectors(parts), vectors(whole))
    files[0].unlink()
    with pytest.raises(ValueError, match=f"{files[0].name}: does not exist, but model.safetensors.index.json names it"):
        load_encoder(str(tmp_path / "parts"), None, None, "mean")


# ---- what is no encoder, or damaged


@pytest.mark.parametrize(("kind", "said"), [("vit", "does not encode 'person'")])
def test_what_is_no_encoder_of_text_is_one_clear_error(tmp_path, kind, said):
    with pytest.raises(ValueError, match=rf"{tmp_path}: .*{said}.*Expected is the folder of a text encoder"):
        load_encoder(str(save_other(tmp_path, kind)), None, None, "mean")


def test_a_network_of_pictures_and_text_without_features_of_a_text_is_one_clear_error(tmp_path):
    save_tiny(tmp_path, "bert")
    config = transformers.LlavaConfig()
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type 'llava' has no features of text alone"):
        load_encoder(str(tmp_path), None, None, "mean")


def test_a_number_that_is_not_finite_in_an_encoders_weights_is_named(tmp_path):
    path = save_tiny(tmp_path, "bert") / "model.safetensors"
    weights = load_file(path)
    weights["embeddings.word_embeddings.weight"][3, 2] = torch.nan
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"tensor 'embeddings\.word_embeddings\.weight' holds nan at \[3, 2\]"):
        load_encoder(str(tmp_path), None, None, "mean")


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
        load_encoder(str(tmp_path), None, None, "mean")
    assert "\n" not in str(raised.value)
