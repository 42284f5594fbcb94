"""Detectors of a user's own, for tests: what docs/detectors.md shows, and others that do not fit."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rmlr.model.foreign import ImageSize, Seen


class Grid(nn.Module):
    """A box for each cell of a grid; class, score and vector come from the mean colour within it."""

    names = ("person", "ball", "bat")
    token_dim = 8
    channels = 3
    stride = 16
    image = ImageSize(shortest=48, longest=64)

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        assert weights is not None
        self.project = nn.Linear(3, self.token_dim)
        self.project.load_state_dict(load_file(weights))

    def detect(self, pixels: Tensor) -> Seen:
        images, _, height, width = pixels.shape
        maps = nn.functional.avg_pool2d(pixels, self.stride, ceil_mode=True)
        rows, columns = maps.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        low = torch.stack([x, y], dim=-1).reshape(-1, 2) * float(self.stride)
        high = (low + self.stride).minimum(low.new_tensor([width, height]))
        colours = maps.flatten(2).transpose(1, 2)  # b q 3
        return Seen(
            boxes=torch.cat([low, high], dim=1).expand(images, -1, -1),
            scores=(colours.amax(2) * 255).round() / 255,
            labels=colours.argmax(2),
            tokens=self.project(colours),
            maps=maps,
        )


class InWrongUnits(Grid):
    def detect(self, pixels: Tensor) -> Seen:
        seen = super().detect(pixels)
        return replace(seen, boxes=seen.boxes * 16)


class OfAnotherWidth(Grid):
    token_dim = 8

    def detect(self, pixels: Tensor) -> Seen:
        seen = super().detect(pixels)
        return replace(seen, tokens=seen.tokens[..., :5])


class NotFinite(Grid):
    def detect(self, pixels: Tensor) -> Seen:
        seen = super().detect(pixels)
        return replace(seen, maps=seen.maps * torch.nan)


class OfDoubles(Grid):
    def detect(self, pixels: Tensor) -> Seen:
        seen = super().detect(pixels)
        return replace(seen, scores=seen.scores.double())


class BeyondOne(Grid):
    def detect(self, pixels: Tensor) -> Seen:
        seen = super().detect(pixels)
        return replace(seen, scores=seen.scores + 1)


class OfUnknownClasses(Grid):
    def detect(self, pixels: Tensor) -> Seen:
        seen = super().detect(pixels)
        return replace(seen, labels=seen.labels + 3)


class OfAnotherStride(Grid):
    stride = 16

    def detect(self, pixels: Tensor) -> Seen:
        seen = super().detect(pixels)
        return replace(seen, maps=seen.maps.repeat(1, 1, 2, 2))


class Nameless(Grid):
    names = "person"


class WithoutImage(Grid):
    image = None


class Blind:
    names, token_dim, channels, stride, image = ("person",), 8, 3, 16, ImageSize(shortest=48, longest=64)

    def __init__(self, weights: Path | None) -> None:
        pass
