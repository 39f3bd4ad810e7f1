"""How much memory and CPU time processes take, alone or with all that they start, read from /proc. Linux only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

SAMPLE_SECONDS = 0.1
TREE_SAMPLE_SECONDS = 0.2
MACHINE = "machine"  # beside the trees: the CPU time of everything that runs
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


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


class Watch(Protocol):
    """Looks at processes, in a thread of its own while it is `watching`."""

    def look(self) -> None:
        """Look once."""


W = TypeVar("W", bound=Watch)


@contextmanager
def watching(watch: W, every_seconds: float = SAMPLE_SECONDS) -> Iterator[W]:
    """Let ``watch`` look again and again until the block ends."""
    ended = threading.Event()

    def keep_looking() -> None:
        while not ended.wait(every_seconds):
            watch.look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


class UsageWatch:
    """Keeps the last usage of a process that another thread starts and ends; ``pid`` may not be known at first."""

    def __init__(self, pid: Callable[[], int | None]) -> None:
        self.last = Usage()
        self._pid = pid

    def look(self) -> None:
        """Look once."""
        pid = self._pid()
        if pid is not None:
            with suppress(OSError):
                seen = usage_of(pid)
                self.last = seen if seen.peak_rss_bytes else self.last  # a zombie has no memory any more


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStat:
    """What /proc/PID/stat says of one process; CPU time has that of the children that it has waited for."""

    parent: int
    has_ended: bool  # and its parent has not waited for it yet
    started_ticks: int
    rss_bytes: int
    cpu_seconds: float


def all_processes() -> dict[int, ProcessStat]:
    """Every process of the machine, by its id."""
    found = {}
    for folder in os.listdir("/proc"):  # noqa: PTH208 - several times a second
        if folder.isdigit():
            with suppress(OSError):
                found[int(folder)] = _stat_of(Path(f"/proc/{folder}/stat").read_text(encoding="utf-8"))
    return found


def _stat_of(line: str) -> ProcessStat:
    fields = line.rpartition(")")[2].split()  # the third field of proc(5) is the first here
    return ProcessStat(
        parent=int(fields[1]),
        has_ended=fields[0] in "ZX",
        started_ticks=int(fields[19]),
        rss_bytes=_PAGE_BYTES * int(fields[21]),
        cpu_seconds=sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_SECOND,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSample:
    """What a tree's processes held at one moment, in seconds since the epoch, and took until then.

    Shared pages count for each.
    """

    at: float
    rss_bytes: int
    cpu_seconds: float


def machine_cpu_seconds() -> float:
    """What all processes of the machine have taken since it started: the first line of /proc/stat without idle time."""
    words = Path("/proc/stat").read_text(encoding="utf-8").split(maxsplit=8)[1:8]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts = map(int, words)
    return (user + nice + system + interrupts + soft_interrupts) / _TICKS_PER_SECOND


class TreeWatch:
    """Samples several trees of processes, each by its name; whoever was once in a tree stays in it.

    ``roots`` gives the ids at the top of each tree. A process in a session of its own is followed too, and so is one
    whose parent has died, as long as it was seen before.
    """

    def __init__(self, roots: Callable[[], Mapping[str, Iterable[int]]]) -> None:
        self.samples: dict[str, list[TreeSample]] = {}
        self._roots = roots
        self._members: dict[str, dict[int, int]] = {}  # by name of the tree: process id to start
        self._looking = threading.Lock()

    def peak_rss_bytes(self, name: str) -> int:
        """The most that a tree held at once."""
        return max((sample.rss_bytes for sample in self.samples.get(name, ())), default=0)

    def cpu_seconds(self, name: str, begin: float, end: float) -> float:
        """What a tree took between two moments, as near as the samples are."""
        samples = self.samples.get(name, [])
        if not samples:
            return 0.0
        first, last = (min(samples, key=lambda sample: abs(sample.at - at)) for at in (begin, end))
        return last.cpu_seconds - first.cpu_seconds

    def alive(self) -> list[int]:
        """Ids of all processes of all trees that run now."""
        with self._looking:
            processes = all_processes()
            members = {pid for name in self._roots() for pid in self._members_of(name, processes)}
            return sorted(pid for pid in members if not processes[pid].has_ended)

    def look(self) -> None:
        """Take a sample of every tree and of the machine."""
        with self._looking:
            at, processes = time.time(), all_processes()
            for name in self._roots():
                members = self._members_of(name, processes).values()
                sample = TreeSample(
                    at=at,
                    rss_bytes=sum(each.rss_bytes for each in members),
                    cpu_seconds=sum(each.cpu_seconds for each in members),
                )
                self.samples.setdefault(name, []).append(sample)
            whole = TreeSample(at=at, rss_bytes=0, cpu_seconds=machine_cpu_seconds())
            self.samples.setdefault(MACHINE, []).append(whole)

    def _members_of(self, name: str, processes: Mapping[int, ProcessStat]) -> dict[int, ProcessStat]:
        known = self._members.setdefault(name, {})
        for pid in self._roots()[name]:
            if pid in processes:
                known.setdefault(pid, processes[pid].started_ticks)
        # An id may have been given to a stranger since.
        tree = {pid for pid, started in known.items() if pid in processes and processes[pid].started_ticks == started}
        grown = True
        while grown:
            children = {pid for pid, each in processes.items() if each.parent in tree} - tree
            tree |= children
            grown = bool(children)
        known.update({pid: processes[pid].started_ticks for pid in tree})
        return {pid: processes[pid] for pid in tree}
