"""Records and caches to weights."""

import csv
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from rmlr.data.features import Features
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.data.truth import Truths
from rmlr.model.checkpoint import Card, save_checkpoint
from rmlr.model.losses import TERMS, means
from rmlr.model.network import build, build_objective, needed_pose
from rmlr.model.text import EMBEDDINGS_FILE, INDEX_FILE, TextEmbeddings
from rmlr.run import run
from rmlr.settings import Losses, TrainNode
from rmlr.training import fit

log = logging.getLogger(__name__)


def train(
    *, settings: Path, annotations: Path, features: Path, text: Path, seed: int, out: Path, pose: Path | None = None
) -> None:
    """Train the interaction modules of one variant; write its weights and curves.

    An interrupted run goes on from its last whole epoch if it is called again with the same settings, seed and inputs.
    Images without a candidate pair carry no loss and are left out, counted.

    Several GPUs: `torchrun --nproc-per-node 4 -m rmlr train ...`. The effective batch stays what the settings say, so
    batch_size must be a multiple of processes x micro_batch_size.

    Args:
        settings: this run's settings file: variant, sizes, loss weights, schedule.
        annotations: folder made by `prepare`.
        features: folder whose train/ (and val/) were made by `features`.
        text: folder made by `text`; read by variants that learn from text.
        seed: of initialisation, order and dropout.
        out: folder to write; gets weights.safetensors, checkpoint.json, curves.csv, and alignment.safetensors if any.
        pose: folder whose train/ (and val/) were made by `pose` with these features; needed and read by variants with
            the pose cue.
    """
    chosen = TrainNode.load(settings)
    pose = needed_pose(chosen.variant, pose)
    inputs = [annotations, features, text, *([pose] if pose else [])]
    with run("train", chosen, settings=settings, out=out, inputs=inputs, seed=seed) as record:
        vocabulary = load_vocabulary(annotations)
        cached = Features.load(features, chosen.train.split, pose)
        truths = Truths(load_annotations(annotations, chosen.train.split), cached.image_ids, vocabulary)
        embeddings = TextEmbeddings.load(text) if chosen.variant.aligns else None
        if embeddings is not None:
            embeddings.must_fit(text, vocabulary)
        card = Card(
            variant=chosen.variant,
            network=chosen.network,
            alignment=chosen.alignment,
            channels=cached.channels,
            token_dim=cached.token_dim,
            vocabulary=vocabulary,
            detector_digest=cached.detector_digest,
            view=cached.view,
            pose_channels=cached.pose_channels,
            pose_digest=cached.pose_digest,
            text_encoder=embeddings and embeddings.encoder,
            losses=chosen.losses,
            train=chosen.train,
            seed=seed,
            versions=Card.versions_here(),
        )
        card.must_fit(
            features,
            channels=cached.channels,
            token_dim=cached.token_dim,
            detector_digest=cached.detector_digest,
            objects=cached.objects,
            vocabulary=vocabulary,
            pose_digest=cached.pose_digest,
        )
        drawn = torch.tensor(choose_share(cached.image_ids, chosen.train.share), dtype=torch.long)
        labels = truths.batch(drawn)
        network = build(
            chosen.variant,
            chosen.network,
            channels=cached.channels,
            token_dim=cached.token_dim,
            vocabulary=vocabulary,
            pose_channels=cached.pose_channels,
        )
        objective = build_objective(
            chosen.variant,
            chosen.network,
            chosen.alignment,
            chosen.losses,
            vocabulary=vocabulary,
            text=embeddings,
            phrase_counts=embeddings and embeddings.count_phrases(labels.verbs, labels.objects),
        )
        usable = drawn[cached.pair_counts[drawn] > 0]
        log.info("%d of %d images, %d of them with a candidate pair", len(drawn), len(cached), len(usable))

        def load(positions: list[int]):
            images = usable[positions]
            return cached.batch(images.tolist()), truths.batch(images)

        rows = fit(
            network,
            objective,
            load,
            len(usable),
            text=embeddings,
            schedule=chosen.train,
            weights=chosen.losses,
            means=lambda sums: _logged(sums, chosen.losses),
            seed=seed,
            record=record,
            identity=_identity(chosen, seed, annotations, features, text, pose),
        )
        if not rows[-1]["positives"]:
            log.warning("no candidate pair overlaps a true one: nothing was learnt. Is the detector trained?")
        save_checkpoint(record.folder, card, network, objective)
        with (record.folder / "curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["epoch", *dict.fromkeys(name for row in rows for name in row)])
            writer.writeheader()
            writer.writerows({"epoch": epoch, **row} for epoch, row in enumerate(rows, start=1))
        counts = {
            "images": len(usable),
            "images_without_pair": len(drawn) - len(usable),
            "images_left_out": len(cached) - len(drawn),
        }
        record.log_metrics({name: float(count) for name, count in counts.items()})
        record.metrics.update({f"final_{name}": value for name, value in rows[-1].items()})  # MLflow has the curves


def choose_share(image_ids: Sequence[int], share: float) -> list[int]:
    """Positions of a share of the images, ascending, one at least: those whose ids have the smallest hashes.

    Nothing else takes part, so all variants, seeds and detectors learn from the same images, and those of a smaller
    share are among those of a larger one. What is known of the classes stays: the vocabulary with its possible verbs
    (V-COCO: those that any training image shows) and the phrases by whose words targets are whitened.
    """
    by_hash = sorted(range(len(image_ids)), key=lambda at: hashlib.sha256(str(image_ids[at]).encode()).digest())
    return sorted(by_hash[: max(1, round(share * len(image_ids)))])


def _logged(sums: Mapping[str, float], weights: Losses) -> dict[str, float]:
    """An epoch's mean terms and diagnostics, the weighted total that they make, and what there was to learn from."""
    terms = means(sums)
    total = sum(getattr(weights, name) * terms[name] for name in ("hoi", *TERMS) if name in terms)
    return {"loss": total, **terms, "positives": sums["positives"], "rows": sums["rows"]}


def _identity(chosen: TrainNode, seed: int, annotations: Path, features: Path, text: Path, pose: Path | None) -> str:
    """A digest of all that a resumed run must share with the one that left the checkpoint."""
    splits = ["train", "val"] if chosen.train.split == "trainval" else [chosen.train.split]
    files = [annotations / "vocabulary.json"]
    files += [annotations / f"{split}.json" for split in splits]
    files += [folder / split / "index.json" for folder in (features, pose) if folder for split in splits]
    files += [text / name for name in (INDEX_FILE, EMBEDDINGS_FILE)] if chosen.variant.aligns else []
    digest = hashlib.sha256(f"{chosen.model_dump_json(exclude={'tags'})} {seed} {torch.__version__}".encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
