"""Keeps glibc's allocator from hoarding: chunks of uploads come and go in many threads. Does nothing elsewhere.

By default each thread may have an arena of its own, and memory freed in one is neither used by another nor given back:
with eight uploads at once that was a third of all that was resident (`benchmarks/transport.py`).
"""

from __future__ import annotations

import ctypes
import platform

_M_ARENA_MAX = -8  # malloc.h: mallopt(3)
_ARENAS = 2


def bound_arenas() -> None:
    """Have at most two arenas; to be called before threads are started."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
