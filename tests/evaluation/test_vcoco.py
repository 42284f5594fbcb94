import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlr.evaluation import vcoco
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary

CUP, PERSON = 0, 1
HOLD, SIT, POINT = 0, 1, 2
VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=("cup", "person"),
    person=PERSON,
    verbs=("hold obj", "sit instr"),
    hois=((HOLD, CUP),),
    unscored_verbs=("point instr",),
    actions=("hold", "sit", "point"),
)
ANNA, BEN, MUG, CAN = (0, 0, 20, 20), (40, 0, 60, 20), (0, 50, 20, 70), (40, 50, 60, 70)
ZEROS = (0, 0, 0, 0)

Build = Callable[..., Annotation]
Table = Callable[..., Triplets]


def hold(score: float, human=ANNA, object_: tuple | None = MUG, image_id: int = 1, verb: int = HOLD) -> tuple:
    return (image_id, human, verb, CUP, object_, score)


@pytest.fixture(scope="session")
def scene(build_image: Build) -> Annotation:
    """Anna holds the mug, Ben holds something without a box; both are listed."""
    return build_image(1, [ANNA, BEN, MUG], [PERSON, PERSON, CUP], [(0, HOLD, 2), (1, HOLD, NO_BOX)])


def ap(images: list[Annotation], table: Triplets, verb: int = HOLD) -> tuple[float, float]:
    scores = vcoco.evaluate(images, VOCABULARY, table)
    return scores.ap_role_1[verb], scores.ap_role_2[verb]


def test_perfect_detections_give_one_in_both_scenarios(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9), hold(0.8, BEN, None))) == (1, 1)


def test_four_zeros_say_no_object_as_well(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9), hold(0.8, BEN, ZEROS))) == (1, 1)


def test_an_unseen_object_must_be_left_out_in_scenario_1_and_may_be_anything_in_2(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9), hold(0.8, BEN, CAN))) == (0.5, 1)


def test_a_seen_object_must_be_found_in_both_scenarios(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9, ANNA, None))) == (0, 0)
    assert ap([scene], build_table(hold(0.9, ANNA, CAN))) == (0, 0)


def test_a_second_hit_on_the_same_person_is_wrong(scene, build_table: Table):
    twice = build_table(hold(0.9), hold(0.8), hold(0.7, BEN, None))
    assert ap([scene], twice) == pytest.approx((0.5 + 0.5 * 2 / 3,) * 2)


def test_scenario_1_may_find_a_person_that_scenario_2_has_taken_before(scene, build_table: Table):
    assert ap([scene], build_table(hold(0.9, BEN, CAN), hold(0.8, BEN, None), hold(0.7))) == pytest.approx(
        (0.5 * 2 / 3 + 0.5 * 2 / 3, 0.5 + 0.5 * 2 / 3)
    )


def test_an_overlap_of_one_half_is_enough(build_image: Build, build_table: Table):
    image = build_image(1, [(0, 0, 20, 20), (0, 50, 20, 70)], [PERSON, CUP], [(0, HOLD, 1)])
    half, less = (0, 0, 19, 9), (0, 0, 19, 8.9)  # the last pixel counts: 20 x 10 of 20 x 20
    assert ap([image], build_table(hold(0.9, half, (0, 50, 19, 59)))) == (1, 1)
    assert ap([image], build_table(hold(0.9, less, MUG))) == (0, 0)
    assert ap([image], build_table(hold(0.9, ANNA, (0, 50, 19, 58.9)))) == (0, 0)


def test_only_the_best_overlapping_person_is_tried(build_image: Build, build_table: Table):
    """Of two persons that overlap, the nearer one does nothing; no second choice."""
    near, other = (0, 0, 20, 20), (2, 0, 22, 20)
    image = build_image(1, [near, other, MUG], [PERSON, PERSON, CUP], [(1, HOLD, 2)])
    assert ap([image], build_table(hold(0.9, near, MUG))) == (0, 0)
    assert ap([image], build_table(hold(0.9, other, MUG))) == (1, 1)


def test_of_equally_overlapping_persons_the_first_is_tried(build_image: Build, build_table: Table):
    image = build_image(1, [ANNA, ANNA, MUG], [PERSON, PERSON, CUP], [(1, HOLD, 2)])
    assert ap([image], build_table(hold(0.9))) == (0, 0)


def test_a_detection_at_an_unlisted_person_does_not_count(build_image: Build, build_table: Table):
    boxes, labels, interactions = [ANNA, BEN, MUG], [PERSON, PERSON, CUP], [(0, HOLD, 2)]
    rows = build_table(hold(0.9, BEN, MUG), hold(0.8))
    unlisted = vcoco.evaluate([build_image(1, boxes, labels, interactions, listed=[0])], VOCABULARY, rows)
    assert (unlisted.ap_role_1[HOLD], unlisted.ignored[HOLD], unlisted.detections[HOLD]) == (1, 1, 2)
    listed = vcoco.evaluate([build_image(1, boxes, labels, interactions)], VOCABULARY, rows)
    assert (listed.ap_role_1[HOLD], listed.ignored[HOLD]) == (0.5, 0)


