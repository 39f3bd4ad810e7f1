"""The allocator: threads share two arenas, and what is used again at once is not given back in between."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# malloc_info(3) writes an XML page with one <heap> an arena.
ARENAS = """
import ctypes, sys, threading
from common.malloc import tune_malloc
if sys.argv[1] == "tuned":
    tune_malloc()
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


# Blocks as an aggregation has them: some are held at once, all are freed, and the next module's are asked for.
FAULTS = """
import ctypes, resource, sys
from common.malloc import tune_malloc
if sys.argv[1] == "tuned":
    tune_malloc()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def module():
    blocks = [libc.malloc(300_000) for _ in range(12)]
    for block in blocks:
        ctypes.memset(block, 1, 300_000)
    for block in blocks:
        libc.free(block)
for _ in range(3):
    module()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    module()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")


def said(program: str, how: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, how], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    return done.stdout


@needs_glibc
def test_threads_share_two_arenas() -> None:
    assert said(ARENAS, "as it is").count("<heap nr") > 2
    assert said(ARENAS, "tuned").count("<heap nr") <= 2


@needs_glibc
def test_what_is_used_again_stays() -> None:
    assert int(said(FAULTS, "as it is")) > 10_000  # 50 times 12 blocks of 73 pages
    assert int(said(FAULTS, "tuned")) < 100
