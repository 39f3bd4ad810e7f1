"""Starts the trainer as a child process and speaks with it in files. It reads no note, and hands the child no key.

The child's output goes to a file in the order folder and never into the agent's log: that it quotes no note is the
trainer's part (`trainer/quiet.py`), and here nothing depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import site_agent
from common.files import sync_folder
from common.ids import derived_id
from common.logging import get_logger
from site_agent.adapters import leash
from site_agent.adapters.order_folder import (
    TRAINER_LOG,
    ask_to_stop,
    is_asked_to_stop,
    read_outcome,
    read_progress,
    write_order,
)
from site_agent.app.ports import Order, ProgressRelay, Result, Sleep
from site_agent.orders import Failure, FailureReason

PROGRESS_SECONDS = 1.0
TRAINER_COMMAND = (sys.executable, "-P", "-m", "site_agent.trainer")

# A child that somebody killed is started again, and goes on from its checkpoint. One that crashed would crash again,
# and one that was killed for memory would need as much again.
MAX_STARTS = 3
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)

# What the child may inherit; a name that is not here, such as one of a key file or a proxy, does not reach it.
_INHERITED = (
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_VISIBLE_DEVICES",
    "PATH",
    "TMPDIR",
    "XDG_CACHE_HOME",
)


def trainer_environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """The child's whole environment: what it needs, no network for the hub, and ``threads`` CPU threads (0: any)."""
    root = str(Path(site_agent.__file__).parents[1])
    environment = {name: inherited[name] for name in _INHERITED if name in inherited}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, inherited.get("PYTHONPATH"))))
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def kernel_oom_kills() -> int:
    """Processes killed for memory since boot, in any cgroup (``oom_kill`` of /proc/vmstat); 0 where it is not told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


class TrainerProcess:
    """The `Trainer` port: one child at a time, in a process group of its own, on a leash."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        command: tuple[str, ...] = TRAINER_COMMAND,
        progress_seconds: float = PROGRESS_SECONDS,
        oom_kills: Callable[[], int] = kernel_oom_kills,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._environment = dict(environment)
        self._command = command
        self._progress_seconds = progress_seconds
        self._oom_kills = oom_kills
        self._sleep = sleep

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure | None:
        """Do ``order`` in ``folder``, unless it was done already; cancelled, it kills the child and its children.

        A child that somebody else kills is started again, MAX_STARTS times in all. None: it was asked to stop.
        """
        outcome = read_outcome(folder)
        if outcome is not None:
            return outcome
        write_order(folder, order)
        for starts_left in reversed(range(MAX_STARTS)):
            kills_before = self._oom_kills()
            return_code = await self._run_once(folder, relay)
            is_memory = return_code == -signal.SIGKILL and self._oom_kills() > kills_before
            sync_folder(folder)  # a child that was killed may have named its result and not synced that
            outcome = read_outcome(folder)
            if outcome is None and is_asked_to_stop(folder):
                return None
            if outcome is not None or is_memory or return_code not in _KILLED or not starts_left:
                break
            get_logger("site_agent").warning("trainer_killed", count=starts_left)
        return outcome or _crash(folder, return_code, is_memory)

    async def _run_once(self, folder: Path, relay: ProgressRelay) -> int:
        async with self._child(folder) as child:
            relaying = asyncio.create_task(self._relay(folder, relay))
            try:
                return await child.wait()
            finally:
                relaying.cancel()
                await asyncio.gather(relaying, return_exceptions=True)

    def ask_to_stop(self, folder: Path) -> None:
        """See the port."""
        ask_to_stop(folder)

    def outcome(self, folder: Path) -> Result | Failure | None:
        """What was left in ``folder`` by work that is over."""
        return read_outcome(folder)

    @contextlib.asynccontextmanager
    async def _child(self, folder: Path) -> AsyncIterator[Process]:
        with (folder / TRAINER_LOG).open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-S", "-E", leash.__file__, str(os.getpid())),
                *(*self._command, str(folder)),
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                cwd=folder,
                env=self._environment,
                process_group=0,
            )
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()

    async def _relay(self, folder: Path, relay: ProgressRelay) -> None:
        last = None
        while True:
            await self._sleep(self._progress_seconds)
            progress = read_progress(folder)
            if progress is not None and progress != last:
                await relay(progress)
                last = progress


def _crash(folder: Path, return_code: int, is_memory: bool) -> Failure:
    """Why a child left neither result nor failure: killed for memory, or else crashed."""
    how = f"signal {-return_code}" if return_code < 0 else f"exit code {return_code}"
    return Failure(
        reason=FailureReason.OUT_OF_MEMORY if is_memory else FailureReason.TRAINER_CRASHED,
        detail=f"the trainer ended without a result ({how}); its output is in {TRAINER_LOG} of the order folder",
        error_id=derived_id(folder.name, how),
    )
