"""Repeats a call until it succeeds or the other side says no. It knows no deadline: a CANCEL is what ends waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from common.errors import FedMedError
from common.retry import backoff
from site_agent.app.ports import Sleep

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait between attempts; jitter spreads agents that lost the same coordinator."""

    base_seconds: float = 0.25
    cap_seconds: float = 10.0  # when a link is back, a round waits so long at most for an agent to try it
    look_seconds: float = 0.5  # so often somebody looks whether a person has decided, or the hours have come or gone
    stop_seconds: float = 120.0  # so long may a trainer that is asked to stop load a model, or end a step
    sleep: Sleep = asyncio.sleep
    jitter: Callable[[], float]

    def wait_seconds(self, attempt: int) -> float:
        """How long to wait after failed attempt number ``attempt``, counted from 0."""
        return backoff(attempt, self.base_seconds, self.cap_seconds, self.jitter())


async def keep_trying(
    call: Callable[[], Awaitable[T]], patience: Patience, on_failure: Callable[[FedMedError, int, float], None]
) -> T:
    """The outcome of ``call``, repeated after every error that is retryable: hours of training are worth the wait.

    Args:
        call: Safe to repeat.
        patience: How long to wait.
        on_failure: Told each error, the number of the attempt from 1 and the seconds until the next.

    Raises:
        FedMedError: One that is not retryable.
    """
    attempt = 0
    while True:
        try:
            return await call()
        except FedMedError as error:
            if not error.retryable:
                raise
            wait_seconds = patience.wait_seconds(attempt)
            attempt += 1
            on_failure(error, attempt, wait_seconds)
            await patience.sleep(wait_seconds)
