"""How many predictions match gold ones, one to one, of mentions or of relations. It knows nothing of passages or F1."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from typing import Protocol, Self, TypeVar

from site_agent.orders import F1Counts


class Matchable(Protocol):
    """What can be matched: a `Mention` or a `RelationMention`."""

    @property
    def place(self) -> Hashable:
        """Its boundaries."""

    @property
    def kind(self) -> Hashable:
        """Its type, or types."""

    def overlaps(self, other: Self) -> bool:
        """Whether the two share a character, of a relation at both ends."""


M = TypeVar("M", bound=Matchable)


def strict_counts(gold: Sequence[M], predicted: Sequence[M], *, typed: bool) -> F1Counts:
    """Matches by equal boundaries, and equal kind when ``typed``; one prediction matches one gold item at most."""
    wanted = Counter(_key(one, typed) for one in gold)
    got = Counter(_key(one, typed) for one in predicted)
    return F1Counts(true_positives=(wanted & got).total(), predicted=len(predicted), gold=len(gold))


def lenient_counts(gold: Sequence[M], predicted: Sequence[M], *, typed: bool) -> F1Counts:
    """Matches by any overlap, and equal kind when ``typed``: as many as a one to one assignment can make.

    The maximum over all assignments makes the count a property of the two sets: no order of items can change it.
    """
    matches = _maximum_matching(_overlaps(gold, predicted, typed))
    return F1Counts(true_positives=matches, predicted=len(predicted), gold=len(gold))


def _key(one: Matchable, typed: bool) -> tuple[Hashable, Hashable]:
    return one.place, one.kind if typed else None


def _overlaps(gold: Sequence[M], predicted: Sequence[M], typed: bool) -> list[list[int]]:
    """For each gold item the indices of the predictions that it may be matched with."""
    return [
        [
            index
            for index, candidate in enumerate(predicted)
            if candidate.overlaps(wanted) and (candidate.kind == wanted.kind or not typed)
        ]
        for wanted in gold
    ]


def _maximum_matching(edges: Sequence[Sequence[int]]) -> int:
    """Size of a maximum matching of a bipartite graph, by augmenting paths (Berge 1957), searched breadth first."""
    gold_of: dict[int, int] = {}
    return sum(_augment(edges, gold_of, start) for start in range(len(edges)))


def _augment(edges: Sequence[Sequence[int]], gold_of: dict[int, int], start: int) -> bool:
    """Match gold ``start`` as well, changing other matches of ``gold_of`` on the way; False where that cannot be."""
    reached_from: dict[int, int] = {}
    taken_from: dict[int, int] = {}
    queue = deque([start])
    while queue:
        gold = queue.popleft()
        for predicted in edges[gold]:
            if predicted in reached_from:
                continue
            reached_from[predicted] = gold
            if predicted in gold_of:
                taken_from[gold_of[predicted]] = predicted
                queue.append(gold_of[predicted])
                continue
            while True:
                gold_of[predicted] = reached_from[predicted]
                if reached_from[predicted] == start:
                    return True
                predicted = taken_from[reached_from[predicted]]
    return False
