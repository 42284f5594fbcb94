import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlr.evaluation import hicodet
from rmlr.evaluation.average_precision import RECALLS
from rmlr.hoi import Annotation, Triplets, Vocabulary, full_of

BIKE, CUP, PERSON = 0, 1, 2
HOLD, RIDE = 0, 1
HOIS = ((HOLD, BIKE), (RIDE, BIKE), (HOLD, CUP))
VOCABULARY = Vocabulary(
    dataset="hicodet",
    objects=("bicycle", "cup", "person"),
    person=PERSON,
    verbs=("hold", "ride"),
    hois=HOIS,
    rare=(1,),
)
ANNA, BEN, MUG, CAN = (0, 0, 20, 20), (40, 0, 60, 20), (0, 50, 20, 70), (40, 50, 60, 70)

Build = Callable[..., Annotation]
Table = Callable[..., Triplets]


def hold(score: float, human=ANNA, object_=MUG, image_id: int = 1, verb: int = HOLD, category: int = CUP) -> tuple:
    return (image_id, human, verb, category, object_, score)


@pytest.fixture(scope="session")
def pairs(build_image: Build) -> Callable[..., Annotation]:
    """An image from rows (human box, object box, verb, object class), each with boxes of its own."""

    def build(image_id: int, *rows: tuple) -> Annotation:
        boxes = [box for row in rows for box in row[:2]]
        labels = [label for row in rows for label in (PERSON, row[3])]
        return build_image(image_id, boxes, labels, [(2 * k, row[2], 2 * k + 1) for k, row in enumerate(rows)])

    return build


@pytest.fixture(scope="session")
def scene(pairs) -> Annotation:
    return pairs(1, (ANNA, MUG, HOLD, CUP), (BEN, CAN, HOLD, CUP))


def ap(images: list[Annotation], table: Triplets) -> float:
    return hicodet.evaluate(images, VOCABULARY, table).default[2]


def test_perfect_detections_give_one(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9), hold(0.8, BEN, CAN))) == pytest.approx(1)


def test_both_boxes_must_overlap(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9, ANNA, CAN), hold(0.8, BEN, MUG))) == 0


def test_an_overlap_of_one_half_is_enough(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9, (0, 0, 20, 10), (0, 50, 10, 70)))) == pytest.approx(6 / 11)
    assert ap([scene], build_table(hold(0.9, (0, 0, 20, 9.9), (0, 50, 20, 70)))) == 0


def test_a_second_hit_on_a_taken_pair_is_wrong_even_if_another_pair_is_free(pairs, build_table: Table):
    image = pairs(1, (ANNA, MUG, HOLD, CUP), (ANNA, (0, 50, 20, 69), HOLD, CUP))
    twice = build_table(hold(0.9), hold(0.8))
    assert ap([image], twice) == pytest.approx(6 / 11)
    assert ap([image], build_table(hold(0.9), hold(0.8, ANNA, (0, 50, 20, 69)))) == pytest.approx(1)


def test_the_object_class_is_part_of_the_class(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9, category=BIKE))) == 0


def test_rows_that_make_no_class_are_dropped_and_counted(scene, build_table: Table):
    no_class = hold(0.95, verb=RIDE)
    scores = hicodet.evaluate([scene], VOCABULARY, build_table(no_class, hold(0.9), no_class, hold(0.8, BEN, CAN)))
    assert scores.dropped == 2
    assert scores.default[2] == pytest.approx(1)
    assert scores.detections.tolist() == [0, 0, 2]


def test_equal_scores_count_by_image_in_the_order_of_the_split_and_then_by_row(scene, pairs, build_table: Table):
    empty, wrong, right = pairs(2), hold(0.5, image_id=2), [hold(0.5), hold(0.5, BEN, CAN)]
    for rows in ([wrong, *right], [right[0], wrong, right[1]], [*right, wrong]):
        assert ap([scene, empty], build_table(*rows)) == pytest.approx(1)
        assert ap([empty, scene], build_table(*rows)) == pytest.approx(2 / 3)
    assert ap([scene], build_table(hold(0.5, ANNA, CAN), *right)) == pytest.approx(2 / 3)
    assert ap([scene], build_table(*right, hold(0.5, ANNA, CAN))) == pytest.approx(1)


def test_an_image_that_is_annotated_twice_is_an_error_that_names_it(scene, build_table: Table):
    with pytest.raises(ValueError, match="image 1 stands more than once among the 2 annotated images"):
        hicodet.evaluate([scene, scene], VOCABULARY, build_table(hold(0.9)))


def test_images_without_a_row_count_except_under_known_object(scene, pairs, build_table: Table):
    table = build_table(hold(0.95, image_id=2), hold(0.9), hold(0.8, BEN, CAN))
    scores = hicodet.evaluate([scene, pairs(2)], VOCABULARY, table)
    assert scores.default[2] == pytest.approx(2 / 3)
    assert scores.known_object[2] == pytest.approx(1)
    assert (scores.detections[2], scores.known_object_detections[2]) == (3, 2)


