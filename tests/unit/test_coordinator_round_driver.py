"""The driver over the real store: deadlines, commands across lives, many runs, callers that hang up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputInvalidError, NotFoundError, NotNowError, Reason
from common.ids import RunId
from common.terms import AggregationTerms, GateMetric, GateTerms, Terms
from common.tls import Role
from coordinator.app import round_driver
from coordinator.app.create_run import create
from coordinator.domain import events as ev
from coordinator.domain.commands import Command, CommandKind
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
from tests.fakes.coordinator_world import World, coordinator, evaluator

GATELESS = make_terms(gate=GateTerms(metric=GateMetric.NONE))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[None]:
    """Let ``work`` go on beside the block; at most ten seconds, so that a hang is a failure."""
    task = asyncio.ensure_future(work)
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(world: World, condition: Callable[[Run], bool]) -> None:
    """Wait until the only run is as wanted."""
    while not condition(world.run):
        await world.driver.wait_for_change(10)


async def until_pending(world: World, count: int) -> None:
    """Wait until so many commands are stored and not completed."""
    while len(await world.store.pending_commands()) != count:
        pass  # the question itself lets others go on


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
        await until(world, lambda run: run.state is RunState.FAILED)


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
        await until(world, lambda run: run.current is not None and run.current.phase is Phase.TRAINING)


async def test_a_run_without_an_evaluator_fails_at_its_deadline(world: World) -> None:
    await create(world.driver, world.clock, make_terms())
    world.clock.advance(10_000)
    await world.driver.fire_deadlines()
    assert (world.run.state, world.run.reason) == (RunState.FAILED, Reason.EVALUATOR_ABSENT)


async def test_deadlines_fire_in_the_next_life_too(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        clock = world.clock
    clock.advance(1000)
    async with coordinator(tmp_path, clock) as world:
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


# Commands


async def test_a_rounds_commands_are_performed_to_the_published_adapter(world: World) -> None:
    await world.training(GATELESS)
    async with running(world.driver.perform_commands(world.performer.perform)):
        await world.answer(*SITES)
        await until(world, lambda run: run.rounds[0].phase is Phase.COMMITTED)
        await until_pending(world, 0)
    assert (world.registry / "trial" / "served").resolve().name == "v0001"
    assert world.update_files() == []


@pytest.mark.parametrize("is_performed_before_the_crash", [False, True], ids=["before performing", "before completing"])
async def test_a_command_is_performed_in_the_next_life_after_a_crash(
    tmp_path: Path, is_performed_before_the_crash: bool
) -> None:
    async with coordinator(tmp_path) as world:
        await world.training(GATELESS)
        await world.answer(*SITES)
        (aggregate,) = await world.store.pending_commands()
        if is_performed_before_the_crash:
            await world.performer.perform(aggregate)
    async with coordinator(tmp_path) as world:
        async with running(world.driver.perform_commands(world.performer.perform)):
            await until(world, lambda run: run.rounds[0].phase is Phase.COMMITTED)
            await until_pending(world, 0)
        assert (world.registry / "trial" / "served").resolve().name == "v0001"
        assert world.update_files() == []
        assert len(world.run.rounds) == 2


async def test_performing_everything_twice_changes_nothing(world: World) -> None:
    await world.training(GATELESS)
    await world.answer(*SITES)
    commands = await world.perform_pending()
    assert [command.kind for command in commands] == [
        CommandKind.AGGREGATE,
        CommandKind.PUBLISH,
        CommandKind.DELETE_UPDATES,
    ]
    before, published = world.run, sorted(world.registry.rglob("*"))
    for command in commands:
        await world.performer.perform(command)
    assert (world.run, sorted(world.registry.rglob("*"))) == (before, published)
    assert await world.store.pending_commands() == ()


async def test_a_crash_in_the_middle_of_aggregating_leaves_nothing_and_it_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coordinator(tmp_path) as world:
        await world.training(GATELESS)
        await world.answer(*SITES)
        (tmp_path / "adapters" / f"{world.run.run_id}-1.draft").write_bytes(b"half a candidate")
    async with coordinator(tmp_path) as world:
        assert world.swept == 1
        await world.perform_pending()
        assert world.run.rounds[0].phase is Phase.COMMITTED


async def test_a_failed_aggregation_ends_the_round_with_a_reason(world: World) -> None:
    await world.training()
    await world.answer(*SITES)
    world.blobs.update_path(world.round.accepted[0].assignment_id).write_bytes(b"damaged")
    await world.perform_pending()
    assert (world.run.state, world.run.reason) == (RunState.FAILED, Reason.AGGREGATION_FAILED)
    assert world.update_files() == []


async def test_a_command_that_fails_is_told_of_and_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_driver, "RETRY_BASE_SECONDS", 0.0)
    await world.training()
    await world.answer(*SITES)
    attempts: list[Command] = []

    async def fail_twice(command: Command) -> None:
        attempts.append(command)
        if len(attempts) < 3:
            raise OSError("disk full")

    async with running(world.driver.perform_commands(fail_twice)):
        await until_pending(world, 0)
    assert len(attempts) == 3
    assert [command for command, _ in world.observer.failures] == attempts[:2]


async def test_a_command_that_takes_long_does_not_hold_up_other_runs(world: World) -> None:
    runs = [await world.begin(make_terms(name, gate=GATELESS.gate)) for name in ("slow", "quick")]
    await world.invite()
    release, performed = asyncio.Event(), list[RunId]()

    async def perform(command: Command) -> None:
        if command.run_id == runs[0].run_id:
            await release.wait()
        performed.append(command.run_id)

    async with running(world.driver.perform_commands(perform)):
        for run in runs:
            await world.driver.post(run.run_id, ev.AbortRequested(at=world.clock.now()))
        await until_pending(world, 1)
        assert performed == [runs[1].run_id]
        release.set()
        await until_pending(world, 0)
    assert performed == [runs[1].run_id, runs[0].run_id]


# Creating runs


async def test_creating_the_same_run_twice_is_one_run(world: World) -> None:
    first = await create(world.driver, world.clock, make_terms())
    world.clock.advance(5)
    assert await create(world.driver, world.clock, make_terms()) == first
    assert await world.store.load_runs() == (first,)


async def test_creating_a_run_again_after_it_moved_returns_it_where_it_stands(world: World) -> None:
    await world.training()
    assert await create(world.driver, world.clock, make_terms()) == world.run
    assert world.round.phase is Phase.TRAINING


async def test_creating_the_same_run_twice_at_once_is_one_run(world: World) -> None:
    both = await asyncio.gather(*(create(world.driver, world.clock, make_terms()) for _ in range(2)))
    assert both[0] == both[1] == world.run
    assert len([move for move in world.observer.moves if move[0] is None]) == 1


async def test_other_terms_under_a_taken_name_are_refused(world: World) -> None:
    run = await create(world.driver, world.clock, make_terms())
    with pytest.raises(NotNowError) as refused:
        await create(world.driver, world.clock, make_terms(rounds=make_round_terms(count=9)))
    assert refused.value.reason is Reason.RUN_EXISTS
    assert world.driver.runs == (run,)


async def test_other_terms_under_the_same_name_at_once_are_refused_too(world: World) -> None:
    rival = make_terms(rounds=make_round_terms(count=9))
    first, second = await asyncio.gather(
        create(world.driver, world.clock, make_terms()),
        create(world.driver, world.clock, rival),
        return_exceptions=True,
    )
    assert first == world.run
    assert isinstance(second, NotNowError) and second.reason is Reason.RUN_EXISTS


@pytest.mark.parametrize(
    "terms",
    [
        make_terms(name="Not A Name"),
        make_terms(rounds=make_round_terms(quorum=4)),
        make_terms(aggregation=AggregationTerms(strategy="krum")),
    ],
    ids=["name", "quorum", "strategy"],
)
async def test_terms_that_cannot_be_kept_create_nothing(world: World, terms: Terms) -> None:
    with pytest.raises(InputInvalidError) as refused:
        await create(world.driver, world.clock, terms)
    assert refused.value.reason is Reason.TERMS_INVALID
    assert await world.store.load_runs() == ()


async def test_a_run_is_found_by_its_id_and_by_its_name(world: World) -> None:
    run = await create(world.driver, world.clock, make_terms())
    assert world.driver.run_named(run.run_id) == world.driver.run_named("trial") == run
    with pytest.raises(NotFoundError) as unknown:
        world.driver.run_named("another")
    assert unknown.value.reason is Reason.RUN_UNKNOWN


# Several runs side by side


async def test_runs_stand_side_by_side_and_end_apart(world: World) -> None:
    first = await world.begin(make_terms("first"))
    second = await world.begin(make_terms("second"))
    await world.invite()
    await world.driver.post(first.run_id, ev.AbortRequested(at=world.clock.now()))
    assert world.driver.run_named("first").state is RunState.ABORTED
    moved = world.driver.run_named("second")
    assert (moved.run_id, moved.state) == (second.run_id, RunState.RUNNING)
    assert moved.current is not None and moved.current.phase is Phase.TRAINING


async def test_runs_are_loaded_oldest_first(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        for name in ("zeta", "alpha", "mu"):
            await create(world.driver, world.clock, make_terms(name))
            world.clock.advance(1)
    async with coordinator(tmp_path) as world:
        assert [run.terms.name for run in world.driver.runs] == ["zeta", "alpha", "mu"]


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

    async def fail(_before: Run | None, _after: Run, _commands: Sequence[Command]) -> None:
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

    async def slow(before: Run | None, after: Run, commands: Sequence[Command]) -> None:
        await save(before, after, commands)
        saving.set()
        await go_on.wait()

    monkeypatch.setattr(world.store, "save", slow)
    caller = asyncio.create_task(world.abort())
    await saving.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    async with asyncio.timeout(10):
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


# A whole run


async def test_a_run_of_two_rounds_goes_from_terms_to_two_published_versions(world: World) -> None:
    await world.training()
    for number in (1, 2):
        await world.answer(*SITES)
        await world.perform_pending()
        assignment = await world.poll.wait(evaluator(), None)
        assert assignment is not None
        await world.answers.take_scores(evaluator(), assignment.assignment_id, make_scores(4 + number))
        await world.perform_pending()
        await world.driver.observe_presence()
    assert world.run.state is RunState.COMPLETED
    assert [past.phase for past in world.run.rounds] == [Phase.COMMITTED, Phase.COMMITTED]
    assert sorted(path.name for path in (world.registry / "trial").iterdir()) == ["served", "v0001", "v0002"]
    assert world.update_files() == []
    first, second = world.run.rounds
    assert first.candidate is not None
    assert second.global_adapter == first.candidate != replace(first.candidate, size_bytes=0)
