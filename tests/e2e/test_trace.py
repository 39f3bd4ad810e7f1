"""A demo's round, seen by the kernel: the agent opens no file of notes, and the trainer no socket of a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import skip_unless_ci
from tests.e2e.strace_lines import CALLS, Seen, Trace, opened
from tests.e2e.test_demo import SECONDS, demo_command
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

# Where the C library asks for the user's name, as PyTorch makes it do; a socket of this machine.
_NAME_SERVICE = '"/var/run/nscd/socket"'
_ANOTHERS = re.compile(r"/proc/\d+/(task/\d+/)?(mem|fd/|cwd|root)")
NETWORKLESS = ("trainer",)
NOTELESS = ("agent", "coordinator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What the programs of a demo of one site and one round did, and its files of notes."""

    seen: dict[str, Seen]
    notes: frozenset[str]

    def notes_opened_by(self, role: str) -> set[str]:
        """By whatever name: as it was asked for, or as the kernel resolved it."""
        files = self.seen[role].files
        return {path for path in self.notes if path in opened(files) or any(path in each for each in files)}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    strace = shutil.which("strace")
    if strace is None:
        skip_unless_ci("no strace: Debian's package `strace` has it")
    root = tmp_path_factory.mktemp("traced")
    trace, out = root / "trace", root / "out"
    calls = ["-e", f"trace=?{',?'.join(CALLS)}", "-e", "signal=none"]  # ?: where the machine has such a call
    command = [
        *(strace, "-f", "--seccomp-bpf", "-q", "-y", "-s", "400", *calls, "-o", str(trace)),
        *demo_command(out, make_tiny_model(root / "tiny"), "--sites", "1", "--rounds", "1"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with trace.open(errors="replace") as lines:
        seen = Trace().read(lines)
    return Traced(seen=seen, notes=frozenset(str(path.resolve()) for path in out.glob("agents/*/*.jsonl")))


@pytest.mark.parametrize("role", NOTELESS)
def test_only_the_trainers_open_files_of_notes(traced: Traced, role: str) -> None:
    assert traced.seen[role].programs >= 1 and len(opened(traced.seen[role].files)) > 100
    assert traced.notes_opened_by(role) == set()


def test_the_trainers_open_what_a_site_trains_on_and_what_an_evaluator_scores_on(traced: Traced) -> None:
    needed = {path for path in traced.notes if Path(path).name == "train.jsonl" or "/evaluator/" in path}
    assert len(needed) == 2
    assert traced.notes_opened_by("trainer") >= needed


@pytest.mark.parametrize("role", [*NOTELESS, *NETWORKLESS])
def test_nobody_gets_at_files_sockets_and_memory_by_a_way_round(traced: Traced, role: str) -> None:
    assert traced.seen[role].roundabout == []
    assert [each for each in traced.seen[role].files if _ANOTHERS.search(each)] == []


def test_the_trainers_open_no_socket_of_a_network_and_the_agents_do(traced: Traced) -> None:
    trainer, agent = traced.seen["trainer"], traced.seen["agent"]
    assert trainer.programs >= 3
    assert [each for each in trainer.sockets if not each.startswith("AF_UNIX")] == []
    assert [each for each in trainer.connects if _NAME_SERVICE not in each] == []
    assert any("AF_INET" in each for each in agent.sockets)


def test_the_trainers_send_into_no_socket_that_was_handed_to_them_and_the_agents_send(traced: Traced) -> None:
    trainer, agent = traced.seen["trainer"], traced.seen["agent"]
    assert trainer.sent_into <= trainer.own_sockets
    assert agent.sent_into & agent.own_sockets


AGENT = '1 execve("/p", ["/p", "-m", "site_agent", "run"], 0x1) = 0'
TRAINER = '3 execve("/p", ["/p", "-m", "site_agent.trainer", "/order"], 0x1) = 0'


def test_a_thread_and_a_child_belong_to_the_program_that_they_come_from() -> None:
    lines = [
        AGENT,
        "1 clone3({flags=CLONE_VM} <unfinished ...>",
        "1 <... clone3 resumed>, 88) = 2",
        '2 openat(AT_FDCWD, "/notes.jsonl", O_RDONLY) = 3',
        "2 clone(child_stack=NULL) = 3",
        TRAINER,
        "3 <... execve resumed>) = 0",
        "3 socket(AF_INET, SOCK_STREAM, 0) = 4",
    ]
    seen = Trace().read(lines)
    assert seen["agent"].files and not seen["agent"].sockets
    assert seen["trainer"].sockets and not seen["trainer"].files


def test_a_child_that_is_seen_before_its_making_ends_belongs_to_its_parent_all_the_same() -> None:
    opens = '2 openat(AT_FDCWD</>, "train.jsonl", O_RDONLY) = 3</home/train.jsonl>'
    seen = Trace().read([AGENT, "1 vfork( <unfinished ...>", opens, "1 <... vfork resumed>) = 2"])
    assert opened(seen["agent"].files) == {"/home/train.jsonl"}


def test_a_program_that_a_trainer_starts_counts_as_the_trainer() -> None:
    curl = [
        '4 execve("/usr/bin/curl", ["curl", "https://example.org"], 0x1) = 0',
        "4 socket(AF_INET6, SOCK_STREAM) = 5",
    ]
    seen = Trace().read([AGENT, "1 vfork() = 3", TRAINER, "3 vfork() = 4", *curl])
    assert seen["trainer"].sockets == ["AF_INET6, SOCK_STREAM) = 5"]


def test_a_number_that_comes_again_is_another_process() -> None:
    again = ["3 +++ exited with 0 +++", "1 vfork() = 3", "3 socket(AF_INET, SOCK_STREAM) = 5"]
    seen = Trace().read([AGENT, "1 vfork() = 3", TRAINER, *again])
    assert seen["agent"].sockets and not seen["trainer"].sockets


def test_what_is_written_into_a_socket_that_was_handed_over_is_seen() -> None:
    lines = ["3 socket(AF_UNIX, SOCK_STREAM) = 7<socket:[8]>", '3 write(5<socket:[9]>, "text", 4) = 4']
    seen = Trace().read([AGENT, "1 vfork() = 3", TRAINER, *lines])
    assert (seen["trainer"].sent_into, seen["trainer"].own_sockets) == ({"socket:[9]"}, {"socket:[8]"})


def test_a_process_that_comes_from_nowhere_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="where every process comes from"):
        Trace().read([AGENT, "7 socket(AF_INET, SOCK_STREAM) = 5"])
