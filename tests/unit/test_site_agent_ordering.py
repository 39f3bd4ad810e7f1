"""Orders: what an evaluator's trainer is asked for an update, and for a candidate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.terms import GateMetric, GateTerms, Task
from site_agent.app.ordering import LocalSettings, order_for
from site_agent.domain.assignment import Assignment
from site_agent.orders import EvaluateOrder, TrainOrder
from tests.fakes.site_values import evaluate_assignment, score_assignment, train_assignment

LOCAL = LocalSettings(
    base_model_location="/models/base",
    train_files=("train.jsonl",),
    validation_files=("dev.jsonl",),
    validation_passages=7,
    device="cpu",
    threads=1,
    checkpoint_seconds=60.0,
)


@pytest.mark.parametrize(
    ("assignment", "metric", "is_decoded"),
    [
        (score_assignment(), GateMetric.STRICT_F1, False),
        (score_assignment(), GateMetric.NONE, False),
        (evaluate_assignment(), GateMetric.STRICT_F1, True),
        (evaluate_assignment(), GateMetric.LOSS, False),
        (evaluate_assignment(), GateMetric.RELATION_LENIENT_F1, True),
        (evaluate_assignment(), GateMetric.COMBINED_F1, True),
    ],
)
def test_an_update_is_scored_by_its_loss_alone_and_a_candidate_by_what_the_gate_compares(
    assignment: Assignment, metric: GateMetric, is_decoded: bool
) -> None:
    terms = replace(assignment.terms, gate=GateTerms(metric=metric))
    order = order_for(replace(assignment, terms=terms), LOCAL)
    assert isinstance(order, EvaluateOrder)
    assert (order.generate, order.measure_loss) == (is_decoded, True)
    assert (order.data_files, order.max_passages) == (("dev.jsonl",), 7)


@pytest.mark.parametrize("assignment", [score_assignment(), evaluate_assignment()])
def test_an_evaluators_trainer_is_told_of_the_test_set_by_the_site_and_by_the_terms(assignment: Assignment) -> None:
    terms = replace(assignment.terms, gate=replace(assignment.terms.gate, test_digest="sha256:test"))
    order = order_for(replace(assignment, terms=terms), replace(LOCAL, test_files=("test.jsonl",)))
    assert isinstance(order, EvaluateOrder)
    assert (order.test_files, order.test_digest) == (("test.jsonl",), "sha256:test")


def test_a_sites_trainer_is_told_what_the_site_trains() -> None:
    order = order_for(train_assignment(), replace(LOCAL, tasks=(Task.RELATIONS,)))
    assert isinstance(order, TrainOrder)
    assert order.tasks == (Task.RELATIONS,)
