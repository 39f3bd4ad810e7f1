"""Which examples, passages and worked examples an order works on: seeded choices, the same on every machine. Pure."""
# ruff: noqa: S311 - these choices are to be repeatable, not secret

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from typing import TypeVar

from site_agent.trainer.extraction.examples import Example

_T = TypeVar("_T")

# A worked example is one plain sentence: neither a heading nor half a page.
_SHOT_CHARACTERS = range(40, 200)


def examples_of_round(examples: Sequence[_T], per_round: int, round_number: int, seed: int) -> list[_T]:
    """The slice of round ``round_number`` (from 1) of the seeded order, wrapping around; all if ``per_round`` is 0.

    No example comes twice in a round, and none a second time before all have come once.
    """
    if not 0 < per_round < len(examples):
        return list(examples)
    order = random.Random(seed).sample(range(len(examples)), len(examples))
    start = (round_number - 1) * per_round
    return [examples[order[index % len(examples)]] for index in range(start, start + per_round)]


def thinned(
    examples: Sequence[_T], kind_of: Callable[[_T], tuple[object, bool]], max_empty_share: float, seed: int
) -> list[_T]:
    """The examples without some of the empty ones, in order, so that of each group at most that share is empty.

    ``kind_of`` says of which group an example is, and whether it is empty. What is left out is chosen by ``seed``; of a
    group that is empty altogether nothing is left.
    """
    kept: set[int] = set()
    kinds = [kind_of(example) for example in examples]
    for group in dict.fromkeys(group for group, _ in kinds):
        full, empty = ([index for index, kind in enumerate(kinds) if kind == (group, is_empty)]
                       for is_empty in (False, True))  # fmt: skip
        most = most_empty(len(full), max_empty_share)
        kept.update(full, random.Random(seed).sample(empty, min(most, len(empty))))
    return [example for index, example in enumerate(examples) if index in kept]


def most_empty(full: int, max_empty_share: float) -> int:
    """How many empty examples there may be beside so many full ones."""
    share = Fraction(str(max_empty_share))  # as it was written, not as the binary fraction next to it
    return math.floor(full * share / (1 - share))


def shares_of(total: int, count: int) -> list[int]:
    """``total`` in ``count`` parts that differ by one at most, the larger ones first."""
    whole, rest = divmod(total, count)
    return [whole + (index < rest) for index in range(count)]


def sample_in_order(items: Sequence[_T], at_most: int, seed: int) -> list[_T]:
    """At most ``at_most`` of the items, chosen by ``seed``, in the order in which they came; all if it is 0."""
    if not 0 < at_most < len(items):
        return list(items)
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), at_most))]


def choose_shots(
    examples: Sequence[Example], count: int, entity_types: Collection[str], seed: int
) -> tuple[Example, ...]:
    """Worked examples that together show as many of the types as they can; ties fall by ``seed``."""
    wanted = frozenset(entity_types)
    fit = [one for one in examples if len(one.text) in _SHOT_CHARACTERS and wanted & _types(one)]
    waiting = random.Random(seed).sample(fit, len(fit))
    chosen: list[Example] = []
    missing = wanted
    while waiting and len(chosen) < count:
        best = max(waiting, key=lambda one: len(missing & _types(one)))
        waiting.remove(best)
        chosen.append(best)
        missing = missing - _types(best) or wanted
    return tuple(chosen)


def _types(example: Example) -> frozenset[str]:
    return frozenset(mention.type for mention in example.entities)
