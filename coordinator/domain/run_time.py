"""The time that a run has: what does not count, what an operator adds, and when it stands still. No clock.

Deadlines are instants of the coordinator's time of day. When that moves on without counting (`TimeLost`), they move on
with it; while a run is paused they stand still.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from coordinator.domain import events as ev
from coordinator.domain.values import Deadline, Run

Move = Callable[[datetime], datetime]


def step_time(run: Run, event: ev.TimeEvent) -> Run:
    """The run after ``event``; one that has ended has no time left to move."""
    if not run.state.is_open:
        return run
    match event:
        case ev.TimeLost(lost=lost):
            return _lose(run, lost)
        case ev.PauseRequested(at=at):
            return run if run.is_paused else replace(run, paused_at=at)
        case ev.ResumeRequested(at=at):
            return replace(settled(run, at), paused_at=None)
        case ev.ExtensionRequested(at=at, not_before=not_before):
            return _with_deadlines(settled(run, at), lambda deadline: max(deadline, not_before))


def settled(run: Run, at: datetime) -> Run:
    """The run with its pause so far added to its deadlines, and counted anew from ``at``.

    So a deadline that is set or extended during a pause is not moved by what had passed of it before.
    """
    if run.paused_at is None:
        return run
    until = max(at, run.paused_at)  # events may be stepped in another order than they were made in
    held = until - run.paused_at
    return replace(_with_deadlines(run, lambda deadline: deadline + held), paused_at=until)


def is_due(run: Run, event: ev.DeadlinePassed) -> bool:
    """Whether that deadline has come by the time of the event: it may have been moved since the event was made."""
    return any(deadline.name is event.name and deadline.at <= event.at for deadline in run.open_deadlines)


def _lose(run: Run, lost: timedelta) -> Run:
    """The beginning of a pause moves too: what is lost in it must not count a second time when it ends."""
    moved = _with_deadlines(run, lambda deadline: deadline + lost)
    return moved if moved.paused_at is None else replace(moved, paused_at=moved.paused_at + lost)


def _with_deadlines(run: Run, move: Move) -> Run:
    """Every open deadline moved."""
    if run.current is None:
        return replace(run, deadlines=_moved(run.deadlines, move))
    current = replace(run.current, deadlines=_moved(run.current.deadlines, move))
    return replace(run, rounds=(*run.rounds[:-1], current))


def _moved(deadlines: tuple[Deadline, ...], move: Move) -> tuple[Deadline, ...]:
    return tuple(replace(deadline, at=move(deadline.at)) for deadline in deadlines)
