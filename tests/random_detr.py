"""A DETR with random weights and the shape of a real one, made to see something: for tests without any download."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

RESNET_50: dict[str, Any] = {
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "out_features": ["stage4"],
}
PEOPLE = 0.3  # share of the queries that say person


@torch.no_grad()
def save_random_detr(folder: Path, names: Sequence[str], *, person: int, seed: int = 0) -> None:
    """Write DETR-ResNet-50 with random weights by `save_pretrained`; `names` are its classes.

    As the library initialises it, every query gives one class and one box, so there is no pair at all. Openly
    perturbed, therefore: cells of the map differ by as much as they have in common, each query looks at a few of them,
    and class and box head are so strong that what it sees there decides. About a third of all queries say `person`.
    """
    torch.manual_seed(seed)
    config = DetrConfig(backbone_config=ResNetConfig(**RESNET_50), id2label=dict(enumerate(names)))
    detr = DetrForObjectDetection(config).eval()
    model = detr.model
    for part in (model.encoder, model.decoder, detr.bbox_predictor):
        for parameter in part.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
    for layer in model.encoder.layers:  # random attention over all cells would make them all alike
        layer.self_attn.o_proj.weight.mul_(0.1)
        layer.mlp.fc2.weight.mul_(0.1)
    nn.init.normal_(model.query_position_embeddings.weight, std=2.0)
    for layer in model.decoder.layers:
        layer.encoder_attn.q_proj.weight.mul_(4.0)

    noise = nn.functional.interpolate(torch.randn(2, 3, 20, 20), size=(320, 320), mode="bicubic")
    _standardise(model.input_projection, model.backbone(noise, torch.ones(2, 320, 320))[-1][0].flatten(2).mT)
    tokens = detr(noise).last_hidden_state.flatten(0, 1)
    nn.init.normal_(detr.class_labels_classifier.weight, std=1.0)
    _standardise(detr.class_labels_classifier, tokens, deviation=3.0)
    detr.class_labels_classifier.bias[-1] = -100.0  # never "no object"
    hidden = tokens
    for layer in detr.bbox_predictor.layers[:-1]:
        hidden = layer(hidden).relu()
    _standardise(detr.bbox_predictor.layers[-1], hidden)
    detr.bbox_predictor.layers[-1].bias[2:] -= 1.0  # a quarter of the image wide and high

    logits = detr.class_labels_classifier(tokens)[:, :-1]
    others = logits.clone()
    others[:, person] = -torch.inf
    detr.class_labels_classifier.bias[person] += (others.amax(1) - logits[:, person]).quantile(PEOPLE)
    detr.save_pretrained(folder)


def _standardise(layer: nn.Module, inputs: Tensor, deviation: float = 1.0) -> None:
    """Shift and scale a linear layer's (or a 1x1 convolution's) outputs to mean 0 and this deviation over `inputs`."""
    weight = layer.weight.flatten(1)
    outputs = (inputs @ weight.T).flatten(0, -2)
    scale = deviation / outputs.std(0)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.copy_(-outputs.mean(0) * scale)
