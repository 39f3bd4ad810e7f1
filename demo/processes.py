"""Starts the demo's processes and ends every one of them, whatever happens. Knows them by pid, never by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from site_agent.adapters import leash

TERM_SECONDS = 15.0


class ProcessGroup:
    """Processes that live no longer than this object: each in a session of its own, with a log file."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        module: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        """Run ``python -m module arguments`` as ``name``; its output goes to ``log``, or else to ``<name>.log``."""
        leashed = [sys.executable, "-S", "-E", leash.__file__, str(os.getpid())]  # killed when this process is killed
        log = log or self.log_of(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._running[name] = subprocess.Popen(
                [*leashed, sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def ended(self) -> dict[str, int]:
        """Names and exit codes of processes that have ended."""
        codes = {name: process.poll() for name, process in self._running.items()}
        return {name: code for name, code in codes.items() if code is not None}

    def finish(self, names: Sequence[str]) -> dict[str, int]:
        """Wait until these have ended by themselves; their exit codes."""
        codes = {name: self._running[name].wait() for name in names}
        self.stop(names)
        return codes

    def pid_of(self, name: str) -> int | None:
        """The process id of ``name``, when it was started and not stopped."""
        process = self._running.get(name)
        return None if process is None else process.pid

    def log_of(self, name: str) -> Path:
        """Where the output of ``name`` goes."""
        return self._log_folder / f"{name}.log"

    def stop(self, names: Sequence[str] | None = None) -> None:
        """Ask with SIGTERM, wait, and kill what is left, children included."""
        chosen = [self._running.pop(name) for name in (names or list(self._running))]
        for process in chosen:
            _signal_group(process, signal.SIGTERM)
        for process in chosen:
            with suppress(subprocess.TimeoutExpired):
                process.wait(TERM_SECONDS)
            _signal_group(process, signal.SIGKILL)
            process.wait()


@contextmanager
def process_group(log_folder: Path) -> Iterator[ProcessGroup]:
    """A process group that is stopped at the end of the block, also after Ctrl-C and after SIGTERM."""
    group = ProcessGroup(log_folder)
    # SIGINT too: a shell that starts a job in the background has it ignored, and Python then leaves it so.
    previous = {number: signal.signal(number, _raise_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield group
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C does not keep this from ending them
        group.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise_interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
