"""What scores are held against: nervaluate where its rule and ours are one, all assignments tried everywhere else."""

from __future__ import annotations

from collections.abc import Sequence

from nervaluate import Evaluator

from site_agent.orders import F1Counts
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.scoring import MatchScores, f1


def is_one_to_one(gold: Sequence[Mention], predicted: Sequence[Mention]) -> bool:
    """Whether each overlaps at most one of the other side: there nervaluate counts as we do."""
    return all(sum(one.overlaps(other) for other in predicted) <= 1 for one in gold) and all(
        sum(one.overlaps(other) for other in gold) <= 1 for one in predicted
    )


def agree_with_nervaluate(
    ours: MatchScores, passages: Sequence[tuple[Sequence[Mention], Sequence[Mention]]], types: Sequence[str]
) -> None:
    """Assert that it counts as we did, for passages of gold and predictions that are one to one."""
    gold = [_for_nervaluate(each) for each, _ in passages]
    predicted = [_for_nervaluate(each) for _, each in passages]
    theirs = Evaluator(gold, predicted, tags=list(types), loader="dict").evaluate()
    overall = theirs["overall"]
    _agree(overall["strict"], ours.strict)
    _agree(overall["ent_type"], ours.lenient)
    _agree(overall["exact"], ours.strict_agnostic)
    partial = overall["partial"]
    assert partial.correct + partial.partial == ours.lenient_agnostic.true_positives
    for counts in ours.per_type:
        if counts.entity_type in theirs["entities"]:
            _agree(theirs["entities"][counts.entity_type]["strict"], counts.strict)
            _agree(theirs["entities"][counts.entity_type]["ent_type"], counts.lenient)


def most_matches(gold: Sequence[Mention], predicted: Sequence[Mention], typed: bool, exact: bool) -> int:
    """The most pairs of any one to one assignment, by trying them all."""
    if not gold:
        return 0
    first, rest = gold[0], gold[1:]
    best = most_matches(rest, predicted, typed, exact)
    for index, other in enumerate(predicted):
        same = (first.start, first.end) == (other.start, other.end) if exact else first.overlaps(other)
        if same and (first.type == other.type or not typed):
            others = [*predicted[:index], *predicted[index + 1 :]]
            best = max(best, 1 + most_matches(rest, others, typed, exact))
    return best


def _for_nervaluate(mentions: Sequence[Mention]) -> list[dict[str, object]]:
    return [{"label": one.type, "start": one.start, "end": one.end - 1} for one in mentions]


def _agree(theirs: object, ours: F1Counts) -> None:
    assert (theirs.correct, theirs.actual, theirs.possible) == (ours.true_positives, ours.predicted, ours.gold)  # type: ignore[attr-defined]
    assert abs(theirs.f1 - f1(ours)) < 1e-12  # type: ignore[attr-defined]
