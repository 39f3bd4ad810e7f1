"""What scores are held against: nervaluate where its rule and ours are one, all assignments tried everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from nervaluate import Evaluator

from site_agent.orders import F1Counts
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.relations import RelationMention
from site_agent.trainer.extraction.scoring import MatchScores, f1

_T = TypeVar("_T")
_M = TypeVar("_M", Mention, RelationMention)
Counted = tuple[int, int, int, float]  # true positives, predicted, gold, F1


def is_one_to_one(gold: Sequence[Mention], predicted: Sequence[Mention]) -> bool:
    """Whether each overlaps at most one of the other side: there nervaluate counts as we do."""
    return all(sum(one.overlaps(other) for other in predicted) <= 1 for one in gold) and all(
        sum(one.overlaps(other) for other in gold) <= 1 for one in predicted
    )


def nervaluate_counts(
    passages: Sequence[tuple[Sequence[Mention], Sequence[Mention]]], types: Sequence[str]
) -> dict[str, Counted]:
    """What nervaluate counts over passages of gold and predictions, by the names of `our_counts`."""
    gold = [_for_nervaluate(each) for each, _ in passages]
    predicted = [_for_nervaluate(each) for _, each in passages]
    theirs = Evaluator(gold, predicted, tags=list(types), loader="dict").evaluate()
    overall, partial = theirs["overall"], theirs["overall"]["partial"]
    rules = {"strict": "strict", "lenient": "ent_type"}
    counted = {name: _theirs(overall[rule]) for name, rule in {**rules, "strict_agnostic": "exact"}.items()}
    whole = F1Counts(  # where nervaluate's own F1 gives half a point for a part
        true_positives=partial.correct + partial.partial, predicted=partial.actual, gold=partial.possible
    )
    counted["lenient_agnostic"] = _ours(whole)
    for kind, of_kind in theirs["entities"].items():
        counted |= {f"{kind} {name}": _theirs(of_kind[rule]) for name, rule in rules.items()}
    return counted


def our_counts(scores: MatchScores, types: Sequence[str]) -> dict[str, Counted]:
    """The same of our scores; a type that does not occur has counts of 0."""
    names = ("strict", "lenient", "strict_agnostic", "lenient_agnostic")
    counted = {name: _ours(getattr(scores, name)) for name in names}
    counted |= {f"{kind} {name}": (0, 0, 0, 0.0) for kind in types for name in names[:2]}
    for each in scores.per_type:
        counted |= {f"{each.entity_type} {name}": _ours(getattr(each, name)) for name in names[:2]}
    return counted


def most_matches(gold: Sequence[_T], predicted: Sequence[_T], matches: Callable[[_T, _T], bool]) -> int:
    """The most pairs of any one to one assignment, by trying them all."""
    if not gold:
        return 0
    first, rest = gold[0], gold[1:]
    best = most_matches(rest, predicted, matches)
    for index, other in enumerate(predicted):
        if matches(first, other):
            best = max(best, 1 + most_matches(rest, [*predicted[:index], *predicted[index + 1 :]], matches))
    return best


def neighbourhoods(gold: Sequence[_M], predicted: Sequence[_M]) -> list[tuple[list[_M], list[_M]]]:
    """Gold and predicted in groups, nothing of which overlaps anything of another: all assignments can be tried."""
    groups: list[tuple[list[Any], list[Any]]] = []
    for side, one in [*((0, each) for each in gold), *((1, each) for each in predicted)]:
        near = [group for group in groups if any(one.overlaps(other) for half in group for other in half)]
        joined: tuple[list[Any], list[Any]] = ([], [])
        for group in near:
            groups.remove(group)
            for half, more in zip(joined, group, strict=True):
                half.extend(more)
        joined[side].append(one)
        groups.append(joined)
    return groups


def mentions_match(typed: bool, exact: bool) -> Callable[[Mention, Mention], bool]:
    """Whether a prediction is a gold mention by that rule."""

    def match(gold: Mention, other: Mention) -> bool:
        placed = (gold.start, gold.end) == (other.start, other.end) if exact else gold.overlaps(other)
        return placed and (gold.type == other.type or not typed)

    return match


def relations_match(typed: bool, exact: bool) -> Callable[[RelationMention, RelationMention], bool]:
    """Whether a prediction is a gold relation by that rule, as the docs have it, from offsets and names."""

    def match(gold: RelationMention, other: RelationMention) -> bool:
        ends = [(gold.head, other.head), (gold.tail, other.tail)]
        places = [((one.start, one.end), (its.start, its.end)) for one, its in ends]
        placed = all(one == its if exact else _share(one, its) for one, its in places)
        named = gold.type == other.type and all(one.type == its.type for one, its in ends)
        return placed and (named or not typed)

    return match


def _share(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return bool(set(range(*one)) & set(range(*other)))


def _for_nervaluate(mentions: Sequence[Mention]) -> list[dict[str, object]]:
    return [{"label": one.type, "start": one.start, "end": one.end - 1} for one in mentions]


def _theirs(counts: Any) -> Counted:
    return (counts.correct, counts.actual, counts.possible, round(counts.f1, 12))


def _ours(counts: F1Counts) -> Counted:
    return (counts.true_positives, counts.predicted, counts.gold, round(f1(counts), 12))
