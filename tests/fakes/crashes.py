"""A process that dies at a chosen change of the disk: that change, and every one after it, does not happen.

Changes are the system calls that write, sync, rename or remove, each transaction of the store, and what is asked of a
bucket (which may have been done when the answer is lost). An upload's write that is the fatal one is torn in half. What
a `finally` would tidy up stays: a killed process does nothing any more. Not played: a power cut that loses what was
written and not synced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from coordinator.adapters.storage.bucket import Bucket
from coordinator.adapters.storage.run_store import SqlRunStore

_CHANGES = ("chmod", "fsync", "ftruncate", "link", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink")


class Killed(BaseException):
    """The process is gone. Not an Exception: nothing may catch it and go on."""


class Fuse:
    """Counts changes, and kills at number ``kills_at`` (from 1); ``None`` never does."""

    def __init__(self, kills_at: int | None = None) -> None:
        self.count = 0
        self.is_dead = False
        self._kills_at = kills_at

    def burn(self) -> None:
        """A change is about to happen.

        Raises:
            Killed: it does not.
        """
        self.count += 1
        self.is_dead = self.is_dead or self.count == self._kills_at
        if self.is_dead:
            raise Killed

    @contextmanager
    def burning(self) -> Iterator[None]:
        """Every change of the disk in the block burns the fuse."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _CHANGES:
                patch.setattr(os, name, self._guarded(getattr(os, name)))
            patch.setattr(os, "open", self._guarded_open(os.open))
            patch.setattr(os, "pwrite", self._torn(os.pwrite))
            patch.setattr(SqlRunStore, "_in_transaction", self._guarded(SqlRunStore._in_transaction))
            for name in ("put", "fetch", "delete"):
                patch.setattr(Bucket, name, self._guarded_around(getattr(Bucket, name)))
            yield

    def _guarded(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **options: Any) -> Any:
            self.burn()
            return change(*args, **options)

        return guarded

    def _guarded_around(self, asks: Callable[..., None]) -> Callable[..., None]:
        def guarded(*args: Any) -> None:
            self.burn()
            asks(*args)
            self.burn()

        return guarded

    def _guarded_open(self, opens: Callable[..., int]) -> Callable[..., int]:
        def guarded(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                self.burn()
            return opens(path, flags, *args, **options)

        return guarded

    def _torn(self, pwrite: Callable[[int, bytes, int], int]) -> Callable[[int, bytes, int], int]:
        def torn(descriptor: int, content: bytes, offset: int) -> int:
            was_dead = self.is_dead
            try:
                self.burn()
            except Killed:
                if not was_dead:
                    pwrite(descriptor, content[: len(content) // 2], offset)
                raise
            return pwrite(descriptor, content, offset)

        return torn
