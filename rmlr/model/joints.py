"""Heat maps of joints: the targets of a top-down pose network, and how they are decoded (Xiao et al. 2018)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def heat_maps(joints: Float[Tensor, "b j 2"], side: int, sigma: float) -> Float[Tensor, "b j side side"]:
    """A Gaussian of height 1 at each joint; `joints` relative to the crop, 0 to 1, and `sigma` in cells."""
    centre = (torch.arange(side, device=joints.device) + 0.5) / side
    along = torch.exp(-0.5 * ((centre - joints[..., None]) * side / sigma) ** 2)  # b j 2 side
    return along[:, :, 1, :, None] * along[:, :, 0, None, :]


def heat_map_loss(
    found: Float[Tensor, "b j h w"], wanted: Float[Tensor, "b j h w"], is_known: Bool[Tensor, "b j"]
) -> Float[Tensor, ""]:
    """Mean squared difference over the cells of known joints; 0 without any."""
    difference = (found - wanted).square().mean((2, 3)) * is_known
    return difference.sum() / is_known.sum().clamp(min=1)


def peaks(maps: Float[Tensor, "b j h w"]) -> Float[Tensor, "b j 2"]:
    """The maximum of each map, 0 to 1, shifted a quarter of a cell towards its larger neighbour on each axis."""
    height, width = maps.shape[2:]
    best = maps.flatten(2).argmax(2)
    row, column = best // width, best % width
    images, joints = torch.meshgrid(*(torch.arange(count, device=maps.device) for count in best.shape), indexing="ij")

    def lean(step_row: int, step_column: int, at: Tensor, count: int) -> Tensor:
        low = maps[images, joints, (row - step_row).clamp(min=0), (column - step_column).clamp(min=0)]
        high = maps[images, joints, (row + step_row).clamp(max=height - 1), (column + step_column).clamp(max=width - 1)]
        return 0.25 * (high - low).sign() * ((at > 0) & (at < count - 1))

    x = column + 0.5 + lean(0, 1, column, width)
    y = row + 0.5 + lean(1, 0, row, height)
    return torch.stack([x / width, y / height], dim=2)
