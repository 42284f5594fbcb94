"""The smallest DETR that learns, for tests that build one."""

from typing import Any

from rmlr.study.frozen import DetectorArchitecture


def tiny_detr(**changes: Any) -> DetectorArchitecture:
    """One layer of everything; maps of 16 channels with a stride of 8, tokens of 8, nine queries."""
    sizes = {
        "embedding_size": 16,
        "hidden_sizes": [16, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "d_model": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "heads": 2,
        "ffn_dim": 8,
        "grid": 3,
        "sine_temperature": 20.0,
    }
    return DetectorArchitecture.model_validate(sizes | changes)
