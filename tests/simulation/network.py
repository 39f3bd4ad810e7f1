"""gRPC's transport, simulated: a channel for the agents' stubs, and a place for the coordinator's rpcs to be served.

What both sides put on the wire and read from it is theirs; here its bytes are late, cut off, lost with the connection,
or there twice. Messages of one call keep their order (TCP); calls overtake each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import grpc.aio

from common.ids import digest_of
from tests.simulation.loop import ProcessLoop
from tests.simulation.machines import Life

AWAY = (grpc.StatusCode.UNAVAILABLE, "the connection is gone", ())
LATE = (grpc.StatusCode.DEADLINE_EXCEEDED, "too late", ())
CANCELLED = (grpc.StatusCode.CANCELLED, "cancelled", ())
OK = (grpc.StatusCode.OK, "", ())

Status = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]


@dataclass(slots=True, kw_only=True)
class Fate:
    """What will become of one call.

    Attributes:
        seconds: How long each message is on its way.
        ends_after: The connection ends after so many messages, counted in both directions; None: it does not.
        notice_seconds: When an end that nobody told hears of it, and when the other one does.
        is_flushed: Whether what was on its way then still arrives.
        again_after: Seconds after which all that was sent reaches the coordinator a second time; None: it does not.
    """

    seconds: Callable[[], float]
    ends_after: int | None = None
    notice_seconds: tuple[float, float] = (0.0, 0.0)
    is_flushed: bool = False
    again_after: float | None = None


@dataclass(slots=True)
class Pipe:
    """One direction of a call: messages in their order, and how it ended."""

    loop: ProcessLoop
    arrived: deque[bytes] = field(default_factory=deque)
    status: Status | None = None
    last_at: float = 0.0
    _waiter: asyncio.Future[None] | None = None

    def put(self, message: bytes) -> None:
        if self.status is None:
            self.arrived.append(message)
            self._wake()

    def end(self, status: Status) -> None:
        """After this nothing arrives any more."""
        if self.status is None:
            self.status = status
            self._wake()

    async def next(self) -> bytes | None:
        """The next message; None when it has ended."""
        while not self.arrived:
            if self.status is not None:
                return None
            self._waiter = self.loop.create_future()
            await self._waiter
        return self.arrived.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection:
    """One call between an agent and the coordinator."""

    def __init__(self, network: Network, method: str, agent: Life, fate: Fate) -> None:
        self.method, self.agent, self.fate = method, agent, fate
        self.up: Pipe | None = None
        self.down = Pipe(agent.loop)
        self.sent: list[bytes] = []
        self.coordinator: Life | None = network.coordinator
        self.is_cut = False
        self._network = network
        self._messages = 0
        self._served: asyncio.Task[None] | None = None
        if self.coordinator is None:
            self._later(self.down, lambda: self.down.end(AWAY))
        else:
            self.up = Pipe(self.coordinator.loop)
            self._later(self.up, self._accept)

    def to_coordinator(self, message: bytes) -> None:
        self.agent.place(f"send {self.method}")
        if not self.sent:
            self._network.left.append((self.agent.name, self.method, digest_of(message)))
        self.sent.append(message)
        if self.up is not None:
            self._move(self.up, lambda up: up.put(message))

    def to_agent(self, message: bytes) -> None:
        assert self.coordinator is not None
        self.coordinator.place(f"answer {self.method}")
        self._move(self.down, lambda down: down.put(message))

    def end_up(self) -> None:
        """The agent has sent everything."""
        if self.up is not None:
            self._move(self.up, lambda up: up.end(OK))

    def end_down(self, status: Status) -> None:
        """The coordinator has answered."""
        self._move(self.down, lambda down: down.end(status))

    def hang_up(self, status: Status) -> None:
        """The agent waits for no answer any more; the coordinator is told."""
        if self.down.status is None:
            self.down.end(status)
            if self.up is not None and not self.is_cut:
                self._later(self.up, self._cancel)

    def cut(self) -> None:
        """The connection is gone; each end hears of it in its own time."""
        if self.is_cut or self.down.status is not None:
            return
        self.is_cut = True
        first, second = self.fate.notice_seconds
        self.agent.loop.call_later(first, self.down.end, AWAY)
        if self.coordinator is not None:
            self.coordinator.loop.call_later(second, self._cancel)

    def _accept(self) -> None:
        assert self.coordinator is not None
        self._served = self.coordinator.loop.create_task(self._network.serve(self))

    def _cancel(self) -> None:
        if self._served is not None:
            self._served.cancel()

    def _move(self, pipe: Pipe, arrive: Callable[[Pipe], None]) -> None:
        """Bring something to the other end, unless the connection ends before."""
        if self.is_cut:
            return
        self._messages += 1
        self._later(pipe, lambda: None if self.is_cut and not self.fate.is_flushed else arrive(pipe))
        if self._messages == self.fate.ends_after:
            self.cut()

    def _later(self, pipe: Pipe, act: Callable[[], object]) -> None:
        pipe.last_at = max(pipe.last_at, pipe.loop.time() + self.fate.seconds())
        pipe.loop.call_at(pipe.last_at, act)


class Echo(Connection):
    """A call that reaches the coordinator once more; its answer goes nowhere."""

    def __init__(self, network: Network, first: Connection) -> None:
        super().__init__(network, first.method, first.agent, Fate(seconds=first.fate.seconds))
        if self.up is not None and first.sent:
            for message in first.sent:
                self._later(self.up, partial(self.up.put, message))
            self._later(self.up, partial(self.up.end, OK))

    def to_agent(self, message: bytes) -> None:
        """Nobody is there."""

    def end_down(self, status: Status) -> None:
        """Nobody is there."""


@dataclass(slots=True, eq=False)
class Context:
    """The coordinator's side of a call, as far as its servicer and interceptor use it."""

    connection: Connection
    certificate: bytes
    read_message: Callable[[bytes], Any] | None = None
    write_message: Callable[[Any], bytes] | None = None
    status: Status | None = None

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self.certificate]}

    def code(self) -> grpc.StatusCode | None:
        return None if self.status is None else self.status[0]

    async def read(self) -> Any:
        assert self.connection.up is not None and self.read_message is not None
        message = await self.connection.up.next()
        return grpc.aio.EOF if message is None else self.read_message(message)

    async def write(self, message: Any) -> None:
        assert self.write_message is not None
        self.connection.to_agent(self.write_message(message))
        await asyncio.sleep(self.connection.fate.seconds())

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self.status = (code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError


class Network:
    """Between all agents and the coordinator, whichever process that is by now."""

    def __init__(self, outside: ProcessLoop, fate: Callable[[str], Fate], certificates: dict[str, bytes]) -> None:
        self.coordinator: Life | None = None
        self.left: list[tuple[str, str, str]] = []  # of each call: whose, which, and its first message's digest
        self._outside = outside
        self._fate = fate
        self._certificates = certificates
        self._rpcs: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._open: list[Connection] = []

    def listen(self, life: Life, rpcs: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """From now on ``life`` is the coordinator."""
        self.coordinator, self._rpcs = life, rpcs

    def died(self, life: Life) -> None:
        """A process is gone, and with it its ends of all calls."""
        if self.coordinator is life:
            self.coordinator = None
        for connection in self._open:
            if life in (connection.agent, connection.coordinator):
                connection.cut()
        self._open = [each for each in self._open if not each.is_cut and each.down.status is None]

    def connect(self, method: str, agent: Life) -> Connection:
        """Begin a call."""
        connection = Connection(self, method, agent, self._fate(method))
        self._open.append(connection)
        if connection.fate.again_after is not None:
            self._outside.call_later(connection.fate.again_after, Echo, self, connection)
        return connection

    async def serve(self, connection: Connection) -> None:
        """Let the coordinator answer a call."""
        handler = self._rpcs[connection.method]
        certificate = self._certificates[connection.agent.name]
        context = Context(connection, certificate, handler.request_deserializer, handler.response_serializer)
        status: Status = OK
        try:
            await _answer(handler, connection, context)
        except grpc.aio.AbortError:
            assert context.status is not None
            status = context.status
        connection.end_down(status)


async def _answer(handler: Any, connection: Connection, context: Context) -> None:
    """``handler`` is a `grpc.RpcMethodHandler` of coroutines, which its types do not know."""
    if handler.request_streaming:
        connection.to_agent(handler.response_serializer(await handler.stream_unary(None, context)))
        return
    request = await context.read()
    if handler.response_streaming:
        await handler.unary_stream(request, context)
    else:
        connection.to_agent(handler.response_serializer(await handler.unary_unary(request, context)))


class AgentCall:
    """The agent's side of a call, as `grpc.aio` gives it: awaited, iterated or written to."""

    def __init__(self, connection: Connection, read_message: Callable[[bytes], Any], write: Callable[[Any], bytes]):
        self._connection, self._read_message, self._write_message = connection, read_message, write

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    def __aiter__(self) -> AgentCall:
        return self

    async def __anext__(self) -> Any:
        message = await self._next()
        if message is None:
            raise StopAsyncIteration
        return message

    async def write(self, message: Any) -> None:
        self._check_open()
        self._connection.to_coordinator(self._write_message(message))
        await asyncio.sleep(self._connection.fate.seconds())

    async def done_writing(self) -> None:
        self._check_open()
        self._connection.end_up()

    def cancel(self) -> None:
        self._connection.hang_up(CANCELLED)

    async def _response(self) -> Any:
        message = await self._next()
        assert message is not None, "a call that ends well has its answer"
        return message

    async def _next(self) -> Any:
        down = self._connection.down
        try:
            message = await down.next()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is not None:
            return self._read_message(message)
        assert down.status is not None
        code, details, trailers = down.status
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)
        return None

    def _check_open(self) -> None:
        if self._connection.down.status is not None:
            raise asyncio.InvalidStateError("RPC already finished.")


class Channel:
    """What the stubs of one agent's process call: the part of `grpc.aio.Channel` that they use."""

    def __init__(self, network: Network, agent: Life) -> None:
        self._network, self._agent = network, agent

    def unary_unary(self, method: str, **codec: Any) -> Callable[..., AgentCall]:
        return lambda request, timeout=None: self._call(method, codec, request, timeout)

    def unary_stream(self, method: str, **codec: Any) -> Callable[..., AgentCall]:
        return lambda request: self._call(method, codec, request, None)

    def stream_unary(self, method: str, **codec: Any) -> Callable[[], AgentCall]:
        return lambda: self._open(method, codec)[1]

    def _call(self, method: str, codec: dict[str, Any], request: Any, timeout: float | None) -> AgentCall:
        connection, call = self._open(method, codec)
        connection.to_coordinator(codec["request_serializer"](request))
        connection.end_up()
        if timeout is not None:
            self._agent.loop.call_later(timeout, connection.hang_up, LATE)
        return call

    def _open(self, method: str, codec: dict[str, Any]) -> tuple[Connection, AgentCall]:
        connection = self._network.connect(method, self._agent)
        return connection, AgentCall(connection, codec["response_deserializer"], codec["request_serializer"])
