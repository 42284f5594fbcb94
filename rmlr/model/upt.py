"""UPT, the measured baseline: its interaction head in our framework (Zhang et al., CVPR 2022).

"UPT" below is their paper, "Efficient Two-Stage Detection of Human-Object Interactions with a Novel Unary-Pairwise
Transformer", and, for details that it does not specify, the published code (fredzzhang/upt). With its published weights
(`load_upt_weights`) the network reproduces its scores. Frozen detector, candidate pairs, prior, focal loss and trainer
are those of every other variant.

Differs: all images of a batch are processed at once, and linear parts are computed once, not per head or branch.
UPT trains with the dropout of its frozen detector on, a step decay and an unweighted loss.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rmlr.hoi import Vocabulary
from rmlr.hoi.batch import Batch
from rmlr.model.pairs import GEOMETRY_DIM, Pairs, pair_geometry
from rmlr.model.published import UPT_DETECTOR, UPT_HEAD, WHOLE
from rmlr.model.remine import average_cells, fully_connected
from rmlr.model.transformer import EncoderLayer, Layout
from rmlr.study.tensors import check_finite, load_pickled

BRANCHES = 16  # of a fusion
NORM_EPSILON = 1e-12  # of all layer norms except the first of cooperative layers, which has torch's


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Every ordered pair of instances of one image, including an instance with itself, sorted by the first."""

    pairs: Pairs  # "human" is the first instance, which sends, and "object" the second, which receives
    layout: Layout  # all senders of a receiver as one sequence
    start: Int[Tensor, " n"]

    @classmethod
    def of(cls, batch: Batch) -> "Neighbours":
        image = batch.instance_image
        counts = torch.bincount(image, minlength=len(batch.image_ids))
        crowd = counts[image]  # n: instances in the image of each
        first = (counts.cumsum(0) - counts)[image]  # n: the first of them
        sender, receiver = (image[:, None] == image).nonzero(as_tuple=True)
        slots = int(counts.max())
        is_padding = torch.arange(slots, device=image.device) >= crowd[:, None]
        layout = Layout((len(image), slots), receiver * slots + sender - first[sender], is_padding)
        return cls(Pairs(sender, receiver, image[sender]), layout, crowd.cumsum(0) - crowd - first)

    def rows_of(self, pairs: Pairs) -> Int[Tensor, " p"]:
        """The rows of candidate pairs among all."""
        return self.start[pairs.human] + pairs.object


