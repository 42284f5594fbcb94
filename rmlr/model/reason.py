"""Reasoning: verb scores from pairs that attend to each other (paper, section 3.5)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from rmlr.model.pairs import Pairs
from rmlr.model.transformer import Encoder, Layout


@dataclass(frozen=True, slots=True)
class Output:
    """The network's output for a batch, with the two levels that text may supervise."""

    pairs: Pairs
    logits: Float[Tensor, "p v"]  # sigmoid(logit) x the detector's prior is the score
    cues: Float[Tensor, "p m"] | None  # m; None without IRE
    reasoned: Float[Tensor, "p d"]  # O


class InteractionReasoning(nn.Module):
    """IRM and its classifier (paper, section 3.4 and equation 20): O = F_IR(H), logits = FFN_o(O).

    The pairs of one image attend to each other, never to those of another.

    Differs: the paper refers to UPT's competitive layer without sizes: post-norm, GELU. FFN_o is one linear layer, as
    in UPT; its bias is not initialised to the rate of positives.

    With `attention`, O is its output (equation 12, on the path).
    """

    def __init__(
        self,
        num_verbs: int,
        *,
        layers: int,
        dim: int,
        heads: int,
        ffn_dim: int,
        dropout: float,
        attention: Encoder | None = None,
    ):
        super().__init__()
        self.encoder = Encoder(layers, dim, heads, ffn_dim, dropout, "gelu")
        self.classify = nn.Linear(dim, num_verbs)
        self.attention = attention

    def forward(
        self, descriptions: Float[Tensor, "p d"], layout: Layout
    ) -> tuple[Float[Tensor, "p d"], Float[Tensor, "p v"]]:
        """O and verb logits."""
        reasoned = self.encoder(descriptions, layout)
        if self.attention is not None:
            reasoned = self.attention(reasoned, layout)
        return reasoned, self.classify(reasoned)
