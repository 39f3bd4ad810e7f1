"""Bounds how many chunks are on their way at once, so that many sites at once take little memory.

A chunk exists several times while it moves: in gRPC, as a message, as its content. Only so many move at once; the other
streams wait for their turn, and gRPC holds their peers back. Whoever is slow gives its turn up and goes on without one,
or a few sites with slow links would hold up all others: what such a stream holds is one chunk at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_ONCE = 12
TURN_SECONDS = 0.25


class Turns:
    """First come, first served."""

    def __init__(self, at_once: int = AT_ONCE, seconds: float = TURN_SECONDS) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._seconds = seconds

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn; it ends with the block, or after ``seconds`` in it."""
        await self._free.acquire()
        held = [self._free]

        def give_up() -> None:
            if held:
                held.pop().release()

        timer = asyncio.get_running_loop().call_later(self._seconds, give_up)
        try:
            yield
        finally:
            timer.cancel()
            give_up()
