import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rmlr.hoi.batch import Level
from rmlr.model.pairs import enumerate_pairs
from rmlr.model.remine import (
    GlobalContext,
    InteractiveRelationEncoder,
    PoseCue,
    coverage,
    roi_area,
    sine_position_code,
)
from rmlr.model.transformer import Layout

HEIGHT, WIDTH, FINE = 3, 4, 8  # cells, and points along each side of a cell
eighths = st.tuples(*[st.integers(0, size * FINE) for size in (WIDTH, HEIGHT, WIDTH, HEIGHT)])


def as_box(corners: tuple[int, int, int, int]) -> list[float]:
    x1, y1, x2, y2 = corners
    return [min(x1, x2) / FINE, min(y1, y2) / FINE, max(x1, x2) / FINE, max(y1, y2) / FINE]


def by_points(boxes: list[list[float]]) -> torch.Tensor:
    """Share of points in any of the boxes, for every cell; exact for corners on the fine grid."""
    y, x = ((torch.arange(size * FINE) + 0.5) / FINE for size in (HEIGHT, WIDTH))
    covered = torch.zeros(len(y), len(x), dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        covered |= ((x > x1) & (x < x2))[None] & ((y > y1) & (y < y2))[:, None]
    return covered.float().view(HEIGHT, FINE, WIDTH, FINE).mean((1, 3))


@given(eighths, eighths)
def test_coverage_is_exact_for_the_union(human, object_):
    human, object_ = as_box(human), as_box(object_)
    cell = torch.tensor([10.0, 20.0])  # height and width, in pixels
    pixels = torch.tensor([human, object_]) * cell.flip(0).repeat(2)
    found = coverage(pixels[:1], pixels[1:], cell[None], HEIGHT, WIDTH)[0]
    torch.testing.assert_close(found, by_points([human, object_]), atol=1e-5, rtol=0)


def test_the_area_between_two_boxes_is_not_covered():
    human, object_ = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 2.0, 4.0, 3.0]])
    found = coverage(human, object_, torch.ones(1, 2), HEIGHT, WIDTH)[0]
    assert found.nonzero().tolist() == [[0, 0], [2, 3]]
    assert roi_area(human, object_, torch.ones(1, 2)).tolist() == [12.0]


def test_a_box_twice_is_covered_once():
    box = torch.tensor([[0.5, 0.0, 1.0, 1.0]])
    assert coverage(box, box, torch.ones(1, 2), 1, 2)[0].tolist() == [[0.5, 0.0]]


def test_no_pairs_cover_nothing():
    empty = torch.zeros(0, 4)
    assert coverage(empty, empty, torch.zeros(0, 2), HEIGHT, WIDTH).shape == (0, HEIGHT, WIDTH)
    assert roi_area(empty, empty, torch.zeros(0, 2)).shape == (0,)


