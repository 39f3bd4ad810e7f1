"""Reads what strace wrote: which program did what, whichever of its threads and children it was."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# What opens files and sockets or sends by them, and what a process could get at another's files and memory with.
OPENING = ("open", "openat", "openat2", "creat", "open_by_handle_at")
SENDING = ("write", "writev", "pwrite64", "sendto", "sendmsg", "sendmmsg", "sendfile")
ROUNDABOUT = ("io_uring_setup", "ptrace", "process_vm_readv", "pidfd_getfd", "open_by_handle_at", "splice")
_CLONES = ("clone", "clone3", "fork", "vfork")
CALLS = (*OPENING, *SENDING, *ROUNDABOUT, *_CLONES, "execve", "execveat", "socket", "connect", "bind", "listen")

_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_ENDED = re.compile(r"(\d+) +\+\+\+ ")
_CHILD = re.compile(r"= (\d+)$")
_RESULT = re.compile(r"= \d+<(.*)>$")
_WRITTEN_TO = re.compile(r"\d+<(socket:\[\d+\]|[A-Z0-9]+:\[.*?\])>")


@dataclass(slots=True)
class Seen:
    """What the processes of one program did.

    Attributes:
        files: What was asked for, and what the kernel says was opened, links resolved.
        own_sockets: Those of `sockets` that came about, as the kernel names them.
        sent_into: Sockets that something was sent or written into, own ones or not.
        roundabout: Calls that reach files, sockets or memory by other ways than these.
    """

    programs: int = 0
    files: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    own_sockets: set[str] = field(default_factory=set)
    connects: list[str] = field(default_factory=list)
    sent_into: set[str] = field(default_factory=set)
    roundabout: list[str] = field(default_factory=list)

    def add(self, call: str, rest: str, has_begun: bool) -> None:
        """Take a call, or one half of it where another thread's came in between: arguments first, then the result."""
        if call in OPENING:
            self.files.append(rest)
        elif call == "socket":
            self.sockets += [rest] if has_begun else []
            self.own_sockets |= {found[1]} if (found := _RESULT.search(rest)) else set()
        elif call in ("connect", "bind", "listen"):
            self.connects += [rest] if has_begun else []
        elif call in SENDING and (found := _WRITTEN_TO.match(rest)):
            self.sent_into.add(found[1])
        if call in ROUNDABOUT:
            self.roundabout.append(f"{call}({rest}")


def role_of(arguments: str) -> str:
    """What a process became, by how it was started; empty for anything else."""
    if '"site_agent.trainer"' in arguments or "site_agent.trainer." in arguments:
        return "trainer"
    if '"coordinator", "serve"' in arguments:
        return "coordinator"
    return "agent" if '"site_agent", "run"' in arguments else ""


class Trace:
    """What each program did: a thread, a child and a program that it starts are its parent's until they are another."""

    def __init__(self) -> None:
        self.seen = {"agent": Seen(), "trainer": Seen(), "coordinator": Seen()}
        self._roles: dict[str, str] = {}
        # A child may be seen before the call that made it is seen to end.
        self._unknown: dict[str, list[tuple[str, str, bool]]] = {}

    def read(self, lines: Iterable[str]) -> dict[str, Seen]:
        """Take all lines of a trace."""
        for line in lines:
            if ended := _ENDED.match(line):
                self._roles.pop(ended[1], None)  # the number may come again
                continue
            begun = _LINE.match(line)
            if found := begun or _RESUMED.match(line):
                thread, call, rest = found.groups()
                if not self._roles:
                    self._roles[thread] = ""  # the one that strace started
                self._take(thread, call, rest, begun is not None)
        lost = [call for calls in self._unknown.values() for call in calls]
        assert not lost, f"expected to know where every process comes from, got {lost[:3]}"
        return self.seen

    def _take(self, thread: str, call: str, rest: str, has_begun: bool) -> None:
        role = self._roles.get(thread)
        if role is None:
            self._unknown.setdefault(thread, []).append((call, rest, has_begun))
        elif call in _CLONES:
            if child := _CHILD.search(rest):
                self._roles[child[1]] = role
                for each in self._unknown.pop(child[1], ()):
                    self._take(child[1], *each)
        elif call in ("execve", "execveat"):
            self._become(thread, rest, has_begun)
        elif role:
            self.seen[role].add(call, rest, has_begun)

    def _become(self, thread: str, rest: str, has_begun: bool) -> None:
        role = role_of(rest)
        if has_begun and role and "= -1" not in rest:
            self._roles[thread] = role
            self.seen[role].programs += 1


def opened(files: Iterable[str]) -> set[str]:
    """The paths that the kernel says were opened."""
    return {found[1] for each in files if (found := _RESULT.search(each))}
