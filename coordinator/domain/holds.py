"""Agents that have their assignment and may not go on with it now: why, and since when. It hands out nothing."""

from __future__ import annotations

from dataclasses import replace

from common.ids import SiteName
from coordinator.domain import assignments
from coordinator.domain import events as ev
from coordinator.domain.assignments import Assignment
from coordinator.domain.values import Hold, Run


def with_holds(run: Run, event: ev.RunEvent) -> Run:
    """``run`` with what ``event`` says of holds; said again for the same reason, a hold is as old as it was."""
    match event:
        case ev.AssignmentHeld():
            held = Hold(agent=event.by, assignment_id=event.assignment_id, reason=event.reason, since=event.at)
            if any(replace(held, since=each.since) == each for each in run.holds):
                return run
            return replace(run, holds=(*(each for each in run.holds if each.agent != event.by), held))
        case ev.AssignmentTaken() | ev.AssignmentDeclined() | ev.AnswerRefused() | ev.UpdateAccepted():
            left = tuple(each for each in run.holds if each.assignment_id != event.assignment_id)
            return run if left == run.holds else replace(run, holds=left)
    return run


def standing_holds(run: Run) -> tuple[tuple[Hold, Assignment], ...]:
    """Holds of assignments whose answer is still awaited, sorted by agent."""
    pairs = [(hold, _assignment(run, hold.agent)) for hold in sorted(run.holds, key=lambda each: each.agent)]
    return tuple((hold, held) for hold, held in pairs if held and held.assignment_id == hold.assignment_id)


def _assignment(run: Run, agent: SiteName) -> Assignment | None:
    return assignments.for_site(run, agent) or assignments.for_evaluator(run, agent)
