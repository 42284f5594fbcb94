import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlr.evaluation import vcoco
from rmlr.hoi import NO_BOX, Agents, Annotation, Triplets, Vocabulary

CUP, PERSON = 0, 1
HOLD, SIT, POINT = 0, 1, 2
VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=("cup", "person"),
    person=PERSON,
    verbs=("hold obj", "sit instr"),
    hois=((HOLD, CUP),),
    unscored_verbs=("point instr",),
    actions=("hold", "sit", "stand", "point"),
)
STAND = 2  # an action without a role
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
    columns = vcoco.evaluate([scene], VOCABULARY, build_table(hold(0.9))).columns()
    assert list(columns["verb"]) == ["hold obj", "sit instr", "point instr"]
    assert columns["in_headline"] == [True, True, False]
    assert columns["ap_role_1"][0] == 0.5
    assert {len(column) for column in columns.values()} == {3}


# ---- agents


def acting(image: Annotation, *actions: tuple[int, int]) -> Annotation:
    """The image, with rows (human box, action)."""
    return replace(image, actions=np.array(actions, dtype=np.int64).reshape(-1, 2))


def stands(score: float, human=ANNA, image_id: int = 1, action: int = STAND) -> tuple:
    return (image_id, human, action, score)


def people(*rows: tuple) -> Agents:
    """Rows (image id, human box, action, score)."""
    return Agents(
        image_id=np.array([row[0] for row in rows], dtype=np.int64),
        human_boxes=np.array([row[1] for row in rows], dtype=np.float32).reshape(-1, 4),
        action=np.array([row[2] for row in rows], dtype=np.int64),
        score=np.array([row[3] for row in rows], dtype=np.float32),
    )


def agent_ap(images: list[Annotation], table: Agents, action: int = STAND) -> float:
    return vcoco.evaluate_agents(images, VOCABULARY, table).ap_agent[action]


@pytest.fixture(scope="session")
def standing(build_image: Build) -> Annotation:
    """Anna and Ben stand, Ben sits; both are listed."""
    image = build_image(1, [MUG, ANNA, BEN], [CUP, PERSON, PERSON])
    return acting(image, (1, STAND), (2, STAND), (2, SIT))


def test_perfect_agents_give_one_for_actions_with_and_without_a_role(standing):
    scores = vcoco.evaluate_agents(
        [standing], VOCABULARY, people(stands(0.9), stands(0.8, BEN), stands(0.1, BEN, action=SIT))
    )
    assert scores.ap_agent[[SIT, STAND]].tolist() == [1, 1]
    assert scores.positives.tolist() == [0, 1, 2, 0]
    assert scores.detections.tolist() == [0, 1, 2, 0]
    assert np.isnan(scores.ap_agent[[0, 3]]).all()
    assert scores.metrics() == {"vcoco_ap_agent": 1, "vcoco_actions": 2}


def test_a_second_agent_at_the_same_person_is_wrong(standing):
    table = people(stands(0.9), stands(0.8), stands(0.7, BEN))
    assert agent_ap([standing], table) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_one_person_is_found_once_for_each_action(standing):
    table = people(stands(0.9, BEN), stands(0.9, BEN, action=SIT))
    assert [agent_ap([standing], table, action) for action in (SIT, STAND)] == [1, 0.5]


def test_an_agent_is_wrong_if_the_person_does_something_else(standing):
    assert agent_ap([standing], people(stands(0.9, ANNA, action=SIT), stands(0.8, BEN, action=SIT)), SIT) == 0.5


def test_an_agent_must_overlap_by_one_half_and_the_last_pixel_counts(build_image: Build):
    image = acting(build_image(1, [ANNA], [PERSON]), (0, STAND))
    assert agent_ap([image], people(stands(0.9, (0, 0, 19, 9)))) == 1
    assert agent_ap([image], people(stands(0.9, (0, 0, 19, 8.9)))) == 0


def test_an_agent_at_an_unlisted_person_does_not_count_even_from_afar(build_image: Build):
    image = acting(build_image(1, [ANNA, BEN], [PERSON, PERSON], listed=[1]), (1, STAND))
    scores = vcoco.evaluate_agents(
        [image], VOCABULARY, people(stands(0.9), stands(0.8, (80, 80, 99, 99)), stands(0.7, BEN))
    )
    assert (scores.ap_agent[STAND], scores.ignored[STAND], scores.detections[STAND]) == (1, 2, 3)


