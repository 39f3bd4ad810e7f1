"""A demo's round, seen by the kernel: the agent opens no file of notes, and the trainer no socket of a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import skip_unless_ci
from tests.e2e.test_demo import SECONDS, demo_command
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_CHILD = re.compile(r"= (\d+)$")
# Where the C library asks for the user's name, as PyTorch makes it do; a socket of this machine.
_NAME_SERVICE = '"/var/run/nscd/socket"'
_CLONES = frozenset({"clone", "clone3", "fork", "vfork"})


@dataclass(slots=True)
class Seen:
    """What the processes of one program opened."""

    programs: int = 0
    files: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    connects: list[str] = field(default_factory=list)


def role_of(arguments: str) -> str:
    """What a process became, by how it was started."""
    if '"site_agent.trainer"' in arguments or "site_agent.trainer." in arguments:
        return "trainer"
    return "agent" if '"site_agent", "run"' in arguments else ""


def read_trace(lines: Iterator[str]) -> dict[str, Seen]:
    """What each program opened: a thread or a child is its parent's program until it becomes another."""
    roles: dict[str, str] = {}
    seen = {"agent": Seen(), "trainer": Seen()}
    for line in lines:
        begun = _LINE.match(line)
        found = begun or _RESUMED.match(line)
        if found is None:
            continue
        thread, call, rest = found.groups()
        if call in _CLONES and (child := _CHILD.search(rest)):
            roles.setdefault(child[1], roles.get(thread, ""))
        elif call == "execve" and begun is not None and "= -1" not in rest:
            roles[thread] = role_of(rest)
            if roles[thread]:
                seen[roles[thread]].programs += 1
        elif (mine := seen.get(roles.get(thread, ""))) is not None:
            if call in ("open", "openat"):
                mine.files.append(rest)
            elif call == "socket":
                mine.sockets += [rest] if begun is not None else []
            elif call == "connect":
                mine.connects += [rest] if begun is not None else []
    return seen


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Seen], list[Path]]:
    """What a demo of one site and one round opened, and its files of notes."""
    strace = shutil.which("strace")
    if strace is None:
        skip_unless_ci("no strace: Debian's package `strace` has it")
    root = tmp_path_factory.mktemp("traced")
    trace, out = root / "trace", root / "out"
    calls = "trace=execve,open,openat,socket,connect,clone,clone3,fork,vfork"
    command = [
        *(strace, "-f", "--seccomp-bpf", "-qq", "-s", "400", "-e", calls, "-e", "signal=none", "-o", str(trace)),
        *demo_command(out, make_tiny_model(root / "tiny"), "--sites", "1", "--rounds", "1"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    notes = sorted(out.glob("agents/*/*.jsonl"))
    with trace.open(errors="replace") as lines:
        return read_trace(iter(lines)), notes


def test_the_agents_open_no_file_of_notes_and_the_trainers_do(traced: tuple[dict[str, Seen], list[Path]]) -> None:
    seen, notes = traced
    opened = {who: {path for path in notes if any(str(path) in each for each in seen[who].files)} for who in seen}
    assert seen["agent"].programs >= 2 and seen["agent"].files
    assert opened["agent"] == set()
    assert opened["trainer"] & set(notes)


def test_the_trainers_open_no_socket_of_a_network_and_the_agents_do(traced: tuple[dict[str, Seen], list[Path]]) -> None:
    seen, _ = traced
    assert seen["trainer"].programs >= 3
    assert [each for each in seen["trainer"].sockets if not each.startswith("AF_UNIX")] == []
    assert [each for each in seen["trainer"].connects if _NAME_SERVICE not in each] == []
    assert any("AF_INET" in each for each in seen["agent"].sockets)


def test_a_thread_and_a_child_belong_to_the_program_that_they_come_from() -> None:
    lines = [
        '1 execve("/p", ["/p", "-m", "site_agent", "run"], 0x1) = 0',
        "1 clone3({flags=CLONE_VM} <unfinished ...>",
        "1 <... clone3 resumed>, 88) = 2",
        '2 openat(AT_FDCWD, "/notes.jsonl", O_RDONLY) = 3',
        "2 clone(child_stack=NULL) = 3",
        '3 execve("/p", ["/p", "-m", "site_agent.trainer", "/order"], 0x1) = 0',
        "3 <... execve resumed>) = 0",
        "3 socket(AF_INET, SOCK_STREAM, 0) = 4",
    ]
    seen = read_trace(iter(lines))
    assert seen["agent"].files and not seen["agent"].sockets
    assert seen["trainer"].sockets and not seen["trainer"].files
