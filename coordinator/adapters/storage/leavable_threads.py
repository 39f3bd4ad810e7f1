"""Threads for calls that may hang: as many as one asks for, and the end of the process waits for none of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Work = tuple[Future[Any], Callable[[], Any]]


class LeavableThreads(Executor):
    """As a ``ThreadPoolExecutor``, but for its end: Python joins that one's threads, however long they hang."""

    def __init__(self, count: int, name: str) -> None:
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True) for number in range(count)
        ]
        self._changing = threading.Lock()
        self._is_closed = False
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do the work when a thread is free.

        Raises:
            RuntimeError: closed.
        """
        done: Future[T] = Future()
        with self._changing:
            if self._is_closed:
                raise RuntimeError("no work can be done after the end")
            self._queue.put((done, partial(work, *args, **kwargs)))
        return done

    def close(self, grace_seconds: float) -> None:
        """Take no more work, cancel what has not begun, and give what has begun so long; a thread may then go on."""
        with self._changing:
            self._is_closed = True
            with suppress(Empty):
                while (waiting := self._queue.get_nowait()) is not None:
                    waiting[0].cancel()
            for _ in self._threads:
                self._queue.put(None)
        ends_at = time.monotonic() + grace_seconds
        for thread in self._threads:
            thread.join(max(0.0, ends_at - time.monotonic()))

    def _work(self) -> None:
        while (waiting := self._queue.get()) is not None:
            done, work = waiting
            if not done.set_running_or_notify_cancel():
                continue
            try:
                outcome = work()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(outcome)
            del waiting, done, work
