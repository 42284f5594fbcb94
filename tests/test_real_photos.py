"""Every stage on the real photos that V-COCO has among COCO128: at the paper's sizes, and overfitted on eight."""

import csv
import dataclasses
import json
import math
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rmlr.data.features import Features
from rmlr.data.images import load_batch, read_image
from rmlr.data.records import load_annotations, load_vocabulary, save_annotations, save_vocabulary
from rmlr.detections.triplets import load_triplets
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary
from rmlr.report.pictures import annotated_triplets, draw_triplets, sheet
from rmlr.stages.detector import detector
from rmlr.stages.evaluate import evaluate
from rmlr.stages.features import features
from rmlr.stages.predict import predict
from rmlr.stages.prepare import prepare
from rmlr.stages.text import text
from rmlr.stages.train import train
from rmlr.study.nodes import DetectorNode, EvaluateNode, FeaturesNode, PredictNode, PrepareNode, TextNode, TrainNode
from rmlr.study.plan import Study
from rmlr.study.section import Section
from rmlr.study.settings import ImageSize

from .perturbed_detr import save_perturbed_detr

ROOT = Path(__file__).parents[1]
RUN = "runs/shared/rmlr/0"
OUTPUT = ROOT / "tests" / "output" / "real_photos.png"
SMALL = ImageSize(shortest=192, longest=256)
PHOTOS = 8
TWIN = 1_000_000  # added to the ids of photos that are learnt from and tested on
BY_HEART = {"steps": 1100, "batch_size": 4, "ema_decay": 0.98}


class Nodes:
    """The nodes of a profile, and a folder in which stages are run with what a test changes in them."""

    def __init__(self, profile: str, folder: Path) -> None:
        self.folder = folder
        self._nodes = Study.load(ROOT / "params.yaml").nodes(profile, defaultdict(lambda: "test"))

    def __call__(self, name: str, kind, **updates):
        """A node; `updates` replace sections of it or, given as a mapping, numbers of a section."""
        node = self._nodes[name]
        assert isinstance(node, kind)
        return _updated(node, updates)

    def run(self, stage, node: Section, name: str, **more) -> Path:
        """Run a stage; the folder that it wrote."""
        out = self.folder / name
        out.parent.mkdir(parents=True, exist_ok=True)
        settings = out.with_suffix(".yaml")
        settings.write_text(node.dump())
        stage(settings=settings, out=out, **more)
        return out


def _updated(section: Section, updates: dict) -> Section:
    """A copy; whatever is itself a section takes a mapping of what changes in it."""
    values = {}
    for key, value in updates.items():
        old = getattr(section, key)
        values[key] = _updated(old, value) if isinstance(old, Section) and isinstance(value, dict) else value
    return section.model_copy(update=values)


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


def _curves(folder: Path) -> dict[str, list[float]]:
    """The columns of a training's curves."""
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}  # empty: no rows to learn from


