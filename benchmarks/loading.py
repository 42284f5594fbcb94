"""Images a second: `features`, training from caches and training from photos (views 0), by loader threads and device.

    python benchmarks/loading.py [--devices cuda cpu] [--photos 128] [--epochs 3] [--loaders 0 1 8]

Draws its own photos (640 x 480 JPEG, as COCO's) and needs no download: a DETR of random weights whose queries'
classes are made up, a random text encoder. On CUDA everything has the paper profile's sizes (ResNet-50, 800/1333,
batches of 8, bf16); on a CPU the drawn world's (small ResNet, 128 pixels, and photos of that size). Each number is the
stage as it is, in a process of its own, timed from its third step on; ratios are those of one run of this program.
Needs what the package needs (pyproject.toml, `dependencies`), nothing of the study's tools.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from rmlr.data.loading import VARIABLE
from rmlr.data.records import save_annotations, save_vocabulary
from rmlr.hoi import Annotation, Vocabulary
from rmlr.model.anchored import build_detector
from rmlr.model.detector import FrozenDetector, save_detector
from rmlr.study import run
from rmlr.study.encoder import Encoder
from rmlr.study.frozen import DetectorArchitecture
from rmlr.study.nodes import FeaturesNode, TextNode, TrainNode
from rmlr.study.plan import Study
from rmlr.study.settings import AskedView, Augment, Features, ImageSize, Online, Selection

PEOPLE, THINGS = 3, 5  # annotated on each photo
SKIPPED = 2  # steps, at the beginning of a measurement
SELECTION = Selection(nms_iou=0.5, min_score=0.2, min_instances=3, max_instances=15)  # UPT
VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=("person", *(f"thing {number}" for number in range(79))),
    person=0,
    verbs=tuple(f"verb_{number} obj" for number in range(24)),
    hois=tuple((verb, object_) for verb in range(24) for object_ in range(80)),
    actions=tuple(f"verb_{number}" for number in range(24)),
)
PAPER = Augment(
    flip=0.5, jitter=0.4, shortest=list(range(480, 801, 32)), longest=1333,
    crop=0.5, crop_from=[400, 500, 600], crop_smallest=384, crop_largest=600,
)  # fmt: skip
SMALL = Augment(
    flip=0.5, jitter=0.4, shortest=[96, 112, 128], longest=213,
    crop=0.5, crop_from=[80, 100, 120], crop_smallest=77, crop_largest=120,
)  # fmt: skip


DETR_R50 = DetectorArchitecture(  # its sizes
    embedding_size=64, hidden_sizes=[256, 512, 1024, 2048], depths=[3, 4, 6, 3], layer_type="bottleneck", d_model=256,
    encoder_layers=6, decoder_layers=6, heads=8, ffn_dim=2048, grid=10, sine_temperature=10000.0,
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What is measured on one kind of device."""

    profile: str
    photo: tuple[int, int]  # height and width
    image: ImageSize
    augment: Augment
    precision: str
    batch_size: int


