"""Random tensors under the names of UPT's interaction head (fredzzhang/upt)."""

from itertools import pairwise

import torch

from rmlr.study.settings import Upt


def random_head(upt: Upt, *, token: int, channels: int, branches: int, verbs: int = 24) -> dict[str, torch.Tensor]:
    """A head over tokens and maps of these widths, with as many branches in each fusion; the published have 16."""
    generator = torch.Generator().manual_seed(0)
    dim, width = upt.dim, 2 * upt.dim
    shapes: dict[str, tuple[int, ...]] = {"box_pair_predictor": (verbs, width)}
    codes = [36, *upt.code_dims, dim]
    for number, (inputs, outputs) in enumerate(pairwise(codes)):
        shapes[f"spatial_head.{2 * number}"] = (outputs, inputs)
    for layer in range(upt.layers):
        stem = f"coop_layer.mod_enc.{layer}"
        shapes |= {f"{stem}.unary": (dim, token), f"{stem}.pairwise": (dim, dim), f"{stem}.aggregate": (token, dim)}
        for number in range(upt.heads):
            shapes[f"{stem}.attn.{number}"] = (1, 3 * dim // upt.heads)
            shapes[f"{stem}.message.{number}"] = (dim // upt.heads, dim // upt.heads)
        shapes |= {f"{stem}.norm": (token,), f"{stem}.ffn.norm": (token,)}
        shapes |= {f"{stem}.ffn.ffn.0": (4 * token, token), f"{stem}.ffn.ffn.2": (token, 4 * token)}
    for stem, appearance in (("mbf", 2 * token), ("mbf_g", channels)):
        for branch in range(branches):
            shapes[f"{stem}.fc_1.{branch}"] = (dim // branches, appearance)
            shapes[f"{stem}.fc_2.{branch}"] = (dim // branches, dim)
            shapes[f"{stem}.fc_3.{branch}"] = (dim, dim // branches)
    for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
        shapes[f"comp_layer.{name}"] = (width, width)
    shapes |= {"comp_layer.attention.output.aggregate": (width, width), "comp_layer.attention.output.norm": (width,)}
    shapes |= {"comp_layer.ffn.ffn.0": (upt.ffn_dim, width), "comp_layer.ffn.ffn.2": (width, upt.ffn_dim)}
    shapes["comp_layer.ffn.norm"] = (width,)
    tensors = {}
    for module, shape in shapes.items():
        tensors[f"{module}.weight"] = 0.7 * torch.randn(shape, generator=generator)
        tensors[f"{module}.bias"] = 0.7 * torch.randn(shape[:1], generator=generator)
    return tensors
