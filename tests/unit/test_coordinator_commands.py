"""Commands across lives: performed after a crash, twice with one outcome, again when they fail; and a whole run."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import Reason
from common.ids import RunId, derived_id
from common.terms import GateMetric, GateTerms
from coordinator.app import perform_commands, round_driver
from coordinator.app.aggregate_round import aggregate
from coordinator.app.create_run import create
from coordinator.app.publish_adapter import publish, version_name
from coordinator.domain import events as ev
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.values import Phase, RunState
from tests.fakes.coordinator_values import (
    SITES,
    make_round_terms,
    make_scores,
    make_terms,
)
from tests.fakes.coordinator_world import (
    World,
    coordinator,
    evaluator,
    running,
    until,
    until_pending,
)

GATELESS = make_terms(gate=GateTerms(metric=GateMetric.NONE))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


async def test_a_rounds_commands_are_performed_to_the_published_adapter(world: World) -> None:
    await world.training(GATELESS)
    async with running(world.driver.perform_commands(world.performer.perform)):
        await world.answer(*SITES)
        await until(world, lambda run: run.rounds[0].phase is Phase.COMMITTED)
        await until_pending(world, 0)
    assert (world.registry / "trial" / "served").resolve().name == "v0001"
    assert world.update_files() == []


async def test_a_run_is_completed_and_its_adapter_served_only_when_its_version_is_in_the_registry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_driver, "RETRY_BASE_SECONDS", 0.0)
    await world.training(make_terms(rounds=make_round_terms(count=1), gate=GATELESS.gate))
    await world.answer(*SITES)
    while_publishing = list[tuple[Phase, RunState, object]]()

    def fail_once(*given: Any) -> Any:
        while_publishing.append((world.run.rounds[0].phase, world.run.state, world.run.served))
        if len(while_publishing) == 1:
            raise OSError("disk full")
        return publish(*given)

    monkeypatch.setattr(perform_commands, "publish", fail_once)
    async with running(world.driver.perform_commands(world.performer.perform)):
        await until(world, lambda run: not run.state.is_open)
    assert while_publishing == [(Phase.COMMITTED, RunState.RUNNING, None)] * 2
    assert world.run.state is RunState.COMPLETED
    assert world.run.served is not None
    assert (world.registry / "trial" / "served").resolve().name == version_name(world.run.served.version)


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


async def test_a_candidate_that_is_there_is_not_combined_again(world: World) -> None:
    await world.training()
    await world.answer(*SITES)
    (aggregate,) = await world.store.pending_commands()
    for _ in range(2):
        await world.performer.perform(aggregate)
    assert len(world.observer.aggregations) == 1


async def test_a_crash_in_the_middle_of_aggregating_leaves_nothing_and_it_is_done_again(tmp_path: Path) -> None:
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
        if command.kind is CommandKind.AGGREGATE:
            attempts.append(command)
            if len(attempts) < 3:
                raise OSError("disk full")

    async with running(world.driver.perform_commands(fail_twice)):
        await until_pending(world, 0)
    assert len(attempts) == 3
    assert [command for command, _ in world.observer.failures] == attempts[:2]


async def test_a_store_that_fails_to_note_a_command_as_done_is_told_of_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_driver, "RETRY_BASE_SECONDS", 0.0)
    await world.training(GATELESS)
    await world.answer(*SITES)
    complete, failures = world.store.complete, [OSError("disk full"), OSError("disk full")]

    async def fail_twice(command: Command) -> None:
        if failures:
            raise failures.pop()
        await complete(command)

    monkeypatch.setattr(world.store, "complete", fail_twice)
    async with running(world.driver.perform_commands(world.performer.perform)):
        await until(world, lambda run: run.rounds[0].phase is Phase.COMMITTED)
        await until_pending(world, 0)
    assert len(world.observer.failures) == 2


FAULTS = [OSError(errno.ENOSPC, "disk full"), OSError(errno.EMFILE, "open files"), MemoryError()]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_a_fault_that_may_pass_fails_no_round_and_loses_no_update(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(round_driver, "RETRY_BASE_SECONDS", 0.0)
    await world.training(GATELESS)
    await world.answer(*SITES)
    faults, kept = [fault, fault], list[list[str]]()

    def fail_twice(*given: Any) -> Any:
        if faults:
            kept.append(world.update_files())
            raise faults.pop()
        return aggregate(*given)

    monkeypatch.setattr(perform_commands, "aggregate", fail_twice)
    async with running(world.driver.perform_commands(world.performer.perform)):
        await until(world, lambda run: run.rounds[0].phase is not Phase.AGGREGATING)
    assert world.run.rounds[0].phase is Phase.COMMITTED
    assert [len(files) for files in kept] == [3, 3]
    assert [error for _, error in world.observer.failures] == [fault, fault]


async def test_a_mistake_of_the_code_ends_the_round_with_a_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(perform_commands, "aggregate", fail)
    await world.training()
    await world.answer(*SITES)
    await world.perform_pending()
    assert (world.run.state, world.run.reason) == (RunState.FAILED, Reason.AGGREGATION_FAILED)


async def test_commands_are_performed_on_their_run_even_if_another_is_named_like_its_id(world: World) -> None:
    terms = make_terms("second", gate=GATELESS.gate)
    second = RunId(derived_id("run", terms.digest))
    await create(world.driver, world.clock, make_terms(second))
    await world.begin(terms)
    await world.invite()
    await world.driver.post(second, ev.AbortRequested(at=world.clock.now()))
    assert [command.run_id for command in await world.perform_pending()] == [second]
    assert [world.driver.run_of(second).terms, world.driver.run_named(second).terms] == [terms, terms]


async def test_a_command_that_takes_long_does_not_hold_up_other_runs(world: World) -> None:
    runs = [await world.begin(make_terms(name, gate=GATELESS.gate)) for name in ("slow", "quick")]
    await world.invite()
    release, performed = asyncio.Event(), list[RunId]()

    async def perform(command: Command) -> None:
        if command.round_number == 0:
            return
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
