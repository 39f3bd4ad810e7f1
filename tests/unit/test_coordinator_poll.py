"""The long poll: what it answers, when, and what it tells the coordinator by being open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import Reason
from common.ids import SiteName
from common.tls import Role
from coordinator.app.create_run import create
from coordinator.app.poll import Cancelled
from coordinator.app.presence import Presence
from coordinator.domain import events as ev
from coordinator.domain.assignments import Assignment, AssignmentKind
from coordinator.domain.values import DeadlineName, Phase, SiteOutcome
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, EVALUATOR, SITES, make_terms
from tests.fakes.coordinator_world import (
    HANG_SECONDS,
    HOLD_SECONDS,
    FakeClock,
    World,
    coordinator,
    evaluator,
    foreign_id,
    site_caller,
)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A coordinator whose waiting moves the clock instead of waiting, as if nothing happened meanwhile."""
    async with coordinator(tmp_path) as world:

        async def nothing_happens(timeout_seconds: float) -> None:
            world.clock.advance(timeout_seconds)

        monkeypatch.setattr(world.driver, "wait_for_change", nothing_happens)
        yield world


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[World]:
    """A coordinator whose polls really wait for a change."""
    async with coordinator(tmp_path) as world:
        yield world


async def opened(world: World, poll: asyncio.Task[Assignment | Cancelled | None], name: SiteName) -> None:
    """Wait until the poll is open, with nothing to answer yet."""
    while name not in {site.name for site in await world.store.known_sites()}:
        assert not poll.done()


def outcome(world: World, site: SiteName) -> SiteOutcome:
    return next(entry.outcome for entry in world.round.roster if entry.site == site)


# What it answers


async def test_with_an_assignment_there_the_answer_comes_at_once(world: World) -> None:
    await world.training()
    answer = await world.poll.wait(site_caller(ANNA), None)
    assert answer == world.assignment(ANNA)
    assert world.clock.seconds == 0


async def test_asking_again_gives_the_same_assignment(world: World) -> None:
    await world.training()
    assert await world.poll.wait(site_caller(ANNA), None) == await world.poll.wait(site_caller(ANNA), None)


async def test_with_nothing_to_do_the_answer_is_none_when_the_hold_is_over(world: World) -> None:
    assert await world.poll.wait(site_caller(ANNA), None) is None
    assert world.clock.seconds == HOLD_SECONDS


async def test_a_site_that_answered_has_nothing_to_do(world: World) -> None:
    await world.training()
    await world.answer(ANNA)
    assert await world.poll.wait(site_caller(ANNA), None) is None


async def test_an_assignment_that_comes_meanwhile_is_answered_as_it_comes(live: World) -> None:
    await live.invite((BERTA, CLARA))
    poll = asyncio.create_task(live.poll.wait(site_caller(ANNA), None))
    await opened(live, poll, ANNA)
    await live.begin()
    await live.driver.observe_presence()
    assert await asyncio.wait_for(poll, HANG_SECONDS) == live.assignment(ANNA)
    assert live.clock.seconds == 0


async def test_the_last_site_to_come_starts_the_round_and_is_answered_in_the_same_poll(world: World) -> None:
    await world.begin()
    await world.invite((BERTA, CLARA))
    answer = await world.poll.wait(site_caller(ANNA), None)
    assert isinstance(answer, Assignment)
    assert (answer.kind, world.round.phase) == (AssignmentKind.TRAIN, Phase.TRAINING)


async def test_an_evaluator_is_asked_for_the_first_adapter_and_then_for_scores(world: World) -> None:
    run = await create(world.driver, world.clock, make_terms())
    first = await world.poll.wait(evaluator(), None)
    assert isinstance(first, Assignment) and first.kind is AssignmentKind.INITIALISE
    assert first.run == run
    await world.training()
    assert await world.poll.wait(evaluator(), None) is None
    await world.answer(*SITES)
    await world.perform_pending()
    then = await world.poll.wait(evaluator(), None)
    assert isinstance(then, Assignment) and then.kind is AssignmentKind.EVALUATE
    assert then.adapter == world.round.candidate


async def test_of_two_runs_the_older_is_served_first(world: World) -> None:
    for name in ("older", "younger"):
        await world.begin(make_terms(name))
        world.clock.advance(1)
    await world.invite()
    answer = await world.poll.wait(site_caller(ANNA), None)
    assert isinstance(answer, Assignment)
    assert answer.run.terms.name == "older"


async def test_a_site_that_answered_the_older_run_is_served_by_the_younger(world: World) -> None:
    for name in ("older", "younger"):
        await world.begin(make_terms(name))
        world.clock.advance(1)
    await world.invite()
    first = await world.poll.wait(site_caller(ANNA), None)
    assert isinstance(first, Assignment)
    await world.answers.decline(site_caller(ANNA), first.assignment_id, Reason.OUT_OF_MEMORY)
    then = await world.poll.wait(site_caller(ANNA), None)
    assert isinstance(then, Assignment)
    assert then.run.terms.name == "younger"


# While an agent works


async def test_polling_with_an_assignment_marks_it_as_taken_and_stays_open(world: World) -> None:
    await world.training()
    assert await world.poll.wait(site_caller(ANNA), world.assignment(ANNA).assignment_id) is None
    assert (outcome(world, ANNA), outcome(world, BERTA)) == (SiteOutcome.JOINED, SiteOutcome.INVITED)
    assert world.clock.seconds == HOLD_SECONDS


