"""Seeded choices that are the same on every machine and Python. Not for secrets.

Of `random.Random` only `random` keeps its sequence between Python versions, so every choice here is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

_T = TypeVar("_T")
# Each number of a seed gets its own 64 bits.
_SEED_BITS = 64


class Dice:
    """A sequence of choices that is a function of its seed numbers."""

    __slots__ = ("_random",)

    def __init__(self, *seed: int) -> None:
        """Start the sequence.

        Raises:
            ValueError: If a number is negative or takes more than 64 bits: two seeds could then be one.
        """
        joined = 0
        for number in seed:
            if not 0 <= number < 2**_SEED_BITS:
                raise ValueError(f"seed: expected 0 to 2**{_SEED_BITS} - 1, got {number}")
            joined = joined << _SEED_BITS | number
        self._random = Random(joined)  # noqa: S311

    def below(self, count: int) -> int:
        """A whole number from 0 to ``count - 1``."""
        return int(self._random.random() * count)

    def between(self, least: int, greatest: int) -> int:
        """A whole number from ``least`` to ``greatest``, both included."""
        return least + self.below(greatest - least + 1)

    def pick(self, options: Sequence[_T]) -> _T:
        """One of the options, each equally likely."""
        return options[self.below(len(options))]

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        """All items in another order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order
