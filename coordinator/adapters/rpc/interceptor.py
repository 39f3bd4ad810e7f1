"""Around every rpc: authenticate, authorise, bound, count, turn errors into statuses. Holds no use case."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio
from structlog.typing import FilteringBoundLogger

from common.chunk_messages import UPLOAD_UPDATE, decode_chunk
from common.errors import FedMedError, OverloadedError, Reason, TransferBrokenError
from common.logging import log_fault
from common.rpc_errors import abort_with, internal_error, to_status
from common.tls import Peer, peer_from_context
from coordinator.adapters.metrics import CoordinatorMetrics
from coordinator.adapters.rpc.access import authorise
from coordinator.app.standings import Standings

Context = grpc.aio.ServicerContext[Any, Any]

# Open calls of one rpc by one caller. An agent needs one; a few more are those that it gave up and that linger here.
MAX_OPEN_CALLS = 8
# For the status of a failed rpc to be taken by a peer that may have stopped reading.
STATUS_SECONDS = 1.0


class _OpenCall:
    """A call that is being answered, by the task that answers it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.task = asyncio.current_task()
        self._refusal: FedMedError | None = None

    def end(self, refusal: FedMedError) -> None:
        """Let the call end with ``refusal``, wherever it stands."""
        if self._refusal is None and self.task is not None:
            self._refusal = refusal
            self.task.cancel()

    @contextmanager
    def ended_by_refusal(self) -> Iterator[None]:
        """Turn the cancellation that `end` brought into the refusal; any other passes."""
        try:
            yield
        except asyncio.CancelledError:
            if self._refusal is None or self.task is None:
                raise
            self.task.uncancel()
            raise self._refusal from None


# The call that is being answered, also in a task that goes on for it (`Standings.alone`).
_ANSWERED: ContextVar[_OpenCall | None] = ContextVar("answered", default=None)


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Nothing of a request is used before its caller is known and allowed (law 5)."""

    def __init__(
        self,
        consortium: str,
        metrics: CoordinatorMetrics,
        log: FilteringBoundLogger,
        stream_progress_seconds: float = 60.0,
        standings: Standings | None = None,
    ) -> None:
        self._standings = standings or Standings()
        self._standings.listen(self._end_calls)
        self._calls: set[_OpenCall] = set()
        self._consortium = consortium
        self._metrics = metrics
        self._log = log
        self._stream_progress_seconds = stream_progress_seconds
        self._open: Counter[tuple[str, str]] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of one rpc."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        rpc = handler_call_details.method
        read, write = self._counted(rpc, handler)
        if handler.response_streaming:
            stream = self._guard_stream(rpc, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(stream, request_deserializer=read, response_serializer=write)
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
        return make(self._guard_unary(rpc, behaviour), request_deserializer=read, response_serializer=write)

    def _counted(
        self, rpc: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
        """The handler's deserializer and serializer; every message of every rpc passes through them."""

        def read(content: bytes) -> Any:
            self._metrics.received(rpc, len(content))
            chunk = decode_chunk(content) if rpc == UPLOAD_UPDATE else None
            return chunk or handler.request_deserializer(content)  # type: ignore[misc]

        def write(message: Any) -> bytes:
            is_encoded = isinstance(message, bytes)  # a chunk of DownloadAdapter
            content = message if is_encoded else handler.response_serializer(message)  # type: ignore[misc]
            self._metrics.sent(rpc, len(content))
            return content

        return read, write

    def _guard_unary(self, rpc: str, behaviour: Any) -> Any:
        async def guarded(request: Any, context: Context) -> Any:
            async with self._guard(rpc, context):
                return await behaviour(request, context)

        return guarded

    def _guard_stream(self, rpc: str, behaviour: Any) -> Any:
        if not inspect.isasyncgenfunction(behaviour):  # grpc_health's Watch writes to the context by itself
            return self._guard_unary(rpc, behaviour)

        async def guarded(request: Any, context: Context) -> None:
            async with self._guard(rpc, context), aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    await self._write(context, response)
                    del response  # a chunk is large, and the next one may be long in coming

        return guarded

    async def _write(self, context: Context, response: Any) -> None:
        """Send one message of a stream.

        Raises:
            TransferBrokenError: STREAM_TOO_SLOW, when the peer takes nothing for so long.
        """
        try:
            async with asyncio.timeout(self._stream_progress_seconds):
                await context.write(response)
        except TimeoutError:
            raise TransferBrokenError(
                Reason.STREAM_TOO_SLOW,
                f"stream: expected progress within {self._stream_progress_seconds:g} s, got none",
            ) from None

    @asynccontextmanager
    async def _guard(self, rpc: str, context: Context) -> AsyncIterator[None]:
        name = "unknown"
        try:
            peer = peer_from_context(context)
            name = peer.caller.uri
            authorise(peer.caller, rpc, self._consortium)
            if (refusal := self._standings.refusal(peer)) is not None:
                raise refusal
            with self._one_more(peer, rpc):
                yield
            self._metrics.rpc_ended(rpc, grpc.StatusCode.OK.name)
        except FedMedError as error:
            self._metrics.refused(error.reason)
            self._log.info("rpc_refused", rpc=rpc, caller=name, reason=error.reason)
            await self._end_with(context, rpc, error)
        except (asyncio.CancelledError, grpc.aio.UsageError):  # the caller is gone
            self._metrics.rpc_ended(rpc, grpc.StatusCode.CANCELLED.name)
            raise
        except grpc.aio.AbortError:
            code: object = context.code()
            self._metrics.rpc_ended(rpc, code.name if isinstance(code, grpc.StatusCode) else str(code))
            raise
        except Exception as error:
            error_id = log_fault(self._log, "rpc_failed", error, rpc=rpc, caller=name)
            self._metrics.refused(Reason.INTERNAL)
            await self._end_with(context, rpc, internal_error(error_id))

    @contextmanager
    def _one_more(self, peer: Peer, rpc: str) -> Iterator[None]:
        """Count an open call, which ends early when its caller is no longer let in.

        Raises:
            OverloadedError: TOO_MANY_STREAMS.
            NotAllowedError, UnauthenticatedError: see `Standings.refusal`.
        """
        slot = (peer.caller.uri, rpc)
        if self._open[slot] >= MAX_OPEN_CALLS:
            raise OverloadedError(
                Reason.TOO_MANY_STREAMS, f"{rpc}: expected at most {MAX_OPEN_CALLS} calls at once, got another"
            )
        call = _OpenCall(peer)
        self._open[slot] += 1
        self._calls.add(call)
        _ANSWERED.set(call)
        try:
            with call.ended_by_refusal():
                yield
        finally:
            self._calls.discard(call)
            self._open[slot] -= 1
            if not self._open[slot]:
                del self._open[slot]

    def _end_calls(self) -> None:
        """End the open calls of whoever is no longer let in; the call that brought that about is answered."""
        for call in tuple(self._calls):
            refusal = self._standings.refusal(call.peer)
            if refusal is not None and call is not _ANSWERED.get():
                call.end(refusal)

    async def _end_with(self, context: Context, rpc: str, error: FedMedError) -> None:
        self._metrics.rpc_ended(rpc, to_status(error).code.name)
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                await abort_with(context, error)
        except TimeoutError:
            return  # the status lies behind what the peer does not read, and nobody waits for it
