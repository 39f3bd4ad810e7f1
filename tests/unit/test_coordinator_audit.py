"""What the audit log says of each step of a run, and of whom it says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import FedMedError, Reason
from common.hash_chain import entries_of
from common.tls import Caller, Role
from coordinator.app.create_run import create
from coordinator.domain import events as ev
from coordinator.domain import run_machine
from coordinator.domain.audit import AuditAction, AuditEvent, Change, audit_of
from coordinator.domain.values import DeadlineName, Run
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    after,
    at,
    candidate_ready,
    evaluating_run,
    everyone_present,
    first_adapter,
    make_round_terms,
    make_terms,
    new_run,
    scored,
    selecting_run,
    train_id,
    training_run,
)
from tests.fakes.coordinator_values import accepted as accepted_event
from tests.fakes.coordinator_world import World, coordinator, evaluator, site_caller

OPERATOR = Caller(name=ANNA, role=Role.OPERATOR, consortium="demo")


def told(run: Run, event: ev.RunEvent, caller: str = "someone") -> tuple[AuditEvent, ...]:
    moved, _ = run_machine.step(run, event)
    return audit_of(Change(before=run, after=moved, event=event, at=event.at, caller=caller))


def test_a_created_run_is_told_with_the_digest_of_its_terms() -> None:
    run = new_run()
    (entry,) = audit_of(Change(before=None, after=run, event=None, at=run.created_at, caller="someone"))
    assert (entry.action, entry.subject, entry.digest) == (AuditAction.RUN_CREATED, run.terms.name, run.terms.digest)


def test_the_first_adapter_opens_the_first_round() -> None:
    accepted, opened = told(new_run(), first_adapter())
    assert (accepted.action, opened.action) == (AuditAction.FIRST_ADAPTER_ACCEPTED, AuditAction.ROUND_OPENED)
    assert (accepted.digest, opened.round_number) == (opened.digest, 1)


def test_an_accepted_update_is_told_with_its_site_and_digest() -> None:
    event = accepted_event(BERTA)
    (entry,) = told(training_run(), event)
    assert (entry.action, entry.site, entry.digest) == (
        AuditAction.UPDATE_ACCEPTED,
        BERTA,
        event.update.file.digest,
    )


def test_a_refused_update_is_told_with_its_reason() -> None:
    refused = ev.AnswerRefused(at=at(5), assignment_id=train_id(CLARA), by=CLARA, reason=Reason.UPDATE_NOT_FINITE)
    (entry,) = told(training_run(), refused)
    assert (entry.action, entry.site, entry.reason) == (AuditAction.UPDATE_REFUSED, CLARA, Reason.UPDATE_NOT_FINITE)


def test_a_promotion_is_told_before_the_round_that_follows_it() -> None:
    promoted, opened = told(evaluating_run(), scored())
    assert (promoted.action, promoted.round_number) == (AuditAction.ADAPTER_PROMOTED, 1)
    assert (opened.action, opened.round_number, opened.digest) == (AuditAction.ROUND_OPENED, 2, promoted.digest)


def test_a_rejection_is_told() -> None:
    run = run_machine.step(evaluating_run(), scored(f1_tenths=9))[0]
    run = after(run, everyone_present(50), *(accepted_event(site, 2, 60) for site in (ANNA, BERTA, CLARA)))
    run = after(run, candidate_ready(run, 70))
    (rejected,) = told(run, scored(round_number=2, seconds=80, f1_tenths=1))
    assert (rejected.action, rejected.round_number) == (AuditAction.ADAPTER_REJECTED, 2)


def test_a_round_that_fails_ends_its_run_and_both_are_told_with_the_reason() -> None:
    run = training_run()
    ended = ev.DeadlinePassed(at=at(5000), name=DeadlineName.TRAIN)
    of_round, of_run = told(run, ended)
    assert (of_round.action, of_round.state) == (AuditAction.ROUND_ENDED, "failed")
    assert (of_run.action, of_run.state) == (AuditAction.RUN_ENDED, "failed")
    assert of_round.reason == of_run.reason == Reason.QUORUM_NOT_REACHED


@pytest.mark.parametrize(
    ("event", "action"),
    [
        (ev.PauseRequested(at=at(1)), AuditAction.RUN_PAUSED),
        (ev.ExtensionRequested(at=at(1), not_before=at(99_999)), AuditAction.RUN_EXTENDED),
    ],
)
def test_what_an_operator_does_to_the_time_of_a_run_is_told(event: ev.RunEvent, action: AuditAction) -> None:
    assert [entry.action for entry in told(training_run(), event)] == [action]


def test_a_paused_run_that_goes_on_is_told_once_and_one_that_is_aborted_has_ended_instead() -> None:
    paused, _ = run_machine.step(training_run(), ev.PauseRequested(at=at(1)))
    assert [entry.action for entry in told(paused, ev.ResumeRequested(at=at(2)))] == [AuditAction.RUN_RESUMED]
    assert [entry.action for entry in told(paused, ev.AbortRequested(at=at(2)))] == [
        AuditAction.ROUND_ENDED,
        AuditAction.RUN_ENDED,
    ]


def test_what_only_moves_a_deadline_or_a_phase_is_not_told() -> None:
    assert told(selecting_run(), everyone_present()) == ()
    assert told(training_run(), ev.AssignmentTaken(at=at(1), assignment_id=train_id(ANNA))) == ()


async def callers(world: World) -> list[tuple[object, object]]:
    lines = await world.store.audit_lines(0, 1000)
    return [(entry.document["action"], entry.document["caller"]) for entry in entries_of(lines)]


async def test_each_entry_names_whose_call_it_was_and_the_coordinator_where_there_was_none(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await create(world.driver, world.clock, make_terms(rounds=make_round_terms(count=1)), OPERATOR)
        await world.begin(make_terms(rounds=make_round_terms(count=1)))
        await world.invite()
        await world.answer(ANNA, BERTA)
        with pytest.raises(FedMedError):
            await world.send(CLARA, b"no safetensors")
        await world.perform_pending()
        assert await callers(world) == [
            ("run_created", OPERATOR.uri),
            ("first_adapter_accepted", evaluator().uri),
            ("round_opened", evaluator().uri),
            ("update_accepted", site_caller(ANNA).uri),
            ("update_accepted", site_caller(BERTA).uri),
            ("update_refused", site_caller(CLARA).uri),
        ]
        await world.driver.post(world.run.run_id, ev.AbortRequested(at=world.clock.now()), OPERATOR)
        assert (await callers(world))[-2:] == [("round_ended", OPERATOR.uri), ("run_ended", OPERATOR.uri)]


async def test_a_step_that_changes_nothing_is_not_told(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        await world.answer(ANNA)
        before = await world.store.audit_head()
        again = accepted_event(ANNA)
        await world.post(again)
        assert await world.store.audit_head() == before
