"""How much memory and CPU time a process takes, read from /proc while it runs. Linux only."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_SECONDS = 0.1
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The most that was resident at once, pages of files included, and user and system time."""

    peak_rss_bytes: int = 0
    cpu_seconds: float = 0.0


def usage_of(pid: int) -> Usage:
    """Of a process that runs: ``VmHWM`` of /proc/PID/status, and fields 14 and 15 of /proc/PID/stat (proc(5)).

    Raises:
        OSError: it is gone.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), "0")
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime and stime; the fields before them end with the name
    return Usage(peak_rss_bytes=1024 * int(peak), cpu_seconds=ticks / _TICKS_PER_SECOND)


class UsageWatch:
    """Keeps the last usage of a process that another thread starts and ends; ``pid`` may not be known at first."""

    def __init__(self, pid: Callable[[], int | None]) -> None:
        self.last = Usage()
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            pid = self._pid()
            if pid is not None:
                with suppress(OSError):
                    seen = usage_of(pid)
                    self.last = seen if seen.peak_rss_bytes else self.last  # a zombie has no memory any more
