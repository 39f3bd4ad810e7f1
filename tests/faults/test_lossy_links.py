"""Sites behind a link of 1 Mbit/s with a round trip of 300 ms that loses 2 % of the packets: the run ends as always."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.long_form import IS_LONG
from tests.faults.processes import ROOT, make_terms

pytestmark = pytest.mark.slow

ROUNDS = 1
# 0.62 MB; in the long form 9.8 MB, which two sites share the wire for.
LORA_RANK = 16 if IS_LONG else 1


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces with the wire between them."""
    names = tuple(f"fedmed-{end}-{os.getpid()}" for end in ("near", "far"))
    with ExitStack() as stack:
        for name in names:
            if not _has_tun() or not _ip("netns", "add", name):
                pytest.skip("network namespaces with TUN devices need root, iproute2's ip and a kernel that lets it")
            stack.callback(_ip, "netns", "delete", name)
            assert _ip("-netns", name, "link", "set", "lo", "up")
        wire = subprocess.Popen([sys.executable, "-m", "tests.faults.wire", *names], stdout=subprocess.PIPE, cwd=ROOT)
        stack.callback(wire.wait)
        stack.callback(wire.kill)
        assert wire.stdout is not None
        assert wire.stdout.readline() == b"up\n"
        yield names[0], names[1]


def _has_tun() -> bool:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError:
        return False
    return os.geteuid() == 0


def _ip(*arguments: str) -> bool:
    try:
        return subprocess.run(["ip", *arguments], check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_slow_and_lossy_link_is_worked_with(
    undisturbed: Undisturbed, namespaces: tuple[str, str], tmp_path: Path
) -> None:
    wanted = undisturbed(make_terms(ROUNDS, LORA_RANK))
    near, far = namespaces
    command = [sys.executable, "-m", "tests.faults.far_sites", str(tmp_path), far, str(ROUNDS), str(LORA_RANK)]
    done = subprocess.run(
        ["ip", "netns", "exec", near, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"published": wanted, "done_twice": []}
