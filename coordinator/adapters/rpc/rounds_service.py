"""RoundService: what site agents call. Each method translates, calls one use case, counts bytes, translates back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from common.chunk_messages import ChunkMessage, encode_chunk
from common.chunks import chunk_ranges
from common.clock import SystemClock
from common.errors import InputInvalidError, NotFoundError, Reason, TransferBrokenError
from common.ids import AssignmentId, Digest, RunId, SiteName, check_digest
from common.tls import Caller, Role, caller_from_context
from coordinator.adapters.rpc import translate
from coordinator.adapters.rpc.traffic_meter import TrafficMeter
from coordinator.adapters.rpc.turns import Turns
from coordinator.app.answers import Answers
from coordinator.app.poll import Poll, assignments_of, find_assignment
from coordinator.app.ports import BlobStore
from coordinator.app.round_driver import RoundDriver
from coordinator.app.update_intake import ReceivedChunk, UpdateIntake
from coordinator.domain.assignments import Assignment
from coordinator.domain.cohort import kept_updates
from coordinator.domain.values import Run
from fedmedlora.v1 import rounds_pb2, rounds_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]
TrafficKey = tuple[RunId, int, SiteName]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundUseCases:
    """What the servicer calls."""

    driver: RoundDriver
    poll: Poll
    intake: UpdateIntake
    answers: Answers
    blobs: BlobStore
    meter: TrafficMeter
    turns: Turns = field(default_factory=Turns)
    stream_progress_seconds: float = 60.0


class RoundServicer(rounds_pb2_grpc.RoundServiceServicer):
    """Implements ``fedmedlora.v1.RoundService``."""

    def __init__(self, use: RoundUseCases) -> None:
        self._use = use

    async def AwaitAssignment(
        self, request: rounds_pb2.AwaitAssignmentRequest, context: Context
    ) -> rounds_pb2.AwaitAssignmentResponse:
        """See the proto."""
        caller = caller_from_context(context)
        current = request.current_assignment_id
        current_id = translate.assignment_id_from(current) if current else None
        held_for = translate.hold_from(request.held_for)
        answer = await self._use.poll.wait(caller, current_id, request.max_lora_rank, held_for)
        response = translate.poll_answer(answer)
        if isinstance(answer, Assignment):
            self._use.meter.count(_key(answer, caller), sent=response.ByteSize())
        return response

    async def DeclineAssignment(
        self, request: rounds_pb2.DeclineAssignmentRequest, context: Context
    ) -> rounds_pb2.DeclineAssignmentResponse:
        """See the proto."""
        assignment_id = translate.assignment_id_from(request.assignment_id)
        reason = translate.decline_reason_from(request.reason)
        await self._use.answers.decline(caller_from_context(context), assignment_id, reason)
        return rounds_pb2.DeclineAssignmentResponse()

    async def DownloadAdapter(  # type: ignore[override]  # its chunks are encoded already
        self, request: rounds_pb2.DownloadAdapterRequest, context: Context
    ) -> AsyncIterator[rounds_pb2.DownloadAdapterResponse | bytes]:
        """See the proto. Chunks are bytes of messages, which the interceptor sends as they are."""
        caller = caller_from_context(context)
        digest = translate.download_digest_from(request)
        assignment = self._assignment_of_file(caller, digest)
        key = None if assignment is None else _key(assignment, caller)
        try:
            async with aclosing(self._file_parts(request, assignment, caller)) as parts:
                async for response in parts:
                    yield response
                    del response  # not held while the next one waits for its turn
        finally:
            if key is not None:
                await self._use.meter.write(key)

    async def GetUploadOffset(
        self, request: rounds_pb2.GetUploadOffsetRequest, context: Context
    ) -> rounds_pb2.GetUploadOffsetResponse:
        """See the proto."""
        assignment_id = translate.assignment_id_from(request.assignment_id)
        digest = check_digest(request.digest, "digest")
        state = await self._use.intake.state(caller_from_context(context), assignment_id, digest)
        return rounds_pb2.GetUploadOffsetResponse(offset=state.offset, is_accepted=state.is_accepted)

    async def UploadUpdate(
        self, request_iterator: AsyncIterator[rounds_pb2.UploadUpdateRequest], context: Context
    ) -> rounds_pb2.UploadUpdateResponse:
        """See the proto."""
        caller = caller_from_context(context)
        first = await self._read(context)
        if first is None:
            raise InputInvalidError(Reason.HEADER_EXPECTED, "upload: expected a header, got the end of the stream")
        header = translate.header_from(first)
        claim = translate.claim_from(header)
        key = self._key_of(caller, claim.assignment_id)
        self._count(key, received=header.ByteSize())
        try:
            accepted = await self._use.intake.receive(caller, claim, self._chunks(context, key))
        finally:
            if key is not None:
                await self._use.meter.write(key)
        return rounds_pb2.UploadUpdateResponse(digest=accepted)

    async def GetServerTime(
        self, _request: rounds_pb2.GetServerTimeRequest, _context: Context
    ) -> rounds_pb2.GetServerTimeResponse:
        """See the proto."""
        now = Timestamp()
        now.FromDatetime(SystemClock().now())
        return rounds_pb2.GetServerTimeResponse(now=now)

    async def ReportProgress(
        self, request: rounds_pb2.ReportProgressRequest, context: Context
    ) -> rounds_pb2.ReportProgressResponse:
        """See the proto."""
        caller = caller_from_context(context)
        assignment_id = translate.assignment_id_from(request.assignment_id)
        await self._use.answers.note_progress(caller, assignment_id, translate.progress_from(request))
        self._count(self._key_of(caller, assignment_id), received=request.ByteSize())
        return rounds_pb2.ReportProgressResponse()

    async def ReportEvaluation(
        self, request: rounds_pb2.ReportEvaluationRequest, context: Context
    ) -> rounds_pb2.ReportEvaluationResponse:
        """See the proto."""
        assignment_id = translate.assignment_id_from(request.assignment_id)
        scores = translate.scores_from(request.scores)
        await self._use.answers.take_scores(caller_from_context(context), assignment_id, scores)
        return rounds_pb2.ReportEvaluationResponse()

    async def _chunks(self, context: Context, key: TrafficKey | None) -> AsyncIterator[ReceivedChunk]:
        while True:
            async with self._use.turns.turn():
                message = await self._read(context)
                if message is None:
                    return
                chunk = translate.chunk_from(message)
                self._count(key, received=_size_bytes(message))
                yield chunk
                del message, chunk  # not held while the next one waits for its turn

    async def _read(self, context: Context) -> rounds_pb2.UploadUpdateRequest | ChunkMessage | None:
        """The next message, or None at the end; a peer that sends nothing is told so and let go.

        Not from the iterator that gRPC gives: that one holds the last message until the next one is here.
        """
        seconds = self._use.stream_progress_seconds
        try:
            async with asyncio.timeout(seconds):
                message = await context.read()
        except TimeoutError:
            raise TransferBrokenError(
                Reason.STREAM_TOO_SLOW, f"upload: expected a message within {seconds:g} s, got none"
            ) from None
        return None if message is grpc.aio.EOF else message

    async def _file_parts(
        self, request: rounds_pb2.DownloadAdapterRequest, assignment: Assignment | None, caller: Caller
    ) -> AsyncGenerator[rounds_pb2.DownloadAdapterResponse | bytes, None]:
        digest, offset = translate.download_digest_from(request), request.offset
        key = None if assignment is None else _key(assignment, caller)
        try:
            async with self._file(digest, assignment, caller) as path:
                with _opened(path) as handle:
                    size_bytes = os.fstat(handle).st_size
                    if offset > size_bytes:
                        raise InputInvalidError(
                            Reason.FIELD_INVALID, f"offset: expected at most {size_bytes}, got {offset}"
                        )
                    ref = types_pb2.AdapterRef(digest=digest, size_bytes=size_bytes)
                    header = rounds_pb2.DownloadAdapterResponse(header=rounds_pb2.DownloadHeader(adapter=ref))
                    self._count(key, sent=header.ByteSize())
                    yield header
                    for start, length in chunk_ranges(size_bytes, offset):
                        async with self._use.turns.turn():
                            part = await asyncio.to_thread(_part, handle, start, length)
                            self._count(key, sent=len(part))
                            yield part
                            del part  # not held while the next one waits for its turn
        except FileNotFoundError:
            raise NotFoundError(Reason.ADAPTER_UNKNOWN, f"digest: no adapter is {digest}") from None

    def _count(self, key: TrafficKey | None, *, received: int = 0, sent: int = 0) -> None:
        if key is not None:
            self._use.meter.count(key, received=received, sent=sent)

    def _key_of(self, caller: Caller, assignment_id: AssignmentId) -> TrafficKey | None:
        assignment = find_assignment(self._use.driver.runs, caller, assignment_id)
        return None if assignment is None else _key(assignment, caller)

    def _file(self, digest: Digest, assignment: Assignment | None, caller: Caller) -> AbstractAsyncContextManager[Path]:
        """Where it lies: with the updates, for who has the assignment that says so or releases it, or with adapters."""
        kept_under = {} if assignment is None else dict(assignment.kept_under)
        if digest in kept_under:
            return self._use.blobs.update(kept_under[digest], digest)
        if caller.role is Role.OPERATOR and (kept := _kept_update(self._use.driver.runs, digest)) is not None:
            return self._use.blobs.update(kept, digest)
        return self._use.blobs.adapter(digest)

    def _assignment_of_file(self, caller: Caller, digest: Digest) -> Assignment | None:
        """The caller's assignment that begins with that file, in a paused run, too: work that was begun goes on."""
        for assignment in assignments_of(self._use.driver.runs, caller):
            side = None if assignment.side is None else assignment.side[0]
            if any(file is not None and file.digest == digest for file in (assignment.adapter, side)):
                return assignment
        return None


def _kept_update(runs: Sequence[Run], digest: Digest) -> AssignmentId | None:
    """The assignment that a kept update of that digest answered."""
    for run in runs:
        for entry in (entry for past in run.rounds for entry in kept_updates(run, past)):
            if entry.update is not None and entry.update.file.digest == digest:
                return entry.assignment_id
    return None


def _size_bytes(message: rounds_pb2.UploadUpdateRequest | ChunkMessage) -> int:
    return message.size_bytes if isinstance(message, ChunkMessage) else message.ByteSize()


def _key(assignment: Assignment, caller: Caller) -> TrafficKey:
    return assignment.run.run_id, assignment.round_number, caller.name


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _part(handle: int, start: int, length: int) -> bytes:
    return encode_chunk(start, os.pread(handle, length, start))