SIZES = {
    "cuda": Size("paper", (480, 640), ImageSize(shortest=800, longest=1333), PAPER, "bf16", 8),
    "cpu": Size("demo", (128, 128), ImageSize(shortest=128, longest=128), SMALL, "fp32", 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = ["cuda"] if torch.cuda.device_count() else []
    parser.add_argument("--devices", nargs="+", choices=["cuda", "cpu"], default=[*here, "cpu"])
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--loaders", nargs="+", type=int, default=sorted({0, 1, 2, os.cpu_count() or 1}))
    chosen = parser.parse_args()
    study = Study.load(Path("params.yaml"))
    os.environ["RMLR_TRACKING"] = "off"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for device in chosen.devices:
        if device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the processes that measure
        elif visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        with tempfile.TemporaryDirectory() as folder:
            root, size = Path(folder), SIZES[device]
            prepare(root, study, size, chosen.photos, chosen.epochs)
            height, width = size.photo
            _say(f"\n{_name(device)}: {chosen.photos} photos of {width} x {height}, {size.image.shortest}/"
                 f"{size.image.longest}, batches of {size.batch_size}, {size.precision}")  # fmt: skip
            _say("| stage | loader threads | images/s | times cached, no threads |\n| --- | --: | --: | --: |")
            found = {}
            for stage in ("features", "cached", "online"):
                for loaders in chosen.loaders:
                    found[stage, loaders] = in_process(stage, loaders, root, size.batch_size)
            base = found["cached", chosen.loaders[0]]
            for (stage, loaders), rate in found.items():
                _say(f"| {stage} | {loaders} | {rate:.1f} | {rate / base:.2f} |")


def in_process(stage: str, loaders: int, root: Path, batch_size: int) -> float:
    """Images a second of a stage, measured in a process of its own."""
    os.environ[VARIABLE] = str(loaders)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (stage, root, batch_size))


def measure(stage: str, root: Path, batch_size: int) -> float:
    """Images a second of a stage, from its third step on."""
    times: list[tuple[float, int]] = []

    class Stopwatch(run.Progress):
        def advance(self, count: int = 1, note: str = "") -> None:
            times.append((time.perf_counter(), count))

    run.Progress = Stopwatch
    patch_classes()
    prepared = {"annotations": root / "prepare"}
    seen = {"images": root / "images", "detector": root / "detector"}
    if stage == "features":
        from rmlr.stages.features import features

        out, settings = root / "features" / "train", root / "features.yaml"
        features(settings=settings, split="train", out=out, **prepared, **seen)
        scale = 1
    else:
        from rmlr.stages.train import train

        given: dict[str, Any] = {"features": root / "features"} if stage == "cached" else seen
        with tempfile.TemporaryDirectory() as out:
            train(settings=root / f"{stage}.yaml", text=root / "text", seed=0, out=Path(out, "t"), **prepared, **given)
        scale = batch_size
    (start, _), counted = times[SKIPPED - 1], times[SKIPPED:]
    return scale * sum(count for _, count in counted) / (counted[-1][0] - start)


def patch_classes() -> None:
    """In this process, detections of random weights have classes that are made up as well."""
    whole = FrozenDetector.forward

    def forward(self: FrozenDetector, *given: Any) -> Any:
        seen = whole(self, *given)
        number = torch.arange(seen.labels.shape[1], device=seen.labels.device)
        labels = torch.where(number % 4 == 0, 0, number % 79 + 1)
        return replace(seen, labels=labels.expand_as(seen.labels))

    FrozenDetector.forward = forward


# ---- what is measured on


def prepare(root: Path, study: Study, size: Size, photos: int, epochs: int) -> None:
    """Photos, records, a detector, text and settings, under `root`."""
    for name in ("images", "prepare", "detector"):
        (root / name).mkdir()
    annotations = [draw(root / "images", image_id, size) for image_id in range(photos)]
    save_vocabulary(root / "prepare" / "vocabulary.json", VOCABULARY)
    save_annotations(root / "prepare" / "train.json", annotations)
    for split in ("val", "test"):
        save_annotations(root / "prepare" / f"{split}.json", [])
    save_detector(random_weights(study, size), root / "detector")

    profile = study.profiles[size.profile]
    shared: dict[str, Any] = {"batch_size": size.batch_size, "selection": SELECTION, "map_dtype": "float16"}
    features = Features(map="backbone", shard_images=64, views=1, **shared)
    (root / "features.yaml").write_text(FeaturesNode(code="", image=size.image, features=features).dump())
    encoder = Encoder(name="random", model="random:512", revision=None, sha256=None, pooling="mean")
    (root / "text.yaml").write_text(TextNode(code="", encoder=encoder).dump())
    from rmlr.stages.text import text

    text(settings=root / "text.yaml", annotations=root / "prepare", out=root / "text")
    schedule = {"split": "train", "epochs": epochs, "batch_size": size.batch_size}
    schedule |= {"micro_batch_size": size.batch_size, "precision": size.precision, "validate_every": 0}
    online = Online(view=AskedView(image=size.image, selection=SELECTION, map="backbone"), augment=size.augment)
    for name, seen in (("cached", None), ("online", online)):
        node = TrainNode(
            code="",
            variant=study.variants["rmlr"],
            network=profile.network.model_copy(update={"upt": None}),
            alignment=profile.alignment,
            losses=profile.losses,
            train=profile.train["vcoco"].model_copy(update=schedule),
            online=seen,
            tags={},
        )
        (root / f"{name}.yaml").write_text(yaml.safe_dump(node.model_dump(mode="json")))


def draw(folder: Path, image_id: int, size: Size) -> Annotation:
    """A photo of coloured rectangles and grain, about as large a file as a camera's; every person does something."""
    random = np.random.default_rng(image_id)
    height, width = size.photo
    pixels = np.full((height, width, 3), random.integers(60, 200, 3), dtype=np.int16)
    low = random.uniform(0, 0.6, (PEOPLE + THINGS, 2))
    boxes = np.concatenate([low, low + random.uniform(0.15, 0.4, low.shape)], axis=1) * ([width, height] * 2)
    for x1, y1, x2, y2 in boxes.astype(int):
        pixels[y1:y2, x1:x2] = random.integers(0, 256, 3)
    pixels += random.normal(0, 8, pixels.shape).astype(np.int16)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{image_id}.jpg", quality=90)
    people = np.arange(PEOPLE)
    rows = np.stack([people, random.integers(0, 24, PEOPLE), PEOPLE + random.integers(0, THINGS, PEOPLE)], axis=1)
    number = PEOPLE + THINGS
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=height,
        width=width,
        boxes=boxes,
        labels=np.concatenate([np.zeros(PEOPLE, dtype=np.int64), random.integers(1, 80, THINGS)]),
        interactions=rows,
        is_crowd=np.zeros(number, dtype=bool),
        is_listed=np.arange(number) < PEOPLE,
        actions=rows[:, :2],
    )


def random_weights(study: Study, size: Size) -> Any:
    """A DETR of random weights, of the profile's size."""
    torch.manual_seed(0)
    given = (detector.architecture for detector in study.profiles[size.profile].detectors.values())
    architecture = next(filter(None, given), DETR_R50)
    return build_detector(architecture, VOCABULARY.objects, no_object_weight=0.1)


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