def test_real_photos_pass_through_every_stage_at_the_papers_sizes(real_vcoco_raw, tmp_path):
    """With a random DETR-R50, perturbed (`perturbed_detr.py`): nothing is recognised, everything is computed."""
    nodes, images = Nodes("paper", tmp_path), real_vcoco_raw / "images"
    node = nodes("vcoco/prepare", PrepareNode, vcoco={"release": "drawn"})  # unchecked
    records = nodes.run(prepare, node, "prepare", raw=real_vcoco_raw)
    vocabulary = load_vocabulary(records)
    splits = {split: load_annotations(records, split) for split in ("train", "val", "test")}
    assert {split: len(annotations) for split, annotations in splits.items()} == {"train": 2, "val": 3, "test": 7}

    things = sorted({vocabulary.objects[object_] for _, object_ in vocabulary.hois} - {"person"})
    photos = load_batch(
        [images / annotation.file_name for annotation in splits["val"]], ImageSize(shortest=256, longest=427)
    )
    names = sorted(vocabulary.objects)  # another order than the dataset's: classes are matched by name
    save_perturbed_detr(tmp_path / "weights", names, person="person", things=things, photos=photos, seed=0)

    node = nodes("detector/base/vcoco", DetectorNode, detector={"weights": str(tmp_path / "weights"), "revision": None})
    taken = nodes.run(detector, node, "detector", annotations=records, images=images, seed=0)
    assert 0 <= _json(taken / "metrics.json")["pair_recall"] <= 1
    for split, annotations in [("test", splits["test"])]:  # the others are augmented while they are learnt from
        node = nodes(f"vcoco/features/base/{split}", FeaturesNode)
        where = {"annotations": records, "split": split, "images": images, "detector": taken}
        nodes.run(features, node, f"features/{split}", **where)
        cached = Features.load(tmp_path / "features", split)
        assert (cached.channels, cached.token_dim) == (2048, 256)
        assert cached.image_ids == [annotation.image_id for annotation in annotations]
        has_pair = [len(annotated_triplets(annotation).verb) > 0 for annotation in annotations]
        assert (cached.pair_counts.numpy()[has_pair] > 0).all()

    node = nodes("vcoco/text/main", TextNode, encoder={"model": "random:512", "revision": None})  # MobileBERT's width
    words = nodes.run(text, node, "text", annotations=records)
    schedule = {"epochs": 2, "batch_size": 4, "micro_batch_size": 2, "precision": "fp32"}  # bf16 is emulated on CPUs
    node = nodes(f"{RUN}/train", TrainNode, train=schedule)
    places, photos = {"annotations": records, "features": tmp_path / "features"}, {"images": images, "detector": taken}
    trained = nodes.run(train, node, "train", annotations=records, **photos, text=words, seed=0)
    loss = _curves(trained)["loss"]
    assert all(map(math.isfinite, loss))
    assert loss[-1] < loss[0]

    scored = nodes.run(predict, nodes(f"{RUN}/predict", PredictNode), "predict", **places, weights=trained)
    table = load_triplets(scored / "triplets.parquet")
    assert set(table.image_id) <= {annotation.image_id for annotation in splits["test"]}
    assert np.isfinite(table.score).all()

    node = nodes(f"{RUN}/evaluate", EvaluateNode)
    out = nodes.run(evaluate, node, "evaluate", annotations=records, triplets=scored / "triplets.parquet")
    metrics = _json(out / "metrics.json")
    with (out / "per_verb.csv").open() as file:
        rows = list(csv.DictReader(file))
    present = {"hold obj", "sit instr", "look obj", "read obj", "talk_on_phone instr", "eat obj", "hit instr"}
    assert {row["verb"] for row in rows if int(row["positives"])} == present
    assert {row["verb"] for row in rows if not math.isnan(float(row["ap_role_1"]))} == present
    assert metrics["vcoco_roles"] == len(present)
    ap = [float(row["ap_role_1"]) for row in rows if row["verb"] in present]
    assert metrics["vcoco_ap_role_1"] == pytest.approx(np.mean(ap))


