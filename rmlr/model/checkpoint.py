"""What training leaves behind: the weights that a prediction needs, and a card that says what they fit.

weights.safetensors     the network's
alignment.safetensors   the alignment heads', where there are any; no prediction needs them
checkpoint.json         the card
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import rmlr
from rmlr.hoi import Vocabulary
from rmlr.model.network import InteractionNetwork, build
from rmlr.study.section import NaturalInt, PositiveInt, Section
from rmlr.study.settings import Alignment, Losses, Network, Train, Variant, View

CARD_FILE, WEIGHTS_FILE, ALIGNMENT_FILE = "checkpoint.json", "weights.safetensors", "alignment.safetensors"


class Card(Section):
    """checkpoint.json: how the network is built and was trained, and what may be given to it."""

    format: Literal[2] = 2
    variant: Variant
    network: Network
    alignment: Alignment
    channels: PositiveInt  # of the map
    token_dim: PositiveInt  # of an instance
    vocabulary: Vocabulary
    detector_digest: str  # of the frozen detector whose features were learnt from
    view: View  # how it was made to see
    pose_channels: PositiveInt | None  # of the pose network's map, for a variant that reads it
    pose_digest: str | None  # of that network
    text_encoder: str | None  # by whose text it was taught
    losses: Losses
    train: Train
    seed: NaturalInt
    versions: dict[str, str]

    @staticmethod
    def versions_here() -> dict[str, str]:
        """Of what a checkpoint is made with."""
        return {"rmlr": rmlr.__version__, **{name: version(name) for name in ("torch", "safetensors")}}

    def must_fit(
        self,
        where: Path,
        *,
        channels: int,
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
        found |= {"pose_digest": pose_digest}
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
    save_file(_state(network), folder / WEIGHTS_FILE)
    if alignment := _state(heads):
        save_file(alignment, folder / ALIGNMENT_FILE)
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=1) + "\n")


def load_card(folder: Path) -> Card:
    """The card of a checkpoint; ValueError where there is none or of another form."""
    path = folder / CARD_FILE
    try:
        return Card.model_validate_json(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Is this what `rmlr train` wrote?") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc'])) or '(top)'}: {item['msg']}" for item in error.errors()]
        raise ValueError(f"{path}: not the card of a checkpoint:\n" + "\n".join(lines)) from error


def load_checkpoint(folder: Path) -> InteractionNetwork:
    """The trained network, ready to predict on the CPU; every weight must be there and of the right shape."""
    card, path = load_card(folder), folder / WEIGHTS_FILE
    network = build(
        card.variant,
        card.network,
        channels=card.channels,
        token_dim=card.token_dim,
        vocabulary=card.vocabulary,
        pose_channels=card.pose_channels,
    )
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Is it cut off? Train again") from error
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ValueError(f"{path}: of another architecture than {CARD_FILE} says: {faults[0]}{more}") from error
    return network.eval().requires_grad_(False)


def _state(module: nn.Module) -> dict:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
