"""The sentences of each interaction: its phrase, a template, or descriptions from a file.

Words are always those of the phrase (`person ride bicycle`): templates and descriptions change sentences alone.
"""

import string
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, RootModel

from rmlr.hoi import NO_INTERACTION, Phrase, Vocabulary
from rmlr.model.text import Texts
from rmlr.study.files import check_form, read_json, read_text
from rmlr.study.plain_yaml import parse

NO_INTERACTION_WORDS = NO_INTERACTION.replace("_", " ")
STRESSED_AT_END = {"control"}  # of several syllables, but the last letter is doubled
VOWELS = "aeiou"
TRIES = 1000  # to draw a derangement; one in three succeeds

FORMS = "expected a list with a sentence for each HOI class (HICO-DET), or texts by phrase"


def template_sentences(template: str, phrases: Sequence[Phrase]) -> list[list[str]]:
    """A sentence for each phrase: `{verb}` is its verb's -ing form, `{object}` its object.

    HICO-DET's `no_interaction` reads "and", as in that data set's own prompts; "a" becomes "an" before a vowel.
    """
    return [[_filled(template, phrase)] for phrase in phrases]


def _filled(template: str, phrase: Phrase) -> str:
    said, article = "", False
    for text, field, _, _ in string.Formatter().parse(template):
        said += text
        if field is None:
            continue
        word = progressive(phrase.verb) if field == "verb" else str(phrase.object)
        article = said.split(" ")[-2:] in (["a", ""], ["A", ""])
        said = said[:-1] + "n " + word if article and word[0] in VOWELS else said + word
    return said


def progressive(verb: str) -> str:
    """The -ing form of a verb and what follows it: "sitting on" of "sit on"."""
    if verb == NO_INTERACTION_WORDS:
        return "and"
    first, *rest = verb.split(" ")
    return " ".join([_progressive(first), *rest])


def _progressive(verb: str) -> str:
    if verb.endswith("ie"):
        return f"{verb[:-2]}ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return f"{verb[:-1]}ing"
    syllables = sum(letter in VOWELS and (at == 0 or verb[at - 1] not in VOWELS) for at, letter in enumerate(verb))
    is_short = len(verb) > 2 and verb[-1] not in "aeiouwxy" and verb[-2] in VOWELS and verb[-3] not in VOWELS
    return verb + (verb[-1] if is_short and (syllables == 1 or verb in STRESSED_AT_END) else "") + "ing"


def _must_say_something(text: str) -> str:
    if not text.strip():
        raise ValueError("expected a sentence, not an empty text")
    return text


Sentence = Annotated[str, AfterValidator(_must_say_something)]


class _Listed(RootModel[list[Sentence]]):
    """HICO-DET's prompts.json: a sentence for each HOI class, in their order."""


Sentences = Annotated[
    list[Sentence], Field(min_length=1), BeforeValidator(lambda said: [said] if isinstance(said, str) else said)
]


class _Described(RootModel[dict[str, Sentences]]):
    """Texts by phrase, one or several."""


def read_descriptions(path: Path, texts: Texts, vocabulary: Vocabulary) -> list[list[str]]:
    """The sentences of every phrase, from a JSON or YAML file; ValueError names the file and the phrase.

    Either a list with a sentence for each HOI class in their order, as HICO-DET's prompts.json, or one or several
    sentences by phrase (`person ride bicycle`). Phrases of combinations that do not occur are left out.
    """
    if path.suffix in (".yaml", ".yml"):
        content = parse(read_text(path), str(path))
    else:
        content = read_json(path, RootModel[list | dict]).root
    if isinstance(content, list):
        return _by_class(path, check_form(str(path), content, _Listed).root, texts, vocabulary)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {FORMS}; got {type(content).__name__}")
    described = check_form(str(path), content, _Described).root
    pairs = product(range(len(vocabulary.verbs)), range(len(vocabulary.objects)))
    known = dict.fromkeys(str(vocabulary.phrase(*pair)) for pair in pairs)
    if unknown := [phrase for phrase in described if phrase not in known]:
        raise ValueError(
            f"{path}: '{unknown[0]}' is not a phrase of a verb and object of this data set{_more(unknown)}. Expected: "
            f"phrases such as '{next(iter(known), '')}' (index.json of a text cache lists them)"
        )
    names = [str(phrase) for phrase in texts.phrases]
    if missing := [name for name in names if name not in described]:
        raise ValueError(f"{path}: has no sentence for '{missing[0]}'{_more(missing)}. Add one")
    return [described[name] for name in names]


def _by_class(path: Path, sentences: list[str], texts: Texts, vocabulary: Vocabulary) -> list[list[str]]:
    if vocabulary.dataset != "hicodet":
        raise ValueError(
            f"{path}: a list is in the order of HICO-DET's HOI classes, which {vocabulary.dataset} does not have. Give "
            "sentences by phrase"
        )
    if len(sentences) != len(vocabulary.hois):
        raise ValueError(
            f"{path}: {len(sentences)} sentences, but there are {len(vocabulary.hois)} HOI classes. Are they of "
            "one release?"
        )
    found: list[list[str]] = [[] for _ in texts.phrases]
    for sentence, hoi in zip(sentences, vocabulary.hois, strict=True):
        found[texts.phrase_of[hoi]].append(sentence)
    if missing := [str(phrase) for phrase, said in zip(texts.phrases, found, strict=True) if not said]:
        raise ValueError(f"{path}: has no sentence for '{missing[0]}'{_more(missing)}, annotated but not an HOI class")
    return found


def _more(found: Sequence[str]) -> str:
    return f" ({len(found) - 1} more such)" if len(found) > 1 else ""


# ---- a control


def shuffled(texts: Texts, seed: int) -> dict[Phrase, Phrase]:
    """A control: the phrase that replaces each phrase when the names of verbs and objects are shuffled.

    Every verb gets another verb's name and every object another object's, so that no phrase keeps its meaning, while
    phrases that share a verb or an object still do: the geometry of words stays. Names are those that occur.
    The verb's first word changes: "sit on" does not become "sit at".
    """
    phrases = list(dict.fromkeys([*texts.phrases, *(phrase for image in texts.images.values() for phrase in image)]))
    random = np.random.default_rng(seed)
    verbs = _deranged(sorted({phrase.verb for phrase in phrases}), random, "verb")
    objects = _deranged(sorted({phrase.object for phrase in phrases if phrase.object is not None}), random, "object")
    return {
        phrase: Phrase(phrase.subject, verbs[phrase.verb], None if phrase.object is None else objects[phrase.object])
        for phrase in phrases
    }


def _deranged(names: list[str], random: np.random.Generator, kind: str) -> dict[str, str]:
    """The new name of each name: a permutation in which the first word of each name changes."""
    first = np.array([name if kind == "object" else name.split(" ")[0] for name in names])
    for _ in range(TRIES if len(names) != 1 else 0):
        order = random.permutation(len(names))
        if (first[order] != first).all():
            return {name: names[new] for name, new in zip(names, order, strict=True)}
    if not names:
        return {}
    raise ValueError(
        f"the names of {kind}s cannot be shuffled such that each one changes: {', '.join(names[:5])} ({len(names)} in "
        "all). Take another control, such as random:DIM"
    )
