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
from rmlr.data.release import COUNTS, check_counts, check_own, count_overhanging, in_folders, of_val2017
from rmlr.data.vcoco import read_vcoco
from rmlr.study.nodes import PrepareNode
from rmlr.study.run import run

log = logging.getLogger(__name__)

LEFT_OUT = {  # by the end of a note's name: what was left out, or done without, and why
    "dropped_boxes": "COCO annotations left out: without area, or marked `ignore`, as in the official program",
    "dropped_persons": "listed persons left out with all they do: no ground truth in COCO",
    "dropped_rows": "rows left out: a box of theirs has no pixel",
    "invisible_classes": "classes of an image left out: marked `invis`, they have no boxes",
    "unlabelled_objects": "visible pairs whose object anno.mat does not say the image holds",
    "boxes_outside": "boxes leave their image by more than a pixel; they count as they are",
    "rare_against_rows": "classes on which the list of rare ones and the rows of train disagree; the list is used",
}


def prepare(*, settings: Path, raw: Path, out: Path) -> None:
    """Read a dataset in its official files; write its classes and splits as our records.

    V-COCO: coco/instances_{train,val}2014.json, vcoco/vcoco_{train,val,test}.json and
    vcoco/splits/vcoco_{train,val,test}.ids. Where an official split is absent: vcoco/instances_vcoco_{split}.json of
    fredzzhang/vcoco (pairs with a visible object only; images that COCO's files lack take their size from images/).

    HICO-DET: hicodet/anno_bbox.mat of the official release, or hicodet/instances_{train,test}2015.json of
    fredzzhang/hicodet; where both are there, they must agree. Where hicodet/anno.mat of the official
    release is there as well, image_objects.json holds its labels of whole images, for Known Object.

    The setting `release` says what the files are: a published release, whose known counts they must have and whose
    photos lie in images/train2014 and its like; or one's own data, which are checked against images/ and for whatever
    would stop or mislead a study (docs/data.md).

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
            corpus, release = read_vcoco(raw, chosen.vcoco.unscored_roles), chosen.vcoco.release
        else:
            corpus, release = read_hicodet(raw, chosen.hicodet.val_images), chosen.hicodet.release
        vocabulary, numbers = corpus.vocabulary, dict(corpus.notes)
        for split, annotations in corpus.splits.items():
            check_annotations(raw / chosen.dataset, annotations, vocabulary)
            counts = count_annotations(annotations, vocabulary)
            numbers |= {f"{split}_{name}": count for name, count in counts.items()}
            log.info(
                "%s: %s", split, ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
            )
        numbers |= {f"{split}_boxes_outside": count for split, count in count_overhanging(corpus.splits).items()}
        for name, number in numbers.items():
            if number and (why := next((why for end, why in LEFT_OUT.items() if name.endswith(end)), None)):
                log.info("%s: %s %s", name.split("_")[0], f"{number:,}", why)
        log.info(
            "classes: %d verbs, %d objects, %d interactions",
            *map(len, (vocabulary.verbs, vocabulary.objects, vocabulary.hois)),
        )
        if release in COUNTS:
            check_counts(raw, release, corpus)
        elif release == "own":
            check_own(raw, corpus)
        is_part = chosen.dataset == "vcoco" and chosen.vcoco.photos == "val2017"
        if is_part:
            corpus = of_val2017(raw / "images", corpus)
        save_vocabulary(record.folder / "vocabulary.json", vocabulary)
        for split, annotations in corpus.splits.items():
            published = in_folders(annotations) if release in COUNTS and not is_part else annotations
            save_annotations(record.folder / f"{split}.json", published)
        if corpus.image_objects is not None:
            save_image_objects(record.folder / "image_objects.json", corpus.splits, corpus.image_objects)
        record.log_metrics({name: float(number) for name, number in numbers.items()})
