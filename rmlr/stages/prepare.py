"""Raw annotations to our records: ids converted, joins made, once and for all."""

import logging
from pathlib import Path

from rmlr.data.hicodet import read_hicodet
from rmlr.data.records import (
    check_annotations,
    count_annotations,
    save_annotations,
    save_image_objects,
    save_vocabulary,
)
from rmlr.data.vcoco import read_vcoco
from rmlr.run import run
from rmlr.settings import PrepareNode

log = logging.getLogger(__name__)


def prepare(*, settings: Path, raw: Path, out: Path) -> None:
    """Read a dataset in its official files; write its classes and splits as our records.

    V-COCO: coco/instances_{train,val}2014.json, vcoco/vcoco_{train,val,test}.json and
    vcoco/splits/vcoco_{train,val,test}.ids. Where an official split is absent: vcoco/instances_vcoco_{split}.json of
    fredzzhang/vcoco (pairs with a visible object only; images that COCO's files lack take their size from images/).

    HICO-DET: hicodet/instances_{train,test}2015.json of fredzzhang/hicodet. Where hicodet/anno.mat of the official
    release is there as well, image_objects.json holds its labels of whole images, for Known Object.

    Args:
        settings: this node's settings file: which dataset, and what is true of its release.
        raw: folder that holds coco/ and vcoco/, or hicodet/, whether drawn or real.
        out: folder to write; gets vocabulary.json, train.json, val.json and test.json.
    """
    chosen = PrepareNode.load(settings)
    folders = {"vcoco": ("vcoco", "coco"), "hicodet": ("hicodet",)}[chosen.dataset]
    inputs = [raw / name for name in folders]
    with run("prepare", chosen, settings=settings, out=out, inputs=inputs) as record:
        if chosen.dataset == "vcoco":
            corpus = read_vcoco(raw, chosen.vcoco.unscored_roles)
        else:
            corpus = read_hicodet(raw, chosen.hicodet.val_images)
        numbers = dict(corpus.notes)
        save_vocabulary(record.folder / "vocabulary.json", corpus.vocabulary)
        for split, annotations in corpus.splits.items():
            check_annotations(raw / chosen.dataset, annotations, corpus.vocabulary)
            save_annotations(record.folder / f"{split}.json", annotations)
            counts = count_annotations(annotations, corpus.vocabulary)
            numbers |= {f"{split}_{name}": count for name, count in counts.items()}
            log.info("%s: %s", split, ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
        if corpus.image_objects is not None:
            save_image_objects(record.folder / "image_objects.json", corpus.splits, corpus.image_objects)
        record.log_metrics({name: float(number) for name, number in numbers.items()})
