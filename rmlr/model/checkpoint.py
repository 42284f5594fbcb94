"""The output of training: the weights for prediction, and a card that describes their inputs.

weights.safetensors     the network's
alignment.safetensors   the alignment heads', if there are any; not needed for prediction
checkpoint.json         the card
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from rmlr.hoi import Vocabulary
from rmlr.model.network import InteractionNetwork, build
from rmlr.study.files import read_json, write_whole
from rmlr.study.section import NaturalInt, PositiveInt, Section
from rmlr.study.settings import Alignment, Losses, Network, Train, Variant, View
from rmlr.study.tensors import Form, TensorFile, save_tensors

CARD_FILE, WEIGHTS_FILE, ALIGNMENT_FILE = "checkpoint.json", "weights.safetensors", "alignment.safetensors"


class Card(Section):
    """checkpoint.json: how the network is built and was trained, and its valid inputs."""

    format: Literal[2] = 2
    variant: Variant
    network: Network
    alignment: Alignment
    channels: PositiveInt  # of the map
    token_dim: PositiveInt  # of an instance
    vocabulary: Vocabulary
    detector_digest: str  # of the frozen detector whose features were used in training
    view: View  # how it was made to see
    pose_channels: PositiveInt | None  # of the pose network's map, for a variant that reads it
    pose_digest: str | None  # of that network
    text_encoder: str | None  # the encoder of the training text
    losses: Losses
    train: Train
    seed: NaturalInt
    versions: dict[str, str]
    finer_channels: list[PositiveInt] = Field(default_factory=list)  # of the detector's other maps, which IRE reads

    @model_validator(mode="after")
    def _names_classes_that_there_are(self) -> "Card":
        verbs, objects = len(self.vocabulary.verbs), len(self.vocabulary.objects)
        pairs = [*self.vocabulary.hois, (0, self.vocabulary.person)]
        if not all(0 <= verb < max(verbs, 1) and 0 <= object_ < objects for verb, object_ in pairs):
            raise ValueError(f"vocabulary: hois or person name more than its {verbs} verbs and {objects} objects")
        return self

    @staticmethod
    def versions_here() -> dict[str, str]:
        """Of what a checkpoint is made with."""
        return {name: version(name) for name in ("rmlr", "torch", "safetensors")}

    def must_fit(
        self,
        where: Path,
        *,
        channels: int,
        finer_channels: Sequence[int] = (),
        token_dim: int,
        detector_digest: str,
        objects: Sequence[str],
        vocabulary: Vocabulary,
        pose_digest: str | None = None,
    ) -> None:
        """ValueError that names every difference, if the network was not made for such features and classes.

        `where` is the file to blame; `objects` are the classes of the features' labels; `pose_digest` is of the pose
        network whose maps are given, if any.
        """
        found = {"channels": channels, "token_dim": token_dim, "detector_digest": detector_digest}
        found |= {"pose_digest": pose_digest, "finer_channels": list(finer_channels)}
        differences = [
            f"{name}: the weights were trained with {getattr(self, name)}, given is {value}"
            for name, value in found.items()
            if getattr(self, name) != value
        ]
        if self.vocabulary.objects != tuple(objects):
            unknown = [name for name in objects if name not in self.vocabulary.objects]
            differences.append(f"objects: the features have other classes, e.g. {unknown[:3]}, or another order")
        if self.vocabulary != vocabulary:
            differences.append(
                f"vocabulary: {self.vocabulary.dataset} with {len(self.vocabulary.verbs)} verbs and "
                f"{len(self.vocabulary.hois)} combinations, given is {vocabulary.dataset} with {len(vocabulary.verbs)} "
                f"and {len(vocabulary.hois)}, or in another order"
            )
        if differences:
            raise ValueError(
                f"{where}: network, features and annotations do not fit together:\n  " + "\n  ".join(differences)
            )


def save_checkpoint(folder: Path, card: Card, network: nn.Module, heads: nn.Module) -> None:
    """Write the card, the network's weights, and the alignment heads' if there are any."""
    save_tensors(folder / WEIGHTS_FILE, network.state_dict())
    if alignment := heads.state_dict():
        save_tensors(folder / ALIGNMENT_FILE, alignment)
    save_card(folder, card)


def save_card(folder: Path, card: Card) -> None:
    """Write the card."""
    write_whole(folder / CARD_FILE, card.model_dump_json(indent=1) + "\n")


def load_card(folder: Path) -> Card:
    """The card of a checkpoint; ValueError if it is missing or invalid."""
    return read_json(folder / CARD_FILE, Card, "Is this what `rmlr train` wrote?")


def load_checkpoint(folder: Path) -> InteractionNetwork:
    """The trained network, ready to predict on the CPU; every weight must be there, of the right form, and finite."""
    card = load_card(folder)
    with torch.device("meta"):  # takes no memory: a wrong size in the card is found by the file of weights
        described = _build(folder, card)
    forms = {name: Form(tensor.dtype, tuple(tensor.shape)) for name, tensor in described.state_dict().items()}
    hint = f"Is it what `rmlr train` wrote with the {CARD_FILE} beside it? Train again"
    weights, network = TensorFile(folder / WEIGHTS_FILE, hint, forms), _build(folder, card)
    network.load_state_dict(dict(weights), strict=True)
    return network.eval().requires_grad_(False)


def _build(folder: Path, card: Card) -> InteractionNetwork:
    """The network that a card describes, with random weights; ValueError if there is none such."""
    try:
        return build(
            card.variant,
            card.network,
            channels=card.channels,
            token_dim=card.token_dim,
            vocabulary=card.vocabulary,
            pose_channels=card.pose_channels,
            finer_channels=card.finer_channels,
        )
    except (ValueError, RuntimeError, MemoryError, OverflowError) as error:
        raise ValueError(f"{folder / CARD_FILE}: describes a network that cannot be built ({error})") from error


@torch.no_grad()
def start_from(network: InteractionNetwork, sizes: Network, vocabulary: Vocabulary, folder: Path) -> dict[str, int]:
    """Copy the weights of a trained run into a network of these sizes, whose classes are those of `vocabulary`.

    Rows of verbs and of object classes are copied by name; those without a namesake stay as they are. All other tensors
    are copied whole: ValueError names those that differ in size. Gives the numbers of rows that were copied.
    """
    card, trained = load_card(folder), load_checkpoint(folder).state_dict()
    mine = network.state_dict()
    rows = {
        name: kind
        for name in mine
        for kind, part in (("verbs", "reason.classify."), ("objects", "describe.embed_object."))
        if name.startswith(part)
    }
    differing = sorted(
        name
        for name in mine.keys() | trained.keys()
        if name not in mine
        or name not in trained
        or mine[name].shape[int(name in rows) :] != trained[name].shape[int(name in rows) :]
    )
    if differing or card.network != sizes:
        what = f"{len(differing)} of its tensors, e.g. {', '.join(differing[:3])}," if differing else "its sizes"
        raise ValueError(
            f"{folder}: {what} do not fit this run's network. Both runs need the same sizes, variants that differ in "
            "text alone, and detectors with the same widths of tokens and map"
        )
    copied = {}
    for name, tensor in mine.items():
        if name not in rows:
            tensor.copy_(trained[name])
            continue
        own, theirs = (getattr(one, rows[name]) for one in (vocabulary, card.vocabulary))
        shared = [(own.index(word), theirs.index(word)) for word in own if word in theirs]
        for place, source in shared:
            tensor[place] = trained[name][source]
        copied[f"of {len(own)} {rows[name]}"] = len(shared)
    return copied
