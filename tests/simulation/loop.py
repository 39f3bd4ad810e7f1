"""Virtual time, and an event loop for each simulated process. One thing happens at a time, in an order that repeats.

The event loop is what the services ask for time to pass, for a timeout and for a thread, so it is here that all of them
are simulated: a sleep moves the clock, and a thread's work is a step of the loop that comes a little later. A process
that dies is a loop that is never stepped again: none of its `finally` blocks runs.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Schedule:
    """What is due next, over all processes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, asyncio.Handle, ProcessLoop]] = []
        self._count = 0

    def add(self, when: float, handle: asyncio.Handle, loop: ProcessLoop) -> None:
        """Run ``handle`` at ``when``; of one instant, what was added first comes first."""
        self._count += 1
        heapq.heappush(self._due, (when, self._count, handle, loop))

    def step(self) -> None:
        """Let the next thing happen."""
        when, _, handle, loop = heapq.heappop(self._due)
        if loop.is_dead or handle.cancelled():
            return
        if loop.stopped_until > when:  # a process that does not run: what is due waits, in its order
            self.add(loop.stopped_until, handle, loop)
            return
        self.now = max(self.now, when)
        asyncio._set_running_loop(loop)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(None)


class ProcessLoop(asyncio.BaseEventLoop):
    """The event loop of one process; ``thread_seconds`` says how long a thread's next piece of work takes.

    Of the base class it is the type alone, and none of the state: it selects nothing and has no thread.
    """

    def __init__(self, schedule: Schedule, thread_seconds: Callable[[], float]) -> None:
        self.is_dead = False
        self.stopped_until = 0.0
        self.failures: list[dict[str, Any]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._schedule = schedule
        self._thread_seconds = thread_seconds
        self._free_at: dict[Executor, float] = {}

    def time(self) -> float:
        return self._schedule.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.is_dead

    def is_closed(self) -> bool:
        return self.is_dead

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._schedule.add(self._schedule.now, handle, self)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._schedule.add(when, handle, self)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=None if name is None else str(name), context=context)
        self.tasks.append(task)  # held, so that nothing of a dead process is ever finalised while others live
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """A thread's work: whole, a little later, whoever still waits for it; one after the other in an executor."""
        answer: asyncio.Future[T] = self.create_future()
        begins_at = self.time() if executor is None else max(self.time(), self._free_at.get(executor, 0.0))
        ends_at = begins_at + self._thread_seconds()
        if executor is not None:
            self._free_at[executor] = ends_at
        self.call_at(ends_at, _run, answer, func, args)
        return answer

    def dispose(self) -> None:
        """Close what is left of the coroutines; what they would tidy up no longer matters."""
        self.is_dead = True
        for task in self.tasks:
            coroutine = task.get_coro()
            while inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED:
                with suppress(BaseException):
                    coroutine.close()
        self.tasks.clear()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_dead:
            self.failures.append(context)


def _run(answer: asyncio.Future[T], func: Callable[[Unpack[Ts]], T], args: tuple[*Ts]) -> None:
    try:
        result = func(*args)
    except Exception as error:
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(result)
