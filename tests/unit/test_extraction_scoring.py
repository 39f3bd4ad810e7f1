"""Entity F1 on cases worked by hand. Agreement with nervaluate and with brute force are property tests."""

from __future__ import annotations

import pytest

from site_agent.orders import F1Counts, F1Interval, TypeCounts
from site_agent.trainer.extraction.matching import lenient_counts, strict_counts
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.passages import Entity, Passage
from site_agent.trainer.extraction.scoring import (
    MatchScores,
    add_scores,
    bootstrap_f1,
    f1,
    macro_f1,
    score_documents,
    score_mentions,
    scored_types,
)


def counts(true_positives: int, predicted: int, gold: int) -> F1Counts:
    return F1Counts(true_positives=true_positives, predicted=predicted, gold=gold)


def drug(start: int, end: int) -> Mention:
    return Mention(start=start, end=end, type="drug")


def problem(start: int, end: int) -> Mention:
    return Mention(start=start, end=end, type="problem")


def passage(name: str, document: str, *mentions: Mention) -> Passage:
    entities = tuple(
        Entity(id=f"T{index}", type=one.type, start=one.start, end=one.end) for index, one in enumerate(mentions)
    )
    return Passage(id=name, text="x" * 100, entities=entities, relations=(), document=document)


def test_a_strict_match_has_both_boundaries_and_the_type() -> None:
    gold = [drug(0, 5), drug(10, 15), problem(20, 25), problem(30, 35)]
    predicted = [drug(0, 5), drug(10, 14), drug(20, 25), problem(40, 45)]
    assert strict_counts(gold, predicted, typed=True) == counts(1, 4, 4)


def test_a_strict_match_without_types_has_both_boundaries() -> None:
    gold = [drug(0, 5), drug(10, 15), problem(20, 25)]
    predicted = [drug(0, 5), drug(10, 14), drug(20, 25)]
    assert strict_counts(gold, predicted, typed=False) == counts(2, 3, 3)


def test_a_lenient_match_has_any_overlap_and_the_type() -> None:
    gold = [drug(0, 5), drug(10, 15), problem(20, 25)]
    predicted = [drug(4, 9), drug(15, 20), drug(20, 25)]
    assert lenient_counts(gold, predicted, typed=True) == counts(1, 3, 3)
    assert lenient_counts(gold, predicted, typed=False) == counts(2, 3, 3)


def test_one_prediction_matches_one_gold_mention_at_most() -> None:
    assert lenient_counts([drug(0, 5), drug(6, 9)], [drug(0, 9)], typed=True) == counts(1, 1, 2)
    assert lenient_counts([drug(0, 9)], [drug(0, 5), drug(6, 9)], typed=True) == counts(1, 2, 1)
    assert strict_counts([drug(0, 5)], [drug(0, 5), drug(0, 5)], typed=True) == counts(1, 2, 1)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_lenient_match_gives_way_where_that_lets_more_match(reverse: bool) -> None:
    gold = [drug(0, 10), drug(12, 20), drug(22, 30)]
    predicted = [drug(5, 13), drug(15, 23), drug(8, 10)]
    order = slice(None, None, -1 if reverse else 1)
    assert lenient_counts(gold[order], predicted, typed=True) == counts(3, 3, 3)


def test_a_long_chain_of_overlaps_is_matched() -> None:
    gold = [drug(10 * index, 10 * index + 6) for index in range(2000)]
    predicted = [drug(10 * index - 5, 10 * index + 1) for index in range(1, 2000)] + [drug(0, 1)]
    assert lenient_counts(gold, predicted, typed=True).true_positives == 2000


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    precision, recall = 3 / 4, 3 / 6
    assert f1(counts(3, 4, 6)) == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize(("case", "expected"), [((0, 0, 0), 0.0), ((0, 3, 0), 0.0), ((0, 0, 3), 0.0), ((2, 2, 2), 1.0)])
def test_f1_is_defined_where_nothing_is_predicted_or_nothing_is_gold(
    case: tuple[int, int, int], expected: float
) -> None:
    assert f1(counts(*case)) == expected


