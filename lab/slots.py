"""Room for so many trainers beside each other, given to whoever is first in the experiment's order; and its end."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

Priority = tuple[int, ...]


class OutOfTimeError(Exception):
    """No more work is begun: the time that was given is over."""


class Slots:
    """At most ``at_once`` holders; the least priority goes first, and nobody after ``is_over`` says so."""

    def __init__(self, at_once: int, is_over: Callable[[], bool]) -> None:
        self._free = at_once
        self._is_over = is_over
        self._arrivals = count()
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def hold(self, priority: Priority) -> AsyncIterator[None]:
        """A slot for the block.

        Raises:
            OutOfTimeError: it is over.
        """
        if self._free == 0 or self._waiting:
            turn = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (priority, next(self._arrivals), turn))
            await turn
        else:
            self._free -= 1
        try:
            if self._is_over():
                raise OutOfTimeError
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._free += 1
