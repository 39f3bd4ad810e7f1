"""Does what a step asked for: aggregate, publish, delete. Each may be done twice with the same outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from structlog.typing import FilteringBoundLogger

from common.clock import Clock
from common.errors import Reason
from common.files import sync_folder
from common.ids import AssignmentId
from common.logging import log_fault
from common.tls import Role
from coordinator.app.aggregate_round import aggregate
from coordinator.app.ports import BlobStore, RunStore, named
from coordinator.app.publish_adapter import publish
from coordinator.app.round_driver import RoundDriver
from coordinator.domain import events as ev
from coordinator.domain.cohort import initialise_assignment_id
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.values import Phase, Round, Run


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
        weights = self.blobs.adapter_path(closed.candidate.digest)
        await asyncio.to_thread(publish, self.registry, run, closed, weights)
        await self.driver.post(run.run_id, ev.Published(at=self.clock.now(), round_number=closed.number))

    async def _assignments_of(self, run: Run, round_number: int) -> list[AssignmentId]:
        if round_number > 0:
            return [entry.assignment_id for entry in run.rounds[round_number - 1].roster]
        evaluators = named(await self.store.known_sites(), Role.EVALUATOR)
        return [initialise_assignment_id(run.run_id, evaluator) for evaluator in evaluators]

    async def _aggregate(self, run: Run, current: Round) -> None:
        if current.phase is not Phase.AGGREGATING:
            return  # performed before a restart: its outcome is stored
        event: ev.CandidateReady | ev.AggregationFailed
        try:
            event = await asyncio.to_thread(self._combine, run, current)
        except (OSError, MemoryError):  # it may pass, and the updates are still there: the driver tries again
            raise
        except Exception as error:  # the updates or this code: left pending, it would fail every start
            log_fault(self.log, "aggregation_failed", error, run_name=run.terms.name, round_number=current.number)
            event = ev.AggregationFailed(
                at=self.clock.now(), round_number=current.number, reason=Reason.AGGREGATION_FAILED
            )
        await self.driver.post(run.run_id, event)

    def _combine(self, run: Run, current: Round) -> ev.CandidateReady:
        out = self.blobs.adapter_path(current.global_adapter.digest).with_name(f"{run.run_id}-{current.number}.draft")
        began = self.clock.monotonic()
        candidate, weights = aggregate(
            run,
            current.accepted,
            lambda entry: self.blobs.update_path(entry.assignment_id),
            self.blobs.adapter_path(current.global_adapter.digest),
            out,
            self._moved_from(run, current),
        )
        self.aggregated(self.clock.monotonic() - began)
        out.replace(self.blobs.adapter_path(candidate.digest))
        sync_folder(out.parent)
        return ev.CandidateReady(at=self.clock.now(), round_number=current.number, candidate=candidate, weights=weights)

    def _moved_from(self, run: Run, current: Round) -> Path | None:
        """The global adapter of the round before, if there is one and its last move counts."""
        if current.number == 1 or run.terms.aggregation.server_momentum == 0:
            return None
        return self.blobs.adapter_path(run.rounds[current.number - 2].global_adapter.digest)
