"""What is said of an interaction: templates, descriptions from a file, and shuffled names."""

import json
from pathlib import Path

import numpy as np
import pytest

from rmlr.hoi import Phrase, Vocabulary
from rmlr.model.prompts import progressive, read_descriptions, shuffled, template_sentences
from rmlr.model.text import Texts, collect

HOIS = ((0, 0), (0, 1), (1, 0))
VERBS, OBJECTS = ("ride", "no_interaction"), ("bicycle", "apple")
HICODET = Vocabulary("hicodet", OBJECTS, 0, VERBS, HOIS)
VCOCO = Vocabulary("vcoco", OBJECTS, 0, ("ride obj", "hit instr"), HOIS)
NAMES = ["person ride bicycle", "person ride apple", "person no interaction bicycle"]
OLD_PROMPTS = 11  # of HICO-DET's 600: ten misspelt ("hiting"), and "waving at a bus" of the verb `wave`


@pytest.mark.parametrize(
    ("verb", "form"),
    [
        ("ride", "riding"),
        ("sit on", "sitting on"),
        ("lie on", "lying on"),
        ("hit with", "hitting with"),
        ("control", "controlling"),
        ("open", "opening"),
        ("ski", "skiing"),
        ("row", "rowing"),
        ("eat", "eating"),
        ("buy", "buying"),
        ("no interaction", "and"),
    ],
)
def test_the_ing_form_of_a_verb_keeps_what_follows_it(verb, form):
    assert progressive(verb) == form


def test_a_template_has_the_article_that_its_object_needs():
    phrases = [Phrase("person", "ride", "bicycle"), Phrase("person", "hit with", "apple")]
    said = template_sentences("A photo of a person {verb} a {object}.", phrases)
    assert said == [["A photo of a person riding a bicycle."], ["A photo of a person hitting with an apple."]]
    assert template_sentences("{object}: the person {verb} it", phrases)[1] == ["apple: the person hitting with it"]
    assert template_sentences("pizza {object} {verb}", phrases)[1] == ["pizza apple hitting with"]


def test_a_template_gives_hico_dets_own_prompts_where_those_are_spelt_rightly(real_data):
    classes = json.loads((real_data / "annotations" / "instances_test2015.json").read_text())
    prompts = json.loads((real_data / "annotations" / "prompts.json").read_text())
    hois = tuple((verb, object_) for _, object_, verb in sorted(classes["correspondence"]))
    vocabulary = Vocabulary("hicodet", tuple(classes["objects"]), 49, tuple(classes["verbs"]), hois)
    texts = collect(vocabulary, [])
    found = template_sentences("A photo of a person {verb} a {object}", texts.phrases)
    own = read_descriptions(real_data / "annotations" / "prompts.json", texts, vocabulary)
    assert own == [[prompt] for prompt in prompts]
    assert sum(a != b for a, b in zip(found, own, strict=True)) == OLD_PROMPTS


# ---- descriptions


def described(path: Path, content, vocabulary: Vocabulary = HICODET) -> list[list[str]]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_descriptions(path, collect(vocabulary, []), vocabulary)


def test_a_list_has_a_sentence_for_each_class_in_their_order(tmp_path):
    assert described(tmp_path / "prompts.json", ["one", "two", "three"]) == [["one"], ["two"], ["three"]]


def test_texts_by_phrase_are_one_sentence_or_several_in_json_or_yaml(tmp_path):
    content = dict(zip(NAMES, ["one", ["two", "too"], ["three"]], strict=True))
    expected = [["one"], ["two", "too"], ["three"]]
    assert described(tmp_path / "said.json", content) == expected
    assert described(tmp_path / "said.yaml", "".join(f"{k}: {json.dumps(v)}\n" for k, v in content.items())) == expected