def test_a_detection_far_from_everybody_is_the_first_persons(build_image: Build, build_table: Table):
    """So it does not count where the first person is unlisted, and is wrong where the first is listed."""
    rows = build_table(hold(0.9, (80, 80, 99, 99)), hold(0.8, BEN, MUG))
    boxes, labels, interactions = [ANNA, BEN, MUG], [PERSON, PERSON, CUP], [(1, HOLD, 2)]
    assert ap([build_image(1, boxes, labels, interactions, listed=[1])], rows) == (1, 1)
    assert ap([build_image(1, boxes, labels, interactions, listed=[0, 1])], rows) == (0.5, 0.5)


def test_detections_in_an_image_without_a_person_are_wrong(scene, build_image: Build, build_table: Table):
    rows = hold(0.95, image_id=2), hold(0.9), hold(0.8, BEN, None)
    for empty in (build_image(2), build_image(2, [MUG], [CUP])):
        assert ap([scene, empty], build_table(*rows)) == pytest.approx((2 / 3, 2 / 3))


def test_a_person_without_the_verb_makes_a_detection_wrong(scene, build_table: Table):
    scores = vcoco.evaluate([scene], VOCABULARY, build_table(hold(0.9, verb=SIT)))
    assert scores.positives.tolist() == [2, 0, 0]
    assert scores.detections.tolist() == [0, 1, 0]
    assert scores.ap_role_1[HOLD] == 0
    assert math.isnan(scores.ap_role_1[SIT])


def test_the_headline_leaves_out_the_unscored_role_and_roles_without_a_positive(scene, build_image, build_table: Table):
    pointing = build_image(2, [ANNA, MUG], [PERSON, CUP], [(0, POINT, 1)])
    metrics = vcoco.evaluate(
        [scene, pointing], VOCABULARY, build_table(hold(0.9), hold(0.8, image_id=2, verb=POINT))
    ).metrics()
    assert (metrics["vcoco_ap_role_1"], metrics["vcoco_roles"]) == (0.5, 1)
    assert (metrics["vcoco_ap_role_1_all_roles"], metrics["vcoco_all_roles"]) == (0.75, 2)
    assert set(metrics) >= {"vcoco_ap_role_2", "vcoco_ap_role_2_all_roles"}


def test_boxes_end_at_the_last_pixel_of_the_image(build_image: Build, build_table: Table):
    """COCO's x + w is one too far, and a box may leave the image: what is matched is clipped to whole pixels inside."""
    image = build_image(1, [(-20, 0, 20, 20), (80, 80, 120, 120)], [PERSON, CUP], [(0, HOLD, 1)])
    people = vcoco.gather_people([image], VOCABULARY)
    assert people.boxes.tolist() == [[0, 0, 19, 19]]
    assert people.object_boxes[0, HOLD].tolist() == [80, 80, 99, 99]


@pytest.mark.parametrize("box", [(0, 0, 1, 20), (0, 0, 20, 0.5), (100, 0, 120, 20), (3.14159, 0, 3.14159 + 1, 20)])
def test_a_person_without_an_extent_is_no_person(build_image: Build, build_table: Table, box: tuple):
    """Whoever is thinner than two pixels, or outside, is dropped with all that was annotated of him."""
    image = build_image(1, [box, ANNA, MUG], [PERSON, PERSON, CUP], [(0, HOLD, 2), (1, HOLD, 2)])
    people = vcoco.gather_people([image], VOCABULARY)
    assert people.boxes.tolist() == [[0, 0, 19, 19]]
    assert people.does.sum() == 1
    assert ap([image], build_table(hold(0.9))) == (1, 1)


def test_an_object_without_an_extent_counts_as_without_a_box(build_image: Build, build_table: Table):
    image = build_image(1, [ANNA, (50, 50, 51, 60)], [PERSON, CUP], [(0, HOLD, 1)])
    assert ap([image], build_table(hold(0.9, ANNA, None))) == (1, 1)
    assert ap([image], build_table(hold(0.9, ANNA, MUG))) == (0, 1)


def test_an_empty_table_scores_zero_and_no_images_nan(scene, build_table: Table):
    empty = vcoco.evaluate([scene], VOCABULARY, build_table())
    assert (empty.ap_role_1[HOLD], empty.ap_role_2[HOLD]) == (0, 0)
    metrics = vcoco.evaluate([], VOCABULARY, build_table()).metrics()
    assert math.isnan(metrics["vcoco_ap_role_1"])
    assert metrics["vcoco_all_roles"] == 0


def test_the_summary_names_scenario_and_number_of_roles(scene, build_table: Table):
    text = vcoco.evaluate([scene], VOCABULARY, build_table(hold(0.9))).summary()
    assert "scenario 1 50.00%" in text
    assert "mean over 1 of 2 action-roles" in text
    assert "point instr" in text


