"""The gate: what beats what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.terms import GateMetric, GateTerms, Task
from coordinator.domain.promotion import is_promoted, metric_value
from coordinator.domain.values import F1Score, TaskScores
from tests.fakes.coordinator_values import make_scores

RELATIONS = TaskScores(
    task=Task.RELATIONS,
    mean_loss=1.0,
    num_examples=10,
    num_label_tokens=100,
    strict=F1Score(true_positives=2, predicted=10, gold=10),
    lenient=F1Score(true_positives=4, predicted=10, gold=10),
)
ENTITIES = replace(RELATIONS, task=Task.ENTITIES, strict=F1Score(true_positives=8, predicted=10, gold=10))
STRICT = GateTerms(metric=GateMetric.STRICT_F1)
LOSS = GateTerms(metric=GateMetric.LOSS)


def test_a_higher_f1_is_promoted_and_a_lower_one_is_not() -> None:
    assert is_promoted(STRICT, make_scores(6), make_scores(5))
    assert not is_promoted(STRICT, make_scores(4), make_scores(5))


def test_a_lower_loss_is_promoted_and_a_higher_one_is_not() -> None:
    assert is_promoted(LOSS, make_scores(mean_loss=0.9), make_scores(mean_loss=1.0))
    assert not is_promoted(LOSS, make_scores(mean_loss=1.1), make_scores(mean_loss=1.0))


@pytest.mark.parametrize("gate", [STRICT, LOSS, GateTerms(metric=GateMetric.LENIENT_F1)])
def test_an_equal_score_is_promoted_when_no_improvement_is_asked_for(gate: GateTerms) -> None:
    assert is_promoted(gate, make_scores(), make_scores())


@pytest.mark.parametrize(("f1_tenths", "promoted"), [(6, False), (7, True)])
def test_an_improvement_that_is_asked_for_must_be_reached_by_an_f1(f1_tenths: int, promoted: bool) -> None:
    gate = replace(STRICT, min_improvement=0.15)
    assert is_promoted(gate, make_scores(f1_tenths), make_scores(5)) is promoted


@pytest.mark.parametrize(("mean_loss", "promoted"), [(0.9, False), (0.8, True)])
def test_an_improvement_that_is_asked_for_must_be_reached_by_a_loss(mean_loss: float, promoted: bool) -> None:
    gate = replace(LOSS, min_improvement=0.15)
    assert is_promoted(gate, make_scores(mean_loss=mean_loss), make_scores(mean_loss=1.0)) is promoted


@pytest.mark.parametrize(("f1_tenths", "promoted"), [(4, True), (3, False)])
def test_a_negative_improvement_is_a_tolerance(f1_tenths: int, promoted: bool) -> None:
    gate = replace(STRICT, min_improvement=-0.15)
    assert is_promoted(gate, make_scores(f1_tenths), make_scores(5)) is promoted


def test_the_gate_compares_its_own_metric() -> None:
    candidate = replace(make_scores(2), lenient=F1Score(true_positives=9, predicted=10, gold=10))
    assert is_promoted(GateTerms(metric=GateMetric.LENIENT_F1), candidate, make_scores(5))
    assert not is_promoted(STRICT, candidate, make_scores(5))


@pytest.mark.parametrize("metric", list(GateMetric))
def test_the_first_candidate_of_a_run_is_promoted(metric: GateMetric) -> None:
    assert is_promoted(GateTerms(metric=metric, min_improvement=0.5), make_scores(0, mean_loss=99), None)


def test_without_a_gate_everything_is_promoted() -> None:
    assert is_promoted(GateTerms(metric=GateMetric.NONE), make_scores(0), make_scores(10))


def test_a_candidate_that_lacks_the_metric_is_not_promoted() -> None:
    assert not is_promoted(STRICT, replace(make_scores(10), strict=None), make_scores(1))


def test_a_loss_is_compared_negated_and_an_f1_as_it_is() -> None:
    scores = make_scores(5, mean_loss=2.5)
    values = [metric_value(metric, scores) for metric in (GateMetric.LOSS, GateMetric.STRICT_F1, GateMetric.LENIENT_F1)]
    assert values == [-2.5, 0.5, 0.6]


@pytest.mark.parametrize(
    ("counts", "value"), [((0, 0, 0), 0.0), ((0, 3, 0), 0.0), ((0, 0, 3), 0.0), ((3, 4, 5), 6 / 9), ((4, 4, 4), 1.0)]
)
def test_f1_of_counts_is_zero_when_there_was_nothing_to_find_and_nothing_found(
    counts: tuple[int, int, int], value: float
) -> None:
    assert F1Score(true_positives=counts[0], predicted=counts[1], gold=counts[2]).value == value


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (GateMetric.RELATION_STRICT_F1, 0.2),
        (GateMetric.RELATION_LENIENT_F1, 0.4),
        (GateMetric.COMBINED_F1, 0.5),  # of 0.2 and 0.8, however many there are of each
    ],
)
def test_a_metric_of_relations_is_that_of_their_own_counts(metric: GateMetric, expected: float) -> None:
    scores = replace(make_scores(9), tasks=(ENTITIES, RELATIONS))
    assert metric_value(metric, scores) == pytest.approx(expected)


@pytest.mark.parametrize(
    "metric", [GateMetric.RELATION_STRICT_F1, GateMetric.RELATION_LENIENT_F1, GateMetric.COMBINED_F1]
)
def test_scores_without_relations_lack_their_metrics(metric: GateMetric) -> None:
    undecoded = replace(RELATIONS, strict=None, lenient=None)
    assert metric_value(metric, make_scores()) is None
    assert metric_value(metric, replace(make_scores(), tasks=(ENTITIES, undecoded))) is None
