"""Transformer encoder layers over many sequences at once, whose rows are concatenated."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Activation = Literal["relu", "gelu"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The positions of the rows of several sequences in a padded block, which only attention uses.

    An empty sequence has one slot, a row of zeros that attends to itself, so that every softmax is defined.
    """

    shape: tuple[int, int]  # sequences, slots of each
    slot: Int[Tensor, " r"] | None  # each row's place in the flattened block; None: the rows are the block
    is_padding: Bool[Tensor, "b t"] | None  # None: nothing is padded

    @classmethod
    def of_rows(cls, sequence: Int[Tensor, " r"], sequences: int) -> "Layout":
        """The layout of rows with the sequence that each belongs to, ascending."""
        counts = torch.bincount(sequence, minlength=sequences)
        slots = max([1, *counts.tolist()])
        position = torch.arange(len(sequence), device=sequence.device) - (counts.cumsum(0) - counts)[sequence]
        is_padding = torch.arange(slots, device=sequence.device) >= counts.clamp(min=1)[:, None]
        return cls((sequences, slots), sequence * slots + position, is_padding)

    @classmethod
    def of_block(cls, is_padding: Bool[Tensor, "b t"]) -> "Layout":
        """The layout of a block that is already padded: every slot is a row, but padding is not attended to."""
        sequences, slots = is_padding.shape
        return cls((sequences, slots), None, is_padding if bool(is_padding.any()) else None)

    def pad(self, rows: Float[Tensor, "r d"]) -> Float[Tensor, "b t d"]:
        """The padded block: each row in its slot, zeros elsewhere."""
        if self.slot is not None:
            rows = rows.new_zeros(self.shape[0] * self.shape[1], rows.shape[1]).index_copy_(0, self.slot, rows)
        return rows.view(*self.shape, rows.shape[1])

    def flatten(self, block: Float[Tensor, "b t d"]) -> Float[Tensor, "r d"]:
        """The rows from the padded block."""
        rows = block.flatten(0, 1)
        return rows if self.slot is None else rows.index_select(0, self.slot)


class EncoderLayer(nn.Module):
    """Multi-head self-attention and a feed-forward network, each with a residual and a layer norm after it.

    Equal to `torch.nn.TransformerEncoderLayer` (post-norm), but its linear layers do not process padding.
    """

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float, activation: Activation):
        super().__init__()
        self.heads = heads
        self.activation = F.relu if activation == "relu" else F.gelu
        self.to_query_key_value = nn.Linear(dim, 3 * dim)
        self.mix = nn.Linear(dim, dim)
        self.expand = nn.Linear(dim, ffn_dim)
        self.contract = nn.Linear(ffn_dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.to_query_key_value.weight)  # as torch's own attention
        nn.init.zeros_(self.to_query_key_value.bias)
        nn.init.zeros_(self.mix.bias)

    def forward(self, rows: Float[Tensor, "r d"], layout: Layout) -> Float[Tensor, "r d"]:
        rows = self.attention_norm(rows + self.dropout(self.mix(self._attend(rows, layout))))
        hidden = self.dropout(self.activation(self.expand(rows)))
        return self.ffn_norm(rows + self.dropout(self.contract(hidden)))

    def _attend(self, rows: Tensor, layout: Layout) -> Tensor:
        query, key, value = self._query_key_value(rows, layout)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if layout.is_padding is None else ~layout.is_padding[:, None, None, :],
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        return layout.flatten(attended.transpose(1, 2).flatten(2))

    def attention(self, rows: Float[Tensor, "r d"], layout: Layout) -> Float[Tensor, "b t t"]:
        """The attention weights between slots, mean over heads, which fused attention does not return."""
        query, key, _ = self._query_key_value(rows, layout)
        logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if layout.is_padding is not None:
            logits = logits.masked_fill(layout.is_padding[:, None, None], -math.inf)
        return logits.softmax(-1).mean(1)

    def _query_key_value(self, rows: Tensor, layout: Layout) -> Tensor:
        block = layout.pad(self.to_query_key_value(rows))  # b t 3d
        return block.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 b heads t d/heads


class Encoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, layers: int, dim: int, heads: int, ffn_dim: int, dropout: float, activation: Activation):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, ffn_dim, dropout, activation) for _ in range(layers))

    def forward(self, rows: Float[Tensor, "r d"], layout: Layout) -> Float[Tensor, "r d"]:
        for layer in self.layers:
            rows = layer(rows, layout)
        return rows

    def rollout(self, rows: Float[Tensor, "r d"], layout: Layout) -> Float[Tensor, "b t t"]:
        """The contribution of every slot to each slot's output, by attention through all layers; every row sums to 1.

        Attention rollout (Abnar and Zuidema 2020): the product over layers of (A + 1) / 2, A the layer's attention,
        mean over heads, and 1 its residual path.
        """
        mixed = torch.eye(layout.shape[1], dtype=rows.dtype, device=rows.device)
        residual = mixed
        for layer in self.layers:
            mixed = (layer.attention(rows, layout) + residual) / 2 @ mixed  # pyright: ignore[reportCallIssue]
            rows = layer(rows, layout)
        return mixed.expand(layout.shape[0], -1, -1)
