"""The detector of the study: trained from scratch, fine-tuned, or used unchanged; then frozen."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import DetrForObjectDetection

from rmlr.data.coco import read_coco_without
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.data.release import in_folders
from rmlr.evaluation.objects import load_scorer
from rmlr.hoi import Annotation, Vocabulary
from rmlr.learning.detector import Photos, fit, measure, training_identity
from rmlr.model.anchored import build_detector, thaw
from rmlr.model.detector import FrozenDetector, Network, load_detector, save_detector
from rmlr.model.detr import adapt_classes, thaw_given
from rmlr.model.foreign import Foreign
from rmlr.study.frozen import Detector
from rmlr.study.nodes import DetectorNode
from rmlr.study.run import run
from rmlr.study.source import class_file

log = logging.getLogger(__name__)

VAL2017 = "val2017/"  # the folder of COCO val2017, as `prepare` names its photos


def detector(
    *, settings: Path, annotations: Path, images: Path, seed: int, out: Path, coco: Path | None = None
) -> None:
    """Train a DETR that runs stand on, or take a detector of any kind as it is, and measure it on the test split.

    An interrupted training run resumes if the command is repeated with the same settings, seed and inputs. On several
    GPUs: `torchrun --nproc-per-node 4 -m rmlr detector ...`; each process takes its share of every batch.

    Args:
        settings: this node's settings file: from scratch, fine-tuned from given weights, or used unchanged; schedule.
        annotations: folder made by `prepare`.
        images: folder of the photos.
        seed: of initialisation, order and augmentation.
        out: folder to write; gets the detector (config.json and model.safetensors, as `save_pretrained` writes them; of
            a class of your own, its file and its weights) and metrics.json: ap50 and ap of the objects as COCO computes
            them, pair_recall, and whether the detector has seen V-COCO's test photos.
        coco: folder of COCO's instances_{train,val}2014.json, for a detector that learns from all of COCO but the test
            photos.
    """
    chosen = DetectorNode.load(settings)
    given = Path(chosen.detector.weights or "")  # a file or folder, otherwise from the hub
    inputs = [annotations, images, *([coco] if coco else [])]
    inputs += [given] if chosen.detector.weights and given.exists() else []
    inputs += [class_file(chosen.detector.python)] if chosen.detector.python else []
    with run("detector", chosen, settings=settings, out=out, inputs=inputs, seed=seed) as record:
        vocabulary, scorer = load_vocabulary(annotations), load_scorer(chosen.detector.object_ap)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = _start(chosen.detector, vocabulary)
        test = load_annotations(annotations, "test")
        if chosen.detector.schedule is not None:
            assert isinstance(network, DetrForObjectDetection)
            train = _training_examples(chosen.detector, annotations, coco, vocabulary, test)
            record.log_metrics({"train_images": float(len(train))})
            photos = Photos(train, images, chosen.detector)
            identity = training_identity(chosen, seed, photos)
            fit(network, photos, chosen.detector.schedule, seed=seed, record=record, identity=identity)
        if int(os.environ.get("RANK", "0")):  # the first process measures and writes
            return
        save_detector(network, record.folder)
        frozen = FrozenDetector(load_detector(str(record.folder)), vocabulary.objects).to(device)
        measured = chosen.detector.model_copy(update={"image": frozen.size(chosen.detector.image)})
        metrics = measure(frozen, Photos(test, images, measured), vocabulary, chosen.features, scorer, record)
        is_of_val2017 = all(annotation.file_name.startswith(VAL2017) for annotation in test)
        metrics["has_seen_vcoco_test"] = float(
            chosen.detector.has_seen_test("vcoco", "val2017" if is_of_val2017 else None)
        )
        (record.folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        record.log_metrics(metrics)


def _training_examples(
    settings: Detector, annotations: Path, coco: Path | None, vocabulary: Vocabulary, test: Sequence[Annotation]
) -> list[Annotation]:
    """The training examples of a detector, never with a test photo."""
    if settings.all_of_coco != (coco is not None):
        raise ValueError(
            "this detector is trained on all of COCO: give --coco, the folder of instances_{train,val}2014.json"
            if settings.all_of_coco
            else f"--coco {coco}: this detector is trained on the training split only. Leave the flag out"
        )
    excluded = {annotation.image_id for annotation in test}
    if coco is None:
        examples = load_annotations(annotations, "train")
    else:
        examples = read_coco_without(coco, excluded, vocabulary.objects)
        if any("/" in annotation.file_name for annotation in test):  # a published release: photos are in folders
            examples = in_folders(examples)
        log.info("COCO without V-COCO's test photos: %d images, %d left out", len(examples), len(excluded))
    if shared := sorted(excluded.intersection(annotation.image_id for annotation in examples)):
        raise ValueError(f"{annotations}: {len(shared)} test photos are in the training set, such as {shared[:5]}")
    return examples


def _start(settings: Detector, vocabulary: Vocabulary) -> Network:
    """The DETR that training starts from, or the detector that is taken as it is."""
    if settings.python is not None:
        return Foreign(settings.python, None if settings.weights is None else Path(settings.weights))
    if settings.weights is not None:
        detr = load_detector(settings.weights, settings.revision)
        if settings.schedule is not None:
            if not isinstance(detr, DetrForObjectDetection):
                raise ValueError(
                    f"{settings.weights}: only a DETR can be trained here. Set schedule to null to take it as it is"
                )
            adapt_classes(detr, vocabulary.objects)
            thaw_given(detr, settings.schedule.no_object_weight)
        return detr
    assert settings.architecture is not None
    assert settings.schedule is not None
    detr = build_detector(settings.architecture, vocabulary.objects, settings.schedule.no_object_weight)
    thaw(detr)
    return detr
