"""The coordinator's allocator: however many threads there are, they share two arenas."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

# malloc_info(3) writes an XML page with one <heap> an arena.
ARENAS = """
import ctypes, sys, threading
from coordinator.adapters.malloc import bound_arenas
if sys.argv[1] == "bound":
    bound_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
everyone = threading.Barrier(16)
def work():
    libc.malloc(100_000)
    everyone.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def arenas(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", ARENAS, how], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    return len(re.findall("<heap nr", done.stdout))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_threads_share_two_arenas() -> None:
    assert arenas("unbound") > 2
    assert arenas("bound") <= 2
