"""Moves runs: takes an event, steps the pure machine, stores the outcome, then acts. The one writer of every run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count

from common.clock import Clock
from common.errors import NotFoundError, NotNowError, Reason
from common.ids import RunId, SiteName
from common.retry import backoff
from common.tls import Caller, Role
from coordinator.app.counted_time import MARK_SECONDS, CountedTime, Reading
from coordinator.app.ports import RunObserver, RunStore, named
from coordinator.app.presence import Presence
from coordinator.domain import events as ev
from coordinator.domain import run_machine
from coordinator.domain.audit import COORDINATOR, Change, audit_of
from coordinator.domain.commands import Command
from coordinator.domain.values import Run

# A command that fails is tried again after so long, doubling.
RETRY_BASE_SECONDS = 1.0
RETRY_CAP_SECONDS = 60.0

PerformCommand = Callable[[Command], Awaitable[None]]


class RoundDriver:
    """Holds every run in memory as last stored; events of one run are stepped one at a time.

    Persist, then act: a step's run and commands are stored in one transaction, and only then is anyone told. A command
    that was stored and not completed is performed again after a restart.
    """

    def __init__(
        self, store: RunStore, presence: Presence, observer: RunObserver, clock: Clock, time: CountedTime
    ) -> None:
        self._store = store
        self._presence = presence
        self._observer = observer
        self._clock = clock
        self._time = time
        self._accounting = asyncio.Lock()
        self._runs: dict[RunId, Run] = {}
        self._writers: defaultdict[RunId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._adding = asyncio.Lock()
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._commands: asyncio.Queue[Command] = asyncio.Queue()

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs as last stored, oldest first."""
        return tuple(self._runs.values())

    def run_of(self, run_id: RunId) -> Run:
        """The run with that id; there is one, since it comes from a stored command or event."""
        return self._runs[run_id]

    def run_named(self, id_or_name: str) -> Run:
        """The run with that id, or else with that name (which may look like an id).

        Raises:
            NotFoundError: RUN_UNKNOWN.
        """
        named = {run.terms.name: run for run in self.runs}
        run = self._runs.get(RunId(id_or_name)) or named.get(id_or_name)
        if run is not None:
            return run
        raise NotFoundError(Reason.RUN_UNKNOWN, f"run: expected a run's id or name, got {id_or_name[:80]!r}")

    @property
    def is_stopping(self) -> bool:
        """Whether the process is about to end: whoever waits for a change should answer now."""
        return self._is_stopping

    def stop(self) -> None:
        """Let everyone who waits for a change go."""
        self._is_stopping = True
        self._announce()

    async def load(self) -> None:
        """Take up the stored runs and their pending commands; the time since the last life does not count."""
        for run in await self._store.load_runs():
            self._runs[run.run_id] = run
        counted_until = await self._store.counted_until()
        if counted_until is not None:
            self._time.resume_from(counted_until)
        await self._account_time()
        for command in await self._store.pending_commands():
            self._commands.put_nowait(command)

    async def add(self, run: Run, caller: Caller | None = None) -> Run:
        """Store a new run and begin to move it; when its terms have a run already, return that one.

        Raises:
            NotNowError: RUN_EXISTS, when the name is taken by other terms.
        """
        return await asyncio.shield(self._add(run, caller))

    async def post(self, run_id: RunId, event: ev.RunEvent, caller: Caller | None = None) -> Run:
        """Step one run by one event; returns the run as stored. ``caller``: whose call it is, for the audit log."""
        # Shielded: a caller that hangs up half-way must not part what is stored from what is held here.
        return await asyncio.shield(self._post(run_id, event, caller))

    async def _add(self, run: Run, caller: Caller | None) -> Run:
        await self.account_time()
        async with self._adding:
            for known in self.runs:
                if known.terms == run.terms:
                    return known
                if known.terms.name == run.terms.name:
                    raise NotNowError(
                        Reason.RUN_EXISTS,
                        f"run {run.terms.name}: expected terms {known.terms.digest}, got {run.terms.digest}",
                    )
            change = Change(before=None, after=run, event=None, at=run.created_at, caller=_named(caller))
            await self._store.save(None, run, (), audit_of(change))
            self._runs[run.run_id] = run
        self._observer.run_moved(None, run, None)
        self._announce()
        return run

    async def _post(self, run_id: RunId, event: ev.RunEvent, caller: Caller | None) -> Run:
        await self.account_time()
        async with self._writers[run_id]:
            before = self._runs[run_id]
            after, commands = run_machine.step(before, event)
            if after == before:
                return before
            change = Change(before=before, after=after, event=event, at=event.at, caller=_named(caller))
            await self._store.save(before, after, commands, audit_of(change))
            self._runs[run_id] = after
        for command in commands:
            self._commands.put_nowait(command)
        self._observer.run_moved(before, after, event)
        self._announce()
        return after

    async def account_time(self) -> None:
        """Move deadlines on by what did not count since the last time, and note until when time has counted."""
        if self._time.is_due:
            await asyncio.shield(self._account_time())  # as in `post`

    async def _account_time(self) -> None:
        """The mark is moved only when it is stored: what could not be stored is found lost again."""
        async with self._accounting:
            reading = self._time.read()
            if reading.lost:
                reading = await self._lose_time()
            else:
                await self._store.save_time_lost((), reading.now)
            self._time.mark(reading)

    async def _lose_time(self) -> Reading:
        """Move every run, in one transaction: a crash in between must not move some of them twice."""
        async with AsyncExitStack() as writers:
            run_ids = [run.run_id for run in self.runs]
            for run_id in run_ids:
                await writers.enter_async_context(self._writers[run_id])
            reading = self._time.read()  # no run moves from here on
            event = ev.TimeLost(at=reading.now, lost=reading.lost)
            moves = [(run, run_machine.step(run, event)[0]) for run in map(self.run_of, run_ids)]
            moved = [(before, after) for before, after in moves if after != before]
            await self._store.save_time_lost([after for _, after in moved], reading.now)
            self._runs |= {after.run_id: after for _, after in moved}
        for before, after in moved:
            self._observer.run_moved(before, after, event)
        self._announce()
        return reading

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Return when any run has moved, or after ``timeout_seconds``."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_seconds):
                await changed.wait()
        except TimeoutError:
            return

    async def observe_presence(self) -> None:
        """Tell every run that waits for sites, or has heard an evaluator's no, who is there now and who is known."""
        waiting = [run for run in self.runs if run.awaits_presence]
        if not waiting:
            return
        heard_of = await self._store.known_sites()
        known = [site for site in heard_of if not self._presence.is_out(site.name)]
        for run in waiting:
            named_in_terms = (SiteName(site) for site in run.terms.rounds.sites)
            observed = ev.PresenceObserved(
                at=self._clock.now(),
                present=self._presence.present(),
                enrolled=named(known, Role.SITE),
                evaluators=named(known, Role.EVALUATOR),
                max_lora_ranks=self._presence.max_lora_ranks,
                out=frozenset(filter(self._presence.is_out, named_in_terms)),
            )
            await self.post(run.run_id, observed)

    async def perform_commands(self, perform: PerformCommand) -> None:
        """Perform commands for ever, those of one run in order, runs beside each other."""
        async with asyncio.TaskGroup() as group:
            queues: dict[RunId, asyncio.Queue[Command]] = {}
            while True:
                command = await self._commands.get()
                if command.run_id not in queues:
                    queues[command.run_id] = asyncio.Queue()
                    group.create_task(self._perform_in_order(queues[command.run_id], perform))
                queues[command.run_id].put_nowait(command)

    async def _perform_in_order(self, queue: asyncio.Queue[Command], perform: PerformCommand) -> None:
        while True:
            command = await queue.get()
            await self._perform_until_done(command, perform)

    async def _perform_until_done(self, command: Command, perform: PerformCommand) -> None:
        """Try again for as long as it, or noting it as done, fails (a full disk, say): a command is a stored debt."""
        for attempt in count():
            try:
                await perform(command)
                return await self._store.complete(command)
            except Exception as error:
                self._observer.command_failed(command, error)
                await asyncio.sleep(backoff(attempt, RETRY_BASE_SECONDS, RETRY_CAP_SECONDS, jitter=1.0))

    async def watch(self) -> None:
        """For ever: turn passed deadlines into events, and tell newly opened rounds who is there."""
        attempt = 0
        while True:
            changed = self._changed
            try:
                await self.account_time()
                await self.fire_deadlines()
                await self.observe_presence()
                attempt = 0
            except Exception as error:  # a full disk, say: what was not stored is due again
                self._observer.watch_failed(error)
                # No longer than between two marks: time in which this fails is no time in which nobody ran.
                await asyncio.sleep(backoff(attempt, RETRY_BASE_SECONDS, MARK_SECONDS, jitter=1.0))
                attempt += 1
                continue
            if changed is self._changed:
                await self.wait_for_change(self._seconds_to_next_deadline())

    async def fire_deadlines(self) -> None:
        """Turn deadlines that have come into events."""
        failures = []
        for run in self.runs:
            now = self._clock.now()
            for deadline in (deadline for deadline in run.open_deadlines if deadline.at <= now):
                try:
                    await self.post(run.run_id, ev.DeadlinePassed(at=now, name=deadline.name))
                except Exception as error:  # one run's trouble is not another's
                    failures.append(error)
        if failures:
            raise failures[0]

    def _seconds_to_next_deadline(self) -> float:
        deadlines = [deadline.at for run in self.runs for deadline in run.open_deadlines]
        if not deadlines:
            return MARK_SECONDS
        return min(MARK_SECONDS, max(0.0, (min(deadlines) - self._clock.now()).total_seconds()))

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _named(caller: Caller | None) -> str:
    return COORDINATOR if caller is None else caller.uri
