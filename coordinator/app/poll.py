"""The long poll: what an agent should do now, as soon as there is something. It is presence and heartbeat too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from common.clock import Clock
from common.errors import FedMedError, Reason
from common.ids import AssignmentId
from common.tls import Caller, Role
from coordinator.app.ports import RunStore
from coordinator.app.presence import Presence
from coordinator.app.round_driver import RoundDriver
from coordinator.app.standings import Standings
from coordinator.domain import assignments
from coordinator.domain import events as ev
from coordinator.domain.admission import explain_dead_assignment
from coordinator.domain.assignments import Assignment
from coordinator.domain.values import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The agent's current assignment is no longer wanted."""

    assignment_id: AssignmentId
    reason: Reason


def assignments_of(runs: Iterable[Run], caller: Caller) -> Iterator[Assignment]:
    """The caller's assignment in each run that has one for it, oldest run first; in a paused one, too."""
    find = assignments.for_evaluator if caller.role is Role.EVALUATOR else assignments.for_site
    return filter(None, (find(run, caller.name) for run in runs))


def live_assignment(runs: tuple[Run, ...], caller: Caller) -> Assignment | None:
    """The caller's assignment in the oldest run that has one for it; a paused run hands none out."""
    return next(assignments_of((run for run in runs if not run.is_paused), caller), None)


def find_assignment(runs: tuple[Run, ...], caller: Caller, wanted: AssignmentId) -> Assignment | None:
    """The caller's live assignment of that id, in whichever run it is."""
    return next((each for each in assignments_of(runs, caller) if each.assignment_id == wanted), None)


class Poll:
    """Answers ``AwaitAssignment``."""

    def __init__(
        self,
        driver: RoundDriver,
        presence: Presence,
        store: RunStore,
        standings: Standings,
        clock: Clock,
        hold_seconds: float,
    ) -> None:
        self._driver = driver
        self._presence = presence
        self._store = store
        self._standings = standings
        self._clock = clock
        self._hold_seconds = hold_seconds

    async def wait(
        self, caller: Caller, current: AssignmentId | None, max_lora_rank: int = 0, held_for: Reason | None = None
    ) -> Assignment | Cancelled | None:
        """The next thing for ``caller`` to do; None when ``hold_seconds`` passed without one.

        ``current`` is what the agent works on: it is marked as taken, and only its end is an answer. With ``held_for``
        it may not go on with it now, and why is noted instead. ``max_lora_rank`` is the largest rank at which it
        trains; 0: any.
        """
        self._standings.note_heard(caller)
        was_absent = self._presence.enter(caller.name, max_lora_rank)
        try:
            await self._store.remember_site(caller.name, caller.role, self._clock.now())
            if was_absent:
                await self._driver.observe_presence()
            if current is not None:
                await self._mark(caller, current, held_for)
            return await self._answer_within_hold(caller, current)
        finally:
            self._presence.leave(caller.name)

    async def _mark(self, caller: Caller, current: AssignmentId, held_for: Reason | None) -> None:
        assignment = find_assignment(self._driver.runs, caller, current)
        if assignment is None:
            return
        at = self._clock.now()
        said: ev.RunEvent = ev.AssignmentTaken(at=at, assignment_id=current)
        if held_for is not None:
            said = ev.AssignmentHeld(at=at, assignment_id=current, by=caller.name, reason=held_for)
        await self._driver.post(assignment.run.run_id, said, caller)

    async def _answer_within_hold(self, caller: Caller, current: AssignmentId | None) -> Assignment | Cancelled | None:
        ends_at = self._clock.monotonic() + self._hold_seconds
        while not self._driver.is_stopping and (remaining := ends_at - self._clock.monotonic()) > 0:
            runs = self._driver.runs
            if current is None:
                assignment = live_assignment(runs, caller)
                if assignment is not None:
                    return assignment
            elif find_assignment(runs, caller, current) is None:
                return Cancelled(assignment_id=current, reason=_why_gone(runs, caller, current))
            await self._driver.wait_for_change(remaining)
        return None


def _why_gone(runs: tuple[Run, ...], caller: Caller, gone: AssignmentId) -> Reason:
    try:
        explain_dead_assignment(runs, caller.name, gone)
    except FedMedError as error:
        return error.reason
    return Reason.ROUND_CLOSED
