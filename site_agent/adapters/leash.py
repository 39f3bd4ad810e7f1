"""Runs a command that dies with its parent: ``python leash.py PARENT_PID COMMAND...``. Standard library only.

The agent starts its trainer through this script, so that an agent that is killed outright leaves no trainer behind.
It becomes the command (exec), so the process id stays the same. A `preexec_fn` could do it without a script, but runs
between fork and exec, where a process with gRPC's threads must not run Python.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Ask the kernel for SIGKILL when the parent dies, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
