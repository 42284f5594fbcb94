"""Seconds of a pair's cue by the number of pairs: our one product over all cells, against a crop of each region.

    python benchmarks/pooling.py [--device cpu] [--pairs 10 50 100 200 400] [--rounds 15]

One photo of 25 x 42 cells, 64 channels (IRE's width in the demo) and 1,024 (the paper's). The crop is torchvision's
RoIAlign of the pair's bounding rectangle to 7 x 7 cells, and the mean over those that either box covers, as code of
other repositories has it. The two are not the same number: RoIAlign samples points, the product weighs each cell by the
share that is covered. Both sides take turns in one process, forward and backward; medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import roi_align

from rmlr.hoi.batch import Batch, Instances
from rmlr.model.pairs import Pairs
from rmlr.model.remine import pair_shares, pool_cells
from rmlr.model.transformer import Layout

CELLS, CELL, CROP = (25, 42), 32.0, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", type=int, nargs="+", default=[10, 50, 100, 200, 400])
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    print("| channels | pairs | product, ms | crops, ms | crops / product |")  # noqa: T201
    print("| --: | --: | --: | --: | --: |")  # noqa: T201
    for channels in (64, 1024):
        maps = torch.rand(1, channels, *CELLS, device=chosen.device, requires_grad=True)
        for number in chosen.pairs:
            batch, pairs = photo(maps, number)
            layout = Layout.of_rows(pairs.image, 1)
            sides = {"product": partial(product, batch, pairs, layout), "crops": partial(crops, batch, pairs)}
            taken = in_turns(sides, maps, chosen.rounds)
            one, other = (statistics.median(taken[name]) * 1000 for name in sides)
            print(f"| {channels:,} | {number} | {one:.2f} | {other:.2f} | {other / one:.1f} |")  # noqa: T201


def photo(maps: Tensor, number: int) -> tuple[Batch, Pairs]:
    """A photo with so many pairs of random boxes."""
    height, width = (cells * CELL for cells in CELLS)
    corner = torch.rand(2 * number, 2) * torch.tensor([width * 0.7, height * 0.7])
    boxes = torch.cat([corner, corner + 40 + torch.rand(2 * number, 2) * 200], dim=1)
    boxes = boxes.minimum(torch.tensor([width, height] * 2))
    device, rows = maps.device, 2 * number
    batch = Batch(
        image_ids=torch.zeros(1, dtype=torch.long),
        maps=maps,
        is_padding=torch.zeros(1, *CELLS, dtype=torch.bool, device=device),
        cell_sizes=torch.full((1, 2), CELL, device=device),
        image_sizes=torch.tensor([[height, width]], device=device),
        instances=Instances(
            boxes.to(device),
            torch.ones(rows, device=device),
            torch.zeros(rows, dtype=torch.long, device=device),
            torch.zeros(rows, 1, device=device),
        ),
        instance_image=torch.zeros(rows, dtype=torch.long, device=device),
    )
    first = torch.arange(number, device=device)
    return batch, Pairs(first, first + number, torch.zeros(number, dtype=torch.long, device=device))


def product(batch: Batch, pairs: Pairs, layout: Layout) -> Tensor:
    """Ours: IRE's mean over a pair's cells, without its encoder."""
    return pool_cells(batch.maps.flatten(2).transpose(1, 2), pair_shares(batch, pairs, "covered"), layout)


def crops(batch: Batch, pairs: Pairs) -> Tensor:
    """A crop of each pair's region, and its mean over the cells that one of the boxes covers."""
    human, thing = batch.instances.boxes[pairs.human], batch.instances.boxes[pairs.object]
    region = torch.cat([human[:, :2].minimum(thing[:, :2]), human[:, 2:].maximum(thing[:, 2:])], dim=1)
    found = roi_align(batch.maps, [region], CROP, 1 / CELL, aligned=True)  # p c 7 7
    step = (torch.arange(CROP, device=region.device) + 0.5) / CROP
    x = region[:, None, 0] + step * (region[:, 2] - region[:, 0])[:, None]  # p 7
    y = region[:, None, 1] + step * (region[:, 3] - region[:, 1])[:, None]

    def covers(box: Tensor) -> Tensor:
        inside_x = (x >= box[:, None, 0]) & (x <= box[:, None, 2])
        inside_y = (y >= box[:, None, 1]) & (y <= box[:, None, 3])
        return inside_y[:, :, None] & inside_x[:, None]

    mask = (covers(human) | covers(thing)).to(found.dtype)
    return (found * mask[:, None]).sum((2, 3)) / mask.sum((1, 2)).clamp(min=1)[:, None]


def in_turns(sides: dict[str, Callable[[], Tensor]], maps: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, forward and backward, alternately, without the first three rounds."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 3):
        for name, side in sides.items():
            start = now(maps)
            side().sum().backward()
            taken[name].append(now(maps) - start)
            maps.grad = None
    return {name: seconds[3:] for name, seconds in taken.items()}


def now(maps: Tensor) -> float:
    if maps.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
