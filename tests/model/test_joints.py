"""Heat maps of joints, and how they are read."""

import pytest
import torch

from rmlr.model.joints import heat_map_loss, heat_maps, peaks


def test_a_spot_is_highest_where_the_joint_is_and_falls_as_a_gaussian():
    joints = torch.tensor([[[2.5 / 8, 5.5 / 8]]])  # the middle of column 2, row 5
    (spot,) = heat_maps(joints, 8, sigma=1.5)[0]
    assert spot[5, 2] == 1
    assert spot[5, 5] == pytest.approx(float(torch.tensor(-0.5 * (3 / 1.5) ** 2).exp()))
    assert spot[6, 1] == pytest.approx(float(torch.tensor(-0.5 * 2 / 1.5**2).exp()))


def test_a_joint_outside_leaves_at_most_its_edge():
    assert heat_maps(torch.tensor([[[2.0, 0.5]]]), 8, sigma=1.0).max() < 1e-6


def test_a_peak_is_found_to_a_quarter_of_a_cell():
    joints = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    found = peaks(heat_maps(joints, 16, sigma=1.0))
    assert (found - joints).abs().max() * 16 <= 0.25 + 1e-4


def test_a_peak_at_the_edge_stays_there():
    maps = torch.zeros(1, 1, 4, 8)
    maps[0, 0, 0, 7] = 1
    assert peaks(maps).tolist() == [[[7.5 / 8, 0.5 / 4]]]


def test_no_pictures_have_no_peaks():
    assert peaks(torch.zeros(0, 14, 4, 4)).shape == (0, 14, 2)
    assert heat_maps(torch.zeros(0, 14, 2), 4, 1.0).shape == (0, 14, 4, 4)


def test_an_unknown_joint_teaches_nothing():
    found = torch.ones(2, 2, 3, 3, requires_grad=True)
    wanted = torch.zeros(2, 2, 3, 3)
    wanted[0, 1] = 3
    is_known = torch.tensor([[True, False], [False, True]])
    loss = heat_map_loss(found, wanted, is_known)
    assert loss.item() == 1, "the mean over two known joints, each off by 1"
    loss.backward()
    assert not found.grad[0, 1].any()
    assert found.grad[0, 0].all()
    nothing = heat_map_loss(found, wanted, torch.zeros(2, 2, dtype=torch.bool))
    assert nothing.item() == 0
