"""The parts of a training run, built from its settings and files."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.data.zero_shot import only_classes, unseen_classes
from rmlr.hoi import Vocabulary
from rmlr.learning.examples import Cached, Examples
from rmlr.model.checkpoint import CARD_FILE, WEIGHTS_FILE, Card, start_from
from rmlr.model.losses import TERMS, means
from rmlr.model.network import build, build_objective, needed_pose
from rmlr.model.text import EMBEDDINGS_FILE, INDEX_FILE, TextEmbeddings
from rmlr.study.nodes import FOLDS_OF, TrainNode
from rmlr.study.settings import Losses

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Given:
    """The files of a run. It is trained on `features`, or on `images` and `detector`."""

    annotations: Path
    text: Path
    features: Path | None = None
    pose: Path | None = None
    images: Path | None = None
    detector: Path | None = None
    start: Path | None = None

    def needed(self, chosen: TrainNode, settings: Path) -> "Given":
        """The files that the run reads; ValueError if one of them was not given."""
        names = ["features"] if chosen.online is None else ["images", "detector"]
        if lacking := [name for name in names if getattr(self, name) is None]:
            how = "cached features" if chosen.online is None else "photos (`online`)"
            flags = ", ".join(f"--{name}" for name in lacking)
            raise ValueError(f"{settings}: this run is trained on {how}. Give {flags}")
        if chosen.start is not None and self.start is None:
            raise ValueError(f"{settings}: this run starts from the weights of {chosen.start}. Give --start FOLDER")
        pose, start = needed_pose(chosen.variant, self.pose), self.start if chosen.start is not None else None
        seen = {name: getattr(self, name) for name in names}
        return Given(self.annotations, self.text, pose=pose, start=start, **seen)

    def paths(self, chosen: TrainNode) -> list[Path]:
        """All inputs; of cached views, those of the splits that the run is trained or validated on."""
        whole = (self.annotations, self.images, self.detector, self.text, self.start)
        seen = [path for path in (self.features, self.pose) if path is not None]
        if chosen.online is None:
            every = chosen.train.split == "trainval" or chosen.held_out is not None
            splits = ("train", "val") if every else (chosen.train.split,)
            seen = [path / split for path in seen for split in (splits if chosen.fold is None else (FOLDS_OF,))]
        return [path for path in (*whole, *seen) if path is not None]


@dataclass(frozen=True, slots=True)
class Assembly:
    """A run, ready to be trained."""

    vocabulary: Vocabulary
    examples: Examples
    text: TextEmbeddings | None
    card: Card
    network: nn.Module
    objective: nn.Module
    identity: str  # digest of all that must be equal for a run to resume from a checkpoint


@dataclass(frozen=True, slots=True)
class Common:
    """What runs with the same examples have in common; loaded once."""

    vocabulary: Vocabulary
    learnt: Vocabulary  # without the classes that are unseen in training
    examples: Examples
    random: Tensor  # torch's random numbers as they are then: every run's modules are initialised from there
    texts: dict[Path, TextEmbeddings] = field(default_factory=dict)

    @classmethod
    def of(cls, chosen: TrainNode, given: Given, seed: int) -> "Common":
        """Load a run's examples."""
        vocabulary = load_vocabulary(given.annotations)
        learnt = vocabulary.without(unseen_classes(chosen.train.zero_shot, given.annotations, vocabulary))
        examples = _examples(chosen, given, vocabulary, learnt, seed)
        return cls(vocabulary, learnt, examples, torch.get_rng_state())

    def text(self, folder: Path) -> TextEmbeddings:
        """The embeddings of a folder."""
        if folder not in self.texts:
            self.texts[folder] = TextEmbeddings.load(folder)
        return self.texts[folder]


