"""Our UPT and RmLR against UPT's published code, on the same boxes, tokens and maps: forward, and a training step.

    python -m benchmarks.upt --peers FOLDER [--device cpu] [--photos 1 8] [--people 5] [--things 5] [--rounds 9]

FOLDER holds checkouts of fredzzhang/upt and fredzzhang/pocket as upt/ and pocket/. Sizes are the paper profile's: maps
of 25 x 42 cells and 2,048 channels. A step is forward, loss, backward and AdamW, with dropout; the detector is not in
it. RmLR also has its text alignment in a step, with random vectors for words; any of 24 verbs goes with any of 80
objects, so there are more phrases than in V-COCO. All sides take turns in one process; medians, and ratios to UPT's
published code (above 1: faster than it). `tests/model/test_upt_official.py` shows that our UPT computes the same
numbers.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.training import CHANNELS, TOKEN_DIM, made_up_batch, made_up_text, made_up_vocabulary
from benchmarks.upt_modules import upt_modules
from rmlr.hoi import Vocabulary
from rmlr.hoi.batch import Batch, Truth
from rmlr.hoi.boxes import cxcywh_from_xyxy
from rmlr.model.network import build, build_objective
from rmlr.study.plan import Study

UPT = "UPT, published code"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder with checkouts upt and pocket")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--photos", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--people", type=int, default=5)
    parser.add_argument("--things", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    study, vocabulary = Study.load(Path("params.yaml")), made_up_vocabulary()
    print("| photos | what | code | ms | times as fast |")  # noqa: T201
    print("| --: | --- | --- | --: | --: |")  # noqa: T201
    with upt_modules(chosen.peers) as official:
        for photos in chosen.photos:
            batch, truth, annotations = made_up_batch(vocabulary, photos, chosen.people, chosen.things)
            batch, truth = batch.to(chosen.device), truth.to(chosen.device)
            published = Published(official, vocabulary, batch, truth)
            ours = {name: Ours(study, name, vocabulary, batch, truth, annotations) for name in ("upt", "rmlr")}
            for what in ("forward", "step"):
                sides = {UPT: getattr(published, what)}
                sides |= {f"{name}, ours": getattr(one, what) for name, one in ours.items()}
                middle = {name: statistics.median(taken) for name, taken in in_turns(sides, chosen).items()}
                for name, seconds in middle.items():
                    ratio = middle[UPT] / seconds
                    print(f"| {photos} | {what} | {name} | {seconds * 1000:.1f} | {ratio:.2f} |")  # noqa: T201


class Published:
    """UPT's interaction head and loss, with random weights."""

    def __init__(self, official: SimpleNamespace, vocabulary: Vocabulary, batch: Batch, truth: Truth):
        verbs, device = len(vocabulary.verbs), batch.maps.device
        possible = [np.flatnonzero(row).tolist() for row in vocabulary.is_valid_verb]
        head = official.InteractionHead(
            nn.Linear(1024, verbs), TOKEN_DIM, 512, CHANNELS, verbs, vocabulary.person, possible
        )
        self.upt = official.UPT(nn.Module(), None, head, vocabulary.person, verbs, alpha=0.5, gamma=0.2).to(device)
        self.head = self.upt.interaction_head
        self.maps, self.sizes = batch.maps, batch.image_sizes
        self.regions, self.targets = [], []
        for image, size in enumerate(batch.image_sizes):
            own, found = batch.instance_image == image, batch.instances
            parts = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
            self.regions.append({name: part[own] for name, part in (parts | {"hidden_states": found.tokens}).items()})
            true, scale = truth.image == image, size.flip(0).repeat(2)
            boxes = {"boxes_h": truth.human_boxes, "boxes_o": truth.object_boxes}
            target = {name: cxcywh_from_xyxy(box[true]) / scale for name, box in boxes.items()}
            self.targets.append(target | {"labels": truth.verbs[true], "size": size})
        self.optimiser = torch.optim.AdamW(self.head.parameters(), lr=1e-4)  # as UPT builds it

    def forward(self) -> None:
        self.head.eval()
        with torch.no_grad():
            self.head(self.maps, self.sizes, self.regions)

    def step(self) -> None:
        self.head.train()
        logits, prior, humans, objects, _, _ = self.head(self.maps, self.sizes, self.regions)
        boxes = [region["boxes"] for region in self.regions]
        self.upt.compute_interaction_loss(boxes, humans, objects, logits, prior, self.targets).backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), 0.1)
        self.optimiser.step()
        self.optimiser.zero_grad()


class Ours:
    """A variant of the study, with random weights and random vectors for words."""

    def __init__(
        self, study: Study, name: str, vocabulary: Vocabulary, batch: Batch, truth: Truth, annotations: list[Any]
    ):
        paper, variant, device = study.profiles["paper"], study.variants[name], batch.maps.device
        text = made_up_text(vocabulary, annotations)
        sizes = {"channels": CHANNELS, "token_dim": TOKEN_DIM, "vocabulary": vocabulary}
        self.network = build(variant, paper.network, **sizes).to(device)
        counts = text.count_phrases(truth.verbs.cpu(), truth.objects.cpu())
        about = {"vocabulary": vocabulary, "text": text, "phrase_counts": counts}
        self.objective = build_objective(variant, paper.network, paper.alignment, paper.losses, **about).to(device)
        self.text, self.weights, self.batch, self.truth = text.to(device), paper.losses, batch, truth
        parameters = [*self.network.parameters(), *self.objective.parameters()]
        self.parameters = [one for one in parameters if one.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)  # as `rmlr train` builds it

    def forward(self) -> None:
        self.network.eval()
        with torch.no_grad():
            self.network(self.batch)

    def step(self) -> None:
        self.network.train()
        terms = self.objective(self.network(self.batch), self.batch, self.truth, self.text)
        counts = terms.counts
        terms.total(self.weights, counts.positives.clamp(min=1), counts.rows.clamp(min=1)).backward()
        nn.utils.clip_grad_norm_(self.parameters, 0.1)
        self.optimiser.step()
        self.optimiser.zero_grad()


def in_turns(sides: dict[str, Callable[[], None]], chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side, alternately, without the first two rounds."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(chosen.rounds + 2):
        for name, side in sides.items():
            start = now(chosen.device)
            side()
            taken[name].append(now(chosen.device) - start)
    return {name: seconds[2:] for name, seconds in taken.items()}


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
