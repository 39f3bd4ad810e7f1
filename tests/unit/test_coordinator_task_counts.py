"""Counts and scores task by task: what a run of several tasks must be given, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import InputInvalidError, Reason, UpdateRefusedError
from common.terms import GateMetric, GateTerms, Task, TaskTerms
from coordinator.domain.admission import (
    ClaimedUpdate,
    check_claim,
    check_gate_metric,
    check_same_set,
    check_task_scores,
)
from coordinator.domain.run_machine import create_run
from coordinator.domain.values import F1Score, Phase, Run, Scores, TaskCounts, TaskScores
from tests.fakes.coordinator_rounds import in_phase, update_scores
from tests.fakes.coordinator_values import RUN_ID, at, digest, make_terms

BASE = digest("base")
ONE = make_terms()
BOTH = replace(make_terms(), task=TaskTerms(relation_types=("treats",)))
COUNTS = (
    TaskCounts(task=Task.ENTITIES, num_examples=6, num_label_tokens=70),
    TaskCounts(task=Task.RELATIONS, num_examples=4, num_label_tokens=30),
)
CLAIM = ClaimedUpdate(size_bytes=10, base_digest=BASE, num_examples=10, num_label_tokens=100, tasks=COUNTS)
F1 = F1Score(true_positives=1, predicted=2, gold=3)
TASKS = tuple(
    TaskScores(
        task=one.task, mean_loss=0.5, num_examples=one.num_examples, num_label_tokens=one.num_label_tokens, strict=F1
    )
    for one in COUNTS
)
SCORES = Scores(mean_loss=0.5, num_examples=10, num_label_tokens=100, tasks=TASKS)


def test_counts_that_sum_to_those_in_all_pass_and_a_site_may_have_one_task_alone() -> None:
    check_claim(BOTH, CLAIM, BASE, 100)
    alone = TaskCounts(task=Task.RELATIONS, num_examples=10, num_label_tokens=100)
    check_claim(BOTH, replace(CLAIM, tasks=(alone,)), BASE, 100)


def test_an_agent_of_yesterday_that_gives_no_counts_by_task_passes_in_a_run_of_one() -> None:
    check_claim(ONE, replace(CLAIM, tasks=()), BASE, 100)


@pytest.mark.parametrize(
    "tasks",
    [
        (),
        COUNTS[:1],
        (*COUNTS, COUNTS[0]),
        (replace(COUNTS[0], num_examples=7), COUNTS[1]),
        (replace(COUNTS[0], num_label_tokens=100), replace(COUNTS[1], num_label_tokens=0)),
        (replace(COUNTS[0], num_examples=11), replace(COUNTS[1], num_examples=-1)),
    ],
)
def test_other_counts_by_task_are_refused(tasks: tuple[TaskCounts, ...]) -> None:
    with pytest.raises(UpdateRefusedError) as refused:
        check_claim(BOTH, replace(CLAIM, tasks=tasks), BASE, 100)
    assert refused.value.reason is Reason.UPDATE_COUNT_ABSURD


def test_a_task_that_is_none_of_the_runs_is_refused() -> None:
    with pytest.raises(UpdateRefusedError, match=r"expected at least one of the run's \(entities\)"):
        check_claim(ONE, CLAIM, BASE, 100)


def test_scores_of_the_runs_tasks_pass() -> None:
    check_task_scores(BOTH, SCORES)
    check_task_scores(ONE, replace(SCORES, tasks=()))


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ((), Reason.FIELD_INVALID),
        ((*TASKS, TASKS[0]), Reason.FIELD_INVALID),
        (TASKS[:1], Reason.FIELD_INVALID),
        ((replace(TASKS[0], num_examples=0), TASKS[1]), Reason.FIELD_INVALID),
        ((replace(TASKS[0], mean_loss=float("nan")), TASKS[1]), Reason.METRIC_NOT_FINITE),
        ((replace(TASKS[0], strict=replace(F1, true_positives=3)), TASKS[1]), Reason.FIELD_INVALID),
    ],
)
def test_other_scores_by_task_are_refused(tasks: tuple[TaskScores, ...], reason: Reason) -> None:
    with pytest.raises(InputInvalidError) as refused:
        check_task_scores(BOTH, replace(SCORES, tasks=tasks))
    assert refused.value.reason is reason


def test_a_combined_metric_needs_every_task_of_the_run() -> None:
    terms = replace(BOTH, gate=GateTerms(metric=GateMetric.COMBINED_F1))
    check_gate_metric(terms, SCORES)
    with pytest.raises(InputInvalidError) as refused:
        check_gate_metric(terms, replace(SCORES, tasks=TASKS[:1]))
    assert refused.value.reason is Reason.METRIC_MISSING


def scored_first(scores: Scores) -> Run:
    """A run of which the first update of the open round has these scores."""
    current = in_phase(Phase.AGGREGATING)
    first, *others = current.roster
    current = replace(current, roster=(replace(first, scores=scores), *others))
    return replace(create_run(RUN_ID, make_terms(), at(0)), rounds=(current,))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data_digest": digest("another")}, "data_digest: expected"),
        ({"num_examples": 21}, "scores: expected 20 examples"),
        ({"tasks": TASKS}, "scores: expected 20 examples"),
    ],
)
def test_updates_of_a_round_are_scored_on_one_set(changes: dict[str, object], what: str) -> None:
    first = replace(update_scores(), data_digest=digest("set"))
    check_same_set(scored_first(first), replace(first, mean_loss=9.0))
    check_same_set(scored_first(first), replace(first, data_digest=""))  # an evaluator of yesterday
    with pytest.raises(InputInvalidError, match=what):
        check_same_set(scored_first(first), replace(first, **changes))  # type: ignore[arg-type]
