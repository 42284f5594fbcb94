"""The model card of a run that is shared: README.md of its folder, as the Hugging Face hub reads and shows it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from rmlr.learning.parts import inputs_of
from rmlr.model.checkpoint import Card
from rmlr.study.current import SETTINGS
from rmlr.study.nodes import EvaluateNode, PrepareNode, TrainNode

TITLES = {"vcoco": "V-COCO", "hicodet": "HICO-DET"}
HEADLINES = {  # metrics of `evaluate` that the hub shows
    "vcoco": ("vcoco_ap_role_1", "vcoco_ap_role_2"),
    "hicodet": tuple(f"hicodet_default_{part}" for part in ("full", "rare", "nonrare", "seen", "unseen")),
}
ORIGINS = {
    "vcoco-2015": "photos of the published release",
    "hicodet-2016": "photos of the published release",
    "drawn": "pictures drawn by a program (`rmlr draw`), not photos",
    "own": "the author's own pictures and annotations",
}
NETWORKS = {"rmlr": "RmLR's network", "upt": "UPT's network", "boxes": "A control that uses boxes and classes only"}
WITHOUT_DETECTOR = "\nThe detector is not in the folder: give yours, `detector=` or `--detector`.\n"
TEXT = """# {name}

Human-object interaction detection: an image in, triplets (person, verb, object) with boxes and scores out. {network},
trained with the reference reproduction of RmLR (Cao et al., ICCV 2023).

## How to load it

```python
import rmlr

model = rmlr.load("FOLDER")  # this folder; or rmlr.load("OWNER/NAME", revision="COMMIT") from the hub
for triplet in model("photo.jpg"):
    print(triplet)
```

From the command line: `rmlr photo photo.jpg --run FOLDER --out found`. The folder holds neither code nor pickles.
{missing}
## Data

- Data set: {title}, {origin}
- Split: {split}, {share:.0%} of its images, {epochs} epochs, seed {seed}
- Classes: {verbs} verbs, {objects} objects, {hois} combinations{unseen}
- Text encoder: {encoder}

## Metrics

{metrics}

## Files

| file | SHA-256 |
| --- | --- |
{files}

Detector: SHA-256 of its weights `{detector}`.

## Licence

Of the weights: `{license}`. Data sets and pre-trained detectors have their own terms.
"""


def model_card(folder: Path, card: Card, checkpoint: Path, license: str) -> str:
    """README.md of an exported run.

    Args:
        folder: the exported run, its other files written.
        card: of its network.
        checkpoint: folder that `train` wrote, with the training settings; `evaluate` next to it has the metrics.
        license: as the hub abbreviates licences.
    """
    from huggingface_hub import EvalResult, ModelCardData

    dataset, settings = card.vocabulary.dataset, checkpoint / SETTINGS
    tags = TrainNode.load(settings).tags if settings.is_file() else {}
    name = " ".join(("rmlr", *(tags[key] for key in ("profile", "group", "run") if key in tags)))
    evaluation = checkpoint.parent / "evaluate"
    scores = _metrics(evaluation / "metrics.json", dataset)
    split = EvaluateNode.load(evaluation / SETTINGS).split if (evaluation / SETTINGS).is_file() else "test"
    about = ModelCardData(
        license=license,
        library_name="rmlr",
        pipeline_tag="object-detection",
        tags=["human-object-interaction", dataset],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="object-detection",
                dataset_type=dataset,
                dataset_name=f"{TITLES[dataset]} {split}",
                metric_type=key,
                metric_value=value,
            )
            for key, value in scores.items()
        ]
        or None,
    )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = TEXT.format(
        name=name,
        network=NETWORKS[card.variant.network],
        missing="" if (folder / "detector").is_dir() else WITHOUT_DETECTOR,
        title=TITLES[dataset],
        origin=_origin(checkpoint, dataset),
        split=card.train.split,
        share=card.train.share,
        epochs=card.train.epochs,
        seed=card.seed,
        verbs=len(card.vocabulary.verbs),
        objects=len(card.vocabulary.objects),
        hois=len(card.vocabulary.hois),
        unseen=f"; zero-shot, without the unseen of {card.train.zero_shot}" if card.train.zero_shot else "",
        encoder=card.text_encoder or "none",
        metrics=_table(scores, split),
        files="\n".join(f"| `{path.relative_to(folder)}` | `{_sha256(path)}` |" for path in files),
        detector=card.detector_digest,
        license=license,
    )
    return f"---\n{about.to_yaml()}\n---\n{text}"


def _metrics(path: Path, dataset: str) -> dict[str, float]:
    """The main metrics of a run's evaluation, as fractions; empty if it was not evaluated."""
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return {name: float(found[name]) for name in HEADLINES[dataset] if found.get(name) is not None}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not what `rmlr evaluate` writes ({error}). Evaluate the run again") from error


def _table(scores: dict[str, float], split: str) -> str:
    if not scores:
        return "The run was not evaluated."
    lines = [f"| {name} | {value:.2%} |" for name, value in scores.items()]
    heading = [f"By the official protocol, on split {split}.", "", "| metric | value |", "| --- | --- |"]
    return "\n".join(heading + lines)


def _origin(checkpoint: Path, dataset: str) -> str:
    """The kind of pictures a run was trained on, from the settings of its annotations, if they still exist."""
    for path in inputs_of(checkpoint):
        if (path / "vocabulary.json").is_file() and (path / SETTINGS).is_file():
            node = PrepareNode.load(path / SETTINGS)
            return ORIGINS[(node.vcoco if dataset == "vcoco" else node.hicodet).release]
    return "of unknown origin"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
