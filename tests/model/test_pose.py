"""The frozen pose network: MMPose's weights under our names, and its map on the detector's grid."""

import hashlib
import time

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from rmlr.model.pose import PoseNetwork, load_pose_network, pose_digest


def by_hand(state, pixels):
    """What torchvision's ResNet, and deconvolutions one by one, make of pictures with such weights."""
    resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    resnet.load_state_dict(
        {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
        | {f"fc.{name}": value for name, value in resnet.fc.state_dict().items()}
    )
    trunk = nn.Sequential(*list(resnet.children())[:-2]).eval()
    seen = trunk(pixels)
    for index in (0, 3, 6):
        weight = state[f"keypoint_head.deconv_layers.{index}.weight"]
        seen = nn.functional.conv_transpose2d(seen, weight, stride=2, padding=1)
        norm = {name: state[f"keypoint_head.deconv_layers.{index + 1}.{name}"] for name in ("weight", "bias")}
        mean, var = (state[f"keypoint_head.deconv_layers.{index + 1}.running_{name}"] for name in ("mean", "var"))
        seen = nn.functional.batch_norm(seen, mean, var, **norm).relu()
    return seen


@pytest.fixture
def state(pose_weights):
    return torch.load(pose_weights, weights_only=True)["state_dict"]


def test_a_number_that_is_not_finite_is_named(write, state):
    state["backbone.conv1.weight"][0, 0, 1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"pose\.pth: tensor 'backbone\.conv1\.weight' holds nan at \[0, 0, 1, 2\]"):
        load_pose_network(write(state))


def test_a_flipped_bit_is_found(write, state):
    path, values = write(state), state["backbone.bn1.weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(values) + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"pose\.pth: cannot be read as a checkpoint \(record .*Download them"):
        load_pose_network(path)


@pytest.fixture
def write(tmp_path):
    """Writes the tensors as MMPose would, and gives the file."""

    def call(state, name: str = "pose.pth"):
        torch.save({"meta": {"mmpose_version": "0.8.0"}, "state_dict": state}, tmp_path / name)
        return tmp_path / name

    return call


def test_its_map_is_what_torchvision_and_deconvolutions_give(pose_weights, state):
    network = load_pose_network(pose_weights)
    pixels = torch.randn(2, 3, 70, 64, generator=torch.Generator().manual_seed(0))
    found = network(pixels)
    assert found.shape == (2, 8, 24, 16)
    assert found.std() > 0
    assert (network.channels, network.stride) == (8, 4)
    torch.testing.assert_close(found, by_hand(state, pixels), atol=1e-5, rtol=1e-4)


def test_no_picture_has_no_map(pose_weights):
    assert load_pose_network(pose_weights)(torch.zeros(0, 3, 64, 64)).shape == (0, 8, 16, 16)


@pytest.mark.parametrize("blocks", [[3, 4, 6, 3], [3, 4, 23, 3]])
def test_mmposes_resnets_are_told_by_their_tensors(blocks, monkeypatch, tmp_path):
    """Of the size of the real files, without their bytes: shapes alone."""
    with torch.device("meta"):
        expected = PoseNetwork(Bottleneck, blocks, [256] * 3)
        state = {
            name if name.startswith("backbone.") else f"keypoint_head.{name}": value
            for name, value in expected.state_dict().items()
        }
        state |= {"keypoint_head.final_layer.weight": torch.empty(14, 256, 1, 1)}
        state |= {"keypoint_head.final_layer.bias": torch.empty(14)}
    (tmp_path / "pose.pth").write_bytes(b"")
    monkeypatch.setattr(torch, "load", lambda *_, **__: {"state_dict": state})
    found = load_pose_network(tmp_path / "pose.pth")
    assert {name: value.shape for name, value in found.state_dict().items()} == {
        name: value.shape for name, value in expected.state_dict().items()
    }
    assert (found.channels, found.stride) == (256, 4)


def test_the_prefix_of_newer_files_and_half_precision_are_read_as_well(pose_weights, state, write):
    renamed = {name.replace("keypoint_head.", "head."): value for name, value in state.items()}
    pixels = torch.randn(1, 3, 64, 64)
    expected = load_pose_network(pose_weights)(pixels)
    assert torch.equal(load_pose_network(write(renamed))(pixels), expected)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    found = load_pose_network(write(half))(pixels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05 * float(expected.max()), rtol=0.05)


def test_files_without_counts_of_batches_are_read(pose_weights, state, write):
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    network = load_pose_network(write(old))
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    assert torch.equal(network(torch.ones(1, 3, 32, 32)), load_pose_network(pose_weights)(torch.ones(1, 3, 32, 32)))


def test_it_is_frozen_whatever_its_owner_does(pose_weights):
    network = load_pose_network(pose_weights)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    owner = nn.Sequential(network).train()
    pixels = torch.randn(2, 3, 64, 64, requires_grad=True)
    found = owner(pixels)
    assert not any(module.training for module in network.modules())
    assert not found.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("backbone.layer2.0.conv1.weight"), r"Missing key.*layer2\.0\.conv1\.weight"),
        (lambda s: s.update({"backbone.extra.weight": torch.zeros(1)}), r"Unexpected key.*backbone\.extra\.weight"),
        (lambda s: s.update({"neck.weight": torch.zeros(1)}), r"'neck\.weight' is no part of a pose network"),
        (lambda s: s.update({"head.final_layer.bias": torch.zeros(1)}), r"'head\.final_layer\.bias' is no part"),
        (lambda s: s.pop("keypoint_head.final_layer.weight"), r"final_layer has shapes"),
        (
            lambda s: s.update({"keypoint_head.final_layer.weight": torch.zeros(14, 9, 1, 1)}),
            r"final_layer has shapes .*for a map of 8 channels",
        ),
        (
            lambda s: s.update({"keypoint_head.deconv_layers.3.weight": torch.zeros(9, 8, 4, 4)}),
            r"size mismatch for deconv_layers\.3\.weight",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("backbone.layer4.")],
            r"3 of a ResNet's four stages and 3 deconvolutions",
        ),
        (lambda s: [s.pop(name) for name in list(s) if name.startswith("keypoint_head.")], r"and 0 deconvolutions"),
        (lambda s: s.clear(), r"0 of a ResNet's four stages"),
    ],
)
def test_a_file_with_too_little_or_too_much_is_refused_by_what_is_wrong(state, write, change, said):
    change(state)
    with pytest.raises(ValueError, match=rf"pose\.pth: .*{said}"):
        load_pose_network(write(state))


