"""Weights to scored triplets."""

import logging
from pathlib import Path

import torch

from rmlr.data.features import Features
from rmlr.data.loading import ahead, loader_threads, pinned
from rmlr.data.records import load_vocabulary
from rmlr.detections.triplets import save_triplets
from rmlr.hoi.batch import Batch
from rmlr.model.checkpoint import CARD_FILE, load_card, load_checkpoint
from rmlr.model.network import needed_pose
from rmlr.model.scoring import concatenate, score_triplets
from rmlr.study.nodes import PredictNode
from rmlr.study.run import run

log = logging.getLogger(__name__)


def predict(
    *, settings: Path, annotations: Path, features: Path, weights: Path, out: Path, pose: Path | None = None
) -> None:
    """Score every verb of every candidate pair of a split.

    Args:
        settings: this node's settings file: split, batch size, power of the detector's scores, smallest score kept.
        annotations: folder made by `prepare`; its vocabulary must be the one that was trained with.
        features: folder whose split was made by `features`, by the detector that was trained with.
        weights: folder made by `train`.
        out: folder to write; gets triplets.parquet (docs/evaluation.md).
        pose: folder whose split was made by `pose` with these features, by the pose network that was trained with;
            needed and read by variants with the pose cue.
    """
    node = PredictNode.load(settings)
    pose = needed_pose(load_card(weights).variant, pose)
    chosen, inputs = node.prediction, [annotations, features, weights, *([pose] if pose else [])]
    with run("predict", node, settings=settings, out=out, inputs=inputs) as record:
        vocabulary, cached = load_vocabulary(annotations), Features.load(features, chosen.split, pose)
        load_card(weights).must_fit(
            weights / CARD_FILE,
            channels=cached.channels,
            token_dim=cached.token_dim,
            detector_digest=cached.detector_digest,
            objects=cached.objects,
            vocabulary=vocabulary,
            pose_digest=cached.pose_digest,
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_checkpoint(weights).to(device)
        is_valid_verb = torch.from_numpy(vocabulary.is_valid_verb).to(device)
        parts = []
        with record.progress(len(cached), "predicting") as bar:
            chunks = [
                range(start, min(start + chosen.batch_size, len(cached)))
                for start in range(0, len(cached), chosen.batch_size)
            ]

            def load(indices: range) -> Batch:
                batch = cached.batch(indices)
                return pinned(batch) if device.type == "cuda" else batch

            for indices, loaded in zip(chunks, ahead(load, chunks, loader_threads(device)), strict=True):
                batch = loaded.to(device)
                parts.append(
                    score_triplets(
                        network, batch, is_valid_verb, prior_power=chosen.prior_power, min_score=chosen.min_score
                    )
                )
                bar.advance(len(indices))
        triplets = concatenate(parts)
        save_triplets(record.folder / "triplets.parquet", triplets)
        counts = {"images": len(cached), "pairs": int(cached.pair_counts.sum()), "triplets": len(triplets.score)}
        record.log_metrics({name: float(count) for name, count in counts.items()})
