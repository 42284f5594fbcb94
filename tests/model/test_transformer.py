import pytest
import torch
from torch import nn

from rmlr.model.transformer import Encoder, EncoderLayer, Layout


def torch_layer(layer: EncoderLayer, dim: int, heads: int, ffn_dim: int, activation: str) -> nn.TransformerEncoderLayer:
    """Torch's own layer with the same weights."""
    other = nn.TransformerEncoderLayer(dim, heads, ffn_dim, dropout=0.0, activation=activation, batch_first=True)
    names = {
        "to_query_key_value.weight": "self_attn.in_proj_weight",
        "to_query_key_value.bias": "self_attn.in_proj_bias",
    }
    parts = {"mix": "self_attn.out_proj", "expand": "linear1", "contract": "linear2"}
    parts |= {"attention_norm": "norm1", "ffn_norm": "norm2"}
    names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in parts.items() for kind in ("weight", "bias")}
    other.load_state_dict({names[name]: value for name, value in layer.state_dict().items()})
    return other


def test_rows_come_back_from_their_places():
    sequence = torch.tensor([0, 0, 2, 2, 2])
    layout = Layout.of_rows(sequence, 4)
    rows = torch.arange(10.0).view(5, 2)
    block = layout.pad(rows)
    assert block.shape == (4, 3, 2)
    assert block[0].tolist() == [[0, 1], [2, 3], [0, 0]]
    assert block[2].tolist() == [[4, 5], [6, 7], [8, 9]]
    assert layout.is_padding.tolist() == [
        [False, False, True],
        [False, True, True],
        [False, False, False],
        [False, True, True],
    ]
    assert torch.equal(layout.flatten(block), rows)


def test_no_rows_make_a_block_of_zeros():
    layout = Layout.of_rows(torch.zeros(0, dtype=torch.long), 3)
    assert layout.pad(torch.zeros(0, 2)).tolist() == [[[0, 0]]] * 3
    assert layout.flatten(torch.ones(3, 1, 2)).shape == (0, 2)


def test_no_sequence_is_an_empty_block_that_an_encoder_passes():
    none = torch.zeros(0, dtype=torch.long)
    layouts = [Layout.of_rows(none, 0), Layout.of_block(torch.zeros(0, 3, dtype=torch.bool))]
    rows = torch.zeros(0, 8, requires_grad=True)
    assert layouts[0].pad(rows).shape == (0, 1, 8)
    for layout in layouts:
        found = Encoder(1, 8, 2, 16, 0.1, "gelu")(rows, layout)
        found.sum().backward()
        assert found.shape == (0, 8)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_layer_equals_torchs_own(activation):
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2, 16, 0.0, activation)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    sequence = torch.tensor([0, 0, 0, 1, 2, 2])
    layout = Layout.of_rows(sequence, 3)
    rows = torch.randn(6, 8, requires_grad=True)
    reference = torch_layer(layer, 8, 2, 16, activation)
    expected = layout.flatten(reference(layout.pad(rows), src_key_padding_mask=layout.is_padding))
    found = layer(rows, layout)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), rows),
        torch.autograd.grad(expected.square().sum(), rows),
        atol=1e-3,
        rtol=1e-4,
    )


def test_a_block_without_padding_needs_no_mask():
    torch.manual_seed(0)
    encoder = Encoder(2, 8, 2, 16, 0.0, "relu")
    rows = torch.randn(6, 8)
    block = Layout.of_block(torch.zeros(2, 3, dtype=torch.bool))
    assert block.is_padding is None
    expected = encoder(rows, Layout.of_rows(torch.tensor([0, 0, 0, 1, 1, 1]), 2))
    torch.testing.assert_close(encoder(rows, block), expected)


def test_an_encoder_of_no_rows_runs_both_ways():
    encoder = Encoder(1, 8, 2, 16, 0.1, "gelu")
    rows = torch.zeros(0, 8, requires_grad=True)
    encoder(rows, Layout.of_rows(torch.zeros(0, dtype=torch.long), 2)).sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in encoder.parameters())


def test_a_sequence_without_rows_leaves_no_nan():
    torch.manual_seed(0)
    encoder = Encoder(2, 8, 2, 16, 0.0, "gelu")
    rows = torch.randn(3, 8, requires_grad=True)
    found = encoder(rows, Layout.of_rows(torch.tensor([1, 1, 1]), 3))
    found.square().sum().backward()
    assert found.isfinite().all()
    assert rows.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_dropout_is_off_in_evaluation():
    torch.manual_seed(0)
    encoder = Encoder(1, 8, 2, 16, 0.5, "relu")
    rows, layout = torch.randn(4, 8), Layout.of_rows(torch.tensor([0, 0, 1, 1]), 2)
    assert not torch.equal(encoder(rows, layout), encoder(rows, layout))
    encoder.eval()
    assert torch.equal(encoder(rows, layout), encoder(rows, layout))


# ---- attention, for those who want to see it


def test_attention_is_what_forward_mixes_by():
    torch.manual_seed(0)
    layer = EncoderLayer(6, 1, 4, 0.0, "relu")
    layout, rows = Layout.of_rows(torch.tensor([0, 0, 0, 2, 2]), 3), torch.randn(5, 6)
    value = layout.pad(layer.to_query_key_value(rows))[..., 12:]
    mixed = layout.flatten(layer.attention(rows, layout) @ value)
    torch.testing.assert_close(mixed, layer._attend(rows, layout))


def test_heads_are_averaged_and_padding_gets_nothing():
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2, 4, 0.0, "relu")
    layout = Layout.of_rows(torch.tensor([0, 0, 0, 1]), 2)
    found = layer.attention(torch.randn(4, 8), layout)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3))
    assert found[1, :, 1:].eq(0).all()
    with torch.no_grad():
        layer.to_query_key_value.weight[:16].zero_()  # neither queries nor keys: all look alike
    torch.testing.assert_close(layer.attention(torch.randn(4, 8), layout)[0], torch.full((3, 3), 1 / 3))


def test_rollout_multiplies_attention_and_residual_through_all_layers():
    torch.manual_seed(0)
    encoder, layout, rows = (
        Encoder(2, 8, 2, 4, 0.0, "relu"),
        Layout.of_rows(torch.tensor([0, 0, 1]), 2),
        torch.randn(3, 8),
    )
    first, second = encoder.layers
    one = (first.attention(rows, layout) + torch.eye(2)) / 2
    two = (second.attention(first(rows, layout), layout) + torch.eye(2)) / 2
    torch.testing.assert_close(encoder.rollout(rows, layout), two @ one)
    assert encoder.rollout(rows[:0], Layout.of_rows(torch.zeros(0, dtype=torch.long), 1)).shape == (1, 1, 1)
