"""Around every rpc: authenticate, authorise, turn errors into statuses, count refusals. Holds no use case."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Never

import grpc
import grpc.aio
from structlog.typing import FilteringBoundLogger

from common.errors import FedMedError, Reason
from common.logging import log_fault
from common.rpc_errors import abort_with, internal_error, to_status
from common.tls import caller_from_context
from coordinator.adapters.metrics import CoordinatorMetrics
from coordinator.adapters.rpc.access import authorise

Context = grpc.aio.ServicerContext[Any, Any]


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Nothing of a request is read before its caller is known and allowed (law 5)."""

    def __init__(self, consortium: str, metrics: CoordinatorMetrics, log: FilteringBoundLogger) -> None:
        self._consortium = consortium
        self._metrics = metrics
        self._log = log

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of one rpc."""
        handler = await continuation(handler_call_details)
        rpc = handler_call_details.method
        if handler is None:
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._guard_stream(rpc, handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
        return make(
            self._guard_unary(rpc, behaviour),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _guard_unary(self, rpc: str, behaviour: Any) -> Any:
        async def guarded(request: Any, context: Context) -> Any:
            async with self._guard(rpc, context):
                return await behaviour(request, context)

        return guarded

    def _guard_stream(self, rpc: str, behaviour: Any) -> Any:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._guard(rpc, context):
                async for response in behaviour(request, context):
                    yield response

        return guarded

    @asynccontextmanager
    async def _guard(self, rpc: str, context: Context) -> AsyncIterator[None]:
        name = "unknown"
        try:
            caller = caller_from_context(context)
            name = caller.uri
            authorise(caller, rpc, self._consortium)
            yield
            self._metrics.rpc_ended(rpc, grpc.StatusCode.OK.name)
        except FedMedError as error:
            self._metrics.refused(error.reason)
            self._log.info("rpc_refused", rpc=rpc, caller=name, reason=error.reason)
            await self._end_with(context, rpc, error)
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:
            error_id = log_fault(self._log, "rpc_failed", error, rpc=rpc, caller=name)
            self._metrics.refused(Reason.INTERNAL)
            await self._end_with(context, rpc, internal_error(error_id))

    async def _end_with(self, context: Context, rpc: str, error: FedMedError) -> Never:
        self._metrics.rpc_ended(rpc, to_status(error).code.name)
        await abort_with(context, error)