def test_a_hash_in_the_name_is_checked(pose_weights, tmp_path):
    digest = pose_digest(pose_weights)
    assert digest == hashlib.sha256(pose_weights.read_bytes()).hexdigest()
    right = tmp_path / f"res50_crowdpose_256x192-{digest[:8]}_20201227.pth"
    right.write_bytes(pose_weights.read_bytes())
    assert load_pose_network(right).channels == 8
    wrong = tmp_path / "res50_crowdpose_256x192-c6a526b6_20201227.pth"
    wrong.write_bytes(pose_weights.read_bytes())
    with pytest.raises(ValueError, match=rf"SHA-256 begins with {digest[:8]}, its name says c6a526b6"):
        load_pose_network(wrong)


def test_what_is_no_file_of_tensors_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pth: .*cannot be read.*pose\.weights"):
        load_pose_network(tmp_path / "absent.pth")
    (tmp_path / "page.pth").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.pth: cannot be read as a checkpoint"):
        load_pose_network(tmp_path / "page.pth")
    for content in ({"state_dict": [1]}, {"state_dict": {"a": 1}}, [torch.zeros(1)]):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match=r"odd\.pth: holds no `state_dict` of tensors"):
            load_pose_network(tmp_path / "odd.pth")
    torch.save({"state_dict": {}, "meta": time.struct_time(range(9))}, tmp_path / "code.pth")  # would run code
    with pytest.raises(ValueError, match=r"code\.pth: cannot be read as a checkpoint .*more than tensors and plain"):
        load_pose_network(tmp_path / "code.pth")


@pytest.fixture
def onto_cells():
    with torch.device("meta"):
        return PoseNetwork(BasicBlock, [1] * 4, [8] * 3).onto_cells


def test_a_cell_of_the_detector_has_the_mean_of_the_cells_that_it_covers(onto_cells):
    maps = torch.arange(48.0).view(1, 1, 6, 8)
    found = onto_cells(maps, 8, 3, 4)
    blocks = [[maps[0, 0, y : y + 2, x : x + 2].mean() for x in (0, 2, 4, 6)] for y in (0, 2, 4)]
    torch.testing.assert_close(found[0, 0], torch.tensor(blocks))


def test_cells_beyond_the_map_are_zero_and_surplus_is_cut(onto_cells):
    maps = torch.ones(1, 2, 5, 4)
    assert torch.equal(onto_cells(maps, 8, 3, 1), torch.ones(1, 2, 3, 1))  # the last row of cells is half there
    found = onto_cells(maps, 8, 4, 3)
    assert torch.equal(found[:, :, :3, :2], torch.ones(1, 2, 3, 2))
    assert found.sum() == 2 * 6


def test_cells_that_are_not_made_of_whole_ones_of_the_map_are_refused(onto_cells):
    with pytest.raises(ValueError, match="has 6 pixels, one of the pose network's 4"):
        onto_cells(torch.ones(1, 1, 4, 4), 6, 2, 2)


def test_a_picture_of_any_size_fills_the_detectors_grid(pose_weights):
    network = load_pose_network(pose_weights)
    for height, width, stride in ((64, 96, 32), (70, 40, 32), (70, 40, 16), (40, 40, 8)):
        grid = -(-height // stride), -(-width // stride)
        pixels = torch.randn(1, 3, height, width)
        whole, size = network(pixels), stride // network.stride
        found = network.onto_cells(whole, stride, *grid)
        torch.testing.assert_close(found[0, :, 0, 0], whole[0, :, :size, :size].mean((1, 2)))
        y, x = (size * (cells - 1) for cells in grid)
        torch.testing.assert_close(found[0, :, -1, -1], whole[0, :, y : y + size, x : x + size].mean((1, 2)))
