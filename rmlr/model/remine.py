"""Re-mining: recovers information that detection discards, from the backbone's map (paper, section 3.2)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rmlr.hoi.batch import Batch
from rmlr.model.pairs import Pairs
from rmlr.model.transformer import Encoder, Layout

Pool = Literal["covered", "roi"]
SINE_TEMPERATURE = 10_000.0  # DETR's
SMALLEST_AREA = 1e-6  # cells; smaller regions count as empty


def fully_connected(inputs: int, outputs: int) -> nn.Sequential:
    """The paper's FC. Differs: the paper does not say what follows the linear layer; here it is a ReLU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


def sine_position_code(is_padding: Bool[Tensor, "b h w"], dim: int) -> Float[Tensor, "b h w d"]:
    """DETR's sine code, one half of the channels for the row and one for the column, normalised over the valid cells.

    Valid cells are the upper left rectangle of each map, so each half is computed along one axis only.
    """
    quarter = torch.arange(dim // 4, device=is_padding.device)
    frequency = 2 * math.pi / SINE_TEMPERATURE ** (quarter * 4 / dim)

    def along(is_valid: Tensor) -> Tensor:  # b t
        position = is_valid.cumsum(1) / is_valid.sum(1, keepdim=True).clamp(min=1)
        angle = position[..., None] * frequency
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(2)  # b t d/2

    _, height, width = is_padding.shape
    rows, columns = along((~is_padding).any(2)), along((~is_padding).any(1))
    return torch.cat([rows[:, :, None].expand(-1, -1, width, -1), columns[:, None].expand(-1, height, -1, -1)], dim=-1)


def coverage(
    human_boxes: Float[Tensor, "p 4"],
    object_boxes: Float[Tensor, "p 4"],
    cell_sizes: Float[Tensor, "p 2"],
    height: int,
    width: int,
) -> Float[Tensor, "p h w"]:
    """The share of every map cell that the human box or the object box covers (paper, equation 5 and Figure 4).

    Exact, for their union and not for their bounding rectangle: coverage(human) + coverage(object) - coverage(shared),
    where each rectangle's coverage is the outer product of its overlap with the rows and with the columns.
    `cell_sizes` are height and width of a cell, in pixels.
    """
    boxes = (
        torch.stack([human_boxes, object_boxes], dim=1) / cell_sizes.flip(1).repeat(1, 2)[:, None]
    )  # p 2 4, in cells
    low, high = boxes[..., :2], boxes[..., 2:]
    low = torch.cat([low, low.amax(1, keepdim=True)], dim=1)  # p 3 2: human, object, shared
    high = torch.cat([high, high.amin(1, keepdim=True)], dim=1)

    def overlap(cells: int, axis: int) -> Tensor:  # p 3 cells
        edge = torch.arange(cells, device=boxes.device)
        return (high[..., axis, None].minimum(edge + 1) - low[..., axis, None].maximum(edge)).clamp(min=0)

    sign = boxes.new_tensor([1.0, 1.0, -1.0])[:, None]
    rows, columns = overlap(height, 1) * sign, overlap(width, 0)
    return (rows[..., None] * columns[:, :, None]).sum(1).clamp(min=0)


def roi_area(
    human_boxes: Float[Tensor, "p 4"], object_boxes: Float[Tensor, "p 4"], cell_sizes: Float[Tensor, "p 2"]
) -> Float[Tensor, " p"]:
    """Area of the two boxes' bounding rectangle, in cells."""
    low, high = human_boxes[:, :2].minimum(object_boxes[:, :2]), human_boxes[:, 2:].maximum(object_boxes[:, 2:])
    return ((high - low).clamp(min=0) / cell_sizes.flip(1)).prod(1)


def average_cells(maps: Float[Tensor, "b c h w"], is_padding: Bool[Tensor, "b h w"]) -> Float[Tensor, "b c"]:
    """Mean over the valid cells of each map; 0 if there are none."""
    is_valid = (~is_padding).flatten(1).to(maps.dtype)  # b hw
    total = (maps.flatten(2) @ is_valid[..., None]).squeeze(-1)
    return total / is_valid.sum(1, keepdim=True).clamp(min=1)


def pair_shares(batch: Batch, pairs: Pairs, pool: Pool, level: int = 0) -> Float[Tensor, "p hw"]:
    """The weight of each cell of a level in each pair's mean (paper, equation 5); 0 for padding."""
    boxes, grid = batch.instances.boxes, batch.levels[level]
    human_boxes, object_boxes, cell_sizes = boxes[pairs.human], boxes[pairs.object], grid.cell_sizes[pairs.image]
    covered = coverage(human_boxes, object_boxes, cell_sizes, *grid.is_padding.shape[1:])
    covered = covered.masked_fill(grid.is_padding[pairs.image], 0).flatten(1)  # p hw
    divisor = covered.sum(1) if pool == "covered" else roi_area(human_boxes, object_boxes, cell_sizes)
    return covered / divisor.clamp(min=SMALLEST_AREA)[:, None]


def pool_cells(cells: Float[Tensor, "b hw d"], shares: Float[Tensor, "p hw"], layout: Layout) -> Float[Tensor, "p d"]:
    """Each pair's mean over the cells of its image: one product (p, hw) x (hw, d) per image."""
    return layout.flatten(layout.pad(shares) @ cells)


class GlobalContext(nn.Module):
    """g: the scene as a whole (paper, equation 6): FC(GAP(X)), over valid cells.

    Differs: UPT's mean includes padding.
    """

    def __init__(self, channels: int, feature_dim: int):
        super().__init__()
        self.project = fully_connected(channels, feature_dim)

    def forward(self, maps: Float[Tensor, "b c h w"], is_padding: Bool[Tensor, "b h w"]) -> Float[Tensor, "b d"]:
        return self.project(average_cells(maps, is_padding))


class InteractiveRelationEncoder(nn.Module):
    """IRE: one interaction cue m per pair (paper, equations 4 and 5): m = FC(GAP(mROI(F_enc(X), boxes))).

    Differs: the sizes except the number of layers, the position code (DETR's, added once) and the exact share of a cell
    are our choices. `pool` says by what the sum over a pair's cells is divided: the covered area, or, as in the paper,
    the area of the bounding RoI, which differs by a factor that depends on the layout of the boxes. All pairs are
    pooled by one product. With `finer_channels`, the cells of several maps are one sequence, with a learnt code for
    each level, and m is the mean over the levels.
    """

    def __init__(
        self,
        channels: int,
        feature_dim: int,
        *,
        pool: Pool,
        layers: int,
        dim: int,
        heads: int,
        ffn_dim: int,
        dropout: float,
        finer_channels: Sequence[int] = (),
    ):
        super().__init__()
        self.pool: Pool = pool
        self.dim = dim
        self.reduce = nn.Linear(channels, dim)
        self.encoder = Encoder(layers, dim, heads, ffn_dim, dropout, "relu")
        self.project = fully_connected(dim, feature_dim)
        self.reduce_finer = nn.ModuleList(nn.Linear(number, dim) for number in finer_channels)
        levels = 1 + len(finer_channels)
        self.level_code = nn.Parameter(torch.randn(levels, dim)) if finer_channels else None

    def forward(self, batch: Batch, pairs: Pairs, layout: Layout) -> Float[Tensor, "p d"]:
        cells, grid = self._cells(batch)
        cells = grid.pad(self.encoder(cells, grid))
        return self.project(pool_cells(cells, self._shares(batch, pairs), layout))

    def attention(self, batch: Batch, pairs: Pairs, layout: Layout) -> Float[Tensor, "p h w"]:
        """Where on the map each pair's cue comes from: the encoder's rollout, averaged over the cells of the pair.

        Each cell of the map is a query of the encoder. A pair's map is the mean of its queries' rollouts
        (`Encoder.rollout`), weighted as in m: by the share of each cell that the pair's boxes cover. It sums to 1 over
        the valid cells; it is 0 for a pair whose boxes cover none. For a detector with one map.
        """
        shares = self._shares(batch, pairs)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=SMALLEST_AREA)
        rollout = self.encoder.rollout(*self._cells(batch))  # b hw hw
        return pool_cells(rollout, shares, layout).unflatten(1, batch.maps.shape[2:])

    def _shares(self, batch: Batch, pairs: Pairs) -> Float[Tensor, "p n"]:
        """The weight of each cell of all levels in each pair's mean."""
        levels = [pair_shares(batch, pairs, self.pool, level) for level in range(len(batch.levels))]
        return torch.cat(levels, dim=1) / len(levels)

    def _cells(self, batch: Batch) -> tuple[Tensor, Layout]:
        """The encoder's input: every cell of the maps with its position code, and the layout of these rows."""
        levels = []
        for index, (level, reduce) in enumerate(zip(batch.levels, (self.reduce, *self.reduce_finer), strict=True)):
            cells = reduce(level.maps.float().flatten(2).transpose(1, 2))  # b hw d
            cells = cells + sine_position_code(level.is_padding, self.dim).flatten(1, 2)
            levels.append(cells if self.level_code is None else cells + self.level_code[index])
        is_padding = torch.cat([level.is_padding.flatten(1) for level in batch.levels], dim=1)
        return torch.cat(levels, dim=1).flatten(0, 1), Layout.of_block(is_padding)


class PoseCue(nn.Module):
    """A replacement of IRE (paper, appendix G, Table 9): m = FC(GAP(mROI(P, boxes))), P a frozen pose network's map.

    Nothing is trained between that map and its mean over a pair's cells, which is computed as in IRE, over the same
    cells.

    Differs: the paper says only that the pose network replaces the IRE module, and learns the union feature of a pair.
    """

    def __init__(self, channels: int, feature_dim: int, *, pool: Pool):
        super().__init__()
        self.pool: Pool = pool
        self.project = fully_connected(channels, feature_dim)

    def forward(self, batch: Batch, pairs: Pairs, layout: Layout) -> Float[Tensor, "p d"]:
        if batch.pose is None:
            raise ValueError(
                "this variant reads a pose network's map, and there is none. Give it what `rmlr pose` made"
            )
        cells = batch.pose.float().flatten(2).transpose(1, 2)  # b hw k
        return self.project(pool_cells(cells, pair_shares(batch, pairs, self.pool), layout))
