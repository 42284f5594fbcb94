"""A frozen pose network, whose map replaces IRE (paper, appendix G and Table 9): pictures -> a map of poses.

Weights come from MMPose's CrowdPose model zoo, or from files with the same tensor names, such as those of `rmlr
joints`:

    https://download.openmmlab.com/mmpose/top_down/resnet/res50_crowdpose_256x192-c6a526b6_20201227.pth
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rmlr.study.tensors import TensorFile, check_finite, load_pickled

STAGES = ("layer1", "layer2", "layer3", "layer4")  # of the ResNet, in torchvision's names and MMPose's
BACKBONE_STRIDE = 32
FIRST_CONVOLUTIONS = ("conv1.weight", *(f"{stage}.0.conv1.weight" for stage in STAGES))
RESNET = (64, 128, 256, 512)  # the default widths of its stages
WEIGHTS = "weights.pth"  # file name of a network trained here
HEADS = ("keypoint_head.", "head.")  # of MMPose before 1.0, and from 1.0 on
PUBLISHED_HASH = re.compile(r"-([0-9a-f]{8,64})(?:_\d{8})?\.pth$")  # names of MMPose and torch hub: a SHA-256

State = dict[str, Tensor]


class _Trunk(nn.Module):
    """A ResNet of any widths without its classifier: torchvision's blocks under torchvision's names."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], stem: int, widths: Sequence[int], blocks: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        before = stem
        for number, (name, width, count) in enumerate(zip(STAGES, widths, blocks, strict=True)):
            stage = []
            for stride in [2 if number else 1] + [1] * (count - 1):
                after, shortcut = width * block.expansion, None
                if stride > 1 or before != after:
                    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
                stage.append(block(before, width, stride, shortcut))
                before = after
            setattr(self, name, nn.Sequential(*stage))
        self.channels = before

    def forward(self, pixels: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        seen = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        for name in STAGES:
            seen = getattr(self, name)(seen)
        return seen


class MapNetwork(nn.Module):
    """SimpleBaseline (Xiao et al. 2018) up to its last map: a ResNet, then deconvolutions that each double its size.

    `stem` and `trunk_widths` are the widths of the ResNet's first layer and of its four stages.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        *,
        stem: int = RESNET[0],
        trunk_widths: Sequence[int] = RESNET,
    ) -> None:
        super().__init__()
        self.backbone = _Trunk(block, stem, trunk_widths, blocks)
        layers: list[nn.Module] = []
        for before, after in zip((self.backbone.channels, *widths), widths, strict=False):
            layers += [
                nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.deconv_layers = nn.Sequential(*layers)
        self.channels = widths[-1]
        self.stride = BACKBONE_STRIDE >> len(widths)  # pixels of a picture per cell of the map

    def forward(self, pixels: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """The map of pictures of one size, normalised as for the detector, with the same constants as in MMPose."""
        return self.deconv_layers(self.backbone(pixels))


class JointNetwork(MapNetwork):
    """The trainable network, with a last layer from the map to heat maps of joints (`rmlr joints`)."""

    def __init__(
        self, joints: int, *, embedding_size: int, hidden_sizes: Sequence[int], depths: Sequence[int],
        deconvolutions: Sequence[int],
    ) -> None:  # fmt: skip
        super().__init__(BasicBlock, depths, deconvolutions, stem=embedding_size, trunk_widths=hidden_sizes)
        self.final_layer = nn.Conv2d(self.channels, joints, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.final_layer.weight, std=0.001)  # as in SimpleBaseline: initial heat maps are near 0
        nn.init.zeros_(self.final_layer.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, pixels: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b j h w"]:
        """A heat map for each joint."""
        return self.final_layer(super().forward(pixels))


class PoseNetwork(MapNetwork):
    """The frozen network, without the last layer that makes heat maps of joints.

    Differs: the paper names neither its pose network nor the layer that it uses. Ours is MMPose's network, and the
    layer is the last one before the heat maps of 14 joints. It processes the whole photo, at the detector's size,
    although such networks are trained on crops around one person. So one pass serves all pairs of a photo, and the map
    also covers objects and the space between them and people, and does not depend on the detected people. Bodies then
    appear smaller than in MMPose's training; on the drawn world, with our network, they have the same size.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        *,
        stem: int = RESNET[0],
        trunk_widths: Sequence[int] = RESNET,
    ) -> None:
        super().__init__(block, blocks, widths, stem=stem, trunk_widths=trunk_widths)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PoseNetwork":
        """Stays in evaluation mode, whatever its owner does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """As above, without gradients."""
        return super().forward(pixels)

    def onto_cells(
        self, maps: Float[Tensor, "b c y x"], stride: int, height: int, width: int
    ) -> Float[Tensor, "b c h w"]:
        """Means of the map over each cell of the detector's map: `height` x `width` cells of `stride` pixels, by area.

        Cells beyond the network's input are 0; no box reaches there.
        """
        if stride % self.stride:
            raise ValueError(
                f"a cell of the detector's map has {stride} pixels, one of the pose network's {self.stride}: the first "
                "must be a multiple of the second. Take a detector of another stride"
            )
        means = nn.functional.avg_pool2d(maps, stride // self.stride, ceil_mode=True)[:, :, :height, :width]
        return nn.functional.pad(means, (0, width - means.shape[3], 0, height - means.shape[2]))


def load_pose_network(path: Path) -> PoseNetwork:
    """A pose network from its weights file (MMPose's format); its depth and widths follow from the tensors.

    Every tensor must match, or the file is refused. Those of the last layer, which makes heat maps, must exist and fit,
    but are not kept.
    """
    trunk, head = _split(read_pose(path), path)
    expected = "Expected is a ResNet with deconvolutions and one last layer, such as MMPose's res50_crowdpose_256x192"
    blocks = [len({name.split(".")[1] for name in trunk if name.startswith(f"{stage}.")}) for stage in STAGES]
    widths = [head[name].shape[1] for name in _deconvolutions(head)]
    if not all(blocks) or not widths:
        raise ValueError(
            f"{path}: {sum(map(bool, blocks))} of a ResNet's four stages and {len(widths)} deconvolutions. {expected}"
        )
    final = {name: head.pop(f"final_layer.{name}", torch.empty(0)).shape for name in ("weight", "bias")}
    if final["weight"] != (*final["bias"], widths[-1], 1, 1):
        raise ValueError(f"{path}: final_layer has shapes {final}, for a map of {widths[-1]} channels. {expected}")
    stem, *trunk_widths = (
        len(trunk[name]) if name in trunk else width  # missing tensors are named below
        for name, width in zip(FIRST_CONVOLUTIONS, (RESNET[0], *RESNET), strict=True)
    )
    block = Bottleneck if "layer1.0.conv3.weight" in trunk else BasicBlock
    with torch.device("meta"):  # no random weights are created
        network = PoseNetwork(block, blocks, widths, stem=stem, trunk_widths=trunk_widths)
    try:
        trunk = {f"backbone.{name}": value for name, value in trunk.items()}
        network.load_state_dict(trunk | head, strict=True, assign=True)
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ValueError(f"{path}: {faults[0]}{more}. {expected}") from error
    return network.float().requires_grad_(False)


def save_joint_network(network: JointNetwork, path: Path) -> None:
    """Write a trained network in MMPose's format, for `load_pose_network`."""
    state = {
        name if name.startswith("backbone.") else f"{HEADS[0]}{name}": value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    torch.save({"state_dict": state}, path)


def pose_digest(path: Path) -> str:
    """SHA-256 of the weights file, which identifies the maps of a cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pose(path: Path) -> State:
    """The tensors of a weights file by name, MMPose's or ours; a hash in its file name is checked."""
    hint = "Download them, or correct the path: `pose.weights` of the profile in params.yaml"
    try:
        told, found = PUBLISHED_HASH.search(path.name), pose_digest(path)
    except OSError as error:
        raise ValueError(f"{path}: the pose network's weights cannot be read ({error.strerror}). {hint}") from error
    if told and not found.startswith(told[1]):
        raise ValueError(
            f"{path}: its SHA-256 begins with {found[: len(told[1])]}, its name says {told[1]}. Was it cut off, or "
            "changed? Download it again"
        )
    if path.suffix == ".safetensors":  # as `rmlr export` writes it
        return dict(TensorFile(path, hint))
    content = load_pickled(path, hint)
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError(f"{path}: holds no `state_dict` of tensors, as MMPose's files do")
    check_finite(path, state, hint)
    return state


def _split(state: State, path: Path) -> tuple[State, State]:
    """Tensors of the ResNet and of the head, by their names in our network."""
    parts: tuple[State, State] = ({}, {})
    prefixes = {"backbone.": parts[0], **dict.fromkeys(HEADS, parts[1])}
    for name, value in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        short = name.removeprefix(prefix or "")
        if prefix is None or short in prefixes[prefix]:
            raise ValueError(
                f"{path}: tensor '{name}' is no part of a pose network: expected backbone.* and one of "
                f"{', '.join(f'{head}*' for head in HEADS)}"
            )
        prefixes[prefix][short] = value
    return parts


def _deconvolutions(head: State) -> list[str]:
    """Names of the head's deconvolution weights, in order."""
    names = [name for name, value in head.items() if name.startswith("deconv_layers.") and value.dim() == 4]
    return sorted(names, key=lambda name: int(name.split(".")[1]))
