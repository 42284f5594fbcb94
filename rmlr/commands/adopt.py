"""Converts a published UPT to the folder of a run."""

import logging
from collections import defaultdict
from pathlib import Path

from torch import nn

from rmlr.data.records import load_vocabulary
from rmlr.model.checkpoint import Card, save_checkpoint
from rmlr.model.detector import FrozenDetector, save_detector, weights_digest
from rmlr.model.detr import load_published
from rmlr.model.network import build
from rmlr.model.upt import load_upt_weights
from rmlr.study.folder import new_folder
from rmlr.study.nodes import FeaturesNode, PredictNode, TrainNode
from rmlr.study.output import claim_new
from rmlr.study.plan import Study
from rmlr.study.settings import View

log = logging.getLogger(__name__)


def adopt(
    weights: Path,
    /,
    *,
    annotations: Path,
    run: str,
    out: Path,
    params: Path = Path("params.yaml"),
    profile: str = "paper",
) -> None:
    """Convert a published UPT (.pt of fredzzhang/upt) to a run's folder, for photo, export and predict.

    Every tensor of the file is used once: those of its interaction head and those of its DETR, whose classes are
    reordered by name. To score it: `rmlr features --detector OUT/detector`, then `rmlr predict --weights OUT/train`.

    Args:
        weights: the file, such as upt-r50-hicodet.pt.
        annotations: folder made by `prepare`: the data set that it was trained for.
        run: a run of variant upt in params.yaml, as GROUP/NAME, with the settings of the network.
        out: folder to write, which must not exist; gets train/, detector/ and predict/settings.yaml.
        params: the study's settings.
        profile: which block of them.
    """
    claim_new(out, "adopt")  # before any work
    study = Study.load(params)
    seed = study.profiles[profile].seeds[0] if profile in study.profiles else 0
    nodes = study.nodes(profile, defaultdict(str))
    node = nodes.get(f"runs/{run}/{seed}/train")
    if not isinstance(node, TrainNode) or node.variant.network != "upt":
        raise ValueError(f"{params}: profile {profile} has no run '{run}' of variant upt. Give --run GROUP/NAME")
    where = f"{node.tags['dataset']}/features/{node.tags['backbone']}/test"
    seen, prediction = nodes[where], nodes[f"runs/{run}/{seed}/predict"]
    assert isinstance(seen, FeaturesNode)
    assert isinstance(prediction, PredictNode)
    vocabulary = load_vocabulary(annotations)
    if vocabulary.dataset != node.tags["dataset"]:
        raise ValueError(f"{annotations}: is {vocabulary.dataset}, but run {run} is of {node.tags['dataset']}")
    state = load_upt_weights(weights, vocabulary)
    detr = load_published(weights)
    frozen = FrozenDetector(detr, vocabulary.objects)
    channels, token_dim = frozen.channels, frozen.token_dim
    network = build(node.variant, node.network, channels=channels, token_dim=token_dim, vocabulary=vocabulary)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights}: has other sizes than run {run} of {params}: {error}") from error
    with new_folder(out, "adopt") as folder:
        for name in ("train", "detector", "predict"):
            (folder / name).mkdir(parents=True)
        save_detector(detr, folder / "detector")
        card = Card(
            variant=node.variant,
            network=node.network,
            channels=channels,
            token_dim=token_dim,
            alignment=node.alignment,
            vocabulary=vocabulary,
            detector_digest=weights_digest(folder / "detector"),
            view=View(image=frozen.size(seen.image), selection=seen.features.selection, map=seen.features.map),
            pose_channels=None,
            pose_digest=None,
            text_encoder=None,
            losses=node.losses,
            train=node.train,
            seed=seed,
            versions=Card.versions_here(),
        )
        save_checkpoint(folder / "train", card, network, nn.Identity())  # it has no heads for text
        (folder / "predict" / "settings.yaml").write_text(prediction.dump())
    log.info("%s: UPT's head and detector; to process photos: `rmlr photo --run %s`", out, out)