def test_agents_in_an_image_without_a_person_are_wrong(standing, build_image: Build):
    table = people(stands(0.95, image_id=2), stands(0.9), stands(0.8, BEN))
    for empty in (build_image(2), build_image(2, [MUG], [CUP])):
        assert agent_ap([standing, empty], table) == pytest.approx(2 / 3)
        assert math.isnan(agent_ap([empty], people(stands(0.95, image_id=2))))


def test_a_person_without_an_extent_is_no_agent(build_image: Build):
    image = acting(build_image(1, [(0, 0, 1, 20), ANNA], [PERSON, PERSON]), (0, STAND), (1, STAND))
    scores = vcoco.evaluate_agents([image], VOCABULARY, people(stands(0.9)))
    assert (scores.positives[STAND], scores.ap_agent[STAND]) == (1, 1)


def test_of_agents_with_equal_scores_the_later_row_counts_as_the_lower(standing):
    right, wrong = stands(0.5), stands(0.5, (80, 80, 99, 99))
    assert agent_ap([standing], people(right, wrong)) == 0.5
    assert agent_ap([standing], people(wrong, right)) == 0.25


def test_equal_scores_count_by_image_in_the_order_of_the_split(scene, standing, build_image: Build, build_table: Table):
    other = build_image(2, [ANNA], [PERSON])  # listed, does nothing
    rows = [hold(0.5), hold(0.5, image_id=2), hold(0.5, BEN, None)]
    agents = [stands(0.5), stands(0.5, image_id=2), stands(0.5, BEN)]
    for order in ([0, 1, 2], [1, 0, 2], [2, 0, 1]):
        table, doing = build_table(*[rows[k] for k in order]), people(*[agents[k] for k in order])
        assert ap([scene, other], table) == (1, 1)
        assert ap([other, scene], table) == pytest.approx((2 / 3, 2 / 3))
        assert (agent_ap([standing, other], doing), agent_ap([other, standing], doing)) == pytest.approx((1, 2 / 3))


def test_without_agents_the_score_is_zero_and_without_images_nan(standing):
    empty = vcoco.evaluate_agents([standing], VOCABULARY, people())
    assert empty.metrics() == {"vcoco_ap_agent": 0, "vcoco_actions": 2}
    metrics = vcoco.evaluate_agents([], VOCABULARY, people()).metrics()
    assert math.isnan(metrics["vcoco_ap_agent"])
    assert metrics["vcoco_actions"] == 0
    words = replace(VOCABULARY, actions=())
    assert vcoco.evaluate_agents([acting(standing)], words, people()).columns()["action"] == ()


def test_an_agent_in_an_unknown_image_is_an_error_that_names_it(standing):
    with pytest.raises(ValueError, match=r"agents, row 1 \(from 0\): image 5 is not one of the 1 annotated images"):
        agent_ap([standing], people(stands(0.9), stands(0.8, image_id=5)))


def test_the_table_of_agents_has_a_row_per_action_and_the_summary_says_over_how_many(standing):
    scores = vcoco.evaluate_agents([standing], VOCABULARY, people(stands(0.9)))
    columns = scores.columns()
    assert list(columns["action"]) == ["hold", "sit", "stand", "point"]
    row = {name: column[STAND] for name, column in columns.items()}
    assert row == {"action": "stand", "ap_agent": 0.5, "positives": 2, "detections": 1, "ignored": 0}
    assert "agent AP 25.00%" in scores.summary()
    assert "mean over 2 of 4 actions" in scores.summary()


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


def inside(box: tuple) -> list:
    """What of an edge-to-edge box is matched: whole pixels inside the image."""
    x1, y1, x2, y2 = box
    return [min(max(v, 0), 99) for v in (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))]


def iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0) * max(height, 0)
    return shared / (sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)) - shared)


def nearest(human: tuple, image: tuple) -> int | None:
    """The box of the person that judges a detection: the first of the largest overlap."""
    _, boxes, labels, _, _ = image
    persons = [index for index, label in enumerate(labels) if label == PERSON]
    return max(persons, key=lambda index: iou(human, inside(boxes[index])), default=None)


def area(outcome: list[bool], positives: int) -> float:
    """Area under the precision envelope of detections in descending order of score."""
    if not positives:
        return math.nan
    total, best = 0.0, 0.0
    for rank in reversed(range(len(outcome))):
        if outcome[rank]:
            best = max(best, sum(outcome[: rank + 1]) / (rank + 1))
            total += best / positives
    return total


