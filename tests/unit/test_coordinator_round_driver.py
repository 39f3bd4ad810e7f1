"""The driver over the real store: deadlines, commands across lives, many runs, callers that hang up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from common.errors import Reason
from common.terms import GateMetric, GateTerms
from common.tls import Role
from coordinator.app.create_run import create
from coordinator.domain import events as ev
from coordinator.domain.audit import AuditEvent
from coordinator.domain.commands import Command
from coordinator.domain.values import Phase, Run, RunState, SiteOutcome
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    EVALUATOR,
    SITES,
    make_round_terms,
    make_scores,
    make_terms,
)
from tests.fakes.coordinator_world import (
    HANG_SECONDS,
    World,
    coordinator,
    running,
    until,
)

GATELESS = make_terms(gate=GateTerms(metric=GateMetric.NONE))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


def outcomes(world: World) -> dict[str, SiteOutcome]:
    return {entry.site: entry.outcome for entry in world.run.rounds[0].roster}


# Deadlines


async def test_a_deadline_that_has_not_come_moves_nothing(world: World) -> None:
    await world.training()
    before = world.run
    world.clock.advance(999)
    await world.driver.fire_deadlines()
    assert world.run == before


async def test_a_deadline_that_has_come_becomes_an_event(world: World) -> None:
    await world.training()
    world.clock.advance(1000)
    await world.driver.fire_deadlines()
    assert (world.run.state, world.run.reason) == (RunState.FAILED, Reason.QUORUM_NOT_REACHED)


async def test_the_grace_after_a_quorum_labels_stragglers(world: World) -> None:
    await world.training()
    await world.answer(ANNA, BERTA)
    world.clock.advance(100)
    await world.driver.fire_deadlines()
    assert world.round.phase is Phase.AGGREGATING
    assert outcomes(world)[CLARA] is SiteOutcome.STRAGGLER


async def test_watching_fires_a_deadline_that_has_come(world: World) -> None:
    await world.training()
    world.clock.advance(1000)
    async with running(world.driver.watch()):
        await until(world, lambda run: run.state is not RunState.RUNNING)
    assert (world.run.state, world.run.reason) == (RunState.FAILED, Reason.QUORUM_NOT_REACHED)


async def test_watching_begins_training_when_the_grace_of_a_quorum_is_over(world: World) -> None:
    await world.begin()
    await world.store.remember_site(CLARA, Role.SITE, world.clock.now())
    await world.invite((ANNA, BERTA))
    assert world.round.phase is Phase.SELECTING
    world.clock.advance(100)
    async with running(world.driver.watch()):
        await until(world, lambda run: run.current is not None and run.current.phase is Phase.TRAINING)
    assert outcomes(world)[CLARA] is SiteOutcome.INVITED


async def test_watching_tells_a_new_run_who_is_there_already(world: World) -> None:
    await world.invite()
    async with running(world.driver.watch()):
        await world.begin()
        await until(world, lambda run: run.current is not None and run.current.phase is not Phase.SELECTING)
    assert world.round.phase is Phase.TRAINING
    assert set(outcomes(world).values()) == {SiteOutcome.INVITED}


async def test_a_run_without_an_evaluator_fails_at_its_deadline(world: World) -> None:
    await create(world.driver, world.clock, make_terms())
    world.clock.advance(10_000)
    await world.driver.fire_deadlines()
    assert (world.run.state, world.run.reason) == (RunState.FAILED, Reason.EVALUATOR_ABSENT)


async def test_deadlines_fire_in_the_next_life_too(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        clock = world.clock
    async with coordinator(tmp_path, clock) as world:
        clock.advance(1000)
        await world.driver.fire_deadlines()
        assert world.run.reason is Reason.QUORUM_NOT_REACHED


# Presence


async def test_sites_that_left_longer_than_the_linger_ago_are_not_invited(world: World) -> None:
    await world.begin()
    for name in SITES:
        await world.store.remember_site(name, Role.SITE, world.clock.now())
        world.presence.enter(name)
    world.presence.leave(ANNA)
    world.presence.leave(BERTA)
    world.clock.advance(60)
    await world.driver.observe_presence()
    assert (world.round.phase, world.round.deadlines) == (Phase.SELECTING, ())


async def test_an_evaluator_that_is_there_is_not_invited_to_train(world: World) -> None:
    await world.begin(make_terms(rounds=make_round_terms(sites=())))
    await world.store.remember_site(EVALUATOR, Role.EVALUATOR, world.clock.now())
    world.presence.enter(EVALUATOR)
    await world.invite()
    assert sorted(outcomes(world)) == sorted(SITES)


# Persist, then act


async def test_a_run_is_in_the_next_life_as_it_was(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        await world.answer(ANNA)
        before = world.run
    async with coordinator(tmp_path) as world:
        assert world.run == before


async def test_nobody_is_told_of_a_step_that_was_not_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.training()
    before, told = world.run, len(world.observer.moves)

    async def fail(*_step: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            await world.abort()
    assert (world.run, len(world.observer.moves)) == (before, told)
    assert await world.store.load_runs() == (before,)
    assert (await world.abort()).state is RunState.ABORTED


async def test_a_caller_that_hangs_up_half_way_leaves_memory_and_store_alike(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.training()
    save, saving, go_on = world.store.save, asyncio.Event(), asyncio.Event()

    async def slow(before: Run | None, after: Run, commands: Sequence[Command], audit: Sequence[AuditEvent]) -> None:
        await save(before, after, commands, audit)
        saving.set()
        await go_on.wait()

    monkeypatch.setattr(world.store, "save", slow)
    caller = asyncio.create_task(world.abort())
    await saving.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    async with asyncio.timeout(HANG_SECONDS):
        await until(world, lambda run: run.state is RunState.ABORTED)
    assert await world.store.load_runs() == (world.run,)


async def test_events_of_one_run_are_stepped_one_at_a_time(world: World) -> None:
    await world.training()
    await asyncio.gather(
        *(
            world.post(ev.AssignmentTaken(at=world.clock.now(), assignment_id=world.assignment(site).assignment_id))
            for site in SITES
        )
    )
    assert set(outcomes(world).values()) == {SiteOutcome.JOINED}
    assert await world.store.load_runs() == (world.run,)


async def test_an_event_that_changes_nothing_is_neither_stored_nor_told(world: World) -> None:
    await world.training()
    before, told = world.run, len(world.observer.moves)
    late = ev.ScoresReported(at=world.clock.now(), round_number=1, scores=make_scores())
    assert await world.post(late) is before
    assert len(world.observer.moves) == told


async def test_every_step_is_told_with_what_was_and_what_is(world: World) -> None:
    await world.training()
    afters = [after for _, after, _ in world.observer.moves]
    befores = [before for before, _, _ in world.observer.moves]
    assert befores == [None, *afters[:-1]]
    assert afters[-1] == world.run
