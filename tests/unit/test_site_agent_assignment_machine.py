from __future__ import annotations

import pytest

from common.errors import Reason
from site_agent.domain.assignment_machine import (
    AssignmentState,
    Command,
    Event,
    EventKind,
    Stage,
    can_happen,
    commands_of,
    step,
)

ENDED = [stage for stage in Stage if not stage.is_open]


def test_an_assignment_that_goes_well_asks_for_one_thing_after_the_other() -> None:
    state, asked = AssignmentState(), list(commands_of(AssignmentState()))
    for kind in (EventKind.ELIGIBLE, EventKind.FETCHED, EventKind.TRAINED, EventKind.ACCEPTED):
        state, commands = step(state, Event(kind=kind))
        asked += commands
    assert state.stage is Stage.DONE
    assert asked == [Command.JUDGE, Command.FETCH_ADAPTER, Command.RUN_TRAINER, Command.SEND_ANSWER]


def test_a_decline_keeps_its_reason_until_it_was_heard() -> None:
    unable = Event(kind=EventKind.UNABLE, reason=Reason.NOTES_TOO_FEW, detail="expected 1, got 0")
    declining, commands = step(AssignmentState(stage=Stage.TRAINING), unable)
    declined, nothing = step(declining, Event(kind=EventKind.DECLINE_HEARD))
    assert commands == (Command.SEND_DECLINE,)
    assert nothing == ()
    assert declined == AssignmentState(stage=Stage.DECLINED, reason=Reason.NOTES_TOO_FEW, detail="expected 1, got 0")


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage.is_open])
def test_an_open_stage_names_one_command(stage: Stage) -> None:
    assert len(commands_of(AssignmentState(stage=stage))) == 1


@pytest.mark.parametrize("stage", ENDED)
def test_nothing_happens_after_the_end(stage: Stage) -> None:
    assert commands_of(AssignmentState(stage=stage)) == ()
    assert not any(can_happen(AssignmentState(stage=stage), kind) for kind in EventKind)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage.is_open])
def test_every_open_stage_has_a_way_to_an_end(stage: Stage) -> None:
    reached = {stage}
    for _ in Stage:
        reached |= {
            step(AssignmentState(stage=each, reason=Reason.INTERNAL), _event(kind))[0].stage
            for each in reached
            for kind in EventKind
            if can_happen(AssignmentState(stage=each), kind)
        }
    assert reached & set(ENDED)


@pytest.mark.parametrize("stage", [Stage.UPLOADING, Stage.DECLINING])
def test_an_answer_under_way_is_not_cancelled(stage: Stage) -> None:
    assert not can_happen(AssignmentState(stage=stage), EventKind.CANCELLED)


@pytest.mark.parametrize("stage", [Stage.RECEIVED, Stage.DOWNLOADING, Stage.TRAINING])
def test_work_is_cancelled_with_the_coordinators_reason(stage: Stage) -> None:
    cancelled, _ = step(
        AssignmentState(stage=stage), Event(kind=EventKind.CANCELLED, reason=Reason.ABORTED_BY_OPERATOR)
    )
    assert cancelled == AssignmentState(stage=Stage.CANCELLED, reason=Reason.ABORTED_BY_OPERATOR)


def test_an_event_out_of_turn_is_a_fault() -> None:
    with pytest.raises(ValueError, match="assignment received: expected one of its events, got trained"):
        step(AssignmentState(), Event(kind=EventKind.TRAINED))


def test_an_event_that_needs_a_reason_has_one() -> None:
    with pytest.raises(ValueError, match="expected a reason exactly for"):
        Event(kind=EventKind.REFUSED)


def test_an_event_that_goes_well_has_no_reason() -> None:
    with pytest.raises(ValueError, match="expected a reason exactly for"):
        Event(kind=EventKind.ACCEPTED, reason=Reason.INTERNAL)


def _event(kind: EventKind) -> Event:
    needs_reason = kind in {EventKind.UNABLE, EventKind.REFUSED, EventKind.CANCELLED}
    return Event(kind=kind, reason=Reason.INTERNAL if needs_reason else None)