async def test_an_agent_that_forgot_its_assignment_is_given_it_again(world: World) -> None:
    await world.training()
    wanted = world.assignment(ANNA).assignment_id
    await world.poll.wait(site_caller(ANNA), wanted)
    again = await world.poll.wait(site_caller(ANNA), None)
    assert isinstance(again, Assignment)
    assert again.assignment_id == wanted


async def test_an_abort_cancels_the_work_of_an_open_poll(live: World) -> None:
    await live.training()
    wanted = live.assignment(ANNA).assignment_id
    poll = asyncio.create_task(live.poll.wait(site_caller(ANNA), wanted))
    while outcome(live, ANNA) is not SiteOutcome.JOINED:
        await live.driver.wait_for_change(HANG_SECONDS)
    await live.abort()
    assert await asyncio.wait_for(poll, HANG_SECONDS) == Cancelled(assignment_id=wanted, reason=Reason.RUN_ENDED)


async def test_an_agent_that_may_not_begin_yet_has_not_joined_and_says_why(world: World) -> None:
    await world.training()
    wanted = world.assignment(ANNA).assignment_id
    await world.poll.wait(site_caller(ANNA), wanted, held_for=Reason.APPROVAL_AWAITED)
    entry = next(entry for entry in world.round.roster if entry.site == ANNA)
    assert (entry.outcome, entry.reason) == (SiteOutcome.INVITED, Reason.APPROVAL_AWAITED)
    await world.poll.wait(site_caller(ANNA), wanted)
    assert outcome(world, ANNA) is SiteOutcome.JOINED


async def test_a_straggler_is_told_that_its_round_closed(world: World) -> None:
    await world.training()
    wanted = world.assignment(CLARA).assignment_id
    await world.answer(ANNA, BERTA)
    world.clock.advance(100)
    await world.post(ev.DeadlinePassed(at=world.clock.now(), name=DeadlineName.GRACE))
    assert await world.poll.wait(site_caller(CLARA), wanted) == Cancelled(
        assignment_id=wanted, reason=Reason.ROUND_CLOSED
    )


async def test_an_agent_that_still_works_on_what_it_answered_is_told_so(world: World) -> None:
    await world.training()
    wanted = world.assignment(ANNA).assignment_id
    await world.answer(ANNA)
    cancelled = await world.poll.wait(site_caller(ANNA), wanted)
    assert cancelled == Cancelled(assignment_id=wanted, reason=Reason.ALREADY_ANSWERED)


@pytest.mark.parametrize(("whose", "reason"), [(BERTA, Reason.ASSIGNMENT_NOT_YOURS), (None, Reason.ASSIGNMENT_UNKNOWN)])
async def test_work_on_an_assignment_that_is_not_ones_own_is_cancelled(
    world: World, whose: SiteName | None, reason: Reason
) -> None:
    await world.training()
    wanted = foreign_id() if whose is None else world.assignment(whose).assignment_id
    cancelled = await world.poll.wait(site_caller(ANNA), wanted)
    assert cancelled == Cancelled(assignment_id=wanted, reason=reason)
    assert outcome(world, BERTA) is SiteOutcome.INVITED


# What it tells by being open


async def test_an_open_poll_is_presence_and_a_closed_one_is_for_a_while(live: World) -> None:
    poll = asyncio.create_task(live.poll.wait(site_caller(ANNA), None))
    await opened(live, poll, ANNA)
    assert live.presence.present() == {ANNA}
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    assert live.presence.present() == {ANNA}
    live.clock.advance(60)
    assert live.presence.present() == frozenset()


async def test_whoever_polls_is_remembered_with_role_and_time(world: World) -> None:
    world.clock.advance(7)
    at = world.clock.now()
    await world.poll.wait(site_caller(ANNA), None)
    await world.poll.wait(evaluator(), None)
    known = await world.store.known_sites()
    assert [(site.name, site.role) for site in known] == [(ANNA, Role.SITE), (EVALUATOR, Role.EVALUATOR)]
    assert known[0].last_seen_at == at


# Presence alone


def test_of_two_polls_of_one_name_one_may_close() -> None:
    presence = Presence(FakeClock().monotonic, linger_seconds=0)
    presence.enter(ANNA)
    presence.enter(ANNA)
    presence.leave(ANNA)
    assert presence.is_present(ANNA)
    presence.leave(ANNA)
    assert not presence.is_present(ANNA)


def test_entering_says_whether_the_caller_was_absent() -> None:
    clock = FakeClock()
    presence = Presence(clock.monotonic, linger_seconds=60)
    assert presence.enter(ANNA)
    assert not presence.enter(ANNA)
    presence.leave(ANNA)
    presence.leave(ANNA)
    clock.advance(59)
    assert not presence.enter(ANNA)
    presence.leave(ANNA)
    clock.advance(60)
    assert presence.enter(ANNA)


def test_nobody_is_present_before_they_came() -> None:
    presence = Presence(FakeClock().monotonic, linger_seconds=60)
    assert not presence.is_present(ANNA)
    assert presence.present() == frozenset()
