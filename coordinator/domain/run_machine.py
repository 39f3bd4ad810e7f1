"""The run as a value: first adapter, then round after round. ``step(run, event) -> (run, commands)``, without I/O.

::

    INITIALISING -> RUNNING -> COMPLETED
         |             |
         +-------------+-> FAILED(reason) | ABORTED
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from common.errors import Reason
from common.ids import RunId
from common.terms import OnRejection, Terms
from coordinator.domain import events as ev
from coordinator.domain import round_machine
from coordinator.domain.cohort import initialise_assignment_id
from coordinator.domain.commands import Command
from coordinator.domain.round_machine import RoundContext
from coordinator.domain.values import (
    AdapterFile,
    Deadline,
    DeadlineName,
    Phase,
    Round,
    Run,
    RunState,
    Served,
)

Step = tuple[Run, tuple[Command, ...]]


def create_run(run_id: RunId, terms: Terms, at: datetime) -> Run:
    """A new run, waiting for an evaluator to make the first adapter."""
    deadline = Deadline(name=DeadlineName.EVALUATE, at=at + timedelta(seconds=terms.rounds.evaluate_deadline))
    return Run(run_id=run_id, terms=terms, state=RunState.INITIALISING, created_at=at, deadlines=(deadline,))


def step(run: Run, event: ev.RunEvent) -> Step:
    """Move the run by one event; a run that has ended never moves."""
    match run.state:
        case RunState.INITIALISING:
            return _initialising(run, event)
        case RunState.RUNNING:
            return _running(run, event)
    return run, ()


def _initialising(run: Run, event: ev.RunEvent) -> Step:
    match event:
        case ev.FirstAdapterReceived():
            ready = replace(
                run,
                state=RunState.RUNNING,
                spec=event.spec,
                first_adapter=event.adapter,
                deadlines=(),
            )
            return _open_next(ready, event.adapter, event.at), ()
        case ev.AssignmentDeclined(by=evaluator):
            if event.assignment_id != initialise_assignment_id(run.run_id, evaluator):
                return run, ()
            if evaluator in run.declined_evaluators:
                return run, ()
            return replace(run, declined_evaluators=(*run.declined_evaluators, evaluator)), ()
        case ev.DeadlinePassed(name=DeadlineName.EVALUATE):
            return _end(run, RunState.FAILED, event.at, Reason.EVALUATOR_ABSENT), ()
        case ev.AbortRequested():
            return _end(run, RunState.ABORTED, event.at, Reason.ABORTED_BY_OPERATOR), ()
    return run, ()


def _running(run: Run, event: ev.RunEvent) -> Step:
    current = run.current
    if current is None or isinstance(event, ev.FirstAdapterReceived):
        return run, ()
    moved, commands = round_machine.step(_context(run), current, event)
    run = replace(run, rounds=(*run.rounds[:-1], moved))
    if moved.phase.is_open:
        return run, commands
    return _after_round(run, moved, event.at), commands


def _after_round(run: Run, closed: Round, at: datetime) -> Run:
    """A round has ended: end the run with it, or begin the next round."""
    match closed.phase:
        case Phase.FAILED:
            return _end(run, RunState.FAILED, at, closed.reason)
        case Phase.ABORTED:
            return _end(run, RunState.ABORTED, at, closed.reason)
        case Phase.COMMITTED:
            assert closed.candidate is not None, "a committed round has a candidate"
            served = Served(adapter=closed.candidate, version=closed.number, scores=closed.scores)
            run = replace(run, served=served)
    if closed.number >= run.terms.rounds.count:
        return _end(run, RunState.COMPLETED, at, None)
    return _open_next(run, _next_start(run, closed), at)


def _next_start(run: Run, closed: Round) -> AdapterFile:
    """The global adapter after ``closed``: its candidate, unless it was rejected and the terms say to revert."""
    assert closed.candidate is not None and run.first_adapter is not None
    if closed.phase is Phase.REJECTED and run.terms.gate.on_rejection is OnRejection.REVERT:
        return run.first_adapter if run.served is None else run.served.adapter
    return closed.candidate


def _open_next(run: Run, start: AdapterFile, at: datetime) -> Run:
    opened = round_machine.open_round(len(run.rounds) + 1, start, at)
    return replace(run, rounds=(*run.rounds, opened))


def _end(run: Run, state: RunState, at: datetime, reason: Reason | None) -> Run:
    return replace(run, state=state, ended_at=at, reason=reason, deadlines=())


def _context(run: Run) -> RoundContext:
    return RoundContext(
        run_id=run.run_id,
        terms=run.terms,
        served_scores=None if run.served is None else run.served.scores,
    )
