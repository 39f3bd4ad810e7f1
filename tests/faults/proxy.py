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
    """

    cut_after_bytes: tuple[int, int] | None = None
    bytes_per_second: float | None = None
    delay_seconds: float = 0.0


class Proxy:
    """Listens on a port of its own and passes connections on to ``port``, both on loopback."""

    def __init__(self, port: int, link: Link, seed: int = 1) -> None:
        self.cuts = 0
        self._target = port
        self._link = link
        self._random = random.Random(seed)
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
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                agent, _ = self._listener.accept()
                try:
                    coordinator = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    agent.close()
                    continue
                budget = _Budget(self._cut_at())
                for source, target in ((agent, coordinator), (coordinator, agent)):
                    threading.Thread(target=self._pump, args=(source, target, budget), daemon=True).start()

    def _cut_at(self) -> int | None:
        return None if self._link.cut_after_bytes is None else self._random.randint(*self._link.cut_after_bytes)

    def _pump(self, source: socket.socket, target: socket.socket, budget: _Budget) -> None:
        with suppress(OSError):
            while content := source.recv(READ_BYTES):
                if self._link.delay_seconds:
                    time.sleep(self._link.delay_seconds)
                if self._link.bytes_per_second:
                    time.sleep(len(content) / self._link.bytes_per_second)
                passed = budget.take(len(content))
                target.sendall(content[:passed])
                if passed < len(content):
                    self.cuts += 1
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class _Budget:
    """Bytes that a connection may still pass, both ways together."""

    def __init__(self, count: int | None) -> None:
        self._left = count
        self._lock = threading.Lock()

    def take(self, count: int) -> int:
        """How many of ``count`` bytes may pass."""
        with self._lock:
            if self._left is None:
                return count
            taken = min(count, self._left)
            self._left -= taken
            return taken
