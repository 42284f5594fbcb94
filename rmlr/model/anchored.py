"""A DETR that can be trained from scratch: anchored boxes and queries, trained batch norms."""

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d, DetrMLPPredictionHead

from rmlr.model.published import Sizes
from rmlr.study.frozen import DetectorArchitecture

COSTS: dict[str, Any] = {"class_cost": 1, "bbox_cost": 5, "giou_cost": 2}  # of matching and of the loss: DETR's 1, 5, 2
COEFFICIENTS: dict[str, Any] = {"bbox_loss_coefficient": 5, "giou_loss_coefficient": 2}


@no_type_check  # the library's __init__ accepts keywords that are not in its signature
class AnchoredDetrConfig(DetrConfig):
    """DETR's configuration with the fields of the anchored one; saved and loaded with it."""

    model_type = "anchored_detr"
    grid: int = 4
    sine_temperature: float = 20.0


class AnchoredBoxHead(DetrMLPPredictionHead):
    """DETR's box head plus one learnt box per query, which is initialised as that query's cell of a regular grid.

    They are added as logits, so a query starts with its own position and size and learns the difference.
    """

    def __init__(self, dim: int, grid: int) -> None:
        super().__init__(input_dim=dim, hidden_dim=dim, output_dim=4, num_layers=3)
        self.anchors = nn.Parameter(grid_anchors(grid))

    def forward(self, tokens: Float[Tensor, "*b q d"]) -> Float[Tensor, "*b q 4"]:
        return super().forward(tokens) + self.anchors


class AnchoredDetrForObjectDetection(DetrForObjectDetection):
    """A DETR that can be trained from scratch in a few hundred gradient steps instead of hundreds of thousands.

    Differs from the library's DETR: anchored box logits (`AnchoredBoxHead`), a decoder that starts from the encoder's
    output at each query's anchor instead of zeros, and a sine code with a temperature for maps of few cells. All of
    this is built here and described by the configuration, so `from_pretrained` restores it.
    """

    config_class = AnchoredDetrConfig

    def __init__(self, config: AnchoredDetrConfig) -> None:
        super().__init__(config)
        self.bbox_predictor = AnchoredBoxHead(config.d_model, config.grid)
        position: Any = self.model.position_embedding
        position.temperature = config.sine_temperature
        self._is_valid = torch.ones(1, 1, 1, dtype=torch.bool)  # cells of the map last seen
        self.model.backbone.register_forward_hook(self._keep_valid)
        self.model.decoder.register_forward_pre_hook(self._start_queries, with_kwargs=True)

    def _keep_valid(self, _backbone: nn.Module, _inputs: Any, output: Any) -> None:
        self._is_valid = output[-1][1]

    def _start_queries(self, _decoder: nn.Module, inputs: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Initialise the decoder's tokens with the encoder's map at the anchors."""
        seen: Tensor = named["encoder_hidden_states"]  # b hw d
        images, height, width = self._is_valid.shape
        valid = torch.stack([self._is_valid.any(1).sum(1) / width, self._is_valid.any(2).sum(1) / height], dim=-1)
        anchors = self.bbox_predictor.anchors.detach()[:, :2].sigmoid() * valid[:, None]  # b q 2, in the padded map
        cells = seen.transpose(1, 2).unflatten(2, (height, width))
        tokens = nn.functional.grid_sample(cells, anchors[:, :, None].to(seen.dtype) * 2 - 1, align_corners=False)
        return inputs, named | {"inputs_embeds": tokens.view(images, seen.shape[2], -1).transpose(1, 2)}


def build_detector(
    sizes: DetectorArchitecture, names: Sequence[str], no_object_weight: float
) -> AnchoredDetrForObjectDetection:
    """A small DETR with random weights from which it can be trained.

    Differs from the library's initialisation, N(0, 0.02) everywhere, from which DETR does not converge: Xavier in
    encoder, decoder, box head and the map's projection, as in DETR's own code; queries from their anchors' position
    code, and boxes at the anchors.
    """
    config = AnchoredDetrConfig(
        **architecture(sizes, names),
        num_queries=sizes.grid**2,
        dropout=0.0,
        auxiliary_loss=True,
        eos_coefficient=no_object_weight,
        grid=sizes.grid,
        sine_temperature=sizes.sine_temperature,
    )
    detr = AnchoredDetrForObjectDetection(config)
    for part in (detr.model.encoder, detr.model.decoder, detr.bbox_predictor, detr.model.input_projection):
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1 and not name.endswith("anchors"):
                nn.init.xavier_uniform_(parameter)
    last: Any = detr.bbox_predictor.layers[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    cells = torch.ones(1, sizes.grid, sizes.grid, dtype=torch.bool)
    shape = torch.Size([1, sizes.d_model, sizes.grid, sizes.grid])
    code: Tensor = detr.model.position_embedding(shape=shape, device="cpu", dtype=torch.float32, mask=cells)
    with torch.no_grad():
        detr.model.query_position_embeddings.weight.copy_(code.flatten(2)[0].T)
    return detr


def grid_anchors(grid: int) -> Float[Tensor, "q 4"]:
    """Logits of (centre x, centre y, width, height) of the cells of a grid x grid over the image, row by row."""
    centre = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    size = torch.full_like(x, 1 / grid).clamp(max=0.5)
    return torch.logit(torch.stack([x, y, size, size], dim=-1).flatten(0, 1))


def thaw(detr: DetrForObjectDetection) -> None:
    """Make all parameters of a detector from scratch trainable: its backbone, which the library freezes, and batch
    norms.

    The library's batch norms are frozen, and initially the identity: from scratch there would be no normalisation.
    """
    detr.model.unfreeze_backbone()

    def exchange(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, DetrFrozenBatchNorm2d):
                trainable = nn.BatchNorm2d(len(child.weight))
                trainable.load_state_dict(child.state_dict(), strict=False)
                setattr(module, name, trainable)
            else:
                exchange(child)

    exchange(detr.model.backbone)


def architecture(sizes: DetectorArchitecture | Sizes, names: Sequence[str]) -> dict[str, Any]:
    """The configuration of a DETR of these sizes with a ResNet backbone."""
    backbone = ResNetConfig(
        embedding_size=sizes.embedding_size,
        hidden_sizes=sizes.hidden_sizes,
        depths=sizes.depths,
        layer_type=sizes.layer_type,
        out_features=[f"stage{len(sizes.hidden_sizes)}"],  # pyright: ignore[reportCallIssue]
    )
    return {
        "backbone_config": backbone,
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "d_model": sizes.d_model,
        "encoder_layers": sizes.encoder_layers,
        "decoder_layers": sizes.decoder_layers,
        "encoder_attention_heads": sizes.heads,
        "decoder_attention_heads": sizes.heads,
        "encoder_ffn_dim": sizes.ffn_dim,
        "decoder_ffn_dim": sizes.ffn_dim,
        **COSTS,
        **COEFFICIENTS,
    }
