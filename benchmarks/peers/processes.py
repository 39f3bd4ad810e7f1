"""A peer's processes: each leashed, watched with all that it starts, and killed by its id at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from benchmarks.peers.work import AGGREGATING, SITES
from benchmarks.usage import TREE_SAMPLE_SECONDS, TreeWatch, watching
from site_agent.adapters import leash

POLL_SECONDS = 0.2
STOP_SECONDS = 20.0
ATTEMPTS = 6
READ_SECONDS = 5.0  # between looks into the logs
LAST_CHARACTERS = 1500
_TOOLS = "tools"


class PeerFailedError(Exception):
    """A peer did not do the work; the text says why."""


class PeerProcesses:
    """What runs of one peer, in three trees: what aggregates, the sites, and tools that end by themselves."""

    def __init__(self, folder: Path, environment: dict[str, str], ends_at: float) -> None:
        self.watch = TreeWatch(lambda: self._roots)
        self.sign_of_failure = ""  # what stands in a log when a run has ended that did not do its work
        self._read_at = time.monotonic()
        self._folder = folder
        self._environment = environment
        self._ends_at = ends_at
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._roots: dict[str, list[int]] = {AGGREGATING: [], SITES: [], _TOOLS: []}

    def start(self, tree: str, name: str, command: Sequence[str]) -> None:
        """Run ``command`` in the folder of the run; its output goes to ``<name>.log`` there."""
        leashed = [sys.executable, "-S", "-E", leash.__file__, str(os.getpid()), *command]
        with self.log_of(name).open("ab") as output:
            self._started[name] = subprocess.Popen(
                leashed,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        self._roots[tree] = [*self._roots[tree], self._started[name].pid]

    def run(self, name: str, command: Sequence[str]) -> bool:
        """Run a command that ends by itself; whether it succeeded."""
        self.start(_TOOLS, name, command)
        process = self._started.pop(name)
        try:
            while process.poll() is None:
                self.check(name)
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()  # nothing, when it has ended
            process.wait()
            self._roots[_TOOLS] = []
        return process.returncode == 0

    def fail(self, name: str) -> NoReturn:
        """Give up because of ``name``.

        Raises:
            PeerFailedError: with the end of its log.
        """
        raise PeerFailedError(f"{name} failed: {self._last_words(name)}")

    def run_until_done(self, name: str, command: Sequence[str]) -> None:
        """Run a command until it succeeds, some times: what it talks to may not be there yet.

        Raises:
            PeerFailedError: it never did.
        """
        for _attempt in range(ATTEMPTS):
            if self.run(name, command):
                return
            time.sleep(1.0)
        self.fail(name)

    def wait(self, name: str, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds.

        Raises:
            PeerFailedError: as `check`.
        """
        while not condition():
            self.check(name)
            time.sleep(POLL_SECONDS)

    def check(self, awaited: str) -> None:
        """See whether all that must run does, whether no log says that the run has failed, and whether there is time.

        Raises:
            PeerFailedError: with the end of a log.
        """
        for name, process in self._started.items():
            if process.poll() is not None:
                raise PeerFailedError(f"{name} ended with exit code {process.returncode}: {self._last_words(name)}")
        if time.monotonic() > self._read_at + READ_SECONDS:
            self._read_at = time.monotonic()
            self._read_logs()
        if time.monotonic() > self._ends_at:
            raise PeerFailedError(f"time limit, waiting for {awaited}: {self._last_words(awaited)}")

    def _read_logs(self) -> None:
        for name in self._started:
            text = self.log_of(name).read_text(encoding="utf-8", errors="replace")
            if self.sign_of_failure and self.sign_of_failure in text:
                raise PeerFailedError(f"the run failed, says {name}: {self._last_words(name)}")

    def log_of(self, name: str) -> Path:
        """Where the output of ``name`` goes."""
        return self._folder / f"{name}.log"

    def stop(self) -> None:
        """Kill all processes of all trees, also those that left their group, until none is there.

        Raises:
            PeerFailedError: one would not die.
        """
        ends_at = time.monotonic() + STOP_SECONDS
        while left := self.watch.alive():
            if time.monotonic() > ends_at:
                raise PeerFailedError(f"processes {left} were killed and do not end")
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        for process in self._started.values():
            process.wait()

    def _last_words(self, name: str) -> str:
        with suppress(OSError):
            return self.log_of(name).read_text(encoding="utf-8", errors="replace")[-LAST_CHARACTERS:].strip()
        return "no log"


@contextmanager
def peer_processes(folder: Path, environment: dict[str, str], time_limit: float) -> Iterator[PeerProcesses]:
    """A peer's processes, which are killed at the end of the block, whatever happens in it."""
    processes = PeerProcesses(folder, {**os.environ, **environment}, time.monotonic() + time_limit)
    with watching(processes.watch, TREE_SAMPLE_SECONDS):
        try:
            yield processes
        finally:
            processes.stop()


def listens(port: int) -> bool:
    """Whether something accepts connections at a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