def test_the_position_code_is_detrs():
    is_padding = torch.ones(1, 5, 4, dtype=torch.bool)
    is_padding[0, :3, :2] = False  # 3 x 2 valid cells
    code = sine_position_code(is_padding, 8)
    for row in range(3):
        for column in range(2):
            y, x = 2 * math.pi * (row + 1) / 3, 2 * math.pi * (column + 1) / 2
            expected = [f(v / 10000 ** (2 * i / 4)) for v in (y, x) for i in range(2) for f in (math.sin, math.cos)]
            torch.testing.assert_close(code[0, row, column], torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_global_context_is_the_mean_of_valid_cells(small):
    torch.manual_seed(0)
    batch = small.batch([], [])
    context = GlobalContext(small.channels, 4)
    g = context(batch.maps, batch.is_padding)
    torch.testing.assert_close(g, context.project(batch.maps.mean((2, 3))))
    padded = small.on_larger_canvas(batch, 2, 1)
    torch.testing.assert_close(context(padded.maps, padded.is_padding), g, atol=1e-5, rtol=1e-5)


def encoder(small, pool):
    torch.manual_seed(0)
    return InteractiveRelationEncoder(small.channels, 4, pool=pool, layers=2, dim=8, heads=2, ffn_dim=16, dropout=0.0)


def cues(ire, small, batch):
    pairs = enumerate_pairs(batch, small.person)
    return ire(batch, pairs, Layout.of_rows(pairs.image, len(batch.image_ids)))


@pytest.mark.parametrize("pool", ["covered", "roi"])
def test_one_product_pools_as_a_loop_over_pairs_would(small, pool):
    batch = small.batch([0, 0, 1], [], [0, 2])
    ire = encoder(small, pool)
    pairs = enumerate_pairs(batch, small.person)
    rows = []
    for human, object_, image in zip(pairs.human, pairs.object, pairs.image, strict=True):
        grid = Layout.of_block(batch.is_padding[image].flatten()[None])
        cells = ire.reduce(batch.maps[image].flatten(1).T) + sine_position_code(batch.is_padding[image][None], 8)[
            0
        ].view(-1, 8)
        cells = ire.encoder(cells, grid)
        a, b, cell = batch.instances.boxes[human], batch.instances.boxes[object_], batch.cell_sizes[image]
        share = coverage(a[None], b[None], cell[None], *batch.is_padding.shape[1:]).flatten()
        area = share.sum() if pool == "covered" else roi_area(a[None], b[None], cell[None])
        rows.append(ire.project((share[:, None] * cells).sum(0) / area))
    torch.testing.assert_close(cues(ire, small, batch), torch.stack(rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["covered", "roi"])
def test_padding_changes_no_cue(small, pool):
    batch = small.batch([0, 1], [0, 0, 2])
    ire = encoder(small, pool)
    expected = cues(ire, small, batch)
    torch.testing.assert_close(cues(ire, small, small.on_larger_canvas(batch, 3, 2)), expected, atol=1e-5, rtol=1e-4)


def test_a_box_that_reaches_into_the_padding_counts_only_valid_cells(small):
    batch = small.batch([0, 1], height=2, width=2)
    reaching = torch.tensor([[0.0, 0.0, 32.0, 40.0], [0.0, 0.0, 32.0, 48.0]])
    inside = torch.tensor([[0.0, 0.0, 32.0, 32.0]]).expand(2, 4)
    reaching, inside = (replace(batch, instances=replace(batch.instances, boxes=x)) for x in (reaching, inside))
    ire = encoder(small, "covered")
    found = cues(ire, small, small.on_larger_canvas(reaching, 1, 0))
    torch.testing.assert_close(found, cues(ire, small, inside), atol=1e-5, rtol=1e-4)


def test_a_pair_of_empty_boxes_has_a_finite_cue_and_gradient(small):
    batch = small.batch([0, 1])
    batch = replace(batch, instances=replace(batch.instances, boxes=torch.zeros(2, 4)))
    ire = encoder(small, "covered")
    found = cues(ire, small, batch)
    found.sum().backward()
    assert found.isfinite().all()
    assert all(p.grad.isfinite().all() for p in ire.parameters())


def test_no_pairs_give_no_cues_and_no_gradient(small):
    ire = encoder(small, "roi")
    found = cues(ire, small, small.batch([1], []))
    assert found.shape == (0, 4)
    found.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in ire.parameters())


# ---- where it looked


def attention(ire, small, batch):
    pairs = enumerate_pairs(batch, small.person)
    return ire.attention(batch, pairs, Layout.of_rows(pairs.image, len(batch.image_ids)))


def test_a_cue_whose_queries_see_one_cell_only_comes_half_from_there_and_half_from_its_own_cells(small):
    torch.manual_seed(0)
    ire = InteractiveRelationEncoder(
        small.channels, 4, pool="covered", layers=1, dim=8, heads=1, ffn_dim=16, dropout=0.0
    )
    with torch.no_grad():
        ire.reduce.weight.zero_()
        ire.reduce.weight[0, 0] = 1.0  # the first number of a cell is the first of the map
        ire.encoder.layers[0].to_query_key_value.weight.zero_()
        ire.encoder.layers[0].to_query_key_value.weight[8, 0] = 1.0  # so is the first number of its key
        ire.encoder.layers[0].to_query_key_value.bias[0] = 1.0  # and every query asks for it
    batch = small.batch([0, 1])
    batch.maps[:, 0] = 0
    batch.maps[:, 0, 2, 3] = 1e4
    pairs = enumerate_pairs(batch, small.person)
    boxes = batch.instances.boxes
    covered = coverage(boxes[pairs.human], boxes[pairs.object], batch.cell_sizes[pairs.image], 4, 5)
    expected = covered / covered.sum() / 2
    expected[:, 2, 3] += 0.5
    torch.testing.assert_close(attention(ire, small, batch), expected)


@pytest.mark.parametrize("pool", ["covered", "roi"])
def test_where_it_looked_sums_to_one_over_valid_cells_and_padding_changes_nothing(small, pool):
    batch = small.batch([0, 1], [], [0, 0, 2])
    ire = encoder(small, pool)
    found = attention(ire, small, batch)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(len(found)))
    padded = attention(ire, small, small.on_larger_canvas(batch, 3, 2))
    torch.testing.assert_close(padded[:, :4, :5], found)
    assert padded[:, 4:].eq(0).all()
    assert padded[:, :, 5:].eq(0).all()


def test_a_pair_of_empty_boxes_looked_nowhere_and_no_pairs_have_no_map(small):
    batch = small.batch([0, 1])
    batch = replace(batch, instances=replace(batch.instances, boxes=torch.zeros(2, 4)))
    assert attention(encoder(small, "covered"), small, batch).eq(0).all()
    assert attention(encoder(small, "covered"), small, small.batch([1], [])).shape == (0, 4, 5)


# ---- several maps


def with_finer(small, batch, channels=(3, 2)):
    """The batch with two finer maps, of half and a quarter of the cell's size."""
    generator = torch.Generator().manual_seed(1)
    images, (height, width) = len(batch.image_ids), batch.is_padding.shape[1:]
    finer = tuple(
        Level(
            torch.randn(images, number, 2**level * height, 2**level * width, generator=generator),
            torch.zeros(images, 2**level * height, 2**level * width, dtype=torch.bool),
            batch.cell_sizes / 2**level,
        )
        for level, number in enumerate(channels, start=1)
    )
    return replace(batch, finer=finer)


