"""Creating runs: once for the same terms, never under a taken name, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputInvalidError, NotFoundError, NotNowError, Reason
from common.ids import RunId
from common.terms import AggregationTerms, TaskTerms, Terms
from coordinator.app.create_run import create
from coordinator.domain import events as ev
from coordinator.domain.run_machine import create_run
from coordinator.domain.values import Phase, RunState
from tests.fakes.coordinator_values import (
    make_round_terms,
    make_terms,
)
from tests.fakes.coordinator_world import (
    World,
    coordinator,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


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
        replace(make_terms(), task=TaskTerms(entity_types=("problem",), relation_types=("treats",))),
    ],
    ids=["name", "quorum", "strategy", "relation"],
)
async def test_terms_that_cannot_be_kept_create_nothing(world: World, terms: Terms) -> None:
    with pytest.raises(InputInvalidError) as refused:
        await create(world.driver, world.clock, terms)
    assert refused.value.reason is Reason.TERMS_INVALID
    assert await world.store.load_runs() == ()


async def test_a_run_of_terms_that_an_earlier_version_took_is_returned(world: World) -> None:
    terms = replace(make_terms(), task=TaskTerms(entity_types=("problem",), relation_types=("treats",)))
    run = await world.driver.add(create_run(RunId("0" * 32), terms, world.clock.now()))
    assert await create(world.driver, world.clock, terms) == run


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
