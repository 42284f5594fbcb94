"""Folds by photo: a rule on ids, and nothing of a fold in what is learnt for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlr.data.folds import fold_of, is_validation, pooled, split_into_folds, without
from rmlr.data.records import Corpus
from rmlr.hoi import Annotation, Vocabulary
from rmlr.study.settings import Folds

FIVE = Folds(count=5, of="test", validation=0.2)


def image(number: int, *things: int) -> Annotation:
    """A person who holds things of these classes; the last row has no object box."""
    count = len(things)
    rows = [[0, 0, 1 + place] for place in range(count)] + [[0, 0, -1]]
    return Annotation(
        image_id=number,
        file_name=f"{number}.jpg",
        height=10,
        width=20,
        boxes=np.tile([0.0, 0.0, 4.0, 9.0], (1 + count, 1)),
        labels=np.array([0, *things]),
        interactions=np.array(rows, dtype=np.int64),
        is_crowd=np.zeros(1 + count, dtype=bool),
        is_listed=np.array([True, *[False] * count]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


def corpus(**splits: list[Annotation]) -> Corpus:
    objects = ("person", *(f"thing {number}" for number in range(1, 61)))
    vocabulary = Vocabulary("vcoco", objects, 0, ("hold obj",), ((0, 1),))
    return Corpus(vocabulary, {"train": [], "val": [], "test": []} | splits, {})


def ids(images: list[Annotation]) -> list[int]:
    return [one.image_id for one in images]


SIXTY = corpus(train=[image(1000, 1)], test=[image(number, number) for number in range(1, 61)])


@pytest.mark.parametrize(("image_id", "fold"), [(9, 1), (42, 3), (581929, 4)])
def test_the_rule_is_fixed(image_id, fold):
    assert fold_of(image_id, 5) == fold


@given(st.integers(0, 2**62), st.integers(2, 20))
def test_a_fold_is_one_of_so_many(image_id, count):
    assert 0 <= fold_of(image_id, count) < count


def test_folds_and_validation_take_their_share_of_many_ids():
    folds = np.bincount([fold_of(number, 5) for number in range(5000)])
    assert (abs(folds - 1000) < 100).all()
    kept = np.array([is_validation(number, 0.2) for number in range(5000)])
    assert abs(kept.mean() - 0.2) < 0.02
    of_fold = np.array([fold_of(number, 5) for number in range(5000)]) == 0
    assert abs(kept[of_fold].mean() - 0.2) < 0.04, "the two rules know nothing of each other"
    assert not any(is_validation(number, 0.0) for number in range(100))


def test_every_photo_is_tested_once_and_never_learnt_from_where_it_is_tested():
    folds = split_into_folds(SIXTY, FIVE)
    assert sorted(number for fold in folds for number in ids(fold.splits["test"])) == list(range(1, 61))
    for fold in folds:
        parts = [set(ids(fold.splits[name])) for name in ("train", "val", "test")]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == 60, "train, val and test share no photo"
        assert 1000 not in set.union(*parts), "of the test split alone"


def test_the_hois_of_a_fold_are_those_of_what_it_learns_from_alone():
    for fold in split_into_folds(SIXTY, FIVE):
        learnt = ids(fold.splits["train"] + fold.splits["val"])
        assert fold.vocabulary.hois == tuple((0, number) for number in sorted(learnt))
        allowed = fold.vocabulary.is_valid_verb[:, 0]
        assert not allowed[ids(fold.splits["test"])].any(), "each photo shows a thing of its own"


def test_what_happens_in_a_photo_changes_nothing_of_what_its_fold_learns_from():
    changed = [
        image(number, number, 60) if fold_of(number, 5) == 2 else image(number, number) for number in range(1, 61)
    ]
    before, after = (split_into_folds(one, FIVE)[2] for one in (SIXTY, corpus(test=changed)))
    assert before.vocabulary == after.vocabulary
    for name in ("train", "val"):
        assert ids(before.splits[name]) == ids(after.splits[name])


def test_a_photo_that_is_added_or_left_out_moves_no_other():
    fewer = without(SIXTY, {7, 20})
    for whole, part in zip(split_into_folds(SIXTY, FIVE), split_into_folds(fewer, FIVE), strict=True):
        for name in ("train", "val", "test"):
            assert ids(part.splits[name]) == [number for number in ids(whole.splits[name]) if number not in (7, 20)]


def test_without_validation_all_other_folds_are_learnt_from():
    for fold in split_into_folds(SIXTY, Folds(count=2, of="test")):
        assert not fold.splits["val"]
        assert len(fold.splits["train"]) + len(fold.splits["test"]) == 60


def test_all_photos_may_be_in_folds():
    joined = pooled(corpus(train=[image(3, 3)], val=[image(2, 2)], test=[image(1, 1)]))
    assert {name: ids(images) for name, images in joined.splits.items()} == {"train": [], "val": [], "test": [3, 2, 1]}
    assert joined.vocabulary.hois == ((0, 1), (0, 2), (0, 3))


def test_too_few_photos_are_refused():
    with pytest.raises(ValueError, match=r"fold \d of 5: its split 'test' has no image, of 1 in all. Take fewer folds"):
        split_into_folds(corpus(test=[image(1, 1)]), Folds(count=5, of="test"))
    with pytest.raises(ValueError, match=r"split 'val' has no image.*a larger share for validation"):
        split_into_folds(SIXTY, Folds(count=2, of="test", validation=1e-9))
    with pytest.raises(
        ValueError, match=r"fold 0 of 2: its split 'train' has no image, of 0 in all|'test' has no image"
    ):
        split_into_folds(corpus(), Folds(count=2, of="test"))


def test_hicodets_classes_are_those_of_its_list_in_every_fold_and_labels_follow_their_images():
    vocabulary = Vocabulary("hicodet", ("person", "ball", "bat"), 0, ("hold",), ((0, 1), (0, 2)), rare=(1,))
    images = [image(number, 1) for number in range(1, 21)]
    labels = np.arange(60).reshape(20, 3) % 7 == 0
    none = np.zeros((0, 3), dtype=bool)
    whole = Corpus(
        vocabulary, {"train": [], "val": [], "test": images}, {}, {"train": none, "val": none, "test": labels}
    )
    for fold in split_into_folds(whole, Folds(count=2, of="test", validation=0.3)):
        assert fold.vocabulary == vocabulary
        assert fold.image_objects is not None
        for name, some in fold.splits.items():
            assert np.array_equal(fold.image_objects[name], labels[[number - 1 for number in ids(some)]])