def test_the_table_has_a_row_per_role(scene, build_table: Table):
    rows = vcoco.evaluate([scene], VOCABULARY, build_table(hold(0.9))).rows()
    assert [row["verb"] for row in rows] == ["hold obj", "sit instr", "point instr"]
    assert [row["in_headline"] for row in rows] == [True, True, False]
    assert rows[0]["ap_role_1"] == 0.5


# ---- what must always hold, on random worlds

corners = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(2, 20)] * 2)


@st.composite
def worlds(draw) -> tuple[list[tuple], list[tuple]]:
    """Images (boxes, labels, interactions, listed) and rows; whole-pixel boxes, so overlaps of one half are common."""
    images, rows = [], []
    for image_id in range(draw(st.integers(1, 3))):
        boxes = [(x, y, x + w, y + h) for x, y, w, h in draw(st.lists(corners, max_size=5))]
        labels = [draw(st.sampled_from([CUP, PERSON])) for _ in boxes]
        people = [index for index, label in enumerate(labels) if label == PERSON]
        listed = [person for person in people if draw(st.booleans())]
        objects = st.integers(NO_BOX, len(boxes) - 1)
        interactions = [(person, verb, draw(objects)) for person in listed for verb in range(3) if draw(st.booleans())]
        images.append((image_id, boxes, labels, interactions, listed))
        places = [ZEROS, *boxes, (5, 5, 15, 15)]
        for _ in range(draw(st.integers(0, 6))):
            human, object_ = draw(st.sampled_from(places)), draw(st.sampled_from([*places, None]))
            rows.append((image_id, human, draw(st.integers(0, 2)), CUP, object_))
    order = draw(st.permutations(range(len(rows))))
    return images, [(*row, (order[index] + 1) / 100) for index, row in enumerate(rows)]


def slow_ap_role(images: list[tuple], rows: list[tuple], verb: int, scenario: int) -> float:
    """The protocol as the specification words it (section 1.3 and 1.4), one detection at a time."""

    def inside(box):
        x1, y1, x2, y2 = box
        return [min(max(v, 0), 99) for v in (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))]

    def iou(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0]) + 1
        height = min(a[3], b[3]) - max(a[1], b[1]) + 1
        shared = max(width, 0) * max(height, 0)
        return shared / (sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)) - shared)

    taken, outcome = set(), []
    for image_id, human, row_verb, _, object_, _ in sorted(rows, key=lambda row: -row[5]):
        if row_verb != verb:
            continue
        _, boxes, labels, interactions, listed = images[image_id]
        people = [index for index, label in enumerate(labels) if label == PERSON]
        if not people:
            outcome.append(False)
            continue
        person = max(people, key=lambda index: iou(human, inside(boxes[index])))  # the first of the largest
        if person not in listed:
            continue
        done = {(h, v): o for h, v, o in interactions}
        target = done.get((person, verb))
        if target is None or iou(human, inside(boxes[person])) < 0.5 or (image_id, person) in taken:
            outcome.append(False)
            continue
        if target == NO_BOX:
            is_right = scenario == 2 or object_ in (None, ZEROS)
        else:
            is_right = object_ is not None and iou(object_, inside(boxes[target])) >= 0.5
        if is_right:
            taken.add((image_id, person))
        outcome.append(is_right)
    positives = sum(v == verb for image in images for _, v, _ in image[3])
    if not positives:
        return math.nan
    area, best = 0.0, 0.0
    for rank in reversed(range(len(outcome))):
        if outcome[rank]:
            best = max(best, sum(outcome[: rank + 1]) / (rank + 1))
            area += best / positives
    return area


@given(worlds())
def test_ap_role_is_the_specification_word_by_word(build_image: Build, build_table: Table, world):
    images, rows = world
    annotations = [build_image(*image[:4], listed=image[4]) for image in images]
    scores = vcoco.evaluate(annotations, VOCABULARY, build_table(*rows))
    for scenario, got in ((1, scores.ap_role_1), (2, scores.ap_role_2)):
        expected = [slow_ap_role(images, rows, verb, scenario) for verb in range(3)]
        assert got == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(worlds(), st.randoms())
def test_order_of_rows_is_irrelevant_and_scenario_2_never_below_1(
    build_image: Build, build_table: Table, world, chance
):
    """Scenario 2 accepts whatever 1 accepts, and accepts it no later, so its precision at any recall is no lower."""
    images, rows = world
    annotations = [build_image(*image[:4], listed=image[4]) for image in images]
    scores = vcoco.evaluate(annotations, VOCABULARY, build_table(*rows))
    chance.shuffle(rows)
    shuffled = vcoco.evaluate(annotations[::-1], VOCABULARY, build_table(*rows))
    assert shuffled.ap_role_1 == pytest.approx(scores.ap_role_1, nan_ok=True)
    assert shuffled.ap_role_2 == pytest.approx(scores.ap_role_2, nan_ok=True)
    known = scores.positives > 0
    assert (scores.ap_role_2[known] >= scores.ap_role_1[known] - 1e-12).all()
    assert ((scores.ap_role_1[known] >= 0) & (scores.ap_role_2[known] <= 1)).all()
