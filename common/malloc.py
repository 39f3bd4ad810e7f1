"""Has glibc's allocator keep what is used again and again, and no more. Does nothing elsewhere.

Blocks of adapters come and go in many threads. By default each thread may have an arena of its own, and memory freed in
one is neither used by another nor given back: with eight uploads at once that was a third of all that was resident. And
what is freed at an arena's end goes back to the kernel at once, to be asked for again a moment later, page by page
(docs/performance.md has what that costs a round).
"""

from __future__ import annotations

import ctypes
import platform

# malloc.h, mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ARENAS = 2
_KEPT_BYTES = 16 * 2**20  # an arena gives back what is free at its end from here on
_BLOCK_BYTES = 4 * 2**20  # blocks from here on are the kernel's


def tune_malloc() -> None:
    """At most two arenas, each of which keeps up to 16 MiB that are free; to be called before threads are started."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for what, value in (
            (_M_ARENA_MAX, _ARENAS),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_MMAP_THRESHOLD, _BLOCK_BYTES),
        ):
            libc.mallopt(what, value)
