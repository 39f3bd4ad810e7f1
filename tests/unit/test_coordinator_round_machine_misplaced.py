"""Aborts from anywhere, and events where they mean nothing."""

from __future__ import annotations

import pytest

from common.errors import Reason
from common.terms import GateMetric, GateTerms
from coordinator.domain import events as ev
from coordinator.domain.commands import CommandKind
from coordinator.domain.round_machine import step
from coordinator.domain.values import DeadlineName, Phase
from tests.fakes.coordinator_rounds import (
    ABORT,
    CONTEXT,
    candidate,
    commanded,
    context,
    declined,
    evaluator_says_no,
    held,
    in_phase,
    moved,
    passed,
    refused,
    scores_are_refused,
    scoring_is_declined,
    taken,
    update_scored,
)
from tests.fakes.coordinator_values import (
    ANNA,
    accepted,
    at,
    everyone_present,
    make_terms,
    scored,
)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.is_open])
def test_an_operator_aborts_from_every_open_phase(phase: Phase) -> None:
    current = in_phase(phase)
    aborted = moved(current, ABORT)
    assert (aborted.phase, aborted.reason, aborted.closed_at) == (
        Phase.ABORTED,
        Reason.ABORTED_BY_OPERATOR,
        at(50),
    )
    assert aborted.deadlines == ()
    assert commanded(current, ABORT) == ([CommandKind.DELETE_UPDATES] if current.roster else [])


EVERY_EVENT: list[ev.RoundEvent] = [
    everyone_present(),
    taken(ANNA),
    held(ANNA),
    declined(ANNA),
    evaluator_says_no(),
    accepted(ANNA),
    refused(ANNA),
    scores_are_refused(),
    candidate(),
    ev.AggregationFailed(at=at(20), round_number=1, reason=Reason.AGGREGATION_FAILED),
    scored(),
    update_scored(ANNA),
    scoring_is_declined(ANNA),
    *(passed(name) for name in DeadlineName),
    ABORT,
]
MEANT_FOR: dict[Phase, tuple[type, ...]] = {
    Phase.SELECTING: (ev.PresenceObserved, ev.AbortRequested),
    Phase.TRAINING: (
        ev.AssignmentTaken,
        ev.AssignmentHeld,
        ev.AssignmentDeclined,
        ev.UpdateAccepted,
        ev.AnswerRefused,
        ev.DeadlinePassed,
        ev.AbortRequested,
    ),
    Phase.SCORING: (
        ev.UpdateScored,
        ev.AssignmentDeclined,
        ev.AnswerRefused,
        ev.DeadlinePassed,
        ev.AbortRequested,
    ),
    Phase.AGGREGATING: (ev.CandidateReady, ev.AggregationFailed, ev.AbortRequested),
    Phase.EVALUATING: (
        ev.ScoresReported,
        ev.AssignmentDeclined,
        ev.AnswerRefused,
        ev.DeadlinePassed,
        ev.AbortRequested,
    ),
}


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.is_open])
def test_an_event_meant_for_another_phase_changes_nothing_and_asks_for_nothing(phase: Phase) -> None:
    current = in_phase(phase)
    for event in EVERY_EVENT:
        if not isinstance(event, MEANT_FOR[phase]):
            assert step(CONTEXT, current, event) == (current, ()), event


@pytest.mark.parametrize("phase", [Phase.TRAINING, Phase.SCORING, Phase.EVALUATING])
def test_a_deadline_of_another_phase_changes_nothing(phase: Phase) -> None:
    others = {
        Phase.TRAINING: [DeadlineName.EVALUATE],
        Phase.SCORING: [DeadlineName.TRAIN, DeadlineName.GRACE],
        Phase.EVALUATING: [DeadlineName.TRAIN, DeadlineName.GRACE],
    }
    current = in_phase(phase)
    for name in others[phase]:
        assert step(CONTEXT, current, passed(name)) == (current, ())


@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.is_open])
def test_a_closed_round_never_moves(phase: Phase) -> None:
    closed = in_phase(phase)
    for event in EVERY_EVENT:
        assert step(CONTEXT, closed, event) == (closed, ()), event


def test_a_round_on_everyone_invited_is_no_subset() -> None:
    assert not in_phase(Phase.AGGREGATING).is_subset


def test_equal_work_has_equal_command_ids_and_other_work_has_others() -> None:
    aggregating = in_phase(Phase.AGGREGATING)
    gateless = context(make_terms(gate=GateTerms(metric=GateMetric.NONE)))
    once, twice = (step(gateless, aggregating, candidate())[1] for _ in range(2))
    assert [command.command_id for command in once] == [command.command_id for command in twice]
    assert len({command.command_id for command in once}) == len(once) == 2
