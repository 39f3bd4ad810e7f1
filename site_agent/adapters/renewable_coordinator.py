"""The `Coordinator` port by whatever identity the folder holds: each call goes by the newest, none is cut off by it.

gRPC reads a certificate once, so a renewed one needs a new channel. Calls that are under way end on the one that they
began on, an upload of hours too, and it is closed behind the last of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.clock import Clock
from common.errors import Reason
from common.identity_folder import CertifiedIdentity, IdentityFolder
from common.ids import AssignmentId, Digest
from site_agent.adapters import enrolment_client
from site_agent.adapters.metrics import AgentMetrics
from site_agent.adapters.recorded_channel import Dial, RecordedChannel
from site_agent.adapters.rpc_client import RpcCoordinator
from site_agent.app.answers import EvaluationScores, ReportedProgress, UploadHeader, UploadOffset
from site_agent.app.ports import Unreadable
from site_agent.domain.assignment import Assignment, Cancel


@dataclass(slots=True, eq=False)
class _Connection:
    """A channel, as whom it was opened, and how many calls are under way on it."""

    who: CertifiedIdentity
    channel: RecordedChannel
    coordinator: RpcCoordinator
    calls_count: int = field(default=0)


class RenewableCoordinator:
    """Implements `site_agent.app.ports.Coordinator`, and `site_agent.app.keep_identity.OwnIdentity`."""

    def __init__(
        self, folder: IdentityFolder, dial: Dial, metrics: AgentMetrics, clock: Clock, max_lora_rank: int = 0
    ) -> None:
        self._folder = folder
        self._dial = dial
        self._metrics = metrics
        self._clock = clock
        self._max_lora_rank = max_lora_rank
        self._connection: _Connection | None = None
        self._retired: set[_Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> CertifiedIdentity:
        """See the port."""
        return self._folder.current()

    @property
    def problem(self) -> Reason | None:
        """See the port."""
        return None if self._folder.problem is None else self._folder.problem.reason

    async def renew(self) -> None:
        """See the port."""
        with self._call() as connection:
            await enrolment_client.renew(connection.channel, connection.who.caller, self._folder.folder)

    async def await_assignment(
        self, current: AssignmentId | None, held_for: Reason | None = None
    ) -> Assignment | Unreadable | Cancel | None:
        """See the port."""
        with self._call() as connection:
            return await connection.coordinator.await_assignment(current, held_for)

    async def decline(self, assignment_id: AssignmentId, reason: Reason) -> None:
        """See the port."""
        with self._call() as connection:
            await connection.coordinator.decline(assignment_id, reason)

    async def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes | memoryview, None]:
        """See the port."""
        with self._call() as connection:
            async with aclosing(connection.coordinator.download(digest, offset)) as parts:
                async for part in parts:
                    yield part

    async def upload_offset(self, assignment_id: AssignmentId, digest: Digest) -> UploadOffset:
        """See the port."""
        with self._call() as connection:
            return await connection.coordinator.upload_offset(assignment_id, digest)

    async def upload(self, header: UploadHeader, path: Path, offset: int) -> None:
        """See the port."""
        with self._call() as connection:
            await connection.coordinator.upload(header, path, offset)

    async def report_progress(self, assignment_id: AssignmentId, progress: ReportedProgress) -> None:
        """See the port."""
        with self._call() as connection:
            await connection.coordinator.report_progress(assignment_id, progress)

    async def report_evaluation(self, assignment_id: AssignmentId, scores: EvaluationScores) -> None:
        """See the port."""
        with self._call() as connection:
            await connection.coordinator.report_evaluation(assignment_id, scores)

    async def close(self) -> None:
        """Close every channel."""
        connections = [*self._retired, *([self._connection] if self._connection else [])]
        await asyncio.gather(*self._closing, *(each.channel.close() for each in connections))

    @contextmanager
    def _call(self) -> Iterator[_Connection]:
        connection = self._newest()
        connection.calls_count += 1
        try:
            yield connection
        finally:
            connection.calls_count -= 1
            self._close_if_done(connection)

    def _newest(self) -> _Connection:
        """The connection by what the folder holds now; the one before it takes no more calls."""
        who = self._folder.current()
        if self._connection is None or self._connection.who != who:
            before, self._connection = self._connection, self._open(who)
            if before is not None:
                self._retired.add(before)
                self._close_if_done(before)
        return self._connection

    def _open(self, who: CertifiedIdentity) -> _Connection:
        self._metrics.certificate_expires(who.expires_at.timestamp())
        channel = self._dial.channel(who.identity)
        coordinator = RpcCoordinator(channel, self._metrics, who.expires_at, self._clock, self._max_lora_rank)
        return _Connection(who, channel, coordinator)

    def _close_if_done(self, connection: _Connection) -> None:
        if connection in self._retired and connection.calls_count == 0:
            self._retired.discard(connection)
            closing = asyncio.ensure_future(connection.channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


@asynccontextmanager
async def connected(coordinator: RenewableCoordinator) -> AsyncIterator[RenewableCoordinator]:
    """``coordinator``, and its channels closed at the end of the block."""
    try:
        yield coordinator
    finally:
        await coordinator.close()
