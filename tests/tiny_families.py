"""The smallest detector of each family of `transformers`, with random weights, as folders of `save_pretrained`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, ResNetConfig
from transformers.models.rf_detr import RfDetrDinov2Config
from transformers.utils.logging import disable_progress_bar

SQUARE = {"size": {"height": 64, "width": 64}, "do_normalize": False}  # RT-DETR's image processor, but for the size
NORMALISED = {"size": {"height": 64, "width": 64}, "do_normalize": True}
SMALL = {"size": {"shortest_edge": 64, "longest_edge": 96}}
LARGER = {"size": {"shortest_edge": 128, "longest_edge": 192}}  # its coarsest map has a stride of 64
QUERIES = 12


def _resnet(*stages: str) -> ResNetConfig:
    sizes: dict[str, Any] = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
    return ResNetConfig(embedding_size=16, layer_type="basic", out_features=list(stages), **sizes)


def _detr(config: str, **more: Any) -> Callable[[dict], Any]:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": QUERIES}
    return lambda named: getattr(transformers, config)(
        **{"backbone_config": _resnet("stage4"), **sizes, **heads, **more, **named}
    )


def _rt_detr(config: str, **more: Any) -> Callable[[dict], Any]:
    channels = [16, 24, 32]
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="bottleneck",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    if not config.startswith("RTDetr"):
        backbone = transformers.HGNetV2Config(
            stem_channels=[3, 8, 8], stage_in_channels=[8, 8, 16, 24], stage_mid_channels=[8, 8, 8, 8],
            stage_out_channels=[8, 16, 24, 32], stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1],
            embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
    sizes = {
        "encoder_hidden_dim": 16, "encoder_in_channels": channels, "encoder_ffn_dim": 16, "d_model": 16,
        "decoder_in_channels": [16, 16, 16], "decoder_ffn_dim": 16, "num_queries": QUERIES, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_denoising": 0, "encoder_layers": 1,
        "anchor_image_size": None, "decoder_n_points": 2,
    }  # fmt: skip
    return lambda named: getattr(transformers, config)(**{"backbone_config": backbone, **sizes, **more, **named})


def _lw_detr(named: dict) -> Any:
    backbone = transformers.LwDetrViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, pretrain_image_size=64,
        patch_size=16, num_windows=4, window_block_indices=[0], out_indices=[1, 2],
    )  # fmt: skip
    return transformers.LwDetrConfig(
        backbone_config=backbone, d_model=16, decoder_layers=2, decoder_self_attention_heads=2, num_queries=QUERIES,
        decoder_cross_attention_heads=2, decoder_ffn_dim=16, group_detr=1,
        projector_scale_factors=[2.0, 0.5], **named,
    )  # fmt: skip


def _rf_detr(named: dict) -> Any:
    backbone = RfDetrDinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16, num_windows=2,
        window_block_indices=[0], out_indices=[1, 2],
    )  # fmt: skip
    return transformers.RfDetrConfig(
        backbone_config=backbone, d_model=16, decoder_layers=2, decoder_self_attention_heads=2, num_queries=QUERIES,
        decoder_cross_attention_heads=2, decoder_ffn_dim=16, group_detr=1, **named,
    )  # fmt: skip


def _yolos(named: dict) -> Any:
    return transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
        patch_size=16, num_detection_tokens=QUERIES, use_mid_position_embeddings=True, **named,
    )  # fmt: skip


FAMILIES: dict[str, tuple[Callable[[dict], Any], dict[str, Any]]] = {  # its configuration, and its image processor's
    "conditional_detr": (_detr("ConditionalDetrConfig"), SMALL),
    "dab-detr": (_detr("DabDetrConfig", hidden_size=16), SMALL),
    "deformable_detr": (
        _detr("DeformableDetrConfig", backbone_config=_resnet("stage2", "stage3", "stage4"), d_model=32), LARGER,
    ),
    "table-transformer": (_detr("TableTransformerConfig"), SMALL),
    "rt_detr": (_rt_detr("RTDetrConfig"), SQUARE),
    "rt_detr_v2": (_rt_detr("RTDetrV2Config"), SQUARE),
    "d_fine": (_rt_detr("DFineConfig", decoder_n_points=[2, 2, 2]), SQUARE),
    "deimv2": (_rt_detr("Deimv2Config", decoder_n_points=[2, 2, 2]), SQUARE),
    "lw_detr": (_lw_detr, NORMALISED),
    "rf_detr": (_rf_detr, NORMALISED),
    "yolos": (_yolos, SMALL),
}  # fmt: skip


def save_family(kind: str, folder: Path, names: Sequence[str], seed: int = 0) -> None:
    """A detector of a family with the image processor's file that its checkpoints have."""
    disable_progress_bar()
    torch.manual_seed(seed)
    config, processor = FAMILIES[kind]
    named = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    network: PreTrainedModel = transformers.AutoModelForObjectDetection.from_config(config(named))
    with torch.no_grad():  # queries that differ, and boxes and classes that follow the picture
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1 and "backbone" not in name:
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
    network.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
