"""The world of near-synonyms: its rows are counted out, its boxes tell no verb, and its names are what was fixed."""

import hashlib
from collections import Counter
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import yaml

from rmlr.data.vcoco import read_vcoco
from rmlr.hoi import Phrase
from rmlr.model.prompts import _deranged, shuffled
from rmlr.model.text import Texts
from rmlr.study.plan import Study
from rmlr.study.settings import Words
from rmlr.world.lexicon import ALL_THINGS, ALL_VERBS, THINGS, VERBS
from rmlr.world.word_files import write_word_files
from rmlr.world.word_orders import Task, WordOrder, word_orders
from rmlr.world.word_picture import paint_words
from rmlr.world.word_scene import draw_words

from .conftest import SIZE, draw_world

STUDY = Study.load(Path(__file__).parents[2] / "params.yaml")
PROFILE = STUDY.profiles["words"]
FEW = {"head": 2, "medium": 1, "rare": [1, 1], "val": 1, "test": 1, "idle": 0.1}
OF_VERB = {name: cluster for cluster, members in VERBS.items() for name in members}
OF_THING = {name: cluster for cluster, members in THINGS.items() for name in members}


@pytest.fixture(scope="module")
def ordered():
    """All pictures of the profile, not drawn."""
    world = PROFILE.world
    assert world is not None
    assert world.words is not None
    counts = {"train": world.train, "val": world.val, "test": world.test}
    return {split: word_orders(split, number, world.seed, world.words) for split, number in counts.items()}


def tasks(orders):
    return [task for order in orders for task in order.tasks]


# ---- names


def test_there_are_24_verbs_in_clusters_of_three_and_20_things_in_clusters_of_four():
    assert len({verb.name for verb in ALL_VERBS}) == 24 == 3 * len(VERBS)
    assert len(set(ALL_THINGS)) == 20 == 4 * len(THINGS)
    for cluster in range(len(VERBS)):
        members = [verb for verb in ALL_VERBS if verb.cluster == cluster]
        assert {verb.group for verb in members} == {"head", "medium", "rare"}
        assert len({verb.things for verb in members}) == 1, "a thing tells no verb of its cluster"
        assert sum(len(verb.unseen) for verb in members) == len({thing for verb in members for thing in verb.unseen})
    assert Counter(thing for verb in ALL_VERBS for thing in verb.things) == dict.fromkeys(ALL_THINGS, 12)
    assert len({(verb.group, verb.degree) for verb in ALL_VERBS}) == 9


def is_permuted(names, of):
    clusters = {cluster: [new for old, new in names.items() if of[old] == cluster] for cluster in of.values()}
    return all(
        cluster not in {of[new] for new in members} and len({of[new] for new in members}) >= 3
        for cluster, members in clusters.items()
    )


def test_names_are_permuted_across_clusters_by_the_first_seed_that_does_it():
    seed = PROFILE.encoders["permuted"].shuffle_seed
    assert seed is not None
    phrases = [Phrase("person", verb.name, thing) for verb in ALL_VERBS for thing in verb.things]
    said = shuffled(Texts(phrases, np.zeros((0, 0), dtype=np.int64), {}), seed)
    verbs = {phrase.verb: new.verb for phrase, new in said.items()}
    things = {str(phrase.object): str(new.object) for phrase, new in said.items()}
    assert is_permuted(verbs, OF_VERB)
    assert is_permuted(things, OF_THING)

    def is_found(number):
        random = np.random.default_rng(number)
        if not is_permuted(_deranged(sorted(OF_VERB), random, "verb"), OF_VERB):
            return False
        return is_permuted(_deranged(sorted(OF_THING), random, "object"), OF_THING)

    assert next(filter(is_found, count(1))) == seed
    assert PROFILE.encoders["shuffled"].shuffle_seed not in (None, seed)


# ---- rows


def test_rows_have_the_long_tail_that_was_fixed(ordered):
    rows = Counter(task.verb for task in tasks(ordered["train"]) if task.verb)
    by_group = {group: sorted(rows[verb] for verb in ALL_VERBS if verb.group == group) for group in ("head", "medium")}
    assert by_group == {"head": [520] * 8, "medium": [50] * 8}
    assert sorted(rows[verb] for verb in ALL_VERBS if verb.group == "rare") == [8, 8, 9, 9, 9, 9, 10, 10]
    assert Counter(task.verb for task in tasks(ordered["test"]) if task.verb) == dict.fromkeys(ALL_VERBS, 40)