def test_known_object_keeps_images_that_hold_the_object_with_any_verb(pairs, build_table: Table):
    riding, holding = pairs(1, (ANNA, MUG, RIDE, BIKE)), pairs(2, (ANNA, MUG, HOLD, BIKE))
    cup = pairs(3, (ANNA, MUG, HOLD, CUP))
    rows = [hold(0.9 - 0.1 * k, image_id=k, category=BIKE) for k in (1, 3, 2)]
    scores = hicodet.evaluate([riding, holding, cup], VOCABULARY, build_table(*rows))
    assert scores.known_object_detections[0] == 2
    assert scores.known_object[0] == pytest.approx(1 / 2)


def test_known_object_goes_by_labels_of_whole_images_where_they_are_given(pairs, scene, build_table: Table):
    table = build_table(hold(0.95, image_id=2), hold(0.92, image_id=3), hold(0.9), hold(0.8, BEN, CAN))
    images = [scene, pairs(2), pairs(3)]
    labels = {3: [], 2: [BIKE, CUP], 1: [CUP], 4: [BIKE]}  # image 2 has a cup, whose pair cannot be seen
    scores = hicodet.evaluate(images, VOCABULARY, table, labels)
    visible = hicodet.evaluate(images, VOCABULARY, table)
    assert (scores.known_object_detections[2], visible.known_object_detections[2]) == (3, 2)
    assert (scores.known_object[2], visible.known_object[2]) == (pytest.approx(2 / 3), pytest.approx(1))
    assert scores.default.tolist() == visible.default.tolist()
    assert scores.metrics()["hicodet_known_object_image_level"] == 1
    assert visible.metrics()["hicodet_known_object_image_level"] == 0
    assert "Known Object (by HICO's image-level labels)" in scores.summary()


def test_an_image_without_labels_is_an_error_that_names_it(scene, pairs, build_table: Table):
    with pytest.raises(ValueError, match="image 2 is not among the 1 whose objects are labelled"):
        hicodet.evaluate([scene, pairs(2)], VOCABULARY, build_table(), {1: [CUP]})


def test_the_mean_over_all_classes_follows_from_the_other_two():
    assert full_of(29.03, 39.29, 138, 462) == pytest.approx(36.93, abs=0.005)  # RmLR-R50 as printed
    assert full_of(math.nan, 0.5, 0, 3) == 0.5
    assert full_of(0.25, math.nan, 3, 0) == 0.25


def test_classes_without_a_positive_stay_in_the_mean_as_zero(scene, build_table: Table):
    metrics = hicodet.evaluate([scene], VOCABULARY, build_table(hold(0.9), hold(0.8, BEN, CAN))).metrics()
    assert metrics["hicodet_default_full"] == pytest.approx(1 / 3)
    assert metrics["hicodet_default_rare"] == 0
    assert metrics["hicodet_default_nonrare"] == pytest.approx(1 / 2)
    assert metrics["hicodet_known_object_full"] == pytest.approx(1 / 3)
    assert (metrics["hicodet_classes"], metrics["hicodet_rare_classes"]) == (3, 1)
    assert metrics["hicodet_classes_with_positives"] == 1


def test_an_annotated_pair_that_is_no_class_is_an_error_that_names_it(pairs, build_table: Table):
    with pytest.raises(ValueError, match="image 7: 'ride' of 'cup' is annotated but is no class"):
        hicodet.evaluate([pairs(7, (ANNA, MUG, RIDE, CUP))], VOCABULARY, build_table())


def test_an_empty_table_and_no_images_score_zero(scene, build_table: Table):
    for images in ([scene], []):
        scores = hicodet.evaluate(images, VOCABULARY, build_table())
        assert scores.default.tolist() == [0, 0, 0]
        assert scores.known_object.tolist() == [0, 0, 0]


def test_a_vocabulary_without_rare_classes_has_no_mean_of_them(scene, build_table: Table):
    plain = Vocabulary("hicodet", VOCABULARY.objects, PERSON, VOCABULARY.verbs, HOIS)
    assert math.isnan(hicodet.evaluate([scene], plain, build_table()).metrics()["hicodet_default_rare"])


def test_the_summary_names_setting_and_rule(scene, build_table: Table):
    text = hicodet.evaluate([scene], VOCABULARY, build_table(hold(0.9), hold(0.8, verb=RIDE))).summary()
    assert "Known Object (by visible pairs, so at least the official figure)" in text
    assert "'step'" in text
    assert "UPT's grid ('linspace') Default is 18.18% full" in text
    assert "mean over 3 classes, of which 1 have a positive" in text
    assert "1 rows" in text


def test_the_table_has_a_row_per_class(scene, build_table: Table):
    columns = hicodet.evaluate([scene], VOCABULARY, build_table(hold(0.9))).columns()
    assert list(columns["hoi"]) == ["hold bicycle", "ride bicycle", "hold cup"]
    assert columns["is_rare"] == [False, True, False]
    assert {len(column) for column in columns.values()} == {3}


# ---- what must always hold, on random worlds