class CooperativeLayer(nn.Module):
    """Instances of an image exchange messages that depend on their layout (UPT, section "Cooperative layer").

    With u = ReLU(W_u token), p = ReLU(W_p code) and, for each head, i sending to j:
        w_ij = softmax over i of a . [u_i; u_j; p_ij],   message_j = sum_i w_ij (W (u_i * p_ij) + b)
    The heads' messages pass ReLU and a linear layer and are added to the token; then a feed-forward network.

    Differs: W is applied to the weighted sum, which is equivalent, since the weights sum to 1. The part of u_j and the
    bias cancel in the softmax; they are kept because published weights have them.
    """

    def __init__(self, token_dim: int, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.unary = nn.Linear(token_dim, dim)
        self.pairwise = nn.Linear(dim, dim)
        self.attend = nn.Linear(3 * dim // heads, heads)  # row i is a of head i
        self.message = nn.Linear(dim // heads, dim)  # block i is W of head i
        self.aggregate = nn.Linear(dim, token_dim)
        self.message_norm = nn.LayerNorm(token_dim)
        self.expand = nn.Linear(token_dim, 4 * token_dim)
        self.contract = nn.Linear(4 * token_dim, token_dim)
        self.ffn_norm = nn.LayerNorm(token_dim, eps=NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Float[Tensor, "n d"], codes: Float[Tensor, "q c"], neighbours: Neighbours
    ) -> Float[Tensor, "n d"]:
        unary = F.relu(self.unary(tokens)).unflatten(1, (self.heads, -1))  # n heads c/heads
        pairwise = F.relu(self.pairwise(codes)).unflatten(1, (self.heads, -1))  # q heads c/heads
        sender, layout = neighbours.pairs.human, neighbours.layout
        weights = self._weigh(unary, pairwise, neighbours)  # q heads
        sent = weights[..., None] * unary[sender] * pairwise
        received = layout.pad(sent.flatten(1)).sum(1).unflatten(1, (self.heads, -1))  # n heads c/heads
        blocks = self.message.weight.unflatten(0, (self.heads, -1))
        messages = torch.einsum("nhi,hoi->nho", received, blocks).flatten(1) + self.message.bias
        tokens = self.message_norm(tokens + self.dropout(self.aggregate(F.relu(messages))))
        return self.ffn_norm(tokens + self.dropout(self.contract(F.gelu(self.expand(tokens)))))

    def _weigh(self, unary: Tensor, pairwise: Tensor, neighbours: Neighbours) -> Tensor:
        by_sender, by_receiver, by_code = self.attend.weight.unflatten(1, (3, -1)).unbind(1)  # heads c/heads
        logits = (
            (unary * by_sender).sum(-1)[neighbours.pairs.human]
            + (unary * by_receiver).sum(-1)[neighbours.pairs.object]
            + (pairwise * by_code).sum(-1)
            + self.attend.bias
        )  # q heads
        layout = neighbours.layout
        assert layout.is_padding is not None
        padded = layout.pad(logits).masked_fill(layout.is_padding[..., None], float("-inf"))
        return layout.flatten(padded.softmax(1))


class MultiBranchFusion(nn.Module):
    """Appearance of a pair, gated by the layout of its boxes (UPT, section "Competitive layer").

    UPT adds sixteen branches: ReLU(sum_k W3_k ReLU(W1_k appearance * W2_k code)).

    Differs: the sixteen branches are one of their total width, which is equivalent; the sum of their last biases is one
    bias.
    """

    def __init__(self, appearance_dim: int, dim: int):
        super().__init__()
        self.appearance = nn.Linear(appearance_dim, dim)
        self.code = nn.Linear(dim, dim)
        self.mix = nn.Linear(dim, dim)
        bound = (BRANCHES / dim) ** 0.5  # torch's default for layers of a branch's width
        nn.init.uniform_(self.mix.weight, -bound, bound)
        with torch.no_grad():
            self.mix.bias.copy_(torch.empty(BRANCHES, dim).uniform_(-bound, bound).sum(0))

    def forward(
        self, appearance: Float[Tensor, "k a"], of: Int[Tensor, " p"], codes: Float[Tensor, "p c"]
    ) -> Float[Tensor, "p c"]:
        """`of`: the row of `appearance` that each pair has."""
        return F.relu(self.mix(F.relu(self.appearance(appearance)[of] * self.code(codes))))


class CooperativeDescription(nn.Module):
    """The token of each pair: its two instances after the cooperative layers, and the scene (UPT, section 3).

    Differs: the scene is the mean of the map's valid cells; UPT's mean includes padding (a single image has none).
    Boxes are measured in the original image, not in the resized one, which differs by the rounding of its size. A box
    without area has an IoU of 0 with itself; UPT's code returns NaN.
    """

    def __init__(
        self,
        channels: int,
        token_dim: int,
        *,
        code_dims: list[int],
        dim: int,
        layers: int,
        heads: int,
        dropout: float,
    ):
        super().__init__()
        steps = [fully_connected(a, b) for a, b in pairwise([GEOMETRY_DIM, *code_dims, dim])]
        self.embed_code = nn.Sequential(*(module for step in steps for module in step))
        self.layers = nn.ModuleList(CooperativeLayer(token_dim, dim, heads, dropout) for _ in range(layers))
        self.fuse_tokens = MultiBranchFusion(2 * token_dim, dim)
        self.fuse_scene = MultiBranchFusion(channels, dim)

    def forward(self, batch: Batch, pairs: Pairs, layout: Layout) -> tuple[Float[Tensor, "p d"], None]:
        """Pair tokens; there are no cues."""
        neighbours = Neighbours.of(batch)
        codes = self.embed_code(pair_geometry(batch, neighbours.pairs))  # q c
        tokens = batch.instances.tokens.float()
        for layer in self.layers:
            tokens = layer(tokens, codes, neighbours)
        codes = codes[neighbours.rows_of(pairs)]  # p c
        both = torch.cat([tokens[pairs.human], tokens[pairs.object]], dim=1)
        each = torch.arange(len(pairs), device=both.device)
        scene = average_cells(batch.maps.float(), batch.is_padding)
        return torch.cat([self.fuse_tokens(both, each, codes), self.fuse_scene(scene, pairs.image, codes)], dim=1), None


class CompetitiveLayer(EncoderLayer):
    """A Transformer encoder layer over the pairs of one image, with UPT's dropout, initialisation and epsilon."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__(dim, heads, ffn_dim, dropout, "gelu")
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.ffn_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        for linear in (self.to_query_key_value, self.mix):
            linear.reset_parameters()

    def forward(self, rows: Float[Tensor, "r d"], layout: Layout) -> Float[Tensor, "r d"]:
        rows = self.attention_norm(rows + self.dropout(self.mix(self._attend(rows, layout))))
        return self.ffn_norm(rows + self.dropout(self.contract(self.activation(self.expand(rows)))))


class CompetitiveReasoning(nn.Module):
    """Verb logits of pairs that attend to each other (UPT, section "Competitive layer")."""

    def __init__(self, num_verbs: int, *, dim: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.layer = CompetitiveLayer(dim, heads, ffn_dim, dropout)
        self.classify = nn.Linear(dim, num_verbs)

    def forward(
        self, descriptions: Float[Tensor, "p d"], layout: Layout
    ) -> tuple[Float[Tensor, "p d"], Float[Tensor, "p v"]]:
        """Pair tokens after reasoning, and verb logits."""
        reasoned = self.layer(descriptions, layout)
        return reasoned, self.classify(reasoned)


# ---- published weights

# In the order of fredzzhang/vcoco. HICO-DET's verbs are alphabetical.
VCOCO_VERBS: str = (
    "hold obj, sit instr, ride instr, look obj, hit instr, hit obj, eat obj, eat instr, jump instr, lay instr, "
    "talk_on_phone instr, carry obj, throw obj, catch obj, cut instr, cut obj, work_on_computer instr, ski instr, "
    "surf instr, skateboard instr, drink instr, kick obj, read obj, snowboard instr"
)


def load_upt_weights(path: Path, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The state of a network of variant `upt`, from a checkpoint of UPT's: for `load_state_dict`.

    Every tensor of UPT's interaction head is used once; verbs are reordered to `vocabulary` by name. The detector's
    tensors, in the same file, are left out. ValueError if the file is not such a checkpoint, if a tensor is missing or
    unused, or if the verbs differ.
    """
    given = _read_head(path)
    origins = _origins(given)
    used = [f"{module}.{kind}" for modules in origins.values() for module in modules for kind in ("weight", "bias")]
    missing, left = [name for name in used if name not in given], sorted(given.keys() - set(used))
    if missing or left:
        raise ValueError(
            f"{path}: expected the interaction head of UPT, found that {len(missing)} tensor(s) lack"
            f"{_some(missing)} and {len(left)} are left over{_some(left)}. Is it a checkpoint of fredzzhang/upt?"
        )
    state = {}
    try:
        for ours, modules in origins.items():
            weights, biases = ([given[f"{module}.{kind}"] for module in modules] for kind in ("weight", "bias"))
            if ours.endswith(("fuse_tokens.mix", "fuse_scene.mix")):  # concatenated, as branches are summed
                state[f"{ours}.weight"], state[f"{ours}.bias"] = torch.cat(weights, dim=1), torch.stack(biases).sum(0)
            else:
                state[f"{ours}.weight"], state[f"{ours}.bias"] = torch.cat(weights), torch.cat(biases)
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors of UPT's {modules[0]} and its like do not fit together: {error}") from error
    rows = _verb_rows(path, vocabulary, len(state["reason.classify.bias"]))
    for kind in ("weight", "bias"):
        state[f"reason.classify.{kind}"] = state[f"reason.classify.{kind}"][rows]
    return state


def _read_head(path: Path) -> dict[str, Tensor]:
    """The interaction head's tensors by their names within it."""
    content = load_pickled(path, WHOLE)
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: expected UPT's 'model_state_dict' of tensors, found {found[:200]}")
    foreign = [name for name in state if not name.startswith((UPT_HEAD, UPT_DETECTOR))]
    if foreign:
        raise ValueError(f"{path}: expected tensors of {UPT_HEAD}* and {UPT_DETECTOR}* only, found{_some(foreign)}")
    check_finite(path, state, WHOLE)
    return {name.removeprefix(UPT_HEAD): tensor for name, tensor in state.items() if name.startswith(UPT_HEAD)}


def _origins(given: Collection[str]) -> dict[str, list[str]]:
    """For each of our layers, the modules of UPT's head that it combines, as many as `given` has of numbered ones."""

    def numbers(*patterns: str) -> range:
        found = 1
        while any(f"{pattern.replace('*', str(found))}.weight" in given for pattern in patterns):
            found += 1
        return range(found)

    attention = "comp_layer.attention"
    origins = {
        "reason.classify": ["box_pair_predictor"],
        "reason.layer.to_query_key_value": [f"{attention}.attention.{name}" for name in ("query", "key", "value")],
        "reason.layer.mix": [f"{attention}.output.aggregate"],
        "reason.layer.attention_norm": [f"{attention}.output.norm"],
        "reason.layer.expand": ["comp_layer.ffn.ffn.0"],
        "reason.layer.contract": ["comp_layer.ffn.ffn.2"],
        "reason.layer.ffn_norm": ["comp_layer.ffn.norm"],
    }
    for step in (0, 2, 4):
        origins[f"describe.embed_code.{step}"] = [f"spatial_head.{step}"]
    for ours, theirs in (("describe.fuse_tokens", "mbf"), ("describe.fuse_scene", "mbf_g")):
        parts = {"appearance": f"{theirs}.fc_1.*", "code": f"{theirs}.fc_2.*", "mix": f"{theirs}.fc_3.*"}
        for part, pattern in parts.items():
            branches = numbers(*parts.values())
            origins[f"{ours}.{part}"] = [pattern.replace("*", str(branch)) for branch in branches]
    for layer in numbers("coop_layer.mod_enc.*.unary"):
        ours, theirs = f"describe.layers.{layer}", f"coop_layer.mod_enc.{layer}"
        for name in ("unary", "pairwise", "aggregate"):
            origins[f"{ours}.{name}"] = [f"{theirs}.{name}"]
        heads = numbers(f"{theirs}.attn.*", f"{theirs}.message.*")
        origins[f"{ours}.attend"] = [f"{theirs}.attn.{head}" for head in heads]
        origins[f"{ours}.message"] = [f"{theirs}.message.{head}" for head in heads]
        origins[f"{ours}.message_norm"] = [f"{theirs}.norm"]
        origins[f"{ours}.expand"] = [f"{theirs}.ffn.ffn.0"]
        origins[f"{ours}.contract"] = [f"{theirs}.ffn.ffn.2"]
        origins[f"{ours}.ffn_norm"] = [f"{theirs}.ffn.norm"]
    return origins


def _verb_rows(path: Path, vocabulary: Vocabulary, number: int) -> list[int]:
    """UPT's number of each of our verbs."""
    ours = list(vocabulary.verbs)
    theirs = VCOCO_VERBS.split(", ") if vocabulary.dataset == "vcoco" else sorted(ours)
    if number != len(theirs):
        raise ValueError(
            f"{path}: UPT's classifier has {number} verbs, but {vocabulary.dataset} has {len(theirs)}. Was it trained "
            "on another dataset?"
        )
    if other := sorted(set(ours) ^ set(theirs)):
        raise ValueError(f"{path}: UPT learnt V-COCO's 24 action-roles, the annotations have others{_some(other)}")
    return [theirs.index(verb) for verb in ours]


def _some(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
