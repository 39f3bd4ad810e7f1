"""Who waits at its site, why, and since when: what an operator is shown of agents that may not go on now."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

from rich.console import Console

from common.errors import Reason
from common.ids import SiteName
from coordinator.adapters.metrics import CoordinatorMetrics, Snapshot
from coordinator.adapters.rpc.reports import run_report
from coordinator.cli_runs import _page
from coordinator.domain import events as ev
from coordinator.domain import run_machine
from coordinator.domain.cohort import evaluate_assignment_id, initialise_assignment_id, score_assignment_id
from coordinator.domain.holds import standing_holds
from coordinator.domain.values import DeadlineName, Phase, Run, RunState, SiteOutcome
from tests.fakes.coordinator_rounds import in_phase, taken
from tests.fakes.coordinator_values import ANNA, CLARA, RUN_ID, at, make_spec, make_terms

EVA = SiteName("eva")
HOURS, APPROVAL = Reason.POLICY_HOURS, Reason.APPROVAL_AWAITED


def run_in(phase: Phase) -> Run:
    """A run whose first round stands there."""
    current = in_phase(phase)
    begun = run_machine.create_run(RUN_ID, make_terms(), at(0))
    return replace(
        begun,
        state=RunState.RUNNING,
        deadlines=(),
        spec=make_spec(),
        first_adapter=current.global_adapter,
        rounds=(current,),
    )


def moved(run: Run, *said: ev.RunEvent) -> Run:
    for event in said:
        run, _ = run_machine.step(run, event)
    return run


def waits(run: Run) -> list[tuple[SiteName, Reason, float]]:
    """Who waits, why, and since which second."""
    return [(hold.agent, hold.reason, (hold.since - at(0)).total_seconds()) for hold, _ in standing_holds(run)]


def site_holds(run: Run, site: SiteName, seconds: float, reason: Reason = APPROVAL) -> ev.AssignmentHeld:
    entry = next(each for each in run.rounds[-1].roster if each.site == site)
    return ev.AssignmentHeld(at=at(seconds), assignment_id=entry.assignment_id, by=site, reason=reason)


def page(run: Run) -> str:
    said = io.StringIO()
    Console(file=said, width=120).print(_page(run_report(run, {}, lambda _: None, at(100))))
    return said.getvalue()


def test_a_site_that_waits_is_shown_with_since_when_however_often_it_says_so() -> None:
    run = run_in(Phase.TRAINING)
    waiting = moved(run, site_holds(run, CLARA, 5), site_holds(run, ANNA, 7), site_holds(run, CLARA, 30))
    assert waits(waiting) == [(ANNA, APPROVAL, 7), (CLARA, APPROVAL, 5)]
    assert f"site {CLARA} waits: APPROVAL_AWAITED since {at(5):%Y-%m-%d %H:%M:%S} UTC" in page(waiting)


def test_a_hold_for_another_reason_begins_anew() -> None:
    run = run_in(Phase.TRAINING)
    waiting = moved(run, site_holds(run, ANNA, 5), site_holds(run, ANNA, 9, HOURS))
    assert waits(waiting) == [(ANNA, HOURS, 9)]


def test_nobody_waits_any_more_who_has_begun() -> None:
    run = run_in(Phase.TRAINING)
    assert moved(run, site_holds(run, ANNA, 5), taken(ANNA)).holds == ()


def test_an_evaluator_that_waits_to_make_the_first_adapter_is_shown() -> None:
    run = run_machine.create_run(RUN_ID, make_terms(), at(0))
    held = ev.AssignmentHeld(at=at(3), assignment_id=initialise_assignment_id(RUN_ID, EVA), by=EVA, reason=APPROVAL)
    waiting = moved(run, held)
    assert waits(waiting) == [(EVA, APPROVAL, 3)]
    assert f"evaluator {EVA} waits: APPROVAL_AWAITED since {at(3):%Y-%m-%d %H:%M:%S} UTC" in page(waiting)


def test_an_evaluator_that_waits_to_score_is_shown_until_its_assignment_is_over() -> None:
    run = run_in(Phase.EVALUATING)
    held = ev.AssignmentHeld(at=at(30), assignment_id=evaluate_assignment_id(RUN_ID, 1, EVA), by=EVA, reason=APPROVAL)
    waiting = moved(run, held)
    assert waits(waiting) == [(EVA, APPROVAL, 30)]
    late = replace(waiting, rounds=(replace(waiting.rounds[0], phase=Phase.COMMITTED),))
    assert waits(late) == []


def test_an_evaluator_that_waits_to_score_an_update_is_shown() -> None:
    run = run_in(Phase.SCORING)
    wanted = min(score_assignment_id(RUN_ID, 1, EVA, entry.site) for entry in run.rounds[0].unscored)
    waiting = moved(run, ev.AssignmentHeld(at=at(30), assignment_id=wanted, by=EVA, reason=APPROVAL))
    assert waits(waiting) == [(EVA, APPROVAL, 30)]


def test_a_site_whose_hours_end_while_it_trains_keeps_its_place_until_the_deadline_and_no_longer() -> None:
    run = run_in(Phase.TRAINING)
    deadline = run.rounds[0].deadlines[0]
    stopped = moved(run, taken(ANNA), site_holds(run, ANNA, 60, HOURS))
    assert stopped.rounds[0].deadlines == run.rounds[0].deadlines, "it is given no time by it"
    assert stopped.rounds[0].roster[0].outcome is SiteOutcome.INVITED
    late = moved(stopped, ev.DeadlinePassed(at=deadline.at + timedelta(seconds=1), name=DeadlineName.TRAIN))
    entry = late.rounds[0].roster[0]
    assert (entry.outcome, entry.reason) == (SiteOutcome.STRAGGLER, HOURS)
    assert waits(late) == []


def test_a_hold_is_a_gauge_for_as_long_as_it_lasts() -> None:
    run = run_in(Phase.TRAINING)
    shown = [moved(run, site_holds(run, ANNA, 5))]
    metrics = CoordinatorMetrics()
    metrics.show(lambda: Snapshot(runs=tuple(shown), presence=(), certificate_expires_at=0.0))
    labels = {"run": run.terms.name, "site": ANNA, "reason": "APPROVAL_AWAITED"}
    name = "fedmed_held_since_timestamp_seconds"
    assert metrics.registry.get_sample_value(name, labels) == at(5).timestamp()
    shown[0] = moved(shown[0], taken(ANNA))
    assert metrics.registry.get_sample_value(name, labels) is None