def test_scores_of_one_passage() -> None:
    gold = [drug(0, 5), problem(10, 20), problem(30, 35)]
    predicted = [drug(0, 5), problem(11, 20), drug(30, 35)]
    assert score_mentions(gold, predicted, ("drug", "problem")) == MatchScores(
        strict=counts(1, 3, 3),
        lenient=counts(2, 3, 3),
        strict_agnostic=counts(2, 3, 3),
        lenient_agnostic=counts(3, 3, 3),
        per_type=(
            TypeCounts(entity_type="drug", strict=counts(1, 2, 1), lenient=counts(1, 2, 1)),
            TypeCounts(entity_type="problem", strict=counts(0, 1, 2), lenient=counts(1, 1, 2)),
        ),
    )


def test_types_that_are_not_scored_count_nowhere() -> None:
    both = [drug(0, 5), problem(7, 9)]
    assert score_mentions(both, both, ("drug",)) == score_mentions([drug(0, 5)], [drug(0, 5)], ("drug",))


def test_a_set_is_scored_on_the_types_that_it_annotates_and_that_were_asked_for() -> None:
    passages = [passage("p", "d", drug(0, 5), Mention(start=0, end=1, type="dosage")), passage("q", "d", problem(1, 2))]
    assert scored_types(passages, ("problem", "test", "drug")) == {"drug", "problem"}


def test_scores_are_grouped_by_document() -> None:
    passages = [passage("p", "d1", drug(0, 5)), passage("q", "d2", drug(0, 5)), passage("r", "d1", drug(7, 9))]
    scores = score_documents(passages, [[drug(0, 5)], [], [drug(0, 5)]], ("drug",))
    assert {document: one.strict for document, one in scores.items()} == {"d1": counts(1, 2, 2), "d2": counts(0, 0, 1)}


def test_predictions_for_fewer_passages_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score_documents([passage("p", "d")], [], ("drug",))


def test_mentions_of_different_passages_do_not_match() -> None:
    passages = [passage("p", "d", drug(0, 5)), passage("q", "d")]
    assert add_scores(score_documents(passages, [[], [drug(0, 5)]], ("drug",)).values()).lenient == counts(0, 1, 1)


def test_scores_add_up_over_sets_of_different_types() -> None:
    first = score_mentions([drug(0, 5)], [drug(0, 5)], ("drug",))
    second = score_mentions([drug(0, 5), problem(6, 9)], [problem(6, 9)], ("problem", "drug"))
    added = add_scores([first, second])
    assert added.strict == counts(2, 2, 3)
    assert added.per_type == (
        TypeCounts(entity_type="drug", strict=counts(1, 1, 2), lenient=counts(1, 1, 2)),
        TypeCounts(entity_type="problem", strict=counts(1, 1, 1), lenient=counts(1, 1, 1)),
    )
    assert add_scores([]) == MatchScores()


def test_macro_f1_is_the_mean_over_types_with_gold() -> None:
    assert macro_f1([counts(1, 1, 1), counts(0, 5, 5), counts(0, 9, 0)]) == pytest.approx(0.5)
    assert macro_f1([]) == 0.0


def test_the_bootstrap_repeats_with_its_seed() -> None:
    documents = [counts(index % 7, 7 + index, 9) for index in range(30)]
    assert bootstrap_f1(documents, seed=5, resamples=50) == bootstrap_f1(documents, seed=5, resamples=50)
    assert bootstrap_f1(documents, seed=5, resamples=50) != bootstrap_f1(documents, seed=6, resamples=50)


def test_equal_documents_leave_nothing_to_resample() -> None:
    assert bootstrap_f1([counts(1, 2, 2)] * 20, seed=0) == F1Interval(low=0.5, high=0.5)


def test_the_bootstrap_interval_of_one_half_is_that_of_the_binomial() -> None:
    documents = [counts(1, 1, 1), counts(0, 1, 1)] * 200
    interval = bootstrap_f1(documents, seed=1, resamples=4000)
    # 0.5 +- 1.96 sqrt(0.25 / 400)
    assert interval.low == pytest.approx(0.451, abs=0.004)
    assert interval.high == pytest.approx(0.549, abs=0.004)


def test_higher_confidence_gives_a_wider_interval() -> None:
    documents = [counts(index % 3, 3, 4) for index in range(30)]
    wide, narrow = bootstrap_f1(documents, seed=5, confidence=0.99), bootstrap_f1(documents, seed=5, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_no_documents_have_an_interval_of_nothing() -> None:
    assert bootstrap_f1([], seed=0) == F1Interval(low=0.0, high=0.0)
