"""Records and caches to weights."""

import csv
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rmlr.data.augment import annotated_views
from rmlr.data.features import INDEX_FILE as FEATURES_FILE
from rmlr.data.features import Features
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.data.truth import Truths
from rmlr.hoi import Annotation, Vocabulary
from rmlr.hoi.batch import Batch, Truth
from rmlr.learning.trainer import fit, to_device
from rmlr.model.checkpoint import Card, save_checkpoint
from rmlr.model.losses import TERMS, means
from rmlr.model.network import build, build_objective, needed_pose
from rmlr.model.text import EMBEDDINGS_FILE, INDEX_FILE, TextEmbeddings
from rmlr.study.nodes import TrainNode
from rmlr.study.run import run
from rmlr.study.settings import Losses

log = logging.getLogger(__name__)


def train(
    *,
    settings: Path,
    annotations: Path,
    text: Path,
    seed: int,
    out: Path,
    features: Path | None = None,
    pose: Path | None = None,
    images: Path | None = None,
    detector: Path | None = None,
) -> None:
    """Train the interaction modules of one variant; write its weights and curves.

    From cached features, or, where the settings have `online`, from photos that are augmented anew in every epoch and
    seen by the frozen detector as they come. Epoch e takes cached view e mod their number.

    An interrupted run goes on from its last whole epoch if it is called again with the same settings, seed and inputs.
    Images of whose cached views none has a candidate pair carry no loss and are left out, counted.

    Several GPUs: `torchrun --nproc-per-node 4 -m rmlr train ...`. The effective batch stays what the settings say, so
    batch_size must be a multiple of processes x micro_batch_size. RMLR_LOADERS is the number of threads that load ahead
    (by default one a core where there is a GPU, none where there is none); it changes no number.

    Args:
        settings: this run's settings file: variant, sizes, loss weights, schedule.
        annotations: folder made by `prepare`.
        text: folder made by `text`; read by variants that learn from text.
        seed: of initialisation, order, dropout and, without cached features, augmentation.
        out: folder to write; gets weights.safetensors, checkpoint.json, curves.csv, and alignment.safetensors if any.
        features: folder whose train/ (and val/) were made by `features`; needed unless the settings have `online`.
        pose: folder whose train/ (and val/) were made by `pose` with these features; needed and read by variants with
            the pose cue. Where the settings have `online`: the pose network's weights file.
        images: folder of the photos; needed where the settings have `online`.
        detector: folder made by `detector`; likewise.
    """
    chosen = TrainNode.load(settings)
    pose = needed_pose(chosen.variant, pose)
    seen = _needed(chosen, settings, features=features, images=images, detector=detector)
    inputs = [annotations, *seen.values(), text, *([pose] if pose else [])]
    with run("train", chosen, settings=settings, out=out, inputs=inputs, seed=seed) as record:
        vocabulary = load_vocabulary(annotations)
        annotated = load_annotations(annotations, chosen.train.split)
        if chosen.online is None:
            source = Cached(seen["features"], annotated, chosen.train.split, vocabulary, pose)
        else:
            from rmlr.learning.photos import Photos  # takes seconds, which training from caches need not

            source = Photos(seen["images"], seen["detector"], annotated, chosen.online, vocabulary, pose, seed)
        embeddings = TextEmbeddings.load(text) if chosen.variant.aligns else None
        if embeddings is not None:
            embeddings.must_fit(text, vocabulary)
        card = Card(
            variant=chosen.variant,
            network=chosen.network,
            alignment=chosen.alignment,
            channels=source.channels,
            token_dim=source.token_dim,
            vocabulary=vocabulary,
            detector_digest=source.detector_digest,
            view=source.view,
            pose_channels=source.pose_channels,
            pose_digest=source.pose_digest,
            text_encoder=embeddings and embeddings.encoder,
            losses=chosen.losses,
            train=chosen.train,
            seed=seed,
            versions=Card.versions_here(),
        )
        card.must_fit(
            next(iter(seen.values())),
            channels=source.channels,
            token_dim=source.token_dim,
            detector_digest=source.detector_digest,
            objects=source.objects,
            vocabulary=vocabulary,
            pose_digest=source.pose_digest,
        )
        drawn = torch.tensor(choose_share(source.image_ids, chosen.train.share), dtype=torch.long)
        labels = source.truths(0).batch(drawn)
        network = build(
            chosen.variant,
            chosen.network,
            channels=source.channels,
            token_dim=source.token_dim,
            vocabulary=vocabulary,
            pose_channels=source.pose_channels,
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
        usable = drawn[source.has_pair[drawn]]
        images_in_all = len(source.image_ids)
        log.info("%d of %d images, %d of them with a candidate pair", len(drawn), images_in_all, len(usable))
        rows = fit(
            network,
            objective,
            lambda positions, epoch: source.load(usable[positions], epoch),
            len(usable),
            see=source.see,
            text=embeddings,
            schedule=chosen.train,
            weights=chosen.losses,
            means=lambda sums: _logged(sums, chosen.losses),
            seed=seed,
            record=record,
            identity=_identity(chosen, seed, annotations, source, text),
        )
        if not any(row["positives"] for row in rows):
            log.warning("no candidate pair overlaps a true one: nothing was learnt. Is the detector trained?")
        save_checkpoint(record.folder, card, network, objective)
        with (record.folder / "curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["epoch", *dict.fromkeys(name for row in rows for name in row)])
            writer.writeheader()
            writer.writerows({"epoch": epoch, **row} for epoch, row in enumerate(rows, start=1))
        counts = {
            "images": len(usable),
            "images_without_pair": len(drawn) - len(usable),
            "images_left_out": images_in_all - len(drawn),
        }
        record.log_metrics({name: float(count) for name, count in counts.items()})
        record.metrics.update({f"final_{name}": value for name, value in rows[-1].items()})  # MLflow has the curves


class Cached:
    """Images to learn from as `features` cached them: epoch e takes view e mod their number."""

    def __init__(
        self, features: Path, annotated: list[Annotation], split: str, vocabulary: Vocabulary, pose: Path | None
    ) -> None:
        self._cache = cached = Features.load(features, split, pose)
        self._annotated, self._vocabulary = annotated, vocabulary
        self.image_ids, self.objects, self.view = cached.image_ids, cached.objects, cached.view
        self.channels, self.token_dim, self.pose_channels = cached.channels, cached.token_dim, cached.pose_channels
        self.detector_digest, self.pose_digest = cached.detector_digest, cached.pose_digest
        self.has_pair = cached.has_pair
        names = ["train", "val"] if split == "trainval" else [split]
        self.files = [folder / name / FEATURES_FILE for folder in (features, pose) if folder for name in names]
        self._truths: dict[int, Truths] = {}
        self.truths(0)

    def truths(self, view: int) -> Truths:
        """What there is to find in a view."""
        if view not in self._truths:
            self._truths = {}  # those of an epoch are enough
            annotated = annotated_views(self._annotated, self._cache.augment, view)
            self._truths[view] = Truths(annotated, self.image_ids, self._vocabulary)
        return self._truths[view]

    def load(self, images: Int[Tensor, " b"], epoch: int) -> tuple[Batch, Truth]:
        """These images in an epoch."""
        view = epoch % self._cache.views
        return self._cache.batch(images.tolist(), view), self.truths(view).batch(images)

    see = staticmethod(to_device)


def _needed(chosen: TrainNode, settings: Path, **given: Path | None) -> dict[str, Path]:
    """Of what networks saw, or are to see, what a run reads; ValueError where it lacks."""
    names = ["features"] if chosen.online is None else ["images", "detector"]
    found = {name: path for name in names if (path := given[name]) is not None}
    if lacking := [name for name in names if name not in found]:
        how = "cached features" if chosen.online is None else "photos (`online`)"
        flags = ", ".join(f"--{name}" for name in lacking)
        raise ValueError(f"{settings}: this run learns from {how}. Say where they are: {flags}")
    return found


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


def _identity(chosen: TrainNode, seed: int, annotations: Path, source: Any, text: Path) -> str:
    """A digest of all that a resumed run must share with the one that left the checkpoint."""
    splits = ["train", "val"] if chosen.train.split == "trainval" else [chosen.train.split]
    files = [annotations / "vocabulary.json"]
    files += [annotations / f"{split}.json" for split in splits]
    files += source.files
    files += [text / name for name in (INDEX_FILE, EMBEDDINGS_FILE)] if chosen.variant.aligns else []
    parts = [chosen.model_dump_json(exclude={"tags"}), seed, torch.__version__]
    parts += [source.detector_digest, source.pose_digest]
    digest = hashlib.sha256(" ".join(map(str, parts)).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
