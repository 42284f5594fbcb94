"""The names of the world of near-synonyms: its verbs, its things, and which of them occur together (docs/words.md).

All of it was fixed before any embedding of a name was computed. Whoever changes it makes another study.
"""

from dataclasses import dataclass
from typing import Literal

Group = Literal["head", "medium", "rare"]  # of a verb, by its rows in training
GROUPS: tuple[Group, ...] = ("head", "medium", "rare")

# Clusters of verbs by their pose: classes of VerbNet, each with three members from light to strong; the last one is
# `kick`, to strike with the foot, and two of its hyponyms in WordNet.
VERBS: dict[str, tuple[str, str, str]] = {
    "hold-15.1": ("hold", "grasp", "clutch"),
    "push-12, towards oneself": ("pull", "tug", "yank"),
    "push-12, away": ("press", "push", "shove"),
    "put_direction-9.4": ("raise", "lift", "hoist"),
    "touch-20": ("stroke", "pat", "prod"),
    "throw-17.1": ("toss", "throw", "hurl"),
    "hit-18.1": ("tap", "hit", "smash"),
    "kick (WordNet)": ("punt", "kick", "boot"),
}

# Clusters of things by their shape: hyponyms of one synset of WordNet each.
THINGS: dict[str, tuple[str, str, str, str]] = {
    "edible_fruit.n.01": ("apple", "orange", "peach", "plum"),
    "container.n.01, box-shaped": ("box", "crate", "chest", "suitcase"),
    "vessel.n.03": ("bottle", "jar", "jug", "vase"),
    "tool.n.01": ("hammer", "shovel", "rake", "axe"),
    "headdress.n.01": ("hat", "cap", "helmet", "bonnet"),
}

DEGREES = 3  # light, middle, strong
OF_A_SHAPE = 2  # things of each shape that a cluster of verbs goes with


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: its cluster, which decides the pose; its degree, which decides the mark; and how frequent it is."""

    name: str
    cluster: int  # index into VERBS
    degree: int  # 0 light, 1 middle, 2 strong
    group: Group
    things: tuple[str, ...]  # that it occurs with, ten
    unseen: tuple[str, ...]  # two of these, never in training


def _verbs() -> tuple[Verb, ...]:
    """Every verb, cluster by cluster. Each cluster has one head, one medium and one rare verb, at changing degrees."""
    found = []
    for cluster, members in enumerate(VERBS.values()):
        things = tuple(
            thing
            for shape, kinds in enumerate(THINGS.values())
            for member, thing in enumerate(kinds)
            if (cluster + shape + member) % len(kinds) < OF_A_SHAPE
        )
        for degree, name in enumerate(members):
            first = (3 * degree + cluster) % len(things)
            unseen = tuple(things[(first + step) % len(things)] for step in (0, len(things) // 2))
            found.append(Verb(name, cluster, degree, GROUPS[(degree + cluster) % len(GROUPS)], things, unseen))
    return tuple(found)


ALL_VERBS = _verbs()
ALL_THINGS = tuple(thing for kinds in THINGS.values() for thing in kinds)
SHAPE_OF = {thing: shape for shape, kinds in enumerate(THINGS.values()) for thing in kinds}
