"""A full-size DETR with random weights in which queries differ: stands in for published weights, which are not here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.utils.logging import disable_progress_bar

from rmlr.data.images import ImageBatch

GAIN = 3.0  # of the decoder's and the box head's matrices, over the one that keeps the variance
PERSON_SPREAD, THING_SPREAD, BOX_SPREAD = 6.0, 3.0, 1.5  # standard deviations of logits over queries
NEVER = -20.0  # logit of all other classes, and of "no object"


@torch.no_grad()
def save_perturbed_detr(
    folder: Path, names: Sequence[str], *, person: str, things: Sequence[str], photos: ImageBatch, seed: int
) -> None:
    """Save a DETR-R50 in the library's own layout, whose random heads see persons and `things` in every photo.

    A fresh DETR gives all queries one class and one box, so no photo has a pair. It is perturbed, and this is all that
    is done:
    - queries are drawn from N(0, 1), matrices of the decoder and of the box head with a gain, so that each query looks
      at places of its own and its token differs from the others';
    - the box head's last layer is scaled and centred on `photos`, so that boxes of all places and sizes occur;
    - of the class head, only `person` and `things` can win. The person's logit runs along the direction in which the
      tokens of `photos` differ most, centred there, so that about a half of the queries say "person"; those of things
      run along random directions.
    It has learnt nothing: where its boxes stand and what it calls them is chance.
    """
    torch.manual_seed(seed)
    disable_progress_bar()
    config = DetrConfig(  # the defaults of both classes: DETR with ResNet-50
        backbone_config=ResNetConfig(out_features=["stage4"]),  # pyright: ignore[reportCallIssue]
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    detr: Any = DetrForObjectDetection(config).eval()
    detr.model.query_position_embeddings.weight.normal_()
    for part in (detr.model.decoder, detr.bbox_predictor):
        for parameter in part.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=GAIN * parameter.shape[1] ** -0.5)

    tokens = detr(photos.pixels, pixel_mask=(~photos.is_padding).long()).last_hidden_state  # b q d
    logits = detr.bbox_predictor(tokens).flatten(0, 1)
    last = detr.bbox_predictor.layers[-1]
    scale = BOX_SPREAD / logits.std(0)
    last.bias.copy_((last.bias - logits.mean(0)) * scale)
    last.weight.mul_(scale[:, None])

    centre = tokens.mean((0, 1))
    away = (tokens - tokens.mean(1, keepdim=True)).flatten(0, 1)  # from what the queries of a photo share
    widest = torch.linalg.svd(away, full_matrices=False).Vh[0]
    head = detr.class_labels_classifier
    head.weight.zero_()
    head.bias.fill_(NEVER)
    for name in (person, *things):
        index = names.index(name)
        direction = widest if name == person else torch.randn(len(centre))
        spread = PERSON_SPREAD if name == person else THING_SPREAD
        head.weight[index] = spread / (away @ direction).std() * direction
        head.bias[index] = -head.weight[index] @ centre
    detr.save_pretrained(folder)
