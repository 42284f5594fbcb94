"""Cross-validation folds: images are assigned by a hash of their ids alone."""

import hashlib
from collections.abc import Collection

import numpy as np

from rmlr.data.records import Corpus, with_hois_of
from rmlr.study.settings import Folds


def fold_of(image_id: int, count: int) -> int:
    """The fold of an image, from 0: the hash of its id modulo the number of folds, independent of other images."""
    return _number(f"fold {image_id}") % count


def is_validation(image_id: int, share: float) -> bool:
    """Whether an image of the training folds is in val: by the hash of its id, for this share of all ids."""
    return _number(f"validation {image_id}") < share * 2**256


def split_into_folds(corpus: Corpus, rule: Folds) -> list[Corpus]:
    """For each fold, a corpus whose test split is that fold and whose train and val are the others.

    Its possible HOIs are those of its own train and val, so no information of the test fold is used in training.
    ValueError if a fold, or its train or val, has no image.
    """
    images = corpus.splits["test"]
    found = []
    for fold in range(rule.count):
        parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for place, image in enumerate(images):
            if fold_of(image.image_id, rule.count) == fold:
                parts["test"].append(place)
            elif is_validation(image.image_id, rule.validation):
                parts["val"].append(place)
            else:
                parts["train"].append(place)
        for name, places in parts.items():
            if not places and (name != "val" or rule.validation):
                raise ValueError(
                    f"fold {fold} of {rule.count}: its split '{name}' has no image, of {len(images)} in all. Take "
                    f"fewer folds{', or a larger share for validation' if name == 'val' else ''}, or annotate more"
                )
        splits = {name: [images[place] for place in places] for name, places in parts.items()}
        tables = corpus.image_objects
        if tables is not None:
            tables = {name: tables["test"][places] for name, places in parts.items()}
        vocabulary = with_hois_of(corpus.vocabulary, splits["train"] + splits["val"])
        found.append(Corpus(vocabulary, splits, {}, tables))
    return found


def pooled(corpus: Corpus) -> Corpus:
    """All images as one test split, in the order train, val, test; train and val exist only in folds."""
    images = [image for name in ("train", "val", "test") for image in corpus.splits[name]]
    tables = corpus.image_objects
    if tables is not None:
        joined = np.concatenate([tables[name] for name in ("train", "val", "test")])
        tables = {"train": joined[:0], "val": joined[:0], "test": joined}
    splits = {"train": [], "val": [], "test": images}
    return Corpus(with_hois_of(corpus.vocabulary, images), splits, corpus.notes, tables)


def without(corpus: Corpus, image_ids: Collection[int]) -> Corpus:
    """A corpus without these images."""
    kept = {
        name: [place for place, image in enumerate(images) if image.image_id not in image_ids]
        for name, images in corpus.splits.items()
    }
    splits = {name: [corpus.splits[name][place] for place in places] for name, places in kept.items()}
    tables = corpus.image_objects
    if tables is not None:
        tables = {name: tables[name][places] for name, places in kept.items()}
    vocabulary = with_hois_of(corpus.vocabulary, splits["train"] + splits["val"])
    return Corpus(vocabulary, splits, corpus.notes, tables)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
