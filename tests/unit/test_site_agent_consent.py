"""Approval and hours in the agent's loop: an assignment is held until somebody says yes and it is the time for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from common.errors import Reason, UnavailableError
from site_agent.adapters.begun_rounds import BegunFile
from site_agent.app.ports import Verdict
from site_agent.domain.assignment import Assignment
from site_agent.domain.assignment_machine import Stage
from site_agent.domain.policy import Hours, Range
from tests.fakes.site_scene import ADAPTER, NOON, Scene, assignment_of, scene, until
from tests.fakes.site_values import EVERY_KIND, UNAPPROVED, make_ref, make_spec, score_assignment, with_work

YES = Verdict(is_approved=True, by="alice", at=NOON)
NO = Verdict(is_approved=False, by="alice", at=NOON, because="not with our data")


async def offered(on: Scene, assignment: Assignment) -> None:
    """Offer the assignment until it is taken up: an agent that is at another one is offered it again."""
    while on.stage_of(assignment) is None:
        await on.says(assignment)


async def held(on: Scene, assignment: Assignment, reason: Reason = Reason.APPROVAL_AWAITED) -> None:
    """Offer the assignment, and wait until the coordinator has been told why it is held."""
    await offered(on, assignment)
    await until(lambda: on.coordinator.held[-1:] == [reason])
    assert on.stage_of(assignment) is Stage.RECEIVED


async def test_an_unapproved_assignment_is_neither_fetched_nor_trained_and_the_poll_says_why(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        await held(on, assignment_of())
        assert on.coordinator.polls[-1] == assignment_of().assignment_id, "it is still there"
        assert (on.trainer.starts, on.coordinator.declined) == (0, [])
        assert not (on.journal.folder(assignment_of().assignment_id) / "adapter.safetensors").exists()


async def test_an_approval_is_noticed_without_a_restart_and_the_poll_says_so(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        await held(on, assignment_of())
        on.approvals.decide(assignment_of().terms.digest, YES)
        await until(lambda: on.trainer.starts)
        await until(lambda: on.coordinator.held[-1] is None)
        assert on.coordinator.declined == []


async def test_a_decline_is_told_with_its_own_reason_and_nothing_of_its_words_is_sent(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        await held(on, assignment_of())
        on.approvals.decide(assignment_of().terms.digest, NO)
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert (on.coordinator.declined, on.trainer.starts) == ([Reason.APPROVAL_DECLINED], 0)


async def test_an_approval_lasts_for_all_rounds_of_its_terms_and_for_no_others(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        on.approvals.decide(assignment_of().terms.digest, YES)
        on.coordinator.upload_may_end.set()
        on.trainer.may_end.set()
        for number in (1, 2):
            await offered(on, assignment_of(number))
            await on.reaches(assignment_of(number), Stage.DONE)
        terms = assignment_of().terms
        changed = replace(terms, training=replace(terms.training, learning_rate=3e-4))
        await held(on, replace(assignment_of(3), terms=changed))
        assert on.trainer.starts == 2


async def test_an_agent_that_starts_again_still_holds_what_nobody_has_approved(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        await held(on, assignment_of())
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        await until(lambda: on.coordinator.held[-1:] == [Reason.APPROVAL_AWAITED])
        assert on.trainer.starts == 0
        on.approvals.decide(assignment_of().terms.digest, YES)
        await until(lambda: on.trainer.starts)


async def test_a_person_declines_even_where_the_policy_approves(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=EVERY_KIND) as on:
        on.approvals.decide(assignment_of().terms.digest, NO)
        await offered(on, assignment_of())
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert on.coordinator.declined == [Reason.APPROVAL_DECLINED]


async def test_nothing_leaves_after_an_approval_was_taken_back(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=UNAPPROVED) as on:
        on.approvals.decide(assignment_of().terms.digest, YES)
        await offered(on, assignment_of())
        await on.reaches(assignment_of(), Stage.TRAINING)
        on.approvals.decide(assignment_of().terms.digest, NO)
        on.trainer.may_end.set()
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([Reason.APPROVAL_DECLINED], [])


async def test_an_approval_widens_no_policy(tmp_path: Path) -> None:
    narrow = replace(UNAPPROVED, terms={"training.learning_rate": Range(least=0, most=1e-9)})
    async with scene(tmp_path, policy=narrow) as on:
        on.approvals.decide(assignment_of().terms.digest, YES)
        await offered(on, assignment_of())
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert on.coordinator.declined == [Reason.POLICY_FORBIDS]
        assert on.approvals.offer(assignment_of().terms.digest), "people see what was declined"


async def test_training_waits_for_the_sites_hours(tmp_path: Path) -> None:
    night = replace(EVERY_KIND, hours=(Hours(begins_minute=20 * 60, ends_minute=6 * 60),))
    time = [NOON]
    async with scene(tmp_path, policy=night, now=lambda: time[0]) as on:
        await held(on, assignment_of(), Reason.POLICY_HOURS)
        assert on.trainer.starts == 0
        time[0] = NOON + timedelta(hours=8)
        await until(lambda: on.trainer.starts)


async def test_rounds_of_a_day_are_counted_over_restarts_and_the_next_day_begins_anew(tmp_path: Path) -> None:
    once = replace(EVERY_KIND, max_rounds_a_day=1)
    time = [NOON]
    async with scene(tmp_path, policy=once, now=lambda: time[0]) as on:
        await offered(on, assignment_of(1))
        await until(lambda: on.trainer.starts)
    async with scene(tmp_path, policy=once, now=lambda: time[0]) as on:
        on.coordinator.upload_may_end.set()
        on.trainer.may_end.set()
        await on.reaches(assignment_of(1), Stage.DONE)  # the one that it had begun
        await held(on, assignment_of(2), Reason.POLICY_HOURS)
        time[0] = NOON + timedelta(days=1)
        await on.reaches(assignment_of(2), Stage.DONE)
    assert len(BegunFile(tmp_path).begun()) == 2


async def test_work_that_is_no_training_has_no_hours(tmp_path: Path) -> None:
    never = replace(EVERY_KIND, hours=(Hours(begins_minute=0, ends_minute=1),))
    scoring = with_work(score_assignment(), update=make_ref(make_spec(), ADAPTER))
    async with scene(tmp_path, policy=never) as on:
        await offered(on, scoring)
        await until(lambda: on.trainer.starts)
        assert on.coordinator.declined == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"min_examples": 4}, Reason.POLICY_TOO_FEW_EXAMPLES),
        ({"smallest_cell": 10}, Reason.POLICY_TOO_FEW_EXAMPLES),
        ({"max_norm": 0.9}, Reason.EGRESS_DENIED),
    ],
)
async def test_an_update_beyond_the_sites_egress_policy_stays(
    tmp_path: Path, change: dict[str, int], reason: Reason
) -> None:
    egress = replace(EVERY_KIND.egress, **change)  # type: ignore[arg-type]
    async with scene(tmp_path, policy=replace(EVERY_KIND, egress=egress), moved=1.0) as on:
        on.trainer.may_end.set()
        await offered(on, assignment_of())
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([reason], [])


async def test_losses_that_may_not_leave_are_left_out_and_the_update_leaves(tmp_path: Path) -> None:
    quiet = replace(EVERY_KIND.egress, metrics=frozenset({"num_examples", "num_label_tokens"}), may_tell_losses=False)
    async with scene(tmp_path, policy=replace(EVERY_KIND, egress=quiet)) as on:
        on.coordinator.upload_may_end.set()
        on.trainer.may_end.set()
        await offered(on, assignment_of())
        await on.reaches(assignment_of(), Stage.DONE)
        assert getattr(on.coordinator.uploads[0].content, "mean_loss", "there") is None
        assert {(each.loss, each.tokens_per_second, each.steps) for each in on.coordinator.progress} == {
            (None, None, 0)
        }


def test_hours_are_the_sites_own() -> None:
    assert str(Hours(begins_minute=1200, ends_minute=390)) == "20:00-06:30"
    night = Hours(begins_minute=1200, ends_minute=390)
    assert [night.hold(minute) for minute in (1199, 1200, 0, 389, 390)] == [False, True, True, True, False]
    day = Hours(begins_minute=480, ends_minute=1440)
    assert [day.hold(minute) for minute in (479, 480, 1439)] == [False, True, True]


async def test_who_declines_while_the_coordinator_is_away_keeps_the_update_at_home(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.coordinator.upload_errors = [UnavailableError(Reason.PEER_AWAY, "the link is down")]
        on.coordinator.upload_may_end.set()
        on.trainer.may_end.set()
        await offered(on, assignment_of())
        await on.coordinator.upload_began.wait()
        on.approvals.decide(assignment_of().terms.digest, NO)
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert on.coordinator.declined == [Reason.APPROVAL_DECLINED]
        assert len(on.coordinator.uploads) == 1, "the one that failed"


async def test_a_verdict_that_cannot_be_read_holds_a_run_even_where_the_policy_approves(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=EVERY_KIND) as on:
        on.approvals.decide(assignment_of().terms.digest, NO)
        next((tmp_path / "approvals").glob("*.verdict.json")).write_text("{")
        await held(on, assignment_of())
        assert on.trainer.starts == 0
