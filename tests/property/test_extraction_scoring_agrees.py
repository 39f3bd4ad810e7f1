"""Scores against two oracles: nervaluate where its rule and ours are one, brute force everywhere else."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from site_agent.trainer.extraction.matching import lenient_counts, strict_counts
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.scoring import MatchScores, add_scores, f1, score_mentions
from tests.fakes.scoring_oracles import is_one_to_one, mentions_match, most_matches, nervaluate_counts, our_counts

TYPES = ("drug", "problem", "test")


@st.composite
def _mentions(draw: st.DrawFn, most: int, width: int) -> list[Mention]:
    edges = st.tuples(st.integers(0, width), st.integers(1, 4), st.sampled_from(TYPES))
    return [
        Mention(start=start, end=start + size, type=kind) for start, size, kind in draw(st.lists(edges, max_size=most))
    ]


@st.composite
def _one_to_one(draw: st.DrawFn) -> tuple[list[Mention], list[Mention]]:
    """Gold and predictions of which each overlaps at most one of the other."""
    gold, predicted = draw(_mentions(8, 60)), draw(_mentions(8, 60))
    assume(is_one_to_one(gold, predicted))
    return gold, predicted


@settings(deadline=None, max_examples=200)
@given(st.lists(_one_to_one(), min_size=1, max_size=4))
def test_nervaluate_agrees_where_nothing_overlaps_twice(passages: list[tuple[list[Mention], list[Mention]]]) -> None:
    ours = add_scores(score_mentions(gold, predicted, TYPES) for gold, predicted in passages)
    theirs = nervaluate_counts(passages, TYPES)
    assert {name: counts for name, counts in our_counts(ours, TYPES).items() if name in theirs} == theirs


@settings(deadline=None, max_examples=200)
@given(_mentions(6, 10), _mentions(6, 10), st.booleans())
def test_matches_are_as_many_as_the_best_assignment_makes(
    gold: list[Mention], predicted: list[Mention], typed: bool
) -> None:
    strict, lenient = strict_counts(gold, predicted, typed=typed), lenient_counts(gold, predicted, typed=typed)
    assert strict.true_positives == most_matches(gold, predicted, mentions_match(typed, exact=True))
    assert lenient.true_positives == most_matches(gold, predicted, mentions_match(typed, exact=False))
    assert (strict.predicted, strict.gold) == (lenient.predicted, lenient.gold) == (len(predicted), len(gold))


@settings(deadline=None)
@given(st.data(), _mentions(8, 20), _mentions(8, 20))
def test_the_order_of_mentions_changes_no_score(
    data: st.DataObject, gold: list[Mention], predicted: list[Mention]
) -> None:
    reordered = data.draw(st.permutations(gold)), data.draw(st.permutations(predicted))
    assert score_mentions(reordered[0], reordered[1], TYPES) == score_mentions(gold, predicted, TYPES)


@settings(deadline=None)
@given(_mentions(8, 20))
def test_gold_scores_one_against_itself(gold: list[Mention]) -> None:
    scores = score_mentions(gold, gold, TYPES)
    expected = 1.0 if gold else 0.0
    assert [f1(one) for one in (scores.strict, scores.lenient, scores.strict_agnostic, scores.lenient_agnostic)] == [
        expected
    ] * 4


@settings(deadline=None)
@given(_mentions(8, 20), _mentions(8, 20))
def test_each_looser_rule_matches_at_least_as_much(gold: list[Mention], predicted: list[Mention]) -> None:
    scores: MatchScores = score_mentions(gold, predicted, TYPES)
    assert scores.strict.true_positives <= scores.lenient.true_positives <= scores.lenient_agnostic.true_positives
    assert scores.strict.true_positives <= scores.strict_agnostic.true_positives
