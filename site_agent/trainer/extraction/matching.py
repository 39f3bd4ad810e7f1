"""How many predicted mentions match gold ones, one to one. It knows nothing of passages, sets or F1."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from site_agent.orders import F1Counts
from site_agent.trainer.extraction.mentions import Mention


def strict_counts(gold: Sequence[Mention], predicted: Sequence[Mention], *, typed: bool) -> F1Counts:
    """Matches by equal boundaries, and equal type when ``typed``; one prediction matches one gold mention at most."""
    wanted = Counter(_key(mention, typed) for mention in gold)
    got = Counter(_key(mention, typed) for mention in predicted)
    return F1Counts(true_positives=(wanted & got).total(), predicted=len(predicted), gold=len(gold))


def lenient_counts(gold: Sequence[Mention], predicted: Sequence[Mention], *, typed: bool) -> F1Counts:
    """Matches by any overlap, and equal type when ``typed``: as many as a one to one assignment can make.

    The maximum over all assignments makes the count a property of the two sets: no order of mentions can change it.
    """
    matches = _maximum_matching(_overlaps(gold, predicted, typed))
    return F1Counts(true_positives=matches, predicted=len(predicted), gold=len(gold))


def _key(mention: Mention, typed: bool) -> tuple[int, int, str]:
    return mention.start, mention.end, mention.type if typed else ""


def _overlaps(gold: Sequence[Mention], predicted: Sequence[Mention], typed: bool) -> list[list[int]]:
    """For each gold mention the indices of the predictions that it may be matched with."""
    return [
        [
            index
            for index, candidate in enumerate(predicted)
            if candidate.overlaps(mention) and (candidate.type == mention.type or not typed)
        ]
        for mention in gold
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
