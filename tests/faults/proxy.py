"""A TCP proxy between agents and their coordinator that cuts, slows and delays: links as hospitals have them.

It moves bytes and knows nothing of TLS or gRPC. For machines on which network namespaces are not to be had.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

READ_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How bad it is.

    Attributes:
        cut_after_bytes: A connection is cut after so many bytes, drawn between the two; None never cuts.
        bytes_per_second: Each way of each connection; None is as fast as it goes.
        delay_seconds: Before each piece of at most READ_BYTES is passed on.
        lose_answers_after_bytes: Once so many have come from an agent, what the coordinator says on that connection is
            lost, and the connection is cut a second later. Only the first ``lossy_connections`` are like that.
    """

    cut_after_bytes: tuple[int, int] | None = None
    bytes_per_second: float | None = None
    delay_seconds: float = 0.0
    lose_answers_after_bytes: int | None = None
    lossy_connections: int = 0


class Proxy:
    """Listens on a port of its own and passes connections on to ``port``, both on loopback."""

    def __init__(self, port: int, link: Link, seed: int = 1) -> None:
        self.cuts = 0
        self._target = port
        self._link = link
        self._random = random.Random(seed)
        self._open: set[_Connection] = set()
        self._down_until = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        """Where agents dial."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        """Begin to pass connections on."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()

    def cut_off(self, seconds: float) -> None:
        """Cut every connection, and let none come about for so long."""
        self._down_until = time.monotonic() + seconds
        for connection in list(self._open):
            self.cuts += 1
            connection.cut()

    def _accept(self) -> None:
        count = 0
        with suppress(OSError):  # closed
            while True:
                agent, _ = self._listener.accept()
                try:
                    if time.monotonic() < self._down_until:
                        raise ConnectionRefusedError
                    coordinator = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    agent.close()
                    continue
                is_lossy = count < self._link.lossy_connections
                connection = _Connection(agent, coordinator, self._cut_at(), is_lossy)
                count += 1
                self._open.add(connection)
                for is_answer in (False, True):
                    threading.Thread(target=self._pump, args=(connection, is_answer), daemon=True).start()

    def _cut_at(self) -> int | None:
        return None if self._link.cut_after_bytes is None else self._random.randint(*self._link.cut_after_bytes)

    def _pump(self, connection: _Connection, is_answer: bool) -> None:
        source, target = connection.agent, connection.coordinator
        if is_answer:
            source, target = target, source
        with suppress(OSError):
            while content := source.recv(READ_BYTES):
                if self._link.delay_seconds:
                    time.sleep(self._link.delay_seconds)
                if self._link.bytes_per_second:
                    time.sleep(len(content) / self._link.bytes_per_second)
                passed = connection.take(len(content), is_answer)
                if is_answer and self._loses_answers(connection):
                    self.cuts += 1
                    time.sleep(1.0)
                    break
                target.sendall(content[:passed])
                if passed < len(content):
                    self.cuts += 1
                    break
        connection.cut()
        self._open.discard(connection)

    def _loses_answers(self, connection: _Connection) -> bool:
        limit = self._link.lose_answers_after_bytes
        return connection.is_lossy and limit is not None and connection.asked_bytes >= limit


class _Connection:
    """Both ends, and what may still pass, both ways together."""

    def __init__(self, agent: socket.socket, coordinator: socket.socket, count: int | None, is_lossy: bool) -> None:
        self.agent, self.coordinator, self.is_lossy = agent, coordinator, is_lossy
        self.asked_bytes = 0
        self._left = count
        self._lock = threading.Lock()

    def take(self, count: int, is_answer: bool) -> int:
        """How many of ``count`` bytes may pass."""
        with self._lock:
            taken = count if self._left is None else min(count, self._left)
            if self._left is not None:
                self._left -= taken
            self.asked_bytes += 0 if is_answer else taken
            return taken

    def cut(self) -> None:
        """End it, for both."""
        for end in (self.agent, self.coordinator):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
