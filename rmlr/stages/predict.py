"""Scored triplets from a trained network."""

import logging
from pathlib import Path

import torch

from rmlr.data.records import load_annotations
from rmlr.detections.triplets import save_triplets
from rmlr.learning.no_object import shares_without_object, with_no_object
from rmlr.learning.trained import Trained, networks_of
from rmlr.model.checkpoint import load_card
from rmlr.model.network import needed_pose
from rmlr.model.scoring import concatenate, score_triplets
from rmlr.study.nodes import PredictNode
from rmlr.study.run import run

log = logging.getLogger(__name__)


def predict(
    *, settings: Path, annotations: Path, features: Path, weights: Path, out: Path, pose: Path | None = None
) -> None:
    """Score every verb of every candidate pair of a split.

    Where the settings have folds, the network that was trained without a fold scores the photos of this fold; together
    they are the split.

    Args:
        settings: this node's settings file: split, batch size, exponent of the detector's scores, smallest score kept.
        annotations: folder made by `prepare`; its vocabulary must be that of the training.
        features: folder whose split was made by `features`, with the detector used in training.
        weights: folder made by `train`; with folds, the folder that holds fold0/train, fold1/train and so on.
        out: folder to write; gets triplets.parquet (docs/evaluation.md).
        pose: folder whose split was made by `pose` with these features, by the pose network that was trained with;
            needed and read by variants with the pose cue.
    """
    node = PredictNode.load(settings)
    chosen = node.prediction
    networks = networks_of(annotations, weights, node.folds)
    pose = needed_pose(load_card(next(iter(networks.values()))).variant, pose)
    splits = ("train", "val") if chosen.split == "trainval" else (chosen.split,)
    inputs = [annotations, *(folder / name for folder in (features, pose) if folder for name in splits)]
    with run("predict", node, settings=settings, out=out, inputs=[*inputs, *networks.values()]) as record:
        opened = Trained.open_each(annotations, features, chosen.split, weights, node.folds, pose)
        parts, numbers = [], {"prior_power": chosen.prior_power, "min_score": chosen.min_score}
        with record.progress(sum(len(trained.features) for trained in opened), "predicting") as bar:
            for trained in opened:
                is_valid_verb = torch.from_numpy(trained.vocabulary.is_valid_verb).to(trained.device)
                for indices, batch in trained.batches(chosen.batch_size):
                    parts.append(score_triplets(trained.network, batch, is_valid_verb, **numbers))
                    bar.advance(len(indices))
        triplets = concatenate(parts)
        if chosen.no_object:
            learnt = load_annotations(annotations, "train" if chosen.split == "val" else "trainval")
            triplets = with_no_object(triplets, shares_without_object(learnt, opened[0].vocabulary))
        save_triplets(record.folder / "triplets.parquet", triplets)
        pairs = sum(int(trained.features.pair_counts.sum()) for trained in opened)
        counts = {"images": sum(len(trained.features) for trained in opened), "pairs": pairs}
        record.log_metrics({name: float(count) for name, count in (counts | {"triplets": len(triplets.score)}).items()})