def slow_ap_role(images: list[tuple], rows: list[tuple], verb: int, scenario: int) -> float:
    """The protocol as the specification words it (section 1.3 and 1.4), one detection at a time."""
    taken, outcome = set(), []
    for image_id, human, row_verb, _, object_, _ in sorted(
        rows, key=lambda row: (-row[5], row[0])
    ):  # stable, image by image
        if row_verb != verb:
            continue
        _, boxes, _, interactions, listed = images[image_id]
        person = nearest(human, images[image_id])
        if person is None:
            outcome.append(False)
            continue
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
    return area(outcome, sum(v == verb for image in images for _, v, _ in image[3]))


def slow_ap_agent(images: list[tuple], actions: list[list[tuple]], rows: list[tuple], action: int) -> float:
    """The rule of agents, one detection at a time."""
    taken, outcome = set(), []
    for image_id, human, row_action, _ in sorted(rows, key=lambda row: (-row[3], row[0])):
        if row_action != action:
            continue
        person = nearest(human, images[image_id])
        if person is not None and person not in images[image_id][4]:
            continue
        is_right = (
            person is not None
            and (person, action) in actions[image_id]
            and iou(human, inside(images[image_id][1][person])) >= 0.5
            and (image_id, person) not in taken
        )
        if is_right:
            taken.add((image_id, person))
        outcome.append(is_right)
    return area(outcome, sum(a == action for image in actions for _, a in image))


def tied(rows: list[tuple], chance) -> list[tuple]:
    """Rows in any order, three of one score."""
    rows = [(*row[:-1], round(100 * row[-1]) // 3) for row in rows]
    chance.shuffle(rows)
    return rows


@given(worlds(), st.randoms())
def test_ap_role_is_the_specification_word_by_word(build_image: Build, build_table: Table, world, chance):
    images, rows = world
    rows = tied(rows, chance)
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


@st.composite
def agent_worlds(draw) -> tuple[list[tuple], list[list[tuple]], list[tuple]]:
    """Images as of `worlds`, the actions (person, action) of each, and rows of agents, no two of one score."""
    images, rows = draw(worlds())
    actions = [
        [(person, action) for person in listed for action in range(4) if draw(st.booleans())] for *_, listed in images
    ]
    return images, actions, [(image_id, human, draw(st.integers(0, 3)), score) for image_id, human, *_, score in rows]


def annotate(build_image: Build, images: list[tuple], actions: list[list[tuple]]) -> list[Annotation]:
    return [
        acting(build_image(*image[:4], listed=image[4]), *done) for image, done in zip(images, actions, strict=True)
    ]


@given(agent_worlds(), st.randoms())
def test_ap_agent_is_the_rule_word_by_word(build_image: Build, world, chance):
    images, actions, rows = world
    rows = tied(rows, chance)
    scores = vcoco.evaluate_agents(annotate(build_image, images, actions), VOCABULARY, people(*rows))
    expected = [slow_ap_agent(images, actions, rows, action) for action in range(4)]
    assert scores.ap_agent == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(agent_worlds(), st.randoms(), st.sampled_from([ANNA, (90, 90, 99, 99)]), st.integers(0, 3))
def test_order_and_a_wrong_agent_below_all_others_change_nothing(build_image: Build, world, chance, box, action):
    images, actions, rows = world
    annotations = annotate(build_image, images, actions)
    before = vcoco.evaluate_agents(annotations, VOCABULARY, people(*rows))
    nothing = build_image(len(images), [box], [PERSON])  # listed, does nothing
    rows = [*rows, (len(images), box, action, 0.0)]
    chance.shuffle(rows)
    after = vcoco.evaluate_agents([nothing, *annotations[::-1]], VOCABULARY, people(*rows))
    assert after.ap_agent == pytest.approx(before.ap_agent, nan_ok=True)
    known = before.positives > 0
    assert ((before.ap_agent[known] >= 0) & (before.ap_agent[known] <= 1)).all()


@given(agent_worlds(), st.integers(0, 3), st.sampled_from([0.0, 2.0]))
def test_an_agent_at_an_unlisted_person_changes_nothing_at_any_score(build_image: Build, world, action, score):
    images, actions, rows = world
    annotations = annotate(build_image, images, actions)
    before = vcoco.evaluate_agents(annotations, VOCABULARY, people(*rows))
    unlisted = build_image(len(images), [ANNA], [PERSON], listed=[])
    row = (len(images), ANNA, action, score)
    after = vcoco.evaluate_agents([*annotations, unlisted], VOCABULARY, people(*rows, row))
    assert np.array_equal(after.ap_agent, before.ap_agent, equal_nan=True)
    assert after.ignored[action] == before.ignored[action] + 1