def test_a_fifth_of_the_combinations_of_test_is_never_seen_in_training(ordered):
    seen, val, tested = ({(t.verb, t.thing) for t in tasks(ordered[split]) if t.verb} for split in ordered)
    assert len(tested) == 240
    assert tested - seen == {(verb, thing) for verb in ALL_VERBS for thing in verb.unseen}
    assert len(tested - seen) == 48
    assert val == tested, "so that the scorer knows them"
    of_test = Counter((task.verb, task.thing) for task in tasks(ordered["test"]) if task.verb)
    assert set(of_test.values()) == {4}


def test_some_people_do_nothing_and_bear_any_mark(ordered):
    for orders in ordered.values():
        idle = [task for task in tasks(orders) if task.verb is None]
        assert len(idle) / len(tasks(orders)) == pytest.approx(0.15, abs=0.01)
        assert {task.degree for task in idle} == {0, 1, 2}
        assert {len(order.tasks) for order in orders} == {1, 2}


@pytest.mark.parametrize(("pictures", "said"), [(10, "must be 18 to 36"), (40, "must be 18 to 36")])
def test_people_that_do_not_fit_into_the_pictures_are_an_error(pictures, said):
    with pytest.raises(ValueError, match=f"world.train: {pictures} pictures, .* 36 people: 32 rows .*{said}"):
        word_orders("train", pictures, 0, Words(**FEW))


def test_the_least_rows_of_a_rare_verb_come_first():
    with pytest.raises(ValueError, match=r"rare: \[10, 5\] must be the least and the most"):
        Words(**FEW | {"rare": [10, 5]})


# ---- pictures


def test_what_was_ordered_is_in_the_picture(ordered, elsewhere):
    some = ordered["test"][::5]
    for picture, order in zip(elsewhere.map(partial(draw_words, 0, SIZE), some, chunksize=40), some, strict=True):
        entities = picture.scene.entities
        done = {
            (it.person, it.deed.action, entities[it.entity].kind)
            for it in picture.scene.interactions
            if it.entity is not None
        }
        wanted = {(n, task.verb.name, task.thing) for n, task in enumerate(order.tasks) if task.verb}
        assert done == wanted
        assert all(0 <= edge <= SIZE for entity in entities for edge in entity.box)


def orders_of_all_verbs(image_id, thing="crate"):
    return [WordOrder("test", image_id, "", (Task(verb, thing, verb.degree),)) for verb in ALL_VERBS]


def test_boxes_are_the_same_whatever_the_verb_is(elsewhere):
    draw = partial(draw_words, 3, SIZE)
    for image_id in range(8):
        pictures = list(elsewhere.map(draw, orders_of_all_verbs(image_id), chunksize=24))
        boxes = np.array([[entity.box for entity in picture.scene.entities] for picture in pictures])
        assert np.abs(boxes - boxes[0]).max() <= 0.5, "half a pixel: a shoe's edge is rounded, too"


def test_boxes_and_classes_do_not_tell_the_verbs_of_a_cluster_apart(ordered, elsewhere):
    draw = partial(draw_words, 0, SIZE)

    def described(orders):
        found = []
        for order, picture in zip(orders, elsewhere.map(draw, orders, chunksize=100), strict=True):
            for person, task in enumerate(order.tasks):
                if task.verb:
                    at = [it.entity for it in picture.scene.interactions if it.person == person]
                    boxes = [picture.scene.entities[number].box for number in (person, *at)]
                    (x, y, right, low), thing = boxes[0], np.array(boxes[1])
                    high = low - y
                    numbers = [(right - x) / high, *((thing - [x, y, x, y]) / high)]
                    found.append((numbers, task.verb.cluster, task.verb.degree, ALL_THINGS.index(task.thing)))
        numbers, *more = (np.array(column) for column in zip(*found, strict=True))
        return numbers, *more

    known, asked = described(ordered["train"][:1500]), described(ordered["test"])
    scale = known[0].std(0)
    apart = np.abs(asked[0][:, None] / scale - known[0][None] / scale).sum(-1)
    nearest = apart.argsort(1)[:, :25]
    for place, chance in ((1, 1 / 8), (2, 1 / 3)):
        guessed = np.array([np.bincount(known[place][row]).argmax() for row in nearest])
        assert (guessed == asked[place]).mean() < chance + 0.05


