from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.errors import NotNowError, Reason
from site_agent.adapters.journal import KEPT_ENDED, FileJournal
from site_agent.adapters.state_lock import exclusive, is_held
from site_agent.app.ports import Entry
from site_agent.domain.assignment import Assignment, InitialiseWork
from site_agent.domain.assignment_machine import AssignmentState, Stage
from site_agent.orders import ADAPTER_FILE, FAILURE_FILE, UPDATE_FILE
from tests.fakes.site_values import evaluate_assignment, make_assignment, score_assignment, train_assignment


def entry_of(number: int, stage: Stage = Stage.RECEIVED, reason: Reason | None = None) -> Entry:
    return Entry(assignment=train_assignment(number), state=AssignmentState(stage=stage, reason=reason))


@pytest.fixture
def journal(tmp_path: Path) -> FileJournal:
    return FileJournal(tmp_path)


@pytest.mark.parametrize(
    "assignment", [train_assignment(), score_assignment(), evaluate_assignment(), make_assignment(InitialiseWork())]
)
def test_an_entry_is_read_back_as_it_was_stored(tmp_path: Path, assignment: Assignment) -> None:
    entry = Entry(
        assignment=assignment,
        state=AssignmentState(stage=Stage.DECLINING, reason=Reason.NOTES_TOO_FEW, detail="expected 1, got 0"),
    )
    FileJournal(tmp_path).save(entry)
    assert FileJournal(tmp_path).find(assignment.assignment_id) == entry


def test_an_assignment_that_was_never_stored_is_not_found(journal: FileJournal) -> None:
    assert journal.find(train_assignment().assignment_id) is None


def test_only_what_is_still_open_is_to_be_done_oldest_first(journal: FileJournal) -> None:
    for number, stage in ((1, Stage.TRAINING), (2, Stage.DONE), (3, Stage.UPLOADING)):
        journal.save(entry_of(number, stage))
        stored = journal.folder(train_assignment(number).assignment_id) / "assignment.json"
        os.utime(stored, ns=(0, 10 - number))
    assert [entry.state.stage for entry in journal.open_entries()] == [Stage.UPLOADING, Stage.TRAINING]


def test_the_end_removes_weights_and_keeps_what_the_trainer_said_of_itself(journal: FileJournal) -> None:
    journal.save(entry_of(1))
    folder = journal.folder(train_assignment(1).assignment_id)
    for name in (ADAPTER_FILE, UPDATE_FILE, FAILURE_FILE, "trainer.log"):
        (folder / name).write_text("")
    (folder / "checkpoint").mkdir()
    journal.save(entry_of(1, Stage.DECLINED, Reason.OUT_OF_MEMORY))
    assert {path.name for path in folder.iterdir()} == {"assignment.json", FAILURE_FILE, "trainer.log"}


def test_the_oldest_ended_assignments_are_forgotten_and_no_open_one(journal: FileJournal) -> None:
    journal.save(entry_of(0, Stage.TRAINING))
    for number in range(1, KEPT_ENDED + 3):
        journal.save(entry_of(number, Stage.DONE))
    found = [journal.find(train_assignment(number).assignment_id) for number in range(KEPT_ENDED + 3)]
    assert [entry is not None for entry in found] == [True, False, False, *[True] * KEPT_ENDED]


@pytest.mark.parametrize("content", [None, "{}", "half a fi"])
def test_a_folder_without_a_readable_entry_is_removed(journal: FileJournal, content: str | None) -> None:
    folder = journal.folder(train_assignment().assignment_id)
    folder.mkdir()
    if content is not None:
        (folder / "assignment.json").write_text(content)
    assert journal.open_entries() == []
    assert not folder.exists()


def test_only_its_owner_may_look_into_the_state_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path / "state"):
        FileJournal(tmp_path / "state").save(entry_of(1))
    folders = [tmp_path / "state", *(path for path in (tmp_path / "state").rglob("*") if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_state_folder_has_one_agent_at_a_time(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(NotNowError, match="another agent works in it"), exclusive(tmp_path):
        pass


def test_whether_an_agent_works_in_a_state_folder_can_be_seen_from_outside(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with exclusive(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_a_state_folder_is_free_again_after_its_agent(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path):
            assert is_held(tmp_path)
    assert (tmp_path / "lock").exists()
