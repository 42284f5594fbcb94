"""Who does what in which picture of the world of near-synonyms: rows of verbs, counted out before anything is drawn."""

from dataclasses import dataclass
from itertools import cycle, islice

from rmlr.study.settings import Words
from rmlr.world.chance import Dice, Stream
from rmlr.world.files import picture_names
from rmlr.world.lexicon import ALL_THINGS, ALL_VERBS, DEGREES, Verb

MOST_PEOPLE = 2  # in a picture


@dataclass(frozen=True, slots=True)
class Task:
    """What one person does, with which thing within reach, and which mark is at the limb that acts."""

    verb: Verb | None  # None: nothing
    thing: str
    degree: int


@dataclass(frozen=True, slots=True)
class WordOrder:
    """One picture of a split, before it is drawn."""

    split: str
    image_id: int
    file_name: str
    tasks: tuple[Task, ...]  # a person each


def word_orders(split: str, count: int, seed: int, words: Words) -> list[WordOrder]:
    """The `count` pictures of a split, of one or two people each, in which every verb has exactly its rows.

    Rows of a verb are spread over its things as evenly as possible; in training over those that it may be seen with.
    ValueError if the people do not fit into the pictures, or would leave one empty.
    """
    dice = Dice(seed, {"train": 0, "val": 1, "test": 2}[split], Stream.ORDERS)
    tasks = [task for verb, rows in rows_of_verbs(split, words).items() for task in _tasks(split, verb, rows, dice)]
    idle = round(len(tasks) * words.idle / (1 - words.idle))
    things = dice.shuffled(ALL_THINGS)
    tasks += [Task(None, thing, number % DEGREES) for number, thing in enumerate(islice(cycle(things), idle))]
    if not count <= len(tasks) <= MOST_PEOPLE * count:
        raise ValueError(
            f"world.{split}: {count} pictures, but world.words gives {len(tasks)} people: {len(tasks) - idle} rows of "
            f"verbs, and {idle} people who do nothing. A picture has one or two people, so {split} must be "
            f"{-(-len(tasks) // MOST_PEOPLE)} to {len(tasks)}"
        )
    left, orders = iter(dice.shuffled(tasks)), []
    crowds = dice.shuffled([2] * (len(tasks) - count) + [1] * (2 * count - len(tasks)))
    for (image_id, file_name), people in zip(picture_names(split, count), crowds, strict=True):
        orders.append(WordOrder(split, image_id, file_name, tuple(islice(left, people))))
    return orders


def rows_of_verbs(split: str, words: Words) -> dict[Verb, int]:
    """The number of rows of every verb in a split; of the rare ones in training, in equal steps."""
    if split != "train":
        return dict.fromkeys(ALL_VERBS, words.val if split == "val" else words.test)
    low, high = words.rare
    rare = [verb for verb in ALL_VERBS if verb.group == "rare"]
    rows = {verb: words.head if verb.group == "head" else words.medium for verb in ALL_VERBS}
    return rows | {verb: low + round(rank * (high - low) / (len(rare) - 1)) for rank, verb in enumerate(rare)}


def _tasks(split: str, verb: Verb, rows: int, dice: Dice) -> list[Task]:
    things = [thing for thing in verb.things if split != "train" or thing not in verb.unseen]
    return [Task(verb, thing, verb.degree) for thing in islice(cycle(dice.shuffled(things)), rows)]
