"""What each map says of verbs, and what its mean over a pair's cells keeps: probes on a finished study's true pairs.

    python benchmarks/probe.py [results/demo]

A small network learns the verbs of annotated pairs (V-COCO view, 3,000 training pictures) from how the boxes lie and
the object's class, and from one of: nothing more; a map's mean over the pair's cells, as IRE and the pose cue take it;
the map's 4 x 4 grid over both boxes' bounding rectangle. AP over the true test pairs, mean over verbs: no detection
score.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from rmlr.data.features import Features
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.data.truth import Truths
from rmlr.model.losses import assign_targets
from rmlr.model.pairs import enumerate_pairs, pair_geometry
from rmlr.model.remine import pair_shares, pool_cells
from rmlr.model.transformer import Layout

PICTURES, EPOCHS, HIDDEN, GRID = 3000, 15, 64, 4


def gather(results: Path, split: str) -> tuple[dict[str, Tensor], Tensor]:
    """What describes every true pair, by name, and its verbs."""
    vocabulary = load_vocabulary(results / "vcoco/prepare")
    cached = Features.load(results / "vcoco/features/base", split, results / "pose/vcoco/base")
    truths = Truths(load_annotations(results / "vcoco/prepare", split), cached.image_ids, vocabulary)
    rows: dict[str, list[Tensor]] = {}
    verbs = []
    for images in torch.arange(min(PICTURES, len(cached))).split(50):
        batch, truth = cached.batch(images.tolist()), truths.batch(images)
        pairs = enumerate_pairs(batch, vocabulary.person)
        matched = assign_targets(batch, pairs, truth)
        does = torch.zeros(len(pairs.image), len(vocabulary.verbs))
        does[matched.pair, truth.verbs[matched.truth]] = 1
        kept = does.any(1)
        human, object_ = batch.instances.boxes[pairs.human], batch.instances.boxes[pairs.object]
        around = torch.cat([human[:, :2].minimum(object_[:, :2]), human[:, 2:].maximum(object_[:, 2:])], dim=1)
        around = around / batch.cell_sizes[pairs.image].flip(1).repeat(1, 2)  # in cells
        labels = nn.functional.one_hot(batch.instances.labels[pairs.object], len(vocabulary.objects)).float()
        known = torch.cat([pair_geometry(batch, pairs), labels], dim=1)
        seen = {"boxes and class": known}
        shares, layout = pair_shares(batch, pairs, "covered"), Layout.of_rows(pairs.image, len(images))
        assert batch.pose is not None
        for name, maps in (("pose", batch.pose.float()), ("detector", batch.maps.float())):
            mean = pool_cells(maps.flatten(2).transpose(1, 2), shares, layout)
            grid = roi_align(maps, torch.cat([pairs.image[:, None], around], dim=1), GRID, aligned=True).flatten(1)
            seen |= {f"{name}'s map, mean": torch.cat([known, mean], 1)}
            seen |= {f"{name}'s map, grid": torch.cat([known, grid], 1)}
        for name, columns in seen.items():
            rows.setdefault(name, []).append(columns[kept])
        verbs.append(does[kept])
    return {name: torch.cat(parts) for name, parts in rows.items()}, torch.cat(verbs)


def average_precision(scores: Tensor, does: Tensor) -> float:
    """Points of AP, mean over the verbs that occur."""
    found = []
    for score, is_done in zip(scores.T, does.T, strict=True):
        hits = is_done[score.argsort(descending=True)]
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        found += [(precision * hits).sum() / hits.sum()] if hits.any() else []
    return 100 * float(torch.stack(found).mean())


def probe(train: Tensor, test: Tensor, learnt: Tensor, does: Tensor) -> float:
    """AP of a small network on columns that are brought to one scale."""
    mean, deviation = train.mean(0), train.std(0) + 1e-4
    train, test = (train - mean) / deviation, (test - mean) / deviation
    torch.manual_seed(0)
    hidden = nn.Linear(train.shape[1], HIDDEN)
    network = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, learnt.shape[1]))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(train)).split(64):
            loss = nn.functional.binary_cross_entropy_with_logits(network(train[some]), learnt[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval()
    with torch.no_grad():
        return average_precision(network(test), does)


if __name__ == "__main__":
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "results/demo")
    train, learnt = gather(results, "train")
    test, does = gather(results, "test")
    sys.stdout.write(f"{len(learnt):,} true pairs to learn from, {len(does):,} to test on\n")
    for name, columns in train.items():
        precision = probe(columns, test[name], learnt, does)
        sys.stdout.write(f"{name:22s} {columns.shape[1]:5d} columns  AP {precision:.1f}\n")
