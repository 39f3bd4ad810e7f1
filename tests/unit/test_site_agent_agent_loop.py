"""The agent's loop against a scripted coordinator and trainer, one step at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import (
    FedMedError,
    NotNowError,
    Reason,
    UnauthenticatedError,
    UnavailableError,
    UpdateRefusedError,
)
from common.terms import AggregationTerms
from site_agent.adapters.journal import FileJournal
from site_agent.app import give_answer, perform_assignment
from site_agent.app.ports import Entry, Result, Unreadable
from site_agent.domain.assignment import Cancel, InitialiseWork
from site_agent.domain.assignment_machine import AssignmentState, Stage
from site_agent.orders import Failure, FailureReason, InitialiseResult
from tests.fakes.site_scene import TRAINED, assignment_of, scene, until
from tests.fakes.site_values import (
    make_assignment,
    make_spec,
)


async def test_an_update_that_was_accepted_ends_the_assignment_and_is_counted(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DONE)
        assert on.sample("fedmed_agent_train_examples_total") == TRAINED.num_examples
        assert on.sample("fedmed_agent_assignments_total", kind="train", outcome="done") == 1


async def test_the_poll_goes_on_while_the_trainer_works_and_names_its_assignment(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.TRAINING)
        await on.says(None)
        assert on.coordinator.polls == [None, *[assignment_of().assignment_id] * 2]


async def test_a_new_poll_is_opened_as_soon_as_the_work_has_ended(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DONE)
        await until(lambda: on.coordinator.polls[1:].count(None))
        assert on.coordinator.polls[-2:] == [assignment_of().assignment_id, None]


async def test_a_cancel_stops_the_trainer(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.TRAINING)
        await until(lambda: on.trainer.starts)
        await on.says(Cancel(assignment_id=assignment_of().assignment_id, reason=Reason.ROUND_CLOSED))
        assert on.trainer.was_stopped
        assert on.stage_of(assignment_of()) is Stage.CANCELLED


async def test_a_cancel_of_another_assignment_stops_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.TRAINING)
        await on.says(Cancel(assignment_id=assignment_of(2).assignment_id, reason=Reason.ROUND_CLOSED))
        assert on.stage_of(assignment_of()) is Stage.TRAINING


async def test_a_cancel_that_is_the_echo_of_an_answer_under_way_stops_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.coordinator.upload_began.wait()
        await on.says(Cancel(assignment_id=assignment_of().assignment_id, reason=Reason.ALREADY_ANSWERED))
        on.coordinator.upload_may_end.set()
        await on.reaches(assignment_of(), Stage.DONE)
        assert len(on.coordinator.uploads) == 1


async def test_a_second_assignment_waits_for_the_first(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(assignment_of(1))
        await on.says(assignment_of(2))
        assert on.stage_of(assignment_of(2)) is None


async def test_an_assignment_that_ended_here_is_not_begun_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DONE)
        await until(lambda: on.coordinator.polls[-1] is None)
        await on.says(assignment_of())
        assert (on.stage_of(assignment_of()), on.trainer.starts) == (Stage.DONE, 1)


async def test_what_the_journal_holds_open_is_begun_before_the_first_poll(tmp_path: Path) -> None:
    entry = Entry(assignment=assignment_of(), state=AssignmentState(stage=Stage.UPLOADING))
    FileJournal(tmp_path).save(entry)
    async with scene(tmp_path) as on:
        await on.coordinator.upload_began.wait()
        assert on.trainer.starts == 0
        assert on.coordinator.polls == [assignment_of().assignment_id]


async def test_an_assignment_that_the_policy_lacks_is_declined_without_a_trainer(tmp_path: Path) -> None:
    assignment = assignment_of()
    terms = replace(assignment.terms, aggregation=AggregationTerms(strategy="unheard_of"))
    async with scene(tmp_path) as on:
        await on.says(replace(assignment, terms=terms))
        await on.reaches(assignment, Stage.DECLINED)
        assert (on.coordinator.declined, on.trainer.starts) == ([Reason.POLICY_FORBIDS], 0)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Failure(reason=FailureReason.NOTES_TOO_FEW, detail="expected 1, got 0", error_id="0"), Reason.NOTES_TOO_FEW),
        (OSError("a disk that fails"), Reason.TRAINER_CRASHED),
        (InitialiseResult(spec=make_spec()), Reason.TRAINER_CRASHED),
    ],
)
async def test_work_that_brings_no_answer_is_declined(
    tmp_path: Path, result: Result | Failure | Exception, reason: Reason
) -> None:
    async with scene(tmp_path, result) as on:
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([reason], [])


@pytest.mark.parametrize("layout", [{"tensors": make_spec().tensors[1:]}, {"metadata": frozenset({("note", "text")})}])
async def test_an_update_that_may_not_leave_stays_and_the_site_declines(
    tmp_path: Path, layout: dict[str, object]
) -> None:
    async with scene(tmp_path, TRAINED, layout=layout) as on:
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([Reason.EGRESS_DENIED], [])


async def test_a_metric_that_may_not_leave_keeps_the_update_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(give_answer, "UPDATE_METRICS", frozenset({"num_examples"}))
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([Reason.EGRESS_DENIED], [])


async def test_progress_that_may_not_leave_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perform_assignment, "PROGRESS_METRICS", frozenset({"stage"}))
    async with scene(tmp_path) as on:
        await on.says(assignment_of())
        await until(lambda: on.trainer.starts)
        await on.says(None)
        assert on.coordinator.progress == []


async def test_a_first_adapter_of_other_settings_than_the_terms_stays(tmp_path: Path) -> None:
    assignment = make_assignment(InitialiseWork())
    async with scene(tmp_path, InitialiseResult(spec=replace(make_spec(), lora_alpha=99))) as on:
        on.trainer.may_end.set()
        await on.says(assignment)
        await on.reaches(assignment, Stage.DECLINED)
        assert on.coordinator.declined == [Reason.EGRESS_DENIED]


@pytest.mark.parametrize(
    "error",
    [
        FedMedError(Reason.INTERNAL, "a fault of the coordinator"),
        UnauthenticatedError(Reason.CERTIFICATE_INVALID, "expired"),
    ],
)
async def test_an_upload_is_repeated_after_what_may_pass(tmp_path: Path, error: FedMedError) -> None:
    async with scene(tmp_path) as on:
        on.coordinator.upload_errors = [error, error]
        on.coordinator.upload_may_end.set()
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DONE)
        assert len(on.coordinator.uploads) == 3


@pytest.mark.parametrize(
    "error",
    [
        UpdateRefusedError(Reason.UPDATE_COUNT_ABSURD, "expected at most 10, got 11"),
        NotNowError(Reason.ROUND_CLOSED, "too late"),
    ],
)
async def test_a_refusal_ends_the_assignment_and_its_words_stay_in_the_folder(
    tmp_path: Path, error: FedMedError
) -> None:
    async with scene(tmp_path) as on:
        on.coordinator.upload_errors = [error]
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.REFUSED)
    entry = on.journal.find(assignment_of().assignment_id)
    assert entry is not None
    assert (entry.state.reason, entry.state.detail) == (error.reason, error.message)


async def test_an_unreadable_assignment_is_declined(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(Unreadable(assignment_id=assignment_of().assignment_id, detail="terms.x: expected y"))
        assert on.coordinator.declined == [Reason.SETTINGS_UNSUPPORTED]


async def test_the_agent_outlives_a_decline_that_fails(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.coordinator.decline_errors = [NotNowError(Reason.ROUND_CLOSED, "too late")]
        await on.says(Unreadable(assignment_id=assignment_of().assignment_id, detail="terms.x: expected y"))
        await on.says(None)
        assert not on.coordinator.decline_errors
        assert on.coordinator.polls == [None] * 3


async def test_the_connection_is_shown_as_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        shown = []
        for answer in (None, UnavailableError(Reason.PEER_AWAY, "away"), None):
            await on.says(answer)
            shown.append(on.sample("fedmed_agent_connected"))
        assert shown == [1, 0, 1]
