"""SCORING: every update is scored before they are combined; who may do that, and what happens when nobody does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import Reason
from common.ids import SiteName
from common.terms import GateMetric, GateTerms, OnEvaluatorAbsent
from coordinator.domain import assignments
from coordinator.domain import events as ev
from coordinator.domain.assignments import AssignmentKind
from coordinator.domain.cohort import score_assignment_id
from coordinator.domain.commands import CommandKind
from coordinator.domain.round_machine import RoundContext
from coordinator.domain.values import Deadline, DeadlineName, EvaluatorOutcome, Phase, Round, Run, SiteOutcome
from tests.fakes.coordinator_rounds import (
    PLUS,
    PLUS_AGGREGATION,
    candidate,
    commanded,
    context,
    declined,
    in_phase,
    known_evaluators,
    moved,
    passed,
    scoring_is_declined,
    update_scored,
    update_scores,
)
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    EVALUATOR,
    RUN_ID,
    SITES,
    accepted,
    at,
    make_round_terms,
    make_spec,
    make_terms,
    selecting_run,
)

OTHER = SiteName("other")
PROMOTING = context(
    make_terms(aggregation=PLUS_AGGREGATION, gate=GateTerms(on_evaluator_absent=OnEvaluatorAbsent.PROMOTE))
)


def scoring(*events: ev.RoundEvent, by: RoundContext = PLUS) -> Round:
    return moved(in_phase(Phase.SCORING), *events, by=by)


def run_of(current: Round) -> Run:
    run = selecting_run(make_terms(aggregation=PLUS_AGGREGATION))
    return replace(run, spec=make_spec(), rounds=(current,))


def losses(current: Round) -> list[float | None]:
    return [entry.scores.mean_loss if entry.scores else None for entry in current.roster]


# What is scored


def test_the_last_answer_begins_scoring_with_a_deadline_and_asks_for_nothing_to_be_done() -> None:
    training = moved(in_phase(Phase.TRAINING), accepted(ANNA), accepted(BERTA), by=PLUS)
    assert commanded(training, accepted(CLARA, seconds=10), by=PLUS) == []
    current = moved(training, accepted(CLARA, seconds=10), by=PLUS)
    assert current.phase is Phase.SCORING
    assert current.deadlines == (Deadline(name=DeadlineName.EVALUATE, at=at(10_010)),)


def test_the_deadline_of_training_with_a_quorum_begins_scoring_of_those_that_are_there() -> None:
    current = moved(in_phase(Phase.TRAINING), accepted(ANNA), accepted(BERTA), passed(DeadlineName.TRAIN), by=PLUS)
    assert (current.phase, [entry.site for entry in current.unscored]) == (Phase.SCORING, [ANNA, BERTA])


def test_a_score_is_in_the_roster_and_the_next_one_has_the_deadline_for_itself() -> None:
    current = scoring(update_scored(BERTA, seconds=500, loss=0.25))
    assert losses(current) == [None, 0.25, None]
    assert current.deadlines == (Deadline(name=DeadlineName.EVALUATE, at=at(10_500)),)


def test_a_deadline_that_an_operator_extended_is_not_shortened_by_a_score() -> None:
    extended = replace(scoring(), deadlines=(Deadline(name=DeadlineName.EVALUATE, at=at(90_000)),))
    assert moved(extended, update_scored(ANNA), by=PLUS).deadlines == extended.deadlines


def test_the_last_score_begins_aggregation() -> None:
    current = scoring(update_scored(CLARA), update_scored(ANNA))
    assert commanded(current, update_scored(BERTA), by=PLUS) == [CommandKind.AGGREGATE]
    aggregating = moved(current, update_scored(BERTA), by=PLUS)
    assert (aggregating.phase, aggregating.deadlines) == (Phase.AGGREGATING, ())
    assert not aggregating.is_weighed_by_size


def test_an_update_is_scored_once() -> None:
    current = scoring(update_scored(ANNA, loss=0.5))
    assert moved(current, update_scored(ANNA, loss=9.0), by=PLUS) == current


@pytest.mark.parametrize("event", [update_scored(ANNA, round_number=2), update_scored(SiteName("nobody")), candidate()])
def test_what_belongs_elsewhere_changes_nothing(event: ev.RoundEvent) -> None:
    assert scoring(event) == scoring()


def test_an_update_that_is_not_in_the_round_is_not_scored() -> None:
    current = moved(in_phase(Phase.TRAINING), accepted(ANNA), accepted(BERTA), declined(CLARA), by=PLUS)
    assert moved(current, update_scored(CLARA), by=PLUS) == current
    assert moved(current, update_scored(ANNA), update_scored(BERTA), by=PLUS).phase is Phase.AGGREGATING


def test_a_strategy_that_asks_for_no_scores_has_no_such_phase() -> None:
    assert moved(in_phase(Phase.TRAINING), *(accepted(site) for site in SITES)).phase is Phase.AGGREGATING


# An update that cannot be scored


def test_an_update_under_which_the_loss_is_no_number_is_refused_after_all() -> None:
    current = scoring(scoring_is_declined(ANNA, Reason.LOSS_NOT_FINITE), update_scored(BERTA), update_scored(CLARA))
    assert current.phase is Phase.AGGREGATING
    assert [(entry.site, entry.outcome, entry.reason) for entry in current.roster] == [
        (ANNA, SiteOutcome.REFUSED, Reason.LOSS_NOT_FINITE),
        (BERTA, SiteOutcome.ACCEPTED, None),
        (CLARA, SiteOutcome.ACCEPTED, None),
    ]
    assert (current.is_subset, current.evaluator_outcomes) == (True, ())


def test_too_few_updates_that_can_be_scored_fail_the_round() -> None:
    nans = [scoring_is_declined(site, Reason.LOSS_NOT_FINITE) for site in (ANNA, BERTA)]
    failed = scoring(*nans)
    assert (failed.phase, failed.reason) == (Phase.FAILED, Reason.QUORUM_IMPOSSIBLE)
    assert commanded(scoring(nans[0]), nans[1], by=PLUS) == [CommandKind.DELETE_UPDATES]


# An evaluator that does not answer


def test_an_evaluators_no_is_kept_and_another_one_is_asked() -> None:
    current = scoring(scoring_is_declined(BERTA), known_evaluators(EVALUATOR, OTHER))
    assert current.phase is Phase.SCORING
    assert current.evaluator_outcomes == (
        EvaluatorOutcome(evaluator=EVALUATOR, outcome=SiteOutcome.DECLINED, reason=Reason.OUT_OF_MEMORY),
    )
    assert assignments.for_evaluator(run_of(current), EVALUATOR) is None
    assert assignments.for_evaluator(run_of(current), OTHER) is not None


def test_a_no_to_another_assignment_changes_nothing() -> None:
    foreign = replace(scoring_is_declined(ANNA), assignment_id=score_assignment_id(RUN_ID, 2, EVALUATOR, ANNA))
    assert scoring(foreign) == scoring()


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (passed(DeadlineName.EVALUATE, 10_020), Reason.EVALUATOR_ABSENT),
        (known_evaluators(EVALUATOR), Reason.NO_EVALUATOR_LEFT),
    ],
)
def test_without_all_scores_the_round_fails_or_goes_on_with_sizes_as_the_terms_say(
    event: ev.RoundEvent, reason: Reason
) -> None:
    before: list[ev.RoundEvent] = [update_scored(ANNA), scoring_is_declined(BERTA)]
    failed = scoring(*before, event)
    assert (failed.phase, failed.reason) == (Phase.FAILED, reason)
    going_on = scoring(*before, event, by=PROMOTING)
    assert (going_on.phase, going_on.is_weighed_by_size) == (Phase.AGGREGATING, True)
    assert commanded(scoring(*before), event, by=PROMOTING) == [CommandKind.AGGREGATE]


def test_an_evaluator_that_would_not_score_updates_is_not_asked_to_score_the_candidate() -> None:
    current = scoring(scoring_is_declined(BERTA), passed(DeadlineName.EVALUATE), candidate(), by=PROMOTING)
    assert current.phase is Phase.EVALUATING
    assert assignments.for_evaluator(run_of(current), EVALUATOR) is None
    committed = moved(current, known_evaluators(EVALUATOR), by=PROMOTING)
    assert (committed.phase, committed.is_unscored, committed.is_weighed_by_size) == (Phase.COMMITTED, True, True)


def test_scores_are_in_the_roster_of_a_round_without_a_gate_too() -> None:
    gateless = context(make_terms(aggregation=PLUS_AGGREGATION, gate=GateTerms(metric=GateMetric.NONE)))
    committed = scoring(*(update_scored(site, loss=0.5) for site in SITES), candidate(), by=gateless)
    assert (committed.phase, losses(committed)) == (Phase.COMMITTED, [0.5] * 3)


# Who is asked for what


def test_an_evaluator_is_asked_for_one_update_after_the_other_and_for_each_once() -> None:
    current, asked = scoring(), []
    while current.phase is Phase.SCORING:
        given = assignments.for_evaluator(run_of(current), EVALUATOR)
        assert given is not None and given.entry is not None and given.entry.update is not None
        assert given == assignments.for_evaluator(run_of(current), EVALUATOR), "asked twice, the same assignment"
        assert (given.kind, given.adapter) == (AssignmentKind.SCORE, given.entry.update.file)
        assert given.assignment_id == score_assignment_id(RUN_ID, 1, EVALUATOR, given.entry.site)
        asked.append(given.entry.site)
        current = moved(current, update_scored(given.entry.site), by=PLUS)
    assert sorted(asked) == list(SITES)


def test_several_evaluators_begin_with_different_updates() -> None:
    given = [assignments.for_evaluator(run_of(scoring()), SiteName(f"evaluator-{number}")) for number in range(12)]
    assert {each.entry.site for each in given if each is not None and each.entry is not None} == set(SITES)


def test_a_site_is_asked_for_nothing_while_updates_are_scored() -> None:
    assert [assignments.for_site(run_of(scoring()), site) for site in SITES] == [None] * 3


def test_a_quorum_of_one_goes_on_with_the_one_update_that_can_be_scored() -> None:
    alone = context(make_terms(aggregation=PLUS_AGGREGATION, rounds=make_round_terms(quorum=1)))
    nans = [scoring_is_declined(site, Reason.LOSS_NOT_FINITE) for site in (ANNA, BERTA)]
    aggregating = scoring(*nans, update_scored(CLARA), by=alone)
    assert (aggregating.phase, [entry.site for entry in aggregating.accepted]) == (Phase.AGGREGATING, [CLARA])
    assert aggregating.roster[2].scores == update_scores()
