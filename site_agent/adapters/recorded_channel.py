"""The only channel that this service opens: whatever is sent over it is in the ledger first. It repeats nothing.

Stubs are made by :meth:`RecordedChannel.stub`, so no rpc can go around it; that nothing else in the service opens a
channel is a test of the architecture.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from common.ids import Digest
from common.rpc_errors import from_rpc_error
from common.tls import CHANNEL_OPTIONS, Identity, channel_credentials
from site_agent.adapters.outgoing import Attribution, describe_message
from site_agent.domain.ledger import Delivery, Outcome, OutgoingMessage, TensorNorm

_Stub = TypeVar("_Stub")
_Response = TypeVar("_Response")


class Recorder(Protocol):
    """Writes down what leaves, before it does (`site_agent.adapters.ledger`)."""

    def record(self, message: OutgoingMessage) -> Any:
        """Write down that it is about to leave; the ticket is for what becomes of it.

        Raises:
            OverloadedError: It cannot be written, so it must not leave.
        """

    def settle(self, ticket: Any, delivery: Delivery) -> None:
        """Write down what became of it."""


class _Sending:
    """One call: what was recorded of it, what was given to the network since, and its end, which is told once."""

    def __init__(self, recorder: Recorder, message: OutgoingMessage) -> None:
        self._recorder = recorder
        self._ticket = recorder.record(message)
        self._hash = hashlib.sha256()
        self._messages = self._bytes = 0
        self._is_settled = False

    def count(self, content: bytes) -> None:
        """These bytes are about to be given to the network."""
        self._hash.update(content)
        self._messages += 1
        self._bytes += len(content)

    def settle(self, outcome: Outcome, reason: str = "") -> None:
        """Tell how it ended; a second time it does nothing."""
        if not self._is_settled:
            self._is_settled = True
            digest = Digest(f"sha256:{self._hash.hexdigest()}")
            delivery = Delivery(
                outcome=outcome,
                reason=reason,
                sent_messages=self._messages,
                sent_bytes=self._bytes,
                sent_digest=digest,
            )
            self._recorder.settle(self._ticket, delivery)

    def failed(self, error: grpc.aio.AioRpcError) -> None:
        """The rpc failed: a reason of the coordinator's own is an answer."""
        meant = from_rpc_error(error)
        answered = error.trailing_metadata() is not None and _has_details(error)
        self.settle(Outcome.ANSWERED if answered else Outcome.FAILED, str(meant.reason))


def _has_details(error: grpc.aio.AioRpcError) -> bool:
    return any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())


class RecordedChannel:
    """``channel``, with everything that leaves over it told to ``recorder`` before it does."""

    def __init__(self, channel: grpc.aio.Channel, recorder: Recorder, attribution: Attribution) -> None:
        self._channel = channel
        self._recorder = recorder
        self._attribution = attribution

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every call, and the connection."""
        await self._channel.close()

    def stub(self, make: Callable[[grpc.aio.Channel], _Stub]) -> _Stub:
        """The stub of a service, over this channel: it makes its calls by the methods below."""
        return make(cast(grpc.aio.Channel, self))

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], _Response],
        **_options: object,
    ) -> Callable[..., Awaitable[_Response]]:
        """As gRPC's; what it gives is awaited once, and sends nothing before."""
        inner: Any = self._channel.unary_unary(
            method, request_serializer=_as_it_is, response_deserializer=response_deserializer
        )

        async def answer(request: Message, seconds: float | None) -> _Response:
            content = request_serializer(request)
            sending = self._sending(method, request, content)
            sending.count(content)
            with _told(sending):
                response: _Response = await inner(content, timeout=seconds)
            return response

        return lambda request, timeout=None: answer(request, timeout)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], _Response],
        **_options: object,
    ) -> Callable[[Message], RecordedDownload[_Response]]:
        """As gRPC's; the request is recorded when the call is made."""
        inner: Any = self._channel.unary_stream(
            method, request_serializer=_as_it_is, response_deserializer=response_deserializer
        )

        def call(request: Message) -> RecordedDownload[_Response]:
            content = request_serializer(request)
            sending = self._sending(method, request, content)
            sending.count(content)
            return RecordedDownload(inner(content), sending)

        return call

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], _Response],
        **_options: object,
    ) -> Callable[[Message, tuple[TensorNorm, ...]], RecordedUpload[_Response]]:
        """A stream of a header and what follows, already written as bytes; its header is recorded first."""
        inner: Any = self._channel.stream_unary(
            method, request_serializer=_as_it_is, response_deserializer=response_deserializer
        )

        def call(header: Message, tensors: tuple[TensorNorm, ...]) -> RecordedUpload[_Response]:
            content = request_serializer(header)
            sending = self._sending(method, header, content, tensors)
            return RecordedUpload(inner(), sending, content)

        return call

    def _sending(self, method: str, message: Message, content: bytes, tensors: tuple[TensorNorm, ...] = ()) -> _Sending:
        return _Sending(self._recorder, describe_message(method, message, content, self._attribution, tensors))


