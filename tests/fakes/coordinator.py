"""A coordinator without rounds: hands out one assignment at a time over real mutual TLS, and can fail in every way.

What it knows survives its stop, as a real one's disk does. It aggregates nothing and judges an update by its bytes
alone (`common.weights_io.check_update`).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from common.adapter import AdapterSpec
from common.chunks import MAX_CHUNK_BYTES, chunk_ranges
from common.errors import NotNowError, Reason, UnavailableError, UpdateRefusedError
from common.ids import digest_of
from common.rpc_errors import abort_with, reason_to_proto
from common.terms import Terms
from common.tls import SERVER_OPTIONS, Identity, server_credentials
from common.weights_io import WeightsReader, check_update
from common.wire import spec_from_proto, spec_to_proto, terms_to_proto
from fedmedlora.v1 import registry_pb2, registry_pb2_grpc, rounds_pb2, rounds_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]
WAIT_SECONDS = 30.0
HOLD_SECONDS = 0.5


@dataclass
class Faults:
    """What goes wrong, each once: it is taken back as it happens."""

    refuse_upload: Reason | None = None
    hang_upload_at: int | None = None
    cut_download_at: int | None = None
    spoil_download: bool = False
    lose_acknowledgement: bool = False
    hide_polls_for: Reason | None = None


@dataclass
class CoordinatorState:
    """What the coordinator knows, and what the agent did; a test reads it and waits on it."""

    files: dict[str, bytes] = field(default_factory=dict)
    offers: dict[str, rounds_pb2.Assignment] = field(default_factory=dict)
    cancelled: dict[str, Reason] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    polls: list[str] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    declined: dict[str, int] = field(default_factory=dict)
    progress: list[rounds_pb2.ReportProgressRequest] = field(default_factory=list)
    scores: dict[str, rounds_pb2.EvaluationScores] = field(default_factory=dict)
    received: dict[str, bytearray] = field(default_factory=dict)
    accepted: dict[str, rounds_pb2.UploadHeader] = field(default_factory=dict)
    refused: dict[str, UpdateRefusedError] = field(default_factory=dict)
    upload_starts: list[int] = field(default_factory=list)
    download_starts: list[int] = field(default_factory=list)
    versions: registry_pb2.ListAdapterVersionsResponse = field(default_factory=registry_pb2.ListAdapterVersionsResponse)
    clock_ahead: timedelta = timedelta()
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def tell(self) -> None:
        """Wake whoever waits."""
        async with self.changed:
            self.changed.notify_all()

    async def until(self, happened: Callable[[], object]) -> None:
        """Wait until ``happened``, which looks at this state."""
        async with asyncio.timeout(WAIT_SECONDS), self.changed:
            await self.changed.wait_for(lambda: bool(happened()))

    async def offer(self, assignment: rounds_pb2.Assignment) -> str:
        """Hand ``assignment`` out until it is answered; returns its id."""
        self.offers[assignment.assignment_id] = assignment
        await self.tell()
        return assignment.assignment_id

    async def cancel(self, assignment_id: str, reason: Reason = Reason.ROUND_CLOSED) -> None:
        """No longer want it."""
        del self.offers[assignment_id]
        self.cancelled[assignment_id] = reason
        await self.tell()

    def live(self) -> rounds_pb2.Assignment | None:
        """What is still to be answered."""
        return next(iter(self.offers.values()), None)


def make_offer(number: int, terms: Terms, **work: object) -> rounds_pb2.Assignment:
    """An assignment message with one of ``initialise``, ``train``, ``evaluate`` set."""
    return rounds_pb2.Assignment(
        assignment_id=f"{number:032x}",
        run_id=f"{0:032x}",
        round_number=number,
        terms=terms_to_proto(terms),
        **work,  # type: ignore[arg-type]
    )


def train_work(spec: AdapterSpec, content: bytes) -> rounds_pb2.TrainWork:
    """Train and send both factors of the adapter whose file is ``content``."""
    return rounds_pb2.TrainWork(
        global_adapter=file_ref(spec, content),
        adapter_spec=spec_to_proto(spec),
        trained=types_pb2.FACTOR_SET_A_AND_B,
        uploaded=types_pb2.FACTOR_SET_A_AND_B,
    )


def file_ref(spec: AdapterSpec, content: bytes) -> types_pb2.AdapterRef:
    """Names a file that can be downloaded."""
    return types_pb2.AdapterRef(digest=digest_of(content), size_bytes=len(content), spec_digest=spec.digest)


class _Rounds(rounds_pb2_grpc.RoundServiceServicer):
    def __init__(self, state: CoordinatorState) -> None:
        self._state = state

    async def AwaitAssignment(
        self, request: rounds_pb2.AwaitAssignmentRequest, context: Context
    ) -> rounds_pb2.AwaitAssignmentResponse:
        state, current = self._state, request.current_assignment_id
        state.polls.append(current)
        state.held.append(request.held_for)
        await state.tell()
        if state.faults.hide_polls_for is not None:
            await abort_with(context, UnavailableError(state.faults.hide_polls_for, "not now"))
        try:
            async with asyncio.timeout(HOLD_SECONDS), state.changed:
                await state.changed.wait_for(lambda: _is_due(state, current))
        except TimeoutError:
            return rounds_pb2.AwaitAssignmentResponse(nothing_yet=rounds_pb2.NothingYet())
        if current:
            reason = reason_to_proto(state.cancelled.get(current, Reason.ALREADY_ANSWERED))
            return rounds_pb2.AwaitAssignmentResponse(cancel=rounds_pb2.Cancel(assignment_id=current, reason=reason))
        return rounds_pb2.AwaitAssignmentResponse(assignment=state.live())

    async def GetServerTime(
        self, _request: rounds_pb2.GetServerTimeRequest, _context: Context
    ) -> rounds_pb2.GetServerTimeResponse:
        now = Timestamp()
        now.FromDatetime(datetime.now(UTC) + self._state.clock_ahead)
        return rounds_pb2.GetServerTimeResponse(now=now)

    async def DeclineAssignment(
        self, request: rounds_pb2.DeclineAssignmentRequest, context: Context
    ) -> rounds_pb2.DeclineAssignmentResponse:
        await self._check_live(request.assignment_id, context)
        self._state.declined[request.assignment_id] = request.reason
        await self._answer(request.assignment_id)
        return rounds_pb2.DeclineAssignmentResponse()

    async def DownloadAdapter(
        self, request: rounds_pb2.DownloadAdapterRequest, context: Context
    ) -> AsyncIterator[rounds_pb2.DownloadAdapterResponse]:
        state, faults = self._state, self._state.faults
        content = state.files[request.digest]
        state.download_starts.append(request.offset)
        ref = types_pb2.AdapterRef(digest=request.digest, size_bytes=len(content))
        yield rounds_pb2.DownloadAdapterResponse(header=rounds_pb2.DownloadHeader(adapter=ref))
        if faults.spoil_download:
            faults.spoil_download = False
            content = content[:-1] + bytes([content[-1] ^ 1])
        for start, length in chunk_ranges(len(content), request.offset):
            if faults.cut_download_at is not None and start >= faults.cut_download_at:
                faults.cut_download_at = None
                await abort_with(context, UnavailableError(Reason.PEER_AWAY, "cut"))
            chunk = types_pb2.Chunk(offset=start, content=content[start : start + length])
            yield rounds_pb2.DownloadAdapterResponse(chunk=chunk)

    async def GetUploadOffset(
        self, request: rounds_pb2.GetUploadOffsetRequest, context: Context
    ) -> rounds_pb2.GetUploadOffsetResponse:
        if request.assignment_id in self._state.accepted:
            return rounds_pb2.GetUploadOffsetResponse(is_accepted=True)
        await self._check_live(request.assignment_id, context)
        return rounds_pb2.GetUploadOffsetResponse(offset=len(self._state.received.get(request.assignment_id, b"")))

    async def UploadUpdate(
        self, request_iterator: AsyncIterator[rounds_pb2.UploadUpdateRequest], context: Context
    ) -> rounds_pb2.UploadUpdateResponse:
        header = (await anext(request_iterator)).header
        await self._check_live(header.assignment_id, context)
        try:
            await self._receive(header, request_iterator)
        except UpdateRefusedError as refusal:
            self._state.refused[header.assignment_id] = refusal
            await self._answer(header.assignment_id)
            await abort_with(context, refusal)
        self._state.accepted[header.assignment_id] = header
        await self._answer(header.assignment_id)
        if self._state.faults.lose_acknowledgement:
            self._state.faults.lose_acknowledgement = False
            await abort_with(context, UnavailableError(Reason.PEER_AWAY, "lost"))
        return rounds_pb2.UploadUpdateResponse(digest=header.digest)

    async def _receive(
        self, header: rounds_pb2.UploadHeader, messages: AsyncIterator[rounds_pb2.UploadUpdateRequest]
    ) -> None:
        state, faults = self._state, self._state.faults
        if faults.refuse_upload is not None:
            raise UpdateRefusedError(faults.refuse_upload, "refused by its header")
        kept = state.received.setdefault(header.assignment_id, bytearray())
        state.upload_starts.append(len(kept))
        async for message in messages:
            assert message.chunk.offset == len(kept)
            assert len(message.chunk.content) <= MAX_CHUNK_BYTES
            kept += message.chunk.content
            await state.tell()
            if faults.hang_upload_at is not None and len(kept) >= faults.hang_upload_at:
                faults.hang_upload_at = None
                await asyncio.Event().wait()
        _check(bytes(kept), header, self._state.offers[header.assignment_id])

    async def ReportProgress(
        self, request: rounds_pb2.ReportProgressRequest, context: Context
    ) -> rounds_pb2.ReportProgressResponse:
        self._state.progress.append(request)
        await self._state.tell()
        return rounds_pb2.ReportProgressResponse()

    async def ReportEvaluation(
        self, request: rounds_pb2.ReportEvaluationRequest, context: Context
    ) -> rounds_pb2.ReportEvaluationResponse:
        await self._check_live(request.assignment_id, context)
        self._state.scores[request.assignment_id] = request.scores
        await self._answer(request.assignment_id)
        return rounds_pb2.ReportEvaluationResponse()

    async def _check_live(self, assignment_id: str, context: Context) -> None:
        if assignment_id in self._state.refused:  # asked again, it gives the same answer
            await abort_with(context, self._state.refused[assignment_id])
        if assignment_id not in self._state.offers:
            await abort_with(context, NotNowError(Reason.ROUND_CLOSED, "the round is closed"))

    async def _answer(self, assignment_id: str) -> None:
        del self._state.offers[assignment_id]
        await self._state.tell()


def _is_due(state: CoordinatorState, current: str) -> bool:
    return current not in state.offers if current else state.live() is not None


def _check(content: bytes, header: rounds_pb2.UploadHeader, offer: rounds_pb2.Assignment) -> None:
    """Refuse what does not hold exactly the tensors asked for, or anything not finite."""
    assert digest_of(content) == header.digest
    message = offer.train.adapter_spec if header.HasField("trained") else header.first.spec
    spec = spec_from_proto(message)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update.safetensors"
        path.write_bytes(content)
        with WeightsReader(path) as reader:
            check_update(reader, spec.tensors, spec.dtype)


class _Registry(registry_pb2_grpc.RegistryServiceServicer):
    def __init__(self, state: CoordinatorState) -> None:
        self._state = state

    async def ListAdapterVersions(
        self, request: registry_pb2.ListAdapterVersionsRequest, context: Context
    ) -> registry_pb2.ListAdapterVersionsResponse:
        return self._state.versions


@asynccontextmanager
async def serving(state: CoordinatorState, identity: Identity, port: int = 0) -> AsyncIterator[int]:
    """Serve on ``port`` of loopback (0: a free one), which is yielded; ends without waiting for open calls."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    rounds_pb2_grpc.add_RoundServiceServicer_to_server(_Rounds(state), server)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(_Registry(state), server)
    health = health_aio.HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    bound = server.add_secure_port(f"127.0.0.1:{port}", server_credentials(lambda: identity))
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(grace=0)