def test_phrases_of_combinations_that_do_not_occur_are_left_out(tmp_path):
    content = dict.fromkeys(NAMES, "said") | {"person no interaction apple": "said, too"}
    assert described(tmp_path / "said.json", content) == [["said"]] * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (["one", "two"], r"2 sentences, but there are 3 HOI classes"),
        (["one", " ", "three"], r"1: expected a sentence, not an empty text"),
        (["one", "two", 3], r"2: .*valid string"),
        (dict.fromkeys(NAMES[:1], "said"), r"has no sentence for 'person ride apple' \(1 more such\)"),
        (dict.fromkeys([*NAMES, "person rides apple"], "said"), r"'person rides apple' is not a phrase of a verb and"),
        ({name: [] for name in NAMES}, r"person ride bicycle"),
        ({name: [""] for name in NAMES}, r"person ride bicycle.*expected a sentence, not an empty text"),
        (dict.fromkeys(NAMES, 3), r"person ride bicycle"),
        ("[", r"(cut off|truncated)"),
        ("3", r"list"),
        ("", r"(cut off|truncated)"),
    ],
)
def test_a_file_that_does_not_fit_is_one_error_that_names_it_and_the_place(tmp_path, content, said):
    with pytest.raises(ValueError, match=rf"said\.json: .*{said}") as raised:
        described(tmp_path / "said.json", content)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"), [("- [", "not YAML"), ("3", "expected a list .*got int"), ("", "NoneType")]
)
def test_a_yaml_file_that_does_not_fit_is_one_error_that_names_it(tmp_path, content, said):
    with pytest.raises(ValueError, match=rf"said\.yaml.*{said}"):
        described(tmp_path / "said.yaml", content)


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.json: cannot be read"):
        read_descriptions(tmp_path / "nowhere.json", collect(HICODET, []), HICODET)


def test_a_list_is_for_hico_det_alone(tmp_path):
    with pytest.raises(ValueError, match=r"said\.json: a list is in the order of HICO-DET's HOI classes"):
        described(tmp_path / "said.json", ["one", "two", "three"], VCOCO)


# ---- shuffled names

THINGS = ("bicycle", "horse", "cup", "person", "hot dog")
ACTIONS = ("ride", "sit on", "sit at", "eat", "hit", "hit with")


def everything() -> Texts:
    phrases = [Phrase("person", verb, thing) for verb in ACTIONS for thing in THINGS]
    images = {1: (Phrase("person", "point", None), phrases[0])}
    return Texts(phrases, np.arange(len(phrases)).reshape(len(ACTIONS), len(THINGS)), images)


@pytest.mark.parametrize("seed", range(20))
def test_every_phrase_verb_and_object_gets_another_name(seed):
    texts = everything()
    said = shuffled(texts, seed)
    assert set(said) == {*texts.phrases, *texts.images[1]}
    for before, after in said.items():
        assert before.subject == after.subject
        assert before.verb.split()[0] != after.verb.split()[0]
        assert (before.object is None) == (after.object is None)
        assert before.object is None or before.object != after.object
    assert len(set(said.values())) == len(said)  # no two become one


@pytest.mark.parametrize("part", ["verb", "object"])
def test_the_geometry_of_names_stays(part):
    """Whatever has a verb or an object in common has one in common after; the same names are said."""
    said = shuffled(everything(), 0)
    renamed = {(getattr(before, part), getattr(after, part)) for before, after in said.items()}
    assert len(renamed) == len({name for name, _ in renamed}) == len({name for _, name in renamed})
    assert {name for name, _ in renamed} == {name for _, name in renamed}


def test_a_seed_gives_one_derangement_and_another_gives_another():
    texts = everything()
    assert shuffled(texts, 3) == shuffled(texts, 3)
    assert shuffled(texts, 3) != shuffled(texts, 4)


@pytest.mark.parametrize(
    ("phrases", "said"),
    [
        ([("ride", "horse"), ("eat", "horse")], "names of objects cannot be shuffled .*: horse \\(1 in all\\)"),
        ([("sit on", "horse"), ("sit at", "cup")], "names of verbs cannot be shuffled"),
    ],
)
def test_names_that_cannot_be_deranged_are_an_error_that_lists_them(phrases, said):
    with pytest.raises(ValueError, match=said):
        shuffled(Texts([Phrase("person", *words) for words in phrases], np.full((1, 1), -1), {}), 0)


def test_nothing_said_is_nothing_shuffled():
    assert shuffled(Texts([], np.zeros((0, 0), dtype=np.int64), {}), 0) == {}
