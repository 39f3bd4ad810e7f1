"""Keeps one poll open all the time, and carries out what it brings. It decides nothing about an assignment's content.

The poll is the agent's presence; it goes on while an assignment is worked on, and is how a CANCEL arrives. It tells,
too, why an assignment is held and not begun yet, and is asked anew when that changes. A coordinator that is away is
waited for: it is logged once that it went, and once that it is back.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from common.errors import FedMedError, Reason
from common.ids import AssignmentId
from common.logging import get_logger
from site_agent.app.parts import Parts
from site_agent.app.perform_assignment import perform_assignment
from site_agent.app.ports import Entry, Unreadable
from site_agent.app.presence import Presence
from site_agent.app.story import log_of
from site_agent.domain.assignment import Assignment, Cancel
from site_agent.domain.assignment_machine import AssignmentState, Event, EventKind, Stage, can_happen, step

# After an answer that calls for nothing: long enough not to spin, short enough not to be missed.
PAUSE_SECONDS = 1.0

Answer = Assignment | Unreadable | Cancel | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The assignment at hand, and the task that carries it out."""

    assignment_id: AssignmentId
    task: asyncio.Task[None]


class AgentLoop:
    """One agent: at most one assignment at a time, in the journal before it is begun."""

    def __init__(self, parts: Parts, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._parts = parts
        self._pause_seconds = pause_seconds
        self._presence = Presence(parts.patience, parts.observer)
        self._backlog = parts.journal.open_entries()
        self._work: _Work | None = None
        self._held_for: Reason | None = None
        self._open_poll: asyncio.Task[Answer | FedMedError] | None = None

    async def run(self) -> None:
        """Serve until cancelled. The trainer is then stopped, and the journal says where to go on."""
        async with asyncio.TaskGroup() as group:
            while True:
                if self._work is not None and self._work.task.done():
                    self._work = None
                if self._work is None and self._backlog:
                    self._resume(self._backlog.pop(0), group)
                match await self._poll(group):
                    case Assignment() as assignment:
                        await self._take(assignment, group)
                    case Cancel() as cancel:
                        await self._cancel(cancel)
                    case Unreadable() as unreadable:
                        await self._decline_unreadable(unreadable)
                    case None:
                        pass

    async def _poll(self, group: asyncio.TaskGroup) -> Answer:
        """The coordinator's answer; None too when it is away, after a wait, or there is something else to say or do."""
        poll = self._open_poll = group.create_task(self._ask())
        await asyncio.wait({poll, *self._tasks()}, return_when=asyncio.FIRST_COMPLETED)
        self._open_poll = None
        if not poll.done():
            poll.cancel()
        if not poll.done() or poll.cancelled():
            return None
        answer = poll.result()
        if isinstance(answer, FedMedError):
            await self._presence.wait(answer)
            return None
        self._presence.note()
        return answer

    async def _ask(self) -> Answer | FedMedError:
        current = None if self._work is None else self._work.assignment_id
        try:
            return await self._parts.coordinator.await_assignment(current, self._held_for)
        except FedMedError as error:
            return error

    async def _take(self, assignment: Assignment, group: asyncio.TaskGroup) -> None:
        """Begin ``assignment``, unless it is known (it ended here) or another is at hand (it will be offered again)."""
        if self._work is not None or self._parts.journal.find(assignment.assignment_id) is not None:
            log_of(assignment).debug("assignment_repeated")
            await self._pause()
            return
        entry = Entry(assignment=assignment, state=AssignmentState())
        log_of(assignment).info("assignment_received", terms_digest=assignment.terms.digest)
        self._parts.record(entry)
        self._begin(entry, group)

    def _resume(self, entry: Entry, group: asyncio.TaskGroup) -> None:
        log_of(entry.assignment).info("assignment_resumed", stage=str(entry.state.stage))
        self._begin(entry, group)

    def _begin(self, entry: Entry, group: asyncio.TaskGroup) -> None:
        self._held_for = None
        task = group.create_task(perform_assignment(entry, self._parts, self._hold))
        self._work = _Work(assignment_id=entry.assignment.assignment_id, task=task)

    def _hold(self, reason: Reason | None) -> None:
        """Let the next poll tell why the work at hand is held; the open one told something else."""
        if reason is not self._held_for:
            self._held_for = reason
            if self._open_poll is not None:
                self._open_poll.cancel()

    async def _cancel(self, cancel: Cancel) -> None:
        """Stop the work at hand, if it is the one meant and its answer is not under way."""
        entry = self._parts.journal.find(cancel.assignment_id)
        is_at_hand = self._work is not None and self._work.assignment_id == cancel.assignment_id
        if entry is None or not is_at_hand or self._end_by(cancel, entry) is None:
            await self._pause()
            return
        await self._stop_work()
        entry = self._parts.journal.find(cancel.assignment_id) or entry  # it may have moved on in the meantime
        end = self._end_by(cancel, entry)
        if end is not None:
            state, _ = step(entry.state, end)
            self._parts.record(dataclasses.replace(entry, state=state))
        elif entry.state.stage.is_open:
            self._backlog.append(entry)

    def _end_by(self, cancel: Cancel, entry: Entry) -> Event | None:
        """What ``cancel`` means for ``entry``.

        An answer that is held is not wanted, or was taken and its acceptance lost; one under way is not cancelled.
        """
        if can_happen(entry.state, EventKind.CANCELLED):
            return Event(kind=EventKind.CANCELLED, reason=cancel.reason)
        if entry.state.stage is Stage.UPLOADING and self._held_for is not None:
            if cancel.reason is Reason.ALREADY_ANSWERED:  # it was held after it had been given, and its answer was lost
                return Event(kind=EventKind.ACCEPTED)
            return Event(kind=EventKind.REFUSED, reason=cancel.reason)
        return None

    async def _stop_work(self) -> None:
        for task in self._tasks():
            task.cancel()
            await asyncio.wait({task})
        self._work = None

    async def _decline_unreadable(self, unreadable: Unreadable) -> None:
        """Say no to what a newer agent may know, instead of being waited for."""
        field = unreadable.detail.partition(":")[0]
        get_logger("site_agent").warning(
            "assignment_unreadable", assignment_id=unreadable.assignment_id, location=field
        )
        try:
            await self._parts.coordinator.decline(unreadable.assignment_id, Reason.SETTINGS_UNSUPPORTED)
        except FedMedError:  # it will be offered again, and declined then
            await self._pause()

    async def _pause(self) -> None:
        """Wait a moment, or for the end of the work at hand."""
        if self._work is None:
            await self._parts.patience.sleep(self._pause_seconds)
        else:
            await asyncio.wait(self._tasks(), timeout=self._pause_seconds)

    def _tasks(self) -> set[asyncio.Task[None]]:
        return set() if self._work is None else {self._work.task}