PLACES = [ANNA, (0, 0, 20, 10), (0, 0, 20, 15), BEN, MUG, (0, 50, 20, 65), CAN, (90, 90, 120, 120), (5, 5, 5, 9)]
places = st.sampled_from(PLACES)
truths = st.lists(st.lists(st.tuples(places, places, st.integers(0, 2)), max_size=6), min_size=1, max_size=3)
detections = st.lists(st.tuples(st.integers(0, 2), places, places, st.integers(0, 2)), max_size=14)


def slow_ap(
    images: list[list[tuple]], rows: list[tuple], hoi: int, *, holds: Callable[[int, int], bool], grid: str
) -> float:
    """The protocol as the specification words it (sections 2.3 to 2.5), one detection at a time."""

    def iou(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if width <= 0 or height <= 0:
            return 0.0
        return width * height / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - width * height)

    taken, outcome = set(), []
    of_class = (row for row in rows if row[3] == hoi)
    for image, human, object_, _, _ in sorted(of_class, key=lambda row: (-row[4], row[0])):  # stable, image by image
        if not holds(image, HOIS[hoi][1]):
            continue
        pairs = [(index, row) for index, row in enumerate(images[image]) if row[2] == hoi]
        similarity = [(min(iou(human, row[0]), iou(object_, row[1])), -index) for index, row in pairs]
        best, negative = max(similarity, default=(0.0, 0))
        is_right = best >= 0.5 and (image, -negative) not in taken
        if is_right:
            taken.add((image, -negative))
        outcome.append(is_right)
    positives = sum(row[2] == hoi for image in images for row in image)
    if not positives:
        return 0.0
    cuts = [(sum(outcome[:k]) / positives, sum(outcome[:k]) / k) for k in range(1, len(outcome) + 1)]
    return sum(max((p for recall, p in cuts if recall >= t), default=0.0) for t in RECALLS[grid]) / 11


@given(truths, detections, st.randoms(), st.lists(st.sets(st.integers(0, 2)), min_size=3, max_size=3))
def test_both_settings_are_the_specification_word_by_word(pairs, build_table: Table, images, found, chance, unseen):
    order = list(range(len(found)))
    chance.shuffle(order)
    rows = [(row[0] % len(images), *row[1:], (rank // 3 + 1) / 100) for row, rank in zip(found, order, strict=True)]
    annotations = [
        pairs(number, *[(human, object_, *HOIS[hoi]) for human, object_, hoi in image])
        for number, image in enumerate(images)
    ]
    visible = [{HOIS[row[2]][1] for row in image} for image in images]
    labels = {number: sorted(objects | unseen[number]) for number, objects in enumerate(visible)}
    table = build_table(*[(row[0], row[1], *HOIS[row[3]], row[2], row[4]) for row in rows])
    by_pairs = hicodet.evaluate(annotations, VOCABULARY, table)
    by_labels = hicodet.evaluate(annotations, VOCABULARY, table, labels)
    cases = {
        "default": (by_pairs, lambda image, object_: True),
        "known_object": (by_pairs, lambda image, object_: object_ in visible[image]),
        "known_object of labels": (by_labels, lambda image, object_: object_ in labels[image]),
    }
    for name, (scores, holds) in cases.items():
        for suffix, grid in (("", "step"), ("_linspace", "linspace")):
            expected = [slow_ap(images, rows, hoi, holds=holds, grid=grid) for hoi in range(3)]
            assert getattr(scores, name.split()[0] + suffix) == pytest.approx(expected, abs=1e-12)
    assert (by_pairs.known_object >= by_labels.known_object - 1e-12).all()
    assert (by_labels.known_object >= by_labels.default - 1e-12).all()


def test_seen_and_unseen_classes_are_means_of_their_own(scene, build_table: Table):
    table = build_table(hold(0.9), hold(0.8, BEN, CAN))
    scores = hicodet.evaluate([scene], VOCABULARY, table, unseen=(2,))
    metrics = scores.metrics()
    assert metrics["hicodet_default_unseen"] == metrics["hicodet_known_object_unseen_linspace"] == pytest.approx(1)
    assert metrics["hicodet_default_seen"] == 0  # classes without a positive, as officially
    assert metrics["hicodet_default_full"] == pytest.approx((metrics["hicodet_default_unseen"] + 0 + 0) / 3)
    assert metrics["hicodet_unseen_classes"] == 1
    assert "Zero-shot, Default: 33.33% full, 0.00% seen, 100.00% unseen (1 classes)" in scores.summary()
    assert scores.columns()["is_unseen"] == [False, False, True]
    default, _ = hicodet.rank([scene], VOCABULARY, table, unseen=(2,))
    assert [headline.metric.rpartition("_")[2] for headline in default.headlines][-2:] == ["seen", "unseen"]


def test_without_a_zero_shot_split_nothing_is_said_of_unseen_classes(scene, build_table: Table):
    scores = hicodet.evaluate([scene], VOCABULARY, build_table(hold(0.9)))
    assert not any("seen" in name for name in [*scores.metrics(), *scores.columns()])
    assert "Zero-shot" not in scores.summary()