@contextmanager
def _told(sending: _Sending) -> Iterator[None]:
    """Settle ``sending`` by how the block ends."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        sending.failed(error)
        raise
    except BaseException:
        sending.settle(Outcome.CANCELLED)
        raise
    sending.settle(Outcome.ANSWERED)


class RecordedDownload(Generic[_Response]):
    """A call whose answer is a stream: iterated to its end, or cancelled."""

    def __init__(self, call: Any, sending: _Sending) -> None:
        self._call = call
        self._sending = sending

    async def __aiter__(self) -> AsyncIterator[_Response]:
        with _told(self._sending):
            async for part in self._call:
                yield part

    def cancel(self) -> None:
        """End it."""
        self._call.cancel()
        self._sending.settle(Outcome.CANCELLED)


class RecordedUpload(Generic[_Response]):
    """A call that is written to, and then awaited for its answer, or cancelled."""

    def __init__(self, call: Any, sending: _Sending, header: bytes) -> None:
        self._call = call
        self._sending = sending
        self.header = header

    async def write(self, message: bytes) -> None:
        """Send ``message``; the first one is ``header``, as it was recorded."""
        self._sending.count(message)
        await self._call.write(message)

    async def done_writing(self) -> None:
        """There is no more to send."""
        await self._call.done_writing()

    def cancel(self) -> None:
        """End it."""
        self._call.cancel()
        self._sending.settle(Outcome.CANCELLED)

    def __await__(self) -> Generator[Any, None, _Response]:
        return self._answer().__await__()

    async def _answer(self) -> _Response:
        with _told(self._sending):
            response: _Response = await self._call
        return response


def _as_it_is(message: bytes) -> bytes:
    """Messages are bytes already."""
    return message


def open_channel(
    address: str, identity: Identity, recorder: Recorder, attribution: Attribution, server_name: str = ""
) -> RecordedChannel:
    """A channel over mutual TLS; see `Dial`."""
    return Dial(address, recorder, attribution, server_name).channel(identity)


@dataclass(frozen=True, slots=True)
class Dial:
    """How the coordinator is reached, and where what leaves is written down.

    Attributes:
        address: ``host:port`` of the coordinator.
        recorder: The ledger.
        attribution: Knows what a message belongs to.
        server_name: The name in the coordinator's certificate, where it is not the host of ``address``.
    """

    address: str
    recorder: Recorder
    attribution: Attribution
    server_name: str = ""

    def channel(self, identity: Identity) -> RecordedChannel:
        """A channel over mutual TLS. A renewed certificate needs a new one: gRPC reads the files' content once."""
        return self._open(channel_credentials(identity))

    def first_channel(self, ca_certificate_pem: bytes) -> RecordedChannel:
        """A channel of somebody who has no certificate yet, to whoever has one of that CA."""
        return self._open(grpc.ssl_channel_credentials(root_certificates=ca_certificate_pem))

    def _open(self, credentials: grpc.ChannelCredentials) -> RecordedChannel:
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        channel = grpc.aio.secure_channel(self.address, credentials, options=[*CHANNEL_OPTIONS, *named])
        return RecordedChannel(channel, self.recorder, self.attribution)
