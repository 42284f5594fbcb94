"""Zero-shot splits of HICO-DET: the published classes, counted on the real annotations, and the rule for other data."""

from collections import Counter
from dataclasses import replace

import pytest

from rmlr.data.hicodet import read_classes, read_file, read_rows
from rmlr.data.records import load_annotations, load_vocabulary, save_annotations, save_vocabulary
from rmlr.data.zero_shot import compositions, only_classes, unseen_classes
from rmlr.hoi import Vocabulary

# classes, and rows of the test file, of each split; rare classes among them; verbs and objects that are left to see
COUNTS = {
    "rare_first": (120, 836, 120, 117, 80),
    "non_rare_first": (120, 21259, 0, 117, 80),
    "unseen_object": (100, 4988, 20, 112, 68),
    "unseen_verb": (84, 6580, 18, 97, 80),
}


@pytest.fixture(scope="module")
def release(real_data, tmp_path_factory):
    """The classes of the release in a prepared folder, and its rows of each class in test."""
    path, folder = real_data / "annotations" / "instances_test2015.json", tmp_path_factory.mktemp("release")
    content = read_file(path)
    vocabulary = read_classes(path, content)
    save_vocabulary(folder / "vocabulary.json", vocabulary)
    return folder, vocabulary, Counter(hoi for image in content.annotation for hoi in image.hoi), (path, content)


@pytest.mark.parametrize("name", COUNTS)
def test_published_splits_have_their_counts_on_the_real_classes(release, name):
    folder, vocabulary, rows, _ = release
    unseen = unseen_classes(name, folder)
    seen = [hoi for number, hoi in enumerate(vocabulary.hois) if number not in unseen]
    left = [len({hoi[part] for hoi in seen}) for part in (0, 1)]
    rare = set(unseen) & set(vocabulary.rare)
    assert (len(set(unseen)), sum(rows[hoi] for hoi in unseen), len(rare), *left) == COUNTS[name]
    assert list(unseen) == sorted(unseen)


def test_unseen_objects_and_verbs_are_seen_in_no_class(release):
    folder, vocabulary, _, _ = release
    for name, part, number in (("unseen_object", 1, 12), ("unseen_verb", 0, 20)):
        unseen = set(unseen_classes(name, folder))
        parts = {vocabulary.hois[hoi][part] for hoi in unseen}
        assert len(parts) == number
        assert not parts & {hoi[part] for index, hoi in enumerate(vocabulary.hois) if index not in unseen}


def test_rows_of_unseen_classes_are_left_out_and_no_others(release):
    folder, vocabulary, rows, (path, content) = release
    unseen = unseen_classes("non_rare_first", folder)
    images, dropped = read_rows(path, content, vocabulary)
    learnt = vocabulary.without(unseen)
    left = Counter(
        vocabulary.hoi_of[image.labels[object_], verb]
        for image in images
        for _, verb, object_ in only_classes(image, learnt).interactions.tolist()
    )
    assert dropped == 0
    assert left == Counter({hoi: number for hoi, number in rows.items() if hoi not in unseen})
    assert only_classes(images[0], learnt).boxes is images[0].boxes


def test_without_a_split_no_class_is_unseen(hicodet_records):
    vocabulary = load_vocabulary(hicodet_records)
    assert unseen_classes(None, hicodet_records) == ()
    assert vocabulary.without(()) is vocabulary


# ---- other data


def test_other_data_take_a_fifth_of_their_classes_by_training_rows(hicodet_records):
    vocabulary, rows = load_vocabulary(hicodet_records), Counter()
    for image in load_annotations(hicodet_records, "trainval"):
        rows.update(vocabulary.hoi_of[image.labels[o], v] for _, v, o in image.interactions.tolist())
    rarest, commonest = (unseen_classes(name, hicodet_records) for name in ("rare_first", "non_rare_first"))
    assert len(rarest) == len(commonest) == len(vocabulary.hois) // 5 == 2
    assert sum(rows[hoi] for hoi in rarest) < sum(rows[hoi] for hoi in commonest)


def test_every_verb_and_object_stays_seen():
    vocabulary = Vocabulary("hicodet", ("a", "b", "person"), 2, ("x", "y"), ((0, 0), (0, 1), (1, 1), (1, 0), (0, 2)))
    assert compositions(vocabulary, {0: 1, 1: 2, 2: 3, 3: 4, 4: 0}, rare_first=True) == (0,)  # 4 alone has the person
    assert compositions(vocabulary, {0: 1, 1: 2, 2: 3, 3: 4, 4: 9}, rare_first=False) == (3,)
    assert compositions(replace(vocabulary, hois=()), {}, rare_first=True) == ()


@pytest.mark.parametrize("name", ["unseen_object", "unseen_verb"])
def test_other_data_have_no_published_objects_or_verbs(hicodet_records, name):
    with pytest.raises(ValueError, match=rf"zero_shot {name} leaves out .* Take rare_first or non_rare_first"):
        unseen_classes(name, hicodet_records)


def test_vcoco_has_no_such_split(vcoco_records):
    with pytest.raises(ValueError, match="only HICO-DET has zero-shot splits"):
        unseen_classes("rare_first", vcoco_records)


def test_an_image_without_rows_stays(hicodet_records, tmp_path):
    vocabulary, images = load_vocabulary(hicodet_records), load_annotations(hicodet_records, "train")
    empty = replace(images[0], interactions=images[0].interactions[:0])
    assert len(only_classes(empty, vocabulary.without((0,))).interactions) == 0
    save_annotations(tmp_path / "train.json", [only_classes(image, vocabulary.without((0,))) for image in images])
