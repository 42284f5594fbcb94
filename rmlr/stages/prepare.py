"""Conversion of raw annotations to our records, with contiguous ids and all joins."""

import logging
from dataclasses import replace
from pathlib import Path

from rmlr.data.folds import pooled, split_into_folds, without
from rmlr.data.hicodet import read_hicodet
from rmlr.data.photo_files import check_photos
from rmlr.data.records import (
    Corpus,
    check_annotations,
    count_annotations,
    save_annotations,
    save_image_objects,
    save_vocabulary,
)
from rmlr.data.release import COUNTS, check_counts, check_own, count_overhanging, in_folders, of_val2017
from rmlr.data.vcoco import read_vcoco
from rmlr.study.files import write_whole
from rmlr.study.nodes import PrepareNode
from rmlr.study.run import run

log = logging.getLogger(__name__)

LEFT_OUT = {  # by the suffix of a note's name: what was left out, and why
    "dropped_boxes": "COCO annotations left out: without area, or marked `ignore`, as in the official program",
    "dropped_persons": "listed persons left out with their actions: no ground truth in COCO",
    "dropped_rows": "rows left out: one of their boxes has no pixel",
    "invisible_classes": "classes of an image left out: marked `invis`, they have no boxes",
    "unlabelled_objects": "visible pairs whose object is not labelled for the image in anno.mat",
    "boxes_outside": "boxes extend beyond their image by more than a pixel; they are used unchanged",
    "rare_against_rows": "classes on which the list of rare ones and the rows of train disagree; the list is used",
}


def prepare(*, settings: Path, raw: Path, out: Path) -> None:
    """Read a dataset from its official files; write its classes and splits as our records.

    V-COCO: coco/instances_{train,val}2014.json, vcoco/vcoco_{train,val,test}.json and
    vcoco/splits/vcoco_{train,val,test}.ids. If an official split is missing: vcoco/instances_vcoco_{split}.json of
    fredzzhang/vcoco (pairs with a visible object only; images that are not in COCO's files take their size from
    images/).

    HICO-DET: hicodet/anno_bbox.mat of the official release, or hicodet/instances_{train,test}2015.json of
    fredzzhang/hicodet; if both exist, they must agree. If hicodet/anno.mat of the official release exists as well,
    image_objects.json gets its image-level labels, for Known Object.

    The setting `release` says what the files are: a published release, whose known counts they must have and whose
    photos lie in images/train2014 and its like; or one's own data, which are checked for whatever would stop or mislead
    a study (docs/data.md). Where images/ is there, the header of every photo is compared with its record; one's own
    photos must all be there. The setting `leave_out` names which images are left out because of their photos.

    With the setting `folds` the photos are split anew: test.json has all that are scored, and each fold a folder
    foldK of its own, as a data set: its test split is the fold, train and val are of the other folds, and so are the
    classes of its vocabulary.

    Args:
        settings: this node's settings file: which dataset, and the properties of its release.
        raw: folder with coco/ and vcoco/, or hicodet/, synthetic or real.
        out: folder to write; gets vocabulary.json, train.json, val.json and test.json; the same in fold0/, fold1/ and
            so on, where there are folds; left_out.txt, where images were left out.
    """
    chosen = PrepareNode.load(settings)
    folders = {"vcoco": ("vcoco", "coco"), "hicodet": ("hicodet",)}[chosen.dataset]
    inputs = [raw / name for name in (*folders, *(("images",) if chosen.leave_out else ()))]
    with run("prepare", chosen, settings=settings, out=out, inputs=inputs) as record:
        if chosen.dataset == "vcoco":
            corpus, release = read_vcoco(raw, chosen.vcoco.unscored_roles), chosen.vcoco.release
        else:
            corpus, release = read_hicodet(raw, chosen.hicodet.val_images), chosen.hicodet.release
        vocabulary, numbers = corpus.vocabulary, dict(corpus.notes)
        for split, annotations in corpus.splits.items():
            check_annotations(f"{raw / chosen.dataset}: {split}", annotations, vocabulary)
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
        if chosen.dataset == "vcoco" and chosen.vcoco.photos == "val2017":
            corpus = of_val2017(raw / "images", corpus)
        elif release in COUNTS:
            splits = {split: in_folders(annotations) for split, annotations in corpus.splits.items()}
            corpus = replace(corpus, splits=splits)
        where, may_be_absent = raw / chosen.dataset, release != "own"
        left_out = check_photos(raw / "images", corpus.splits, where, chosen.leave_out, may_be_absent=may_be_absent)
        if left_out:
            corpus = without(corpus, left_out.keys())
            numbers["images_left_out"] = len(left_out)
            lines = [f"{image_id}: {what}\n" for image_id, what in left_out.items()]
            write_whole(record.folder / "left_out.txt", "".join(lines))
        if release == "own":
            check_own(raw, corpus, chosen.folds)
        if chosen.folds is not None:
            corpus = pooled(corpus) if chosen.folds.of == "all" else corpus
            for fold, of_fold in enumerate(split_into_folds(corpus, chosen.folds)):
                _save(record.folder / f"fold{fold}", of_fold)
                counts = {f"fold{fold}_{name}": len(images) for name, images in of_fold.splits.items()}
                counts[f"fold{fold}_hois"] = len(of_fold.vocabulary.hois)
                log.info("%s", ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()))
                numbers |= counts
        _save(record.folder, corpus)
        record.log_metrics({name: float(number) for name, number in numbers.items()})


def _save(folder: Path, corpus: Corpus) -> None:
    save_vocabulary(folder / "vocabulary.json", corpus.vocabulary)
    for split, annotations in corpus.splits.items():
        save_annotations(folder / f"{split}.json", annotations)
    if corpus.image_objects is not None:
        save_image_objects(folder / "image_objects.json", corpus.splits, corpus.image_objects)
