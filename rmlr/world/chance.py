"""Chance in the drawn world: one stream of random numbers for each thing that it decides."""

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")


class Stream(IntEnum):
    """What chance decides in one picture: each has a stream of its own, so that a change of one leaves the others."""

    SCENE = 0
    PICTURE = 1
    HICODET_BOXES = 2
    ORDERS = 3  # of a split, not of a picture: who does what in which picture


class Dice:
    """Chance for one picture, from PCG64: the same on every machine (no vectorised or fused arithmetic in between)."""

    def __init__(self, seed: int, index: int, stream: Stream):
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, stream))))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def happens(self, probability: float) -> bool:
        return self.between(0.0, 1.0) < probability

    def pick(self, weights: dict[Option, float]) -> Option:
        left = self.between(0.0, sum(weights.values()))
        for option, weight in weights.items():
            left -= weight
            if left < 0:
                return option
        return next(reversed(weights))

    def one_of(self, options: Sequence[Option]) -> Option:
        return options[int(self.between(0.0, float(len(options))))]

    def shuffled(self, options: Sequence[Option]) -> list[Option]:
        """All options in a random order (Fisher and Yates)."""
        found = list(options)
        for last in range(len(found) - 1, 0, -1):
            other = int(self.between(0.0, last + 1.0))
            found[last], found[other] = found[other], found[last]
        return found

    def best_of(
        self, tries: int, propose: Callable[[], Option | None], cost: Callable[[Option], float]
    ) -> Option | None:
        """The first proposal without cost, else the cheapest; None where every proposal was withdrawn."""
        best, least = None, math.inf
        for _ in range(tries):
            proposal = propose()
            if proposal is None:
                continue
            price = cost(proposal)
            if price < least:
                best, least = proposal, price
            if price <= 0:
                break
        return best

    def bytes(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(self._generator.bytes(math.prod(shape)), np.uint8).reshape(shape)
