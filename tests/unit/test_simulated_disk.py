"""The simulated disk loses what was not synced, and nothing else; files on it behave as the system's."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from pydantic import TypeAdapter

from common.files import make_folder, sync_folder, write_whole
from site_agent.adapters.journal import ENTRY_FILE, FileJournal
from site_agent.app.ports import Entry
from site_agent.domain.assignment_machine import AssignmentState, Stage
from tests.fakes.crashes import Killed
from tests.fakes.site_scene import assignment_of
from tests.simulation.disk import Disk
from tests.simulation.machines import Machine
from tests.simulation.system_calls import SystemCalls

HOME = Path("/simulated/here/srv")


@dataclass
class FakeLife:
    """Dies at the change number ``dies_at``."""

    dies_at: int = 0
    changes: list[str] = field(default_factory=list)

    def place(self, what: str, torn: Callable[[random.Random], object] | None = None) -> None:
        self.changes.append(what)
        if len(self.changes) == self.dies_at:
            if torn is not None:
                torn(random.Random(1))
            raise Killed


@dataclass
class FakeMachine:
    name: str = "here"
    disk: Disk = field(default_factory=Disk)
    life: FakeLife = field(default_factory=FakeLife)

    def now_ns(self) -> int:
        return len(self.life.changes)

    def lose_power(self, kept: float = 0.0) -> None:
        self.disk.lose_power(random.Random(1), kept)


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    here = FakeMachine()
    with SystemCalls({"here": cast(Machine, here)}, random.Random(1)).in_place():
        yield here


def write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def test_a_file_that_was_never_synced_is_gone(machine: FakeMachine) -> None:
    write(HOME / "file", b"content")
    assert (HOME / "file").read_bytes() == b"content"

    machine.lose_power()

    assert list(HOME.iterdir()) == []


def test_a_name_that_was_synced_without_its_content_is_empty(machine: FakeMachine) -> None:
    write(HOME / "file", b"content")
    sync_folder(HOME)

    machine.lose_power()

    assert (HOME / "file").read_bytes() == b""


def test_what_is_written_whole_stays(machine: FakeMachine) -> None:
    write_whole(HOME / "file", b"content")

    machine.lose_power()

    assert {path.name: path.read_bytes() for path in HOME.iterdir()} == {"file": b"content"}


def test_a_folder_that_was_made_durably_stays_with_what_lies_in_it(machine: FakeMachine) -> None:
    make_folder(HOME / "a" / "b")
    write_whole(HOME / "a" / "b" / "file", b"content")

    machine.lose_power()

    assert (HOME / "a" / "b" / "file").read_bytes() == b"content"


def test_a_folder_that_was_only_made_takes_what_lies_in_it_along(machine: FakeMachine) -> None:
    (HOME / "a").mkdir()
    write_whole(HOME / "a" / "file", b"content")

    machine.lose_power()

    assert list(HOME.iterdir()) == []


def test_a_removal_that_was_not_synced_may_not_have_been(machine: FakeMachine) -> None:
    write_whole(HOME / "file", b"content")
    (HOME / "file").unlink()
    assert not (HOME / "file").exists()

    machine.lose_power()

    assert (HOME / "file").read_bytes() == b"content"


def test_a_rename_is_whole_or_not_at_all(machine: FakeMachine) -> None:
    write_whole(HOME / "old", b"content")
    for kept, name in ((0.0, "old"), (1.0, "new")):
        (HOME / "old").rename(HOME / "new")
        machine.lose_power(kept)
        assert [path.name for path in HOME.iterdir()] == [name]


def test_the_write_in_which_a_process_is_killed_is_torn(machine: FakeMachine) -> None:
    content = bytes(range(100))
    machine.life.dies_at = 2  # after the file was made
    with pytest.raises(Killed):
        write(HOME / "file", content)

    left = (HOME / "file").read_bytes()
    assert len(left) < len(content)
    assert content.startswith(left)


def test_what_a_buffer_holds_was_never_written(machine: FakeMachine) -> None:
    with (HOME / "file").open("wb") as file:
        file.write(b"content")

        assert (HOME / "file").read_bytes() == b""


def test_a_tree_is_removed(machine: FakeMachine) -> None:
    (HOME / "a" / "b").mkdir(parents=True)
    write(HOME / "a" / "b" / "file", b"content")

    shutil.rmtree(HOME / "a")

    assert os.listdir(HOME) == []  # noqa: PTH208 - the call itself
    with pytest.raises(FileNotFoundError):
        shutil.rmtree(HOME / "a")


def test_files_elsewhere_are_the_systems(machine: FakeMachine, tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"content")

    assert (tmp_path / "file").read_bytes() == b"content"
    assert machine.life.changes == []


def test_an_agent_builds_on_no_end_that_a_power_cut_can_take_back(machine: FakeMachine) -> None:
    assignment = assignment_of()
    journal = FileJournal(HOME)
    journal.save(Entry(assignment=assignment, state=AssignmentState()))
    ended = TypeAdapter(Entry).dump_json(Entry(assignment=assignment, state=AssignmentState(stage=Stage.DONE)))
    write_whole(HOME / "ended", ended)
    (HOME / "ended").rename(journal.folder(assignment.assignment_id) / ENTRY_FILE)  # killed before it was synced

    assert FileJournal(HOME).open_entries() == []
    machine.lose_power()

    entry = journal.find(assignment.assignment_id)
    assert entry is not None
    assert entry.state.stage is Stage.DONE