def assemble(chosen: TrainNode, given: Given, seed: int, common: Common | None = None) -> Assembly:
    """Load a run's inputs and build its modules; ValueError if parts do not fit together.

    `common` is what was loaded for another run with the same examples and seed.
    """
    common = common or Common.of(chosen, given, seed)
    torch.set_rng_state(common.random)
    vocabulary, learnt, examples = common.vocabulary, common.learnt, common.examples
    text = common.text(given.text) if chosen.variant.aligns else None
    if text is not None:
        text.must_fit(given.text, vocabulary)
    shapes = {
        "channels": examples.channels,
        "token_dim": examples.token_dim,
        "pose_channels": examples.pose_channels,
        "finer_channels": list(examples.finer_channels),
    }
    card = Card(
        variant=chosen.variant,
        network=chosen.network,
        alignment=chosen.alignment,
        vocabulary=vocabulary,
        detector_digest=examples.detector_digest,
        view=examples.view,
        pose_digest=examples.pose_digest,
        text_encoder=text and text.encoder,
        losses=chosen.losses,
        train=chosen.train,
        seed=seed,
        versions=Card.versions_here(),
        **shapes,
    )
    card.must_fit(
        given.features or given.images or given.annotations,
        channels=examples.channels,
        finer_channels=examples.finer_channels,
        token_dim=examples.token_dim,
        detector_digest=examples.detector_digest,
        objects=examples.objects,
        vocabulary=vocabulary,
        pose_digest=examples.pose_digest,
    )
    labels = examples.labels()
    network = build(chosen.variant, chosen.network, vocabulary=vocabulary, **shapes)
    objective = build_objective(
        chosen.variant,
        chosen.network,
        chosen.alignment,
        chosen.losses,
        vocabulary=learnt,
        text=text,
        phrase_counts=text and text.count_phrases(labels.verbs, labels.objects),
    )
    if given.start is not None:
        taken = start_from(network, chosen.network, vocabulary, given.start)
        log.info("%s: initial weights, %s", given.start, ", ".join(f"{n} {rows}" for rows, n in taken.items()))
    identity = _identity(chosen, seed, given, examples)
    return Assembly(vocabulary, examples, text, card, network, objective, identity)


def logged(sums: Mapping[str, float], weights: Losses) -> dict[str, float]:
    """An epoch's mean terms and diagnostics, their weighted total, and the numbers of training examples."""
    terms = means(sums)
    total = sum(getattr(weights, name) * terms[name] for name in ("hoi", *TERMS) if name in terms)
    return {"loss": total, **terms, "positives": sums["positives"], "rows": sums["rows"]}


def _examples(chosen: TrainNode, given: Given, vocabulary: Vocabulary, learnt: Vocabulary, seed: int) -> Examples:
    """What is learnt from: of the annotations only rows of the classes that `learnt` has."""
    annotated, train = load_annotations(given.annotations, chosen.train.split), chosen.train
    if learnt is not vocabulary:
        annotated = [only_classes(annotation, learnt) for annotation in annotated]
    if given.features is not None:
        cache = None if chosen.fold is None else FOLDS_OF
        return Cached(given.features, annotated, train.split, train.share, vocabulary, given.pose, cache)
    from rmlr.learning.photos import Photos  # takes seconds, not needed for training from caches

    assert given.images is not None
    assert given.detector is not None
    assert chosen.online is not None
    return Photos(given.images, given.detector, annotated, chosen.online, train.share, vocabulary, given.pose, seed)


def _identity(chosen: TrainNode, seed: int, given: Given, examples: Examples) -> str:
    splits = ["train", "val"] if chosen.train.split == "trainval" else [chosen.train.split]
    files = [given.annotations / "vocabulary.json"]
    files += [given.annotations / f"{split}.json" for split in splits]
    files += examples.files
    files += [] if given.start is None else [given.start / name for name in (CARD_FILE, WEIGHTS_FILE)]
    files += [given.text / name for name in (INDEX_FILE, EMBEDDINGS_FILE)] if chosen.variant.aligns else []
    parts = [chosen.model_dump_json(exclude={"tags"}), seed, torch.__version__]
    parts += [examples.detector_digest, examples.pose_digest]
    digest = hashlib.sha256(" ".join(map(str, parts)).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
