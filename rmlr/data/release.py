"""Validation of annotations: a published release by its counts, the user's own data by strict rules."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from rmlr.data.records import Corpus
from rmlr.hoi import NO_BOX, Annotation, Vocabulary
from rmlr.study.settings import Folds

log = logging.getLogger(__name__)

MAX_OVERHANG = 1.0  # pixels: boxes are rounded, or drawn by hand
FIRST_PIXEL = 0.5  # HICO-DET: how far a box may begin before the first pixel; with counting from 0 it does so by 1
OWN_DROPPED = {  # what a reader leaves out of the user's own data, by the suffix of a note's name
    "dropped_boxes": "annotations of coco/ were left out: `area` is not above 0, or `ignore` is 1",
    "dropped_persons": "listed persons were left out with their actions: their annotations were left out",
    "dropped_rows": "rows were left out: a box of theirs has no pixel. Is it x1, y1, x2, y2, counted from 1?",
}
OF_VAL2017 = 579  # images of V-COCO
SHOWN = 5  # of many similar ones, in a message

# Counted in the files of s-gupta/v-coco (489cc4d), Neoutlier/v-coco (14ea82f: positives of test), fredzzhang/vcoco
# (cb13e3d) and fredzzhang/hicodet (e4e2340). Pairs
# are annotated verbs with an object box. Of HICO-DET's train file we know only what its test file says of it.
COUNTS: dict[str, dict[str, int | list[int]]] = {
    "vcoco-2015": {
        "actions": 26,
        "verbs": 24,
        "unscored_verbs": 1,
        "objects": 80,
        "hois": 218,
        "train_images": 2533,
        "val_images": 2867,
        "test_images": 4946,
        "train_listed_persons": 3932,
        "val_listed_persons": 4499,
        "train_positives": 8469,
        "val_positives": 9882,
        "test_positives": 16361,
        "train_from_pairs": 0,
        "val_from_pairs": 0,
        "test_from_pairs": 0,
        "train_images_with_pair": 2336,
        "val_images_with_pair": 2633,
        "test_images_with_pair": 4532,
        "train_pairs_by_verb": [
            1416, 521, 222, 1431, 157, 106, 171, 73, 224, 153, 139, 220, 136, 125, 107, 92, 180, 164, 235, 208, 58, 62,
            34, 166,
        ],
        "val_pairs_by_verb": [
            1608, 551, 223, 1696, 185, 122, 232, 80, 265, 130, 153, 244, 125, 131, 140, 140, 218, 273, 250, 259, 67, 72,
            52, 201,
        ],
        "test_pairs_by_verb": [
            2733, 1089, 505, 2752, 315, 226, 334, 100, 402, 230, 246, 433, 214, 201, 230, 203, 375, 360, 464, 402, 78,
            163, 86, 261,
        ],
    },
    "hicodet-2016": {
        "objects": 80,
        "verbs": 117,
        "hois": 600,
        "rare": 138,
        "rare_against_rows": 0,
        "trainval_images": 38118,
        "test_images": 9658,
        "test_images_with_pair": 9546,
        "test_pairs": 33405,
        "test_pairs_of_rarest_hoi": 2,
        "test_pairs_of_commonest_hoi": 898,
        "test_pairs_of_rare_hois": 981,
    },
}  # fmt: skip
# V-COCO as Neoutlier/v-coco (14ea82f) keeps it: 68 persons of train and val who do nothing are missing.
COUNTS["vcoco-2015-rewritten"] = COUNTS["vcoco-2015"] | {
    "train_listed_persons": 3897,
    "val_listed_persons": 4466,
    "test_listed_persons": 7674,
}

# The usual cause of a wrong number.
CAUSES: dict[str, str] = {
    "verbs": "the literature scores 24 of V-COCO's 25 action-roles; `point instr` belongs under vcoco.unscored_roles, "
    "and a mean over all 25 is not a published figure",
    "unscored_verbs": "vcoco.unscored_roles must be [point instr]",
    "test_images=4532": "these are the images with a pair; all 4,946 are scored, the others for false positives",
    "train_images=5400": "this is the list of trainval, which is train and val together",
    "test_images=9546": "these are the images with a visible pair; all 9,658 are scored",
    "test_from_pairs": "instances_vcoco_test.json has no positives without an object box, so its AP is not the "
    "literature's AP_role; take vcoco_test.json of s-gupta/v-coco",
    "rare_against_rows": "the rare classes listed are not those with fewer than 10 rows in train: are both files of "
    "one release, and is train whole?",
}


def check_counts(raw: Path, release: str, corpus: Corpus) -> None:
    """Raises one ValueError with every count of a published release that these annotations do not match."""
    found, wrong = _count(corpus), []
    for name, expected in COUNTS[release].items():
        number = found.get(name)
        if number == expected:
            continue
        if isinstance(expected, list) and isinstance(number, list):
            verbs = zip(corpus.vocabulary.verbs, expected, number, strict=False)
            first = next(((verb, one, other) for verb, one, other in verbs if one != other), None)
            where = f", first '{first[0]}' with {first[2]:,} for {first[1]:,}" if first else ""
            wrong.append(f"{name}: {sum(expected):,} expected, {sum(number):,} found{where}")
            continue
        cause = CAUSES.get(f"{name}={number}", CAUSES.get(name))
        came = f"{number:,}" if isinstance(number, int) else "none"
        wrong.append(f"{name}: {expected:,} expected, {came} found" + (f" ({cause})" if cause else ""))
    if wrong:
        raise ValueError(
            f"{raw}: the annotations are not those of the release {release}, which the settings name:\n  "
            + "\n  ".join(wrong)
            + "\nIs a file wrong, or incomplete? `rmlr doctor` lists the expected files. If these are "
            f"other data, give {corpus.vocabulary.dataset}.release the value own (docs/data.md)"
        )
    log.info("%s: all %d known counts of %s are right", raw, len(COUNTS[release]), release)


def in_folders(images: Sequence[Annotation]) -> list[Annotation]:
    """The images of a published release, whose photos are in the folders of its archives.

    COCO_train2014_000000000009.jpg is train2014/COCO_train2014_000000000009.jpg, HICO_test2015_... is in test2015/.
    """
    return [replace(image, file_name=re.sub(r"^[A-Z]+_(\w+?)_", r"\1/\g<0>", image.file_name)) for image in images]


def of_val2017(images: Path, corpus: Corpus) -> Corpus:
    """V-COCO's images that are in COCO val2017, by their names there; all of them are of the test split.

    COCO 2017 has the photos of 2014 in other folders: COCO_val2014_000000000042.jpg is 000000000042.jpg of train2017 or
    of val2017. Raises ValueError unless `images`/val2017 has the photos of all of them.
    """
    folder = images / "val2017"
    kept = {
        split: [
            replace(image, file_name=f"val2017/{image.image_id:012d}.jpg")
            for image in some
            if (folder / f"{image.image_id:012d}.jpg").is_file()
        ]
        for split, some in corpus.splits.items()
    }
    found = {split: len(some) for split, some in kept.items()}
    if found != (expected := {"train": 0, "val": 0, "test": OF_VAL2017}):
        raise ValueError(
            f"{folder}: of V-COCO's images {expected} are in COCO val2017, but photos of {found} were found "
            "under the names of 2017 (000000000042.jpg). `rmlr fetch coco-val2017` brings that folder; add none"
        )
    return replace(corpus, splits=kept)


def _count(corpus: Corpus) -> dict[str, int | list[int]]:
    """The counts named in COUNTS, for these annotations."""
    vocabulary = corpus.vocabulary
    found: dict[str, int | list[int]] = dict(corpus.notes)
    for name in ("actions", "verbs", "unscored_verbs", "objects", "hois", "rare"):
        found[name] = len(getattr(vocabulary, name))
    for split, images in corpus.splits.items():
        pairs = [_pairs(image, len(vocabulary.verbs)) for image in images]
        by_verb = Counter(verb for rows in pairs for verb, _ in rows)
        found[f"{split}_images"] = len(images)
        found[f"{split}_images_with_pair"] = sum(bool(rows) for rows in pairs)
        found[f"{split}_pairs"] = sum(map(len, pairs))
        found[f"{split}_pairs_by_verb"] = [by_verb[verb] for verb in range(len(vocabulary.verbs))]
        by_hoi = Counter(chain.from_iterable(pairs))
        rows = [by_hoi[hoi] for hoi in vocabulary.hois]
        found[f"{split}_pairs_of_rarest_hoi"] = min(rows, default=0)
        found[f"{split}_pairs_of_commonest_hoi"] = max(rows, default=0)
        found[f"{split}_pairs_of_rare_hois"] = sum(rows[hoi] for hoi in vocabulary.rare)
    found["trainval_images"] = len(corpus.splits["train"]) + len(corpus.splits["val"])
    return found


def _pairs(image: Annotation, num_verbs: int) -> list[tuple[int, int]]:
    """(verb, object class) of every scored interaction with an object box."""
    rows = image.interactions[(image.interactions[:, 1] < num_verbs) & (image.interactions[:, 2] != NO_BOX)]
    return list(zip(rows[:, 1].tolist(), image.labels[rows[:, 2]].tolist(), strict=True))


def count_overhanging(splits: Mapping[str, Sequence[Annotation]]) -> dict[str, int]:
    """The numbers of boxes that extend beyond their image, by split; published releases have some, used unchanged."""
    return {split: sum(int(_overhangs(image).sum()) for image in images) for split, images in splits.items()}


def _overhangs(image: Annotation) -> Bool[np.ndarray, " k"]:
    limit = np.array([image.width, image.height], dtype=np.float64)
    is_over = (image.boxes[:, :2] < -MAX_OVERHANG) | (image.boxes[:, 2:] > limit + MAX_OVERHANG)
    return np.logical_or(is_over[:, 0], is_over[:, 1])


def check_own(raw: Path, corpus: Corpus, folds: Folds | None = None) -> None:
    """Raises ValueError if the user's own annotations are readable, but a study on them would mislead or stop later.

    A split without images (where there are folds: those that they are made of), a photo in two splits or of two images,
    a box without width or height, a box that leaves its image by more than a pixel (or by one, to the left or above,
    where boxes count from 1), no verb that is scored, a verb that no pair of train and val (or of the folds) shows, a
    test split without any pair. What was left out is a warning.
    """
    where = raw / corpus.vocabulary.dataset
    _check_images(where, corpus, ("train", "val", "test") if folds is None else ("test",) if folds.of == "test" else ())
    for end, why in OWN_DROPPED.items():
        if number := sum(count for name, count in corpus.notes.items() if name.endswith(end)):
            log.warning("%s: %d %s", where, number, why)
    if folds is None:
        learnt, tested, names = corpus.splits["train"] + corpus.splits["val"], corpus.splits["test"], "train and val"
    else:
        learnt = [image for name, some in corpus.splits.items() if folds.of in ("all", name) for image in some]
        tested, names = learnt, "the folds"
    _check_verbs(where, corpus.vocabulary, learnt, tested, names)


def _check_images(where: Path, corpus: Corpus, needed: Sequence[str]) -> None:
    home: dict[str, tuple[str, int]] = {}
    for split, images in corpus.splits.items():
        if not images and split in needed:
            raise ValueError(
                f"{where}: split '{split}' has no image; train, val and test need one at least. Move some of another "
                "split there (V-COCO form: splits/vcoco_*.ids; HICO-DET form: hicodet.val_images takes val from train)"
            )
        for image in images:
            name = f"{where}: {split}, image {image.image_id} ({image.file_name})"
            other, twin = home.setdefault(image.file_name, (split, image.image_id))
            if other != split:
                raise ValueError(
                    f"{name}: is in split '{other}', too. Scores on training images "
                    "mean nothing: keep it in one of the two"
                )
            if twin != image.image_id:
                raise ValueError(f"{name}: is the photo of image {twin}, too. Keep one of the two images")
            sides = image.boxes[:, 2:] - image.boxes[:, :2]
            if (is_flat := (sides <= 0).any(axis=1)).any():
                raise ValueError(
                    f"{name}: box {image.boxes[is_flat][0].tolist()} (x1, y1, x2, y2; edges from 0) has no width or no "
                    "height. Correct it, or remove it and everything that refers to it"
                )
            is_before = (image.boxes[:, :2] < -FIRST_PIXEL).any(axis=1)
            if corpus.vocabulary.dataset == "hicodet" and is_before.any():
                x, y = (image.boxes[is_before][0, :2] + 1).tolist()
                raise ValueError(
                    f"{name}: a box begins at x1 {x:g}, y1 {y:g}, but HICO-DET's corners count from 1: the first pixel "
                    "is 1, and both corners are inside. If these count from 0, add 1 to all numbers of all boxes (to "
                    "x1 and y1 alone, if x2 and y2 are one beyond the last pixel)"
                )
            if (outside := _overhangs(image)).any():
                raise ValueError(
                    f"{name}: box {image.boxes[outside][0].tolist()} (x1, y1, x2, y2; edges from 0) leaves the image, "
                    f"which is {image.width} wide and {image.height} high. Is it [x, y, width, height] in COCO's "
                    "file, and 1-based corners in HICO-DET's? Correct the box or the image's size"
                )


def _check_verbs(
    where: Path, vocabulary: Vocabulary, learnt: Sequence[Annotation], tested: Sequence[Annotation], names: str
) -> None:
    num_verbs = len(vocabulary.verbs)
    if not num_verbs:
        raise ValueError(
            f"{where}: no verb is scored. In V-COCO's form an action is scored by its roles besides 'agent', such as "
            "'obj'"
        )
    by_verb = Counter(verb for image in learnt for verb, _ in _pairs(image, num_verbs))
    if unseen := [verb for index, verb in enumerate(vocabulary.verbs) if not by_verb[index]]:
        raise ValueError(
            f"{where}: {len(unseen)} of {num_verbs} verbs have no pair in {names}: {_some(unseen)}. A verb is "
            "learnt from people whose object has a box. Annotate some, or remove the verb (V-COCO form: name it "
            "under vcoco.unscored_roles)"
        )
    by_verb = Counter(verb for image in tested for verb, _ in _pairs(image, num_verbs))
    if not by_verb:
        raise ValueError(f"{where}: no image of test has a pair, so nothing can be scored. Move some of train to test")
    if untested := [verb for index, verb in enumerate(vocabulary.verbs) if not by_verb[index]]:
        log.info("%s: %d of %d verbs have no pair in test: %s", where, len(untested), num_verbs, _some(untested))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