@pytest.mark.slow
def test_real_photos_can_be_overfitted(real_vcoco_raw, tmp_path):
    """The detector from scratch, then the heads, trained and tested on the same eight photos: a sanity check.

    They are the first that carry a pair with two boxes, and go into `train` and `test` alike, there under other ids: a
    detector that would learn from test photos refuses. Roles without an object
    box stay out of the score: no pair can say them. Drawn for people: what is predicted beside what is annotated, and
    the losses (tests/output/real_photos.png and real_photos_curves.png).
    """
    nodes, images = Nodes("demo", tmp_path), real_vcoco_raw / "images"
    read = nodes.run(prepare, nodes("vcoco/prepare", PrepareNode), "read", raw=real_vcoco_raw)
    records, boxed = tmp_path / "prepare", tmp_path / "boxed"
    annotations = _put_into_every_split(read, records, boxed)
    vocabulary = load_vocabulary(records)

    chosen = {"architecture": {"grid": 12}, "schedule": BY_HEART, "image": SMALL}
    node = nodes("detector/base", DetectorNode, detector=chosen, features={"batch_size": len(annotations)})
    found = nodes.run(detector, node, "detector", annotations=records, images=images, seed=0)
    for split in ("train", "test"):
        node = nodes(f"vcoco/features/base/{split}", FeaturesNode, image=SMALL)
        where = {"annotations": records, "split": split, "images": images, "detector": found}
        nodes.run(features, node, f"features/{split}", **where)
    words = nodes.run(text, nodes("vcoco/text/main", TextNode), "text", annotations=records)
    schedule = {"split": "train", "epochs": 50, "batch_size": 4, "micro_batch_size": 4}
    places = {"annotations": records, "features": tmp_path / "features"}
    node = nodes(f"{RUN}/train", TrainNode, train=schedule)
    trained = nodes.run(train, node, "train", **places, text=words, seed=0)
    scored = nodes.run(predict, nodes(f"{RUN}/predict", PredictNode), "predict", **places, weights=trained)
    table = scored / "triplets.parquet"
    node = nodes(f"{RUN}/evaluate", EvaluateNode)
    judged = nodes.run(evaluate, node, "evaluate", annotations=boxed, triplets=table)

    _draw(OUTPUT, annotations, vocabulary, load_triplets(table), images)
    objects, roles = _json(found / "metrics.json"), _json(judged / "metrics.json")
    _plot(OUTPUT.with_stem("real_photos_curves"), _curves(trained))
    shown = {**objects, **roles, **{name: terms[-1] for name, terms in _curves(trained).items()}}
    OUTPUT.with_suffix(".json").write_text(json.dumps(shown, indent=1) + "\n")
    assert objects["pair_recall"] >= 0.9
    assert objects["ap50"] >= 0.8
    assert roles["vcoco_roles"] == 10
    assert roles["vcoco_ap_role_1"] > 0.9


def _put_into_every_split(read: Path, records: Path, boxed: Path) -> list[Annotation]:
    """Write the photos as `train` and as `test`, with the HOIs of them all; `boxed` holds roles with a box only."""
    splits = [load_annotations(read, split) for split in ("train", "val", "test")]
    annotations = [image for split in splits for image in split if len(annotated_triplets(image).verb)][:PHOTOS]
    everything = [annotated_triplets(annotation) for annotation in annotations]
    vocabulary = load_vocabulary(read)
    hois = {
        (int(verb), int(object_))
        for triplets in everything
        for verb, object_ in zip(triplets.verb, triplets.object_category, strict=True)
        if verb < len(vocabulary.verbs)
    }
    vocabulary = dataclasses.replace(vocabulary, hois=tuple(sorted(hois)))
    for folder in (records, boxed):
        kept = annotations
        if folder == boxed:
            rows = [annotation.interactions for annotation in annotations]
            rows = [row[row[:, 2] != NO_BOX] for row in rows]
            kept = [dataclasses.replace(a, interactions=row) for a, row in zip(annotations, rows, strict=True)]
        folder.mkdir()
        save_vocabulary(folder / "vocabulary.json", vocabulary)
        tested = [dataclasses.replace(annotation, image_id=annotation.image_id + TWIN) for annotation in kept]
        for split, part in (("train", kept), ("val", []), ("test", tested)):
            save_annotations(folder / f"{split}.json", part)
    return tested


def _plot(path: Path, curves: dict[str, list[float]]) -> None:
    """The loss and its terms over the epochs."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in ("loss", "hoi", "irm_sentence", "irm_word", "ire_sentence", "ire_word"):
        axes.plot(curves["epoch"], curves[name], label=name, linewidth=2.5 if name == "loss" else 1.2)
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    axes.legend(ncols=2)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw(path: Path, annotations: list[Annotation], vocabulary: Vocabulary, predicted: Triplets, folder: Path) -> None:
    """Each photo that has annotated triplets twice: with these, and with as many predicted ones, the strongest."""
    pages = []
    for annotation in annotations:
        truth = annotated_triplets(annotation)
        rows = np.flatnonzero(predicted.image_id == annotation.image_id)
        own = Triplets(*(getattr(predicted, name)[rows] for name in Triplets.__slots__))
        for triplets, what in ((truth, "annotated"), (own, "predicted")):
            if limit := len(truth.verb):
                title = f"{annotation.image_id} {what}"
                photo = read_image(folder / annotation.file_name)
                pages.append(draw_triplets(photo, triplets, vocabulary, limit, title))
    path.parent.mkdir(exist_ok=True)
    sheet(pages, 4).save(path)
