"""The `Coordinator` port over gRPC: calls with deadlines, streams with progress deadlines, errors of `common.errors`.

It repeats nothing and stores nothing. It counts the payload of every message, as protobuf writes it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from common.chunk_messages import DOWNLOAD_ADAPTER, UPLOAD_UPDATE, ChunkMessage, decode_chunk, encode_chunk
from common.chunks import chunk_ranges
from common.clock import Clock, SystemClock
from common.errors import FedMedError, Reason, TransferBrokenError
from common.ids import AssignmentId, Digest
from common.polling import MAX_POLL_HOLD_SECONDS
from common.rpc_errors import from_rpc_error, reason_to_proto
from fedmedlora.v1 import rounds_pb2, rounds_pb2_grpc
from site_agent.adapters import translate
from site_agent.adapters.identity_files import expired
from site_agent.adapters.outgoing import norms_of
from site_agent.adapters.recorded_channel import RecordedChannel, RecordedUpload
from site_agent.app.answers import EvaluationScores, ReportedProgress, UploadHeader, UploadOffset
from site_agent.app.ports import Unreadable
from site_agent.domain.assignment import Assignment, Cancel

POLL_SECONDS = MAX_POLL_HOLD_SECONDS + 30.0
CALL_SECONDS = 20.0
# Between two messages of a stream, and for the coordinator to check a whole update.
STREAM_PROGRESS_SECONDS = 60.0
ANSWER_SECONDS = 300.0

_T = TypeVar("_T")
_Response = TypeVar("_Response", bound=Message)
_AnyCall = TypeVar("_AnyCall", bound="_Cancellable")
_UploadCall: TypeAlias = RecordedUpload[rounds_pb2.UploadUpdateResponse]


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


class Traffic(Protocol):
    """Counts what goes over the wire, by rpc."""

    def sent(self, rpc: str, count: int) -> None:
        """So many bytes of protobuf payload went out."""

    def received(self, rpc: str, count: int) -> None:
        """So many came in."""

    def failed(self, reason: Reason) -> None:
        """A call failed."""


class RpcCoordinator:
    """The coordinator at the other end of ``channel``, for an agent whose certificate is valid until ``expires_at``.

    Each poll says that it trains up to ``max_lora_rank``; 0: at any rank.
    """

    def __init__(
        self,
        channel: RecordedChannel,
        traffic: Traffic,
        expires_at: datetime,
        clock: Clock | None = None,
        max_lora_rank: int = 0,
    ) -> None:
        self._rounds = channel.stub(rounds_pb2_grpc.RoundServiceStub)
        # As the stub makes them, but for chunks, which are bytes here.
        self._download = channel.unary_stream(
            DOWNLOAD_ADAPTER,
            request_serializer=rounds_pb2.DownloadAdapterRequest.SerializeToString,
            response_deserializer=_download_part,
        )
        self._upload = channel.stream_unary(
            UPLOAD_UPDATE,
            request_serializer=rounds_pb2.UploadUpdateRequest.SerializeToString,
            response_deserializer=rounds_pb2.UploadUpdateResponse.FromString,
        )
        self._traffic = traffic
        self._expires_at = expires_at
        self._max_lora_rank = max_lora_rank
        self._clock = clock or SystemClock()

    async def await_assignment(
        self, current: AssignmentId | None, held_for: Reason | None = None
    ) -> Assignment | Unreadable | Cancel | None:
        """See the port."""
        request = rounds_pb2.AwaitAssignmentRequest(
            current_assignment_id=current or "", max_lora_rank=self._max_lora_rank
        )
        if current is not None and held_for is not None:
            request.held_for = reason_to_proto(held_for)
        return translate.poll_answer(await self._unary(self._rounds.AwaitAssignment, request, POLL_SECONDS))

    async def decline(self, assignment_id: AssignmentId, reason: Reason) -> None:
        """See the port."""
        request = rounds_pb2.DeclineAssignmentRequest(assignment_id=assignment_id, reason=reason_to_proto(reason))
        await self._unary(self._rounds.DeclineAssignment, request)

    async def upload_offset(self, assignment_id: AssignmentId, digest: Digest) -> UploadOffset:
        """See the port."""
        request = rounds_pb2.GetUploadOffsetRequest(assignment_id=assignment_id, digest=digest)
        known = await self._unary(self._rounds.GetUploadOffset, request)
        return UploadOffset(offset=known.offset, is_accepted=known.is_accepted)

    async def report_progress(self, assignment_id: AssignmentId, progress: ReportedProgress) -> None:
        """See the port."""
        await self._unary(self._rounds.ReportProgress, translate.progress_request(assignment_id, progress))

    async def report_evaluation(self, assignment_id: AssignmentId, scores: EvaluationScores) -> None:
        """See the port."""
        await self._unary(self._rounds.ReportEvaluation, translate.evaluation_request(assignment_id, scores))

    async def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes | memoryview, None]:
        """See the port."""
        request = rounds_pb2.DownloadAdapterRequest(digest=digest, offset=offset)
        with self._failures(), _cancelling(self._download(request)) as call:
            self._traffic.sent("DownloadAdapter", request.ByteSize())
            stream = aiter(call)
            while (part := await _within(STREAM_PROGRESS_SECONDS, anext(stream, None))) is not None:
                if not isinstance(part, ChunkMessage):
                    self._traffic.received("DownloadAdapter", part.ByteSize())
                    continue
                self._traffic.received("DownloadAdapter", part.size_bytes)
                _check_offset(part.offset, offset)
                offset += len(part.content)
                yield part.content

    async def upload(self, header: UploadHeader, path: Path, offset: int) -> None:
        """See the port."""
        tensors = await asyncio.to_thread(norms_of, path)
        with self._failures(), _cancelling(self._upload(translate.upload_header(header), tensors)) as call:
            try:
                await self._write(call, call.header)
                await self._write_chunks(call, path, header.size_bytes, offset)
                await _within(STREAM_PROGRESS_SECONDS, call.done_writing())
            except asyncio.InvalidStateError:
                pass  # the coordinator ended the stream early; its answer says why
            response = await _within(ANSWER_SECONDS, call)
            self._traffic.received("UploadUpdate", response.ByteSize())

    async def _write_chunks(self, call: _UploadCall, path: Path, size_bytes: int, offset: int) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, length in chunk_ranges(size_bytes, offset):
                content = await asyncio.to_thread(os.pread, descriptor, length, start)
                await self._write(call, encode_chunk(start, content))
        finally:
            os.close(descriptor)

    async def _write(self, call: _UploadCall, message: bytes) -> None:
        await _within(STREAM_PROGRESS_SECONDS, call.write(message))
        self._traffic.sent("UploadUpdate", len(message))

    async def _unary(
        self, rpc: Callable[..., Awaitable[_Response]], request: Message, seconds: float = CALL_SECONDS
    ) -> _Response:
        name = type(request).__name__.removesuffix("Request")
        with self._failures():
            call = rpc(request, timeout=seconds)
            self._traffic.sent(name, request.ByteSize())
            response = await call
        self._traffic.received(name, response.ByteSize())
        return response

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what gRPC raises into errors of `common.errors`, and count them."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            meant = self._meaning(error)
            self._traffic.failed(meant.reason)
            raise meant from None
        except FedMedError as error:
            self._traffic.failed(error.reason)
            raise

    def _meaning(self, error: grpc.aio.AioRpcError) -> FedMedError:
        """A coordinator that refuses the handshake of an expired certificate looks like one that is away."""
        meant = from_rpc_error(error)
        if meant.reason is Reason.PEER_AWAY and self._clock.now() > self._expires_at:
            return expired(self._expires_at)
        return meant


def _download_part(message: bytes) -> ChunkMessage | rounds_pb2.DownloadAdapterResponse:
    """A message of a download: a chunk, however it is written, or another."""
    chunk = decode_chunk(message)
    if chunk is not None:
        return chunk
    part = rounds_pb2.DownloadAdapterResponse.FromString(message)
    if part.WhichOneof("part") != "chunk":
        return part
    return ChunkMessage(offset=part.chunk.offset, content=memoryview(part.chunk.content), size_bytes=len(message))


@contextmanager
def _cancelling(call: _AnyCall) -> Iterator[_AnyCall]:
    """End the call with the block: an rpc that nobody waits for must not go on."""
    try:
        yield call
    finally:
        call.cancel()


async def _within(seconds: float, awaited: Awaitable[_T]) -> _T:
    """What ``awaited`` gives, if it does so in time.

    Raises:
        TransferBrokenError: STREAM_TOO_SLOW.
    """
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError:
        message = f"stream: expected progress within {seconds:g} s, got none"
        raise TransferBrokenError(Reason.STREAM_TOO_SLOW, message) from None


def _check_offset(got: int, expected: int) -> None:
    if got != expected:
        raise TransferBrokenError(Reason.OFFSET_DIFFERS, f"chunk offset: expected {expected}, got {got}")
