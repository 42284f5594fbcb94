"""The cost of a network on one photo: parameters, multiply-accumulates, seconds (paper, Table 4).

Multiply-accumulates (MACs) are those of convolutions, linear layers and matrix products, including the two of
attention; element-wise operations (norms, activations, softmax, sums) are not counted.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import DetrForObjectDetection

from rmlr.hoi import Triplets, Vocabulary
from rmlr.hoi.batch import Batch, Instances
from rmlr.model.detector import Detections, FrozenDetector, select_instances
from rmlr.model.detr import DetrAdapter, convolutions_and_feed_forward
from rmlr.model.network import InteractionNetwork
from rmlr.model.scoring import score_triplets
from rmlr.study.settings import Prediction, Selection

SMALLEST_BOX, LARGEST_BOX = 0.05, 0.5  # sides of random boxes, relative to that of the photo
SCORE = 0.9  # of random instances
PARTS = {  # of a `Method`, by path
    "detector": "detector",
    "network.describe.ire": "IRE",
    "network.describe": "pairs",
    "network.reason": "reasoning",
    "": "other",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A square photo of noise, with assumed numbers of instances."""

    side: int  # pixels
    people: int
    things: int

    @property
    def pairs(self) -> int:
        """The number of pairs: every human with every other instance."""
        return self.people * max(self.people + self.things - 1, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a method."""

    name: str
    parameters: int
    trained: int  # of them; the rest is frozen
    macs: int


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one photo."""

    parts: tuple[Part, ...]  # detector first
    seconds: tuple[float, ...]  # of every timed pass
    detector_seconds: tuple[float, ...]  # the detector's share of each
    printed: Part  # of the detector, what the paper's Table 4 counts

    @property
    def whole(self) -> Part:
        """All parts together."""
        return Part(
            "all", *(sum(getattr(part, name) for part in self.parts) for name in ("parameters", "trained", "macs"))
        )


class Method(nn.Module):
    """A detector with an interaction network: from pixels to scored triplets.

    With random weights, detections are random, so the instances are drawn, as many as the scene has; their tokens are
    the detector's. The detector's own detections are selected as well, since this is a part of the cost.
    """

    def __init__(
        self,
        detector: FrozenDetector,
        network: InteractionNetwork | None,
        scene: Scene,
        vocabulary: Vocabulary,
        selection: Selection,
        prediction: Prediction,
    ):
        super().__init__()
        self.detector = detector
        self.network = network
        self.scene, self.vocabulary, self.selection, self.prediction = scene, vocabulary, selection, prediction
        number, queries = scene.people + scene.things, _detr(detector).config.num_queries
        if number > queries:
            raise ValueError(
                f"{scene.people} people and {scene.things} things: DETR has {queries} queries, so it cannot find more"
            )
        generator = torch.Generator().manual_seed(0)
        extent = SMALLEST_BOX + (LARGEST_BOX - SMALLEST_BOX) * torch.rand(number, 2, generator=generator)
        corner = (1 - extent) * torch.rand(number, 2, generator=generator)
        thing = (vocabulary.person + 1) % len(vocabulary.objects)
        self.register_buffer("boxes", scene.side * torch.cat([corner, corner + extent], dim=1))
        self.register_buffer("labels", torch.tensor([vocabulary.person] * scene.people + [thing] * scene.things).long())
        self.register_buffer("is_valid_verb", torch.from_numpy(vocabulary.is_valid_verb))

    def detect(self, pixels: Float[Tensor, "1 3 s s"]) -> Detections:
        """The detector's output."""
        size = torch.tensor([[self.scene.side] * 2], device=pixels.device)
        return self.detector(pixels, pixels.new_zeros(1, *pixels.shape[2:], dtype=torch.bool), size, size)

    def interact(self, detections: Detections) -> Triplets | None:
        """Triplets, if there is a network for them."""
        if self.network is None:
            return None
        select_instances(detections, self.vocabulary.person, self.selection)
        boxes, number = self.get_buffer("boxes"), self.scene.people + self.scene.things
        batch = Batch(
            image_ids=torch.zeros(1, dtype=torch.long, device=boxes.device),
            maps=detections.maps,
            is_padding=detections.is_padding,
            cell_sizes=detections.cell_sizes,
            image_sizes=boxes.new_full((1, 2), self.scene.side),
            instances=Instances(
                boxes, boxes.new_full((number,), SCORE), self.get_buffer("labels"), detections.tokens[0, :number]
            ),
            instance_image=torch.zeros(number, dtype=torch.long, device=boxes.device),
        )
        return score_triplets(
            self.network,
            batch,
            self.get_buffer("is_valid_verb"),
            prior_power=self.prediction.prior_power,
            min_score=self.prediction.min_score,
        )

    def forward(self, pixels: Float[Tensor, "1 3 s s"]) -> Triplets | None:
        return self.interact(self.detect(pixels))


def _detr(detector: FrozenDetector) -> DetrForObjectDetection:
    """What Table 4 is about: a DETR."""
    assert isinstance(detector.adapter, DetrAdapter)
    return detector.adapter.detr


def measure(
    method: Method, pixels: Float[Tensor, "1 3 s s"], *, passes: int, warmup: int, precision: Literal["fp32", "bf16"]
) -> Cost:
    """Cost of one photo at a time. The pass in which MACs are counted, and `warmup` more, are not timed."""
    device = pixels.device
    method.eval()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        macs = count_macs(method, pixels)
        taken = [_timed_pass(method, pixels) for _ in range(warmup + passes)][warmup:]
    frozen = _detr(method.detector)
    counted = convolutions_and_feed_forward(frozen)
    return Cost(
        parts=tuple(_parts(method, macs)),
        seconds=tuple(whole for whole, _ in taken),
        detector_seconds=tuple(detector for _, detector in taken),
        printed=Part(
            "convolutions and feed-forward networks",
            parameters=sum(one.numel() for name in counted for one in frozen.get_submodule(name).parameters()),
            trained=0,
            macs=sum(macs[f"detector.adapter.detr.{name}"] for name in counted),
        ),
    )


def count_macs(module: nn.Module, *inputs: Any) -> dict[str, int]:
    """MACs of one forward pass by dotted path of every submodule that has any; "" is the total.

    PyTorch counts by operation and knows only some fused ones, so attention and Transformer layers run unfused here.
    """
    with counting() as counter:
        module(*inputs)
    root = type(module).__name__
    counts = {path: sum(kinds.values()) // 2 for path, kinds in counter.get_flop_counts().items()}  # 2 flops a MAC
    total = counts.pop("Global", 0)
    return {path.removeprefix(f"{root}."): macs for path, macs in counts.items() if path != root} | {"": total}


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count floating-point operations, two of which are a MAC; those of backward passes, too."""
    with FlopCounterMode(display=False) as counter, _unfused():
        yield counter


@contextmanager
def _unfused() -> Iterator[None]:
    """Run attention as two matrix products, and Transformer layers as their parts."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _parts(method: Method, macs: dict[str, int]) -> Iterator[Part]:
    """The parts of a method in order of execution; a remainder, if any, comes last."""
    sizes = {path: [0, 0, 0] for path in PARTS}
    for name, parameter in method.named_parameters():
        part = sizes[_within(name, sizes)]
        part[0] += parameter.numel()
        part[1] += parameter.numel() * parameter.requires_grad
    for path, number in macs.items():
        sizes[_within(path, sizes)][2] += number
        if path:  # a module's products are also counted for its parents
            sizes[_within(_within(path.rpartition(".")[0], macs), sizes)][2] -= number
    yield from (Part(name, *sizes[path]) for path, name in PARTS.items() if any(sizes[path]))


def _within(path: str, among: Collection[str]) -> str:
    """The path itself or the closest one above it."""
    while path not in among:
        path = path.rpartition(".")[0]
    return path


def _timed_pass(method: Method, pixels: Tensor) -> tuple[float, float]:
    """Seconds for one photo, and for its detector."""
    start = _now(pixels.device)
    detections = method.detect(pixels)
    detected = _now(pixels.device)
    method.interact(detections)
    return _now(pixels.device) - start, detected - start


def _now(device: torch.device) -> float:
    """The time after all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
