"""A wire with delay, loss and a rate between two network namespaces: a TUN device in each, and this process between.

``python -m tests.faults.wire NAMESPACE NAMESPACE`` as root; it says "up" and carries packets until it is killed. The
first namespace is NEAR, the second FAR. Kernels have this as netem, but not all kernels.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

NEAR, FAR = "10.77.0.1", "10.77.0.2"
# One way; a round trip takes 300 ms.
DELAY_SECONDS = 0.15
LOSS = 0.02
BITS_PER_SECOND = 1_000_000
# What waits for the wire: about as long as a home router lets it wait.
MAX_WAITING_SECONDS = 1.0

_CLONE_NEWNET, _TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x40000000, 0x400454CA, 0x0001, 0x1000
_DEVICE = "wire0"


def main() -> None:
    """Carry packets for ever."""
    near, far = _device_in(sys.argv[1], NEAR), _device_in(sys.argv[2], FAR)
    print("up", flush=True)
    _carry({near: far, far: near}, random.Random(1))


def _device_in(namespace: str, address: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
    if libc.setns(there, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    subprocess.run(["ip", "address", "add", f"{address}/24", "dev", _DEVICE], check=True)
    subprocess.run(["ip", "link", "set", _DEVICE, "mtu", "1500", "up"], check=True)
    if libc.setns(here, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns back")
    return device


def _carry(other_end: dict[int, int], luck: random.Random) -> None:
    under_way: list[tuple[float, int, int, bytes]] = []
    free_at = dict.fromkeys(other_end, 0.0)
    count = 0
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for device in select.select(list(other_end), [], [], wait)[0]:
            packet, now = os.read(device, 65536), time.monotonic()
            begins = max(now, free_at[device])
            if luck.random() < LOSS or begins - now > MAX_WAITING_SECONDS:
                continue
            free_at[device] = begins + 8 * len(packet) / BITS_PER_SECOND
            count += 1
            heapq.heappush(under_way, (free_at[device] + DELAY_SECONDS, count, other_end[device], packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(under_way)
            os.write(device, packet)


if __name__ == "__main__":
    main()
