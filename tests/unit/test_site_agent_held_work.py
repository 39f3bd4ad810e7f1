"""Work that has begun and may not go on now: it is held where it stands, and nothing of it is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from common.errors import Reason
from site_agent.adapters.journal import FileJournal
from site_agent.app.ports import Entry, Verdict
from site_agent.domain.assignment import Cancel
from site_agent.domain.assignment_machine import AssignmentState, Stage
from site_agent.domain.policy import Hours
from tests.fakes.site_scene import NOON, Scene, assignment_of, scene, until
from tests.fakes.site_values import EVERY_KIND, UNAPPROVED

YES = Verdict(is_approved=True, by="alice", at=NOON)
NO = Verdict(is_approved=False, by="alice", at=NOON, because="not with our data")
DAY = replace(EVERY_KIND, hours=(Hours(begins_minute=8 * 60, ends_minute=18 * 60),))
BEGUN = [Stage.DOWNLOADING, Stage.TRAINING, Stage.UPLOADING]
WORK = assignment_of()


def leave_to(folder: Path, stage: Stage) -> None:
    """What an agent that asked nobody left in its journal."""
    FileJournal(folder).save(Entry(assignment=WORK, state=AssignmentState(stage=stage)))


async def tells(on: Scene, reason: Reason) -> None:
    """Wait until a poll tells that the work is held, and why."""
    await until(lambda: (on.coordinator.polls[-1:], on.coordinator.held[-1:]) == ([WORK.assignment_id], [reason]))


@pytest.mark.parametrize("stage", BEGUN)
async def test_what_yesterdays_agent_began_is_held_until_somebody_has_approved_it(tmp_path: Path, stage: Stage) -> None:
    leave_to(tmp_path, stage)
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await tells(on, Reason.APPROVAL_AWAITED)
        assert on.approvals.offer(WORK.terms.digest), "people see what they are asked"
        assert (on.stage_of(WORK), on.trainer.starts, on.coordinator.uploads) == (stage, 0, [])
        on.approvals.decide(WORK.terms.digest, YES)
        await on.reaches(WORK, Stage.DONE)
        assert on.trainer.starts == int(stage is not Stage.UPLOADING), "what is trained is not trained again"
        assert on.coordinator.declined == []


@pytest.mark.parametrize("stage", BEGUN)
async def test_what_yesterdays_agent_began_is_declined_once_somebody_said_no(tmp_path: Path, stage: Stage) -> None:
    leave_to(tmp_path, stage)
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        await tells(on, Reason.APPROVAL_AWAITED)
        on.approvals.decide(WORK.terms.digest, NO)
        await on.reaches(WORK, Stage.DECLINED)
        assert (on.coordinator.declined, on.trainer.starts, on.coordinator.uploads) == (
            [Reason.APPROVAL_DECLINED],
            0,
            [],
        )


@pytest.mark.parametrize("stage", BEGUN)
async def test_held_work_whose_round_is_over_is_given_up(tmp_path: Path, stage: Stage) -> None:
    leave_to(tmp_path, stage)
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        await tells(on, Reason.APPROVAL_AWAITED)
        await on.says(Cancel(assignment_id=WORK.assignment_id, reason=Reason.ROUND_CLOSED))
        await on.reaches(WORK, Stage.REFUSED if stage is Stage.UPLOADING else Stage.CANCELLED)
        await until(lambda: on.coordinator.polls[-1] is None)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([], [])


async def test_a_held_answer_that_had_been_accepted_is_done(tmp_path: Path) -> None:
    leave_to(tmp_path, Stage.UPLOADING)
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        await tells(on, Reason.APPROVAL_AWAITED)
        await on.says(Cancel(assignment_id=WORK.assignment_id, reason=Reason.ALREADY_ANSWERED))
        await on.reaches(WORK, Stage.DONE)
        assert on.coordinator.uploads == []


async def test_an_answer_that_waits_for_the_link_is_not_given_up_for_an_echo(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        await on.says(WORK)
        await on.coordinator.upload_began.wait()
        await on.says(Cancel(assignment_id=WORK.assignment_id, reason=Reason.ROUND_CLOSED))
        on.coordinator.upload_may_end.set()
        await on.reaches(WORK, Stage.DONE)
        assert [each.assignment_id for each in on.coordinator.uploads] == [WORK.assignment_id]


async def test_training_that_runs_past_the_hours_stops_and_goes_on_in_the_next_ones(tmp_path: Path) -> None:
    time = [NOON]
    async with scene(tmp_path, policy=DAY, now=lambda: time[0]) as on:
        await on.says(WORK)
        await until(lambda: on.trainer.starts == 1)
        time[0] = NOON + timedelta(hours=6)
        await tells(on, Reason.POLICY_HOURS)
        assert (on.stage_of(WORK), on.trainer.stops, on.trainer.was_stopped) == (Stage.TRAINING, 1, False)
        time[0] = NOON + timedelta(hours=20)
        await until(lambda: on.trainer.starts == 2)
        await until(lambda: on.coordinator.held[-1] is None)
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.reaches(WORK, Stage.DONE)
        assert on.coordinator.declined == []


async def test_what_is_trained_leaves_outside_the_hours_too(tmp_path: Path) -> None:
    time = [NOON]
    async with scene(tmp_path, policy=DAY, now=lambda: time[0]) as on:
        on.trainer.may_end.set()
        await on.says(WORK)
        await on.coordinator.upload_began.wait()
        time[0] = NOON + timedelta(hours=6)
        on.coordinator.upload_may_end.set()
        await on.reaches(WORK, Stage.DONE)
        assert (on.coordinator.declined, on.coordinator.held[-1]) == ([], None)


async def test_an_agent_that_starts_outside_the_hours_does_not_go_on_training(tmp_path: Path) -> None:
    leave_to(tmp_path, Stage.TRAINING)
    async with scene(tmp_path, policy=DAY, now=lambda: NOON + timedelta(hours=6)) as on:
        await tells(on, Reason.POLICY_HOURS)
        assert on.trainer.starts == 0


async def test_a_trainer_that_does_not_heed_is_killed(tmp_path: Path) -> None:
    time = [NOON]
    async with scene(tmp_path, policy=DAY, now=lambda: time[0], stop_seconds=0.01) as on:
        on.trainer.heeds = False
        await on.says(WORK)
        await until(lambda: on.trainer.starts == 1)
        time[0] = NOON + timedelta(hours=6)
        await tells(on, Reason.POLICY_HOURS)
        assert on.trainer.was_stopped


async def test_who_declines_in_the_middle_of_training_need_not_wait_for_its_end(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        on.approvals.decide(WORK.terms.digest, YES)
        await on.says(WORK)
        await until(lambda: on.trainer.starts == 1)
        on.approvals.decide(WORK.terms.digest, NO)
        async with asyncio.timeout(20):
            await on.reaches(WORK, Stage.DECLINED)
        assert (on.trainer.was_stopped, on.coordinator.declined) == (True, [Reason.APPROVAL_DECLINED])
