"""Does what a step asked for: aggregate, publish, delete. Each may be done twice with the same outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from structlog.typing import FilteringBoundLogger

from common.clock import Clock
from common.errors import FedMedError, Reason
from common.ids import AssignmentId
from common.logging import log_fault
from common.tls import Role
from coordinator.app.aggregate_round import RoundFiles, aggregate
from coordinator.app.cut_parts import write_part
from coordinator.app.ports import BlobStore, RunStore, named
from coordinator.app.publish_adapter import publish
from coordinator.app.round_driver import RoundDriver
from coordinator.domain import events as ev
from coordinator.domain.adapter_parts import cuts_of, id_of
from coordinator.domain.cohort import initialise_assignment_id, kept_updates, state_id
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.kept_state import state_before, superseded_states
from coordinator.domain.values import AdapterFile, AdapterPart, Phase, Round, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPerformer:
    """Performs commands for the driver; ``aggregated`` is told the seconds of each aggregation."""

    driver: RoundDriver
    store: RunStore
    blobs: BlobStore
    clock: Clock
    registry: Path
    log: FilteringBoundLogger
    aggregated: Callable[[float], None]

    async def perform(self, command: Command) -> None:
        """Do one command, to its end."""
        run = self.driver.run_of(command.run_id)
        match command.kind:
            case CommandKind.CUT_PARTS:
                await self._cut_parts(run, run.rounds[command.round_number - 1])
            case CommandKind.AGGREGATE:
                await self._aggregate(run, run.rounds[command.round_number - 1])
            case CommandKind.PUBLISH:
                await self._publish(run, run.rounds[command.round_number - 1])
            case CommandKind.DELETE_UPDATES:
                await self.blobs.delete_updates(await self._assignments_of(run, command.round_number))
            case _:
                assert_never(command.kind)

    async def _publish(self, run: Run, closed: Round) -> None:
        assert closed.candidate is not None, "what is published has a candidate"
        async with self.blobs.adapter(closed.candidate.digest) as weights:
            await asyncio.to_thread(publish, self.registry, run, closed, weights)
        await self.driver.post(run.run_id, ev.Published(at=self.clock.now(), round_number=closed.number))

    async def _assignments_of(self, run: Run, round_number: int) -> list[AssignmentId]:
        if round_number > 0:
            closed = run.rounds[round_number - 1]
            kept = {entry.assignment_id for entry in kept_updates(run, closed)}
            updates = [entry.assignment_id for entry in closed.roster if entry.assignment_id not in kept]
            return [*updates, *(part.part_id for part in closed.parts), *superseded_states(run)]
        evaluators = named(await self.store.known_sites(), Role.EVALUATOR)
        return [initialise_assignment_id(run.run_id, evaluator) for evaluator in evaluators]

    async def _cut_parts(self, run: Run, current: Round) -> None:
        """Each is a function of its adapter, so that cutting again after a crash gives the same files."""
        if current.phase is not Phase.TRAINING or current.parts:
            return
        parts = []
        for cut in cuts_of(run, current):
            part_id = id_of(run, current, cut)
            draft = self.blobs.draft_path(part_id)
            async with self.blobs.adapter(cut.source.digest) as path:
                file = await asyncio.to_thread(write_part, path, cut, draft)
            await self.blobs.keep_beside_updates(draft, part_id, file.digest)
            parts.append(
                AdapterPart(part_id=part_id, source=cut.source.digest, start=cut.start, stop=cut.stop, file=file)
            )
        ready = ev.PartsReady(at=self.clock.now(), round_number=current.number, parts=tuple(parts))
        await self.driver.post(run.run_id, ready)

    async def _aggregate(self, run: Run, current: Round) -> None:
        if current.phase is not Phase.AGGREGATING:
            return  # performed before a restart: its outcome is stored
        event: ev.CandidateReady | ev.AggregationFailed
        try:
            event = await self._combine(run, current)
        except Exception as error:
            if _may_pass(error):  # the updates are still there: the driver tries again
                raise
            # The updates or this code: left pending, it would fail every start.
            log_fault(self.log, "aggregation_failed", error, run_name=run.terms.name, round_number=current.number)
            event = ev.AggregationFailed(
                at=self.clock.now(), round_number=current.number, reason=Reason.AGGREGATION_FAILED
            )
        await self.driver.post(run.run_id, event)

    async def _combine(self, run: Run, current: Round) -> ev.CandidateReady:
        draft = self.blobs.draft_path(f"{run.run_id}-{current.number}")
        state_draft = self.blobs.draft_path(f"{run.run_id}-{current.number}.state")
        accepted = [(entry, entry.update.file.digest) for entry in current.accepted if entry.update is not None]
        async with AsyncExitStack() as files:
            updates = [
                await files.enter_async_context(self.blobs.update(entry.assignment_id, digest))
                for entry, digest in accepted
            ]
            before = await files.enter_async_context(self.blobs.adapter(current.global_adapter.digest))
            previous = state = None
            if (earlier := moved_from(run, current)) is not None:
                previous = await files.enter_async_context(self.blobs.adapter(earlier.digest))
            if (kept := state_before(run, current)) is not None:
                state = await files.enter_async_context(self.blobs.update(kept[0], kept[1].digest))
            read = RoundFiles(updates=updates, current=before, previous=previous, state=state)
            began = self.clock.monotonic()
            combined = await asyncio.to_thread(aggregate, run, current.accepted, read, draft, state_draft)
            self.aggregated(self.clock.monotonic() - began)
        if combined.state is not None:
            await self.blobs.keep_beside_updates(
                state_draft, state_id(run.run_id, current.number), combined.state.digest
            )
        await self.blobs.keep_candidate(draft, combined.candidate.digest)
        return ev.CandidateReady(
            at=self.clock.now(),
            round_number=current.number,
            candidate=combined.candidate,
            weights=combined.weights,
            state=combined.state,
        )


def moved_from(run: Run, current: Round) -> AdapterFile | None:
    """The global adapter of the round before, if there is one and its last move counts."""
    if current.number == 1 or run.terms.aggregation.server_momentum == 0:
        return None
    return run.rounds[current.number - 2].global_adapter


def _may_pass(error: Exception) -> bool:
    """Whether the same work may succeed later: a disk, memory or a store that is away, and no fault of the updates."""
    return isinstance(error, OSError | MemoryError) or (isinstance(error, FedMedError) and error.retryable)