def test_verbs_of_a_cluster_differ_at_the_limb_that_acts_and_nowhere_else():
    for cluster in range(len(VERBS)):
        alike = [order for order in orders_of_all_verbs(5) if order.tasks[0].verb.cluster == cluster]
        pictures = [draw_words(0, SIZE, order) for order in alike]
        actor = pictures[0].scene.stage.people[0]
        limb = "foot" if "kick" in list(VERBS.values())[cluster] else "hand"
        end = actor.joints[f"{'right' if actor.side > 0 else 'left'}_{limb}"]
        painted = [np.asarray(paint_words(picture.scene)).astype(int) for picture in pictures]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            rows, columns = np.nonzero(np.abs(painted[one] - painted[other]).max(-1))
            assert len(rows) > 20
            assert max(abs(columns + 0.5 - end.real).max(), abs(rows + 0.5 - end.imag).max()) < 20


def test_poses_of_clusters_differ():
    joints = {}
    for order in orders_of_all_verbs(5):
        actor = draw_words(0, SIZE, order).scene.stage.people[0]
        told = tuple((name, round(point.real, 3), round(point.imag, 3)) for name, point in sorted(actor.joints.items()))
        joints.setdefault(order.tasks[0].verb.cluster, set()).add(told)
    assert all(len(of_cluster) == 1 for of_cluster in joints.values())
    assert len(set.union(*joints.values())) == len(VERBS)


def test_the_world_is_the_one_that_was_measured(tmp_path):
    """Whoever changes these bytes changes every result of docs/words.md."""
    words = Words(**FEW)
    orders = [
        order for split, n in (("train", 24), ("val", 16), ("test", 16)) for order in word_orders(split, n, 0, words)
    ]
    pictures = [draw_words(0, SIZE, order) for order in orders]
    write_word_files(tmp_path, pictures)
    found = hashlib.sha256()
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        found.update(path.read_bytes())
    for picture in pictures[::4]:
        found.update(paint_words(picture.scene).tobytes())
    assert found.hexdigest()[:16] == "0ffe16ca9fae30e2"


def test_the_stage_draws_it_in_vcocos_form_and_the_reader_knows_it(tmp_path):
    folder = draw_world(tmp_path, "words", train=24, val=16, test=16, words=FEW)
    assert len(list((folder / "images").iterdir())) == 24 + 16 + 16
    assert not (folder / "hicodet").exists()
    corpus = read_vcoco(folder, [])
    assert corpus.vocabulary.verbs == tuple(f"{verb.name} obj" for verb in ALL_VERBS)
    assert corpus.vocabulary.objects == ("person", *ALL_THINGS)
    rows = {split: sum(len(one.interactions) for one in images) for split, images in corpus.splits.items()}
    assert rows == {"train": 8 * 2 + 8 + 8, "val": 24, "test": 24}


def test_the_other_world_has_no_new_setting(tmp_path):
    """Its identity stays: a setting at its default is left out."""
    demo = STUDY.profiles["demo"].world
    assert demo is not None
    assert "words" not in yaml.safe_load(demo.dump())


def test_the_profile_makes_its_runs_alone_and_no_other_profile_makes_them():
    made = set(STUDY.runs_in("words"))
    names = ("boxes", "plain", "wo_cl", "rmlr", "permuted", "shuffled", "random")
    assert made == {f"words/{name}" for name in names}
    for profile in STUDY.profiles.keys() - {"words"}:
        assert not made & STUDY.runs_in(profile).keys()
        assert "near_synonyms" not in STUDY.tables_in(profile)
    assert PROFILE.seeds == [0, 1, 2, 3, 4]
    assert PROFILE.train["vcoco"].split == "train", "val has the combinations that are never learnt"
