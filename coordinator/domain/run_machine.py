"""The run as a value: first adapter, then round after round. ``step(run, event) -> (run, commands)``, without I/O.

::

    INITIALISING -> RUNNING -> COMPLETED
         |             |
         +-------------+-> FAILED(reason) | ABORTED

A round's version is served, and the last one ends the run, only when it is in the registry: the machine is told by
``Published``, which may come after the run has ended by itself or by an operator.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from common.errors import Reason
from common.ids import RunId, SiteName
from common.terms import OnRejection, Terms
from coordinator.domain import events as ev
from coordinator.domain import round_machine
from coordinator.domain.cohort import initialise_assignment_id
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.evaluators import is_nobody_left, with_no
from coordinator.domain.holds import with_holds
from coordinator.domain.round_machine import RoundContext
from coordinator.domain.run_time import is_due, settled, step_time
from coordinator.domain.values import (
    AdapterFile,
    Deadline,
    DeadlineName,
    Phase,
    RosterEntry,
    Round,
    Run,
    RunState,
    Scores,
    Served,
)

Step = tuple[Run, tuple[Command, ...]]


def create_run(run_id: RunId, terms: Terms, at: datetime) -> Run:
    """A new run, waiting for an evaluator to make the first adapter."""
    deadline = Deadline(name=DeadlineName.EVALUATE, at=at + timedelta(seconds=terms.rounds.evaluate_deadline))
    return Run(run_id=run_id, terms=terms, state=RunState.INITIALISING, created_at=at, deadlines=(deadline,))


def step(run: Run, event: ev.RunEvent) -> Step:
    """Move the run by one event; a run that has ended never moves, but for what it serves and what is kept of it."""
    match event:
        case ev.Published():
            return _published(run, event), ()
        case ev.UpdatesWithdrawn(site=site):
            return _withdrawn(run, site), ()
        case ev.TimeLost() | ev.PauseRequested() | ev.ResumeRequested() | ev.ExtensionRequested():
            return step_time(run, event), ()
        case ev.DeadlinePassed() if not is_due(run, event):
            return run, ()
        case ev.PresenceObserved() if run.is_paused:
            return run, ()
    before = settled(run, event.at)
    after, commands = _step(before, event)
    after = with_holds(after, event) if after.state.is_open else after
    return (run, ()) if after == before else (after, commands)


def _step(run: Run, event: ev.RoundEvent | ev.FirstAdapterReceived) -> Step:
    match run.state:
        case RunState.INITIALISING:
            return _initialising(run, event)
        case RunState.RUNNING:
            return _running(run, event)
    return run, ()


def _initialising(run: Run, event: ev.RoundEvent | ev.FirstAdapterReceived) -> Step:
    match event:
        case ev.FirstAdapterReceived():
            ready = replace(
                run,
                state=RunState.RUNNING,
                spec=event.spec,
                first_adapter=event.adapter,
                deadlines=(),
            )
            return _open_next(ready, event.adapter, event.at), _delete_beginnings(run)
        case ev.AssignmentDeclined(by=evaluator) | ev.AnswerRefused(by=evaluator):
            if event.assignment_id != initialise_assignment_id(run.run_id, evaluator):
                return run, ()
            return replace(run, evaluator_outcomes=with_no(run.evaluator_outcomes, event)), ()
        case ev.PresenceObserved(evaluators=known) if is_nobody_left(run.evaluator_outcomes, known):
            return _end(run, RunState.FAILED, event.at, Reason.NO_EVALUATOR_LEFT), _delete_beginnings(run)
        case ev.DeadlinePassed(name=DeadlineName.EVALUATE):
            return _end(run, RunState.FAILED, event.at, Reason.EVALUATOR_ABSENT), _delete_beginnings(run)
        case ev.AbortRequested():
            return _end(run, RunState.ABORTED, event.at, Reason.ABORTED_BY_OPERATOR), _delete_beginnings(run)
    return run, ()


def _delete_beginnings(run: Run) -> tuple[Command, ...]:
    """No first adapter is awaited any more: what arrived of others goes."""
    return (Command(kind=CommandKind.DELETE_UPDATES, run_id=run.run_id, round_number=0),)


def _running(run: Run, event: ev.RoundEvent | ev.FirstAdapterReceived) -> Step:
    current = run.current
    if isinstance(event, ev.FirstAdapterReceived):
        return run, ()
    if current is None:  # every round is closed, and the last version is being published
        if isinstance(event, ev.AbortRequested):
            return _end(run, RunState.ABORTED, event.at, Reason.ABORTED_BY_OPERATOR), ()
        return run, ()
    moved, commands = round_machine.step(_context(run), current, event)
    run = replace(run, rounds=(*run.rounds[:-1], moved))
    if moved.phase.is_open:
        return run, commands
    return _after_round(run, moved, event.at), commands


def _after_round(run: Run, closed: Round, at: datetime) -> Run:
    """A round has ended: end the run with it, begin the next round, or wait until the last version is published."""
    match closed.phase:
        case Phase.FAILED:
            return _end(run, RunState.FAILED, at, closed.reason)
        case Phase.ABORTED:
            return _end(run, RunState.ABORTED, at, closed.reason)
    if closed.number >= run.terms.rounds.count:
        return run
    return _open_next(run, next_start(run, closed), at)


def _published(run: Run, event: ev.Published) -> Run:
    closed = next((past for past in run.rounds if past.number == event.round_number), None)
    if closed is None or closed.phase not in (Phase.COMMITTED, Phase.REJECTED):
        return run
    served_version = 0 if run.served is None else run.served.version
    if closed.is_promoted and closed.number > served_version:
        assert closed.candidate is not None, "a committed round has a candidate"
        run = replace(run, served=Served(adapter=closed.candidate, version=closed.number))
    if run.state is RunState.RUNNING and closed.number >= run.terms.rounds.count:
        return _end(run, RunState.COMPLETED, event.at, None)
    return run


def _withdrawn(run: Run, site: SiteName) -> Run:
    """The run of which no update of that site is kept. A round that is being combined goes on with what it has.

    To combine it anew without the site would make another adapter from the same roster, and take nothing out of the
    versions before: what was combined stays in the adapters, and of the round under way it is combined already.
    """
    if not run.terms.rounds.keeps_updates:
        return run

    def marked(entry: RosterEntry) -> RosterEntry:
        is_its_own = entry.site == site and entry.update is not None
        return replace(entry, is_withdrawn=True) if is_its_own else entry

    return replace(run, rounds=tuple(replace(past, roster=tuple(map(marked, past.roster))) for past in run.rounds))


def next_start(run: Run, closed: Round) -> AdapterFile:
    """The global adapter after ``closed``: its candidate, unless it was rejected and the terms say to revert."""
    assert closed.candidate is not None and run.first_adapter is not None
    if closed.phase is Phase.REJECTED and run.terms.gate.on_rejection is OnRejection.REVERT:
        promoted = [past.candidate for past in _promoted(run) if past.candidate is not None]
        return promoted[-1] if promoted else run.first_adapter
    return closed.candidate


def _open_next(run: Run, start: AdapterFile, at: datetime) -> Run:
    opened = round_machine.open_round(len(run.rounds) + 1, start, at)
    return replace(run, rounds=(*run.rounds, opened))


def _end(run: Run, state: RunState, at: datetime, reason: Reason | None) -> Run:
    return replace(run, state=state, ended_at=at, reason=reason, deadlines=(), paused_at=None)


def _promoted(run: Run) -> tuple[Round, ...]:
    return tuple(past for past in run.rounds if past.is_promoted)


def _context(run: Run) -> RoundContext:
    scores: list[Scores] = [past.scores for past in _promoted(run) if past.scores is not None]
    return RoundContext(run_id=run.run_id, terms=run.terms, served_scores=scores[-1] if scores else None)