def finer_encoder(small, pool, channels=(3, 2)):
    torch.manual_seed(0)
    sizes = {"layers": 2, "dim": 8, "heads": 2, "ffn_dim": 16, "dropout": 0.0}
    return InteractiveRelationEncoder(small.channels, 4, pool=pool, finer_channels=channels, **sizes)


def test_one_map_needs_no_code_of_its_level_and_starts_with_the_same_weights(small):
    one, several = encoder(small, "covered"), finer_encoder(small, "covered")
    assert not [name for name in one.state_dict() if "finer" in name or "level" in name]
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, several.state_dict()[name])


@pytest.mark.parametrize("pool", ["covered", "roi"])
def test_a_cue_of_several_maps_is_the_mean_of_each_maps_mean(small, pool):
    batch = with_finer(small, small.batch([0, 0, 1], [], [0, 2]))
    ire = finer_encoder(small, pool)
    pairs = enumerate_pairs(batch, small.person)
    rows = []
    for human, object_, image in zip(pairs.human, pairs.object, pairs.image, strict=True):
        parts = []
        for level, reduce, code in zip(batch.levels, (ire.reduce, *ire.reduce_finer), ire.level_code, strict=True):
            place = sine_position_code(level.is_padding[image][None], 8)[0].view(-1, 8)
            parts.append(reduce(level.maps[image].flatten(1).T) + place + code)
        cells = torch.cat(parts)
        cells = ire.encoder(cells, Layout.of_block(torch.zeros(1, len(cells), dtype=torch.bool)))
        a, b = batch.instances.boxes[human], batch.instances.boxes[object_]
        means = []
        for level, own in zip(batch.levels, cells.split([len(part) for part in parts]), strict=True):
            share = coverage(a[None], b[None], level.cell_sizes[image][None], *level.is_padding.shape[1:]).flatten()
            area = share.sum() if pool == "covered" else roi_area(a[None], b[None], level.cell_sizes[image][None])
            means.append((share[:, None] * own).sum(0) / area)
        rows.append(ire.project(torch.stack(means).mean(0)))
    torch.testing.assert_close(cues(ire, small, batch), torch.stack(rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["covered", "roi"])
def test_padding_of_no_map_changes_a_cue(small, pool):
    batch = with_finer(small, small.batch([0, 1], [0, 0, 2]))
    padded = small.on_larger_canvas(batch, 3, 2)
    finer = tuple(
        Level(
            nn.functional.pad(level.maps, (0, 5, 0, 1), value=1e3),
            nn.functional.pad(level.is_padding, (0, 5, 0, 1), value=True),
            level.cell_sizes,
        )
        for level in batch.finer
    )
    padded, ire = replace(padded, finer=finer), finer_encoder(small, pool)
    torch.testing.assert_close(cues(ire, small, padded), cues(ire, small, batch), atol=1e-5, rtol=1e-4)


# ---- a pose network's map


def pose_cues(cue, small, batch):
    pairs = enumerate_pairs(batch, small.person)
    return cue(batch, pairs, Layout.of_rows(pairs.image, len(batch.image_ids)))


@pytest.mark.parametrize("pool", ["covered", "roi"])
def test_a_pose_cue_is_the_mean_of_the_pose_networks_map_where_the_pairs_boxes_lie(small, pool):
    torch.manual_seed(0)
    cue = PoseCue(small.pose_channels, 4, pool=pool)
    batch = small.batch([0, 1], [], [0, 2], height=2, width=3)
    half = small.stride / 2
    boxes = torch.tensor([[0, 0, 2, 4], [4, 1, 6, 2], [0, 0, 4, 4], [3, 3, 4, 4]]) * half  # in half cells
    batch = replace(batch, instances=replace(batch.instances, boxes=boxes))
    one, two = batch.pose[0], batch.pose[2]
    apart = one[:, 0, 0] + one[:, 1, 0] + one[:, 0, 2] / 2  # two cells, and the lower half of a third
    within = two[:, :, :2].sum((1, 2))  # the object lies in the person's four cells
    area = (2.5, 4) if pool == "covered" else (6, 4)
    expected = torch.stack([apart / area[0], within / area[1]])
    torch.testing.assert_close(pose_cues(cue, small, batch), cue.project(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", ["covered", "roi"])
def test_a_pose_cue_reads_neither_padding_nor_the_detectors_map(small, pool):
    torch.manual_seed(0)
    cue, batch = PoseCue(small.pose_channels, 4, pool=pool), small.batch([0, 1], [0, 0, 2])
    expected = pose_cues(cue, small, batch)
    padded = replace(small.on_larger_canvas(batch, 3, 2), maps=torch.full((2, 1, 7, 7), torch.nan))
    torch.testing.assert_close(pose_cues(cue, small, padded), expected, atol=1e-5, rtol=1e-4)


def test_no_pairs_give_no_pose_cues(small):
    cue = PoseCue(small.pose_channels, 4, pool="covered")
    found = pose_cues(cue, small, small.batch([1], []))
    assert found.shape == (0, 4)
    found.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in cue.parameters())
