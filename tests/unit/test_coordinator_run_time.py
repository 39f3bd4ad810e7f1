"""Pause, resume, extension, and time that does not count, as steps of a run. Pure values."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordinator.domain import events as ev
from coordinator.domain.values import DeadlineName, Phase, Run, RunState, SiteOutcome
from tests.fakes.coordinator_values import (
    ANNA,
    SITES,
    accepted,
    after,
    at,
    candidate_ready,
    everyone_present,
    new_run,
    published,
    selecting_run,
    training_run,
)


def paused(run: Run, seconds: float = 10) -> Run:
    return after(run, ev.PauseRequested(at=at(seconds)))


def deadline_seconds(run: Run) -> list[float]:
    """Of what the run waits for."""
    return [(deadline.at - at(0)).total_seconds() for deadline in run.open_deadlines]


def seconds_left(run: Run, seconds: float) -> dict[DeadlineName, float]:
    """Until each deadline of the run, at that time of the test."""
    return {deadline.name: (deadline.at - at(seconds)).total_seconds() for deadline in run.open_deadlines}


def test_a_paused_round_does_not_begin() -> None:
    run = after(paused(selecting_run()), everyone_present(20))
    assert run.current is not None
    assert run.current.phase is Phase.SELECTING


def test_a_resumed_round_begins() -> None:
    run = after(paused(selecting_run()), ev.ResumeRequested(at=at(20)), everyone_present(30))
    assert run.current is not None
    assert run.current.phase is Phase.TRAINING


def test_a_paused_run_waits_for_no_deadline_and_moves_at_none() -> None:
    run = paused(training_run())
    assert run.open_deadlines == ()
    assert after(run, ev.DeadlinePassed(at=at(99_999), name=DeadlineName.TRAIN)) == run


def test_deadlines_move_on_by_the_time_of_the_pause() -> None:
    running = training_run()
    resumed = after(paused(running, 10), ev.ResumeRequested(at=at(70)))
    assert deadline_seconds(resumed) == [seconds + 60 for seconds in deadline_seconds(running)]


def test_time_lost_in_a_pause_does_not_count_twice() -> None:
    running = training_run()
    lost = ev.TimeLost(at=at(3700), lost=timedelta(seconds=3600))
    resumed = after(paused(running, 10), lost, ev.ResumeRequested(at=at(3710)))
    assert deadline_seconds(resumed) == [seconds + 3700 for seconds in deadline_seconds(running)]


def test_a_clock_set_back_before_the_pause_began_takes_no_time_from_the_run() -> None:
    running = training_run()
    resumed = after(paused(running, 100), ev.ResumeRequested(at=at(50)))
    assert deadline_seconds(resumed) == deadline_seconds(running)


def test_a_deadline_that_begins_in_a_pause_gets_its_own_time_and_no_more() -> None:
    run = after(paused(training_run(), 10), accepted(SITES[0], seconds=500), accepted(SITES[1], seconds=500))
    resumed = after(run, ev.ResumeRequested(at=at(600)))
    assert seconds_left(resumed, 600) == {DeadlineName.TRAIN: 990, DeadlineName.GRACE: 100}


def test_an_evaluation_that_begins_in_a_pause_gets_its_own_time_and_no_more() -> None:
    run = after(paused(training_run(), 10), *(accepted(site, seconds=500) for site in SITES))
    run = after(run, candidate_ready(run, seconds=550), ev.ResumeRequested(at=at(600)))
    assert seconds_left(run, 600) == {DeadlineName.EVALUATE: 10_000}


def test_an_extension_in_a_pause_gives_that_time_and_no_more() -> None:
    extended = after(paused(training_run(), 10), ev.ExtensionRequested(at=at(36_000), not_before=at(36_000 + 7200)))
    resumed = after(extended, ev.ResumeRequested(at=at(36_060)))
    assert seconds_left(resumed, 36_060) == {DeadlineName.TRAIN: 7200}


def test_a_deadline_that_was_moved_after_it_was_found_passed_does_not_pass() -> None:
    extended = after(training_run(), ev.ExtensionRequested(at=at(1001), not_before=at(9000)))
    assert after(extended, ev.DeadlinePassed(at=at(1001), name=DeadlineName.TRAIN)) == extended


def test_an_event_that_means_nothing_changes_nothing_of_a_pause() -> None:
    run = paused(training_run(), 10)
    assert after(run, published(seconds=500)) == run
    assert after(run, accepted(SITES[0], round_number=2, seconds=500)) == run


def test_events_in_another_order_than_they_were_made_in_count_no_pause_twice() -> None:
    run = after(paused(training_run(), 10), ev.ExtensionRequested(at=at(36), not_before=at(37)))
    run = after(run, accepted(SITES[0], seconds=30), ev.ResumeRequested(at=at(40)))
    assert seconds_left(run, 40) == {DeadlineName.TRAIN: 990}


def test_an_answer_that_comes_in_a_pause_is_taken() -> None:
    run = after(paused(training_run()), accepted(ANNA))
    assert run.rounds[0].roster[0].outcome is SiteOutcome.ACCEPTED


def test_a_round_that_is_complete_in_a_pause_is_combined() -> None:
    run = after(paused(training_run()), *(accepted(site) for site in SITES))
    assert run.rounds[0].phase is Phase.AGGREGATING


def test_pausing_and_resuming_twice_is_once() -> None:
    run = paused(training_run(), 10)
    assert paused(run, 20) == run
    resumed = after(run, ev.ResumeRequested(at=at(70)))
    assert after(resumed, ev.ResumeRequested(at=at(90))) == resumed


def test_a_paused_run_can_be_aborted_and_is_then_not_paused() -> None:
    run = after(paused(training_run()), ev.AbortRequested(at=at(20)))
    assert (run.state, run.is_paused) == (RunState.ABORTED, False)


def test_an_extension_moves_what_would_come_earlier_and_nothing_else() -> None:
    run = after(training_run(), accepted(SITES[0]), accepted(SITES[1]))
    before = {deadline.name: deadline.at for deadline in run.open_deadlines}
    extended = after(run, ev.ExtensionRequested(at=at(20), not_before=at(500)))
    later = {deadline.name: deadline.at for deadline in extended.open_deadlines}
    assert before[DeadlineName.GRACE] < at(500) < before[DeadlineName.TRAIN]
    assert later == {DeadlineName.GRACE: at(500), DeadlineName.TRAIN: before[DeadlineName.TRAIN]}


def test_a_first_adapter_may_be_given_more_time() -> None:
    run = after(new_run(), ev.ExtensionRequested(at=at(0), not_before=at(50_000)))
    assert deadline_seconds(run) == [50_000]


@pytest.mark.parametrize(
    "event",
    [
        ev.PauseRequested(at=at(50)),
        ev.ResumeRequested(at=at(50)),
        ev.ExtensionRequested(at=at(50), not_before=at(5000)),
        ev.TimeLost(at=at(50), lost=timedelta(seconds=60)),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_run_that_has_ended_has_no_time(event: ev.TimeEvent) -> None:
    ended = after(training_run(), ev.AbortRequested(at=at(20)))
    assert after(ended, event) == ended
