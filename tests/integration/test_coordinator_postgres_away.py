"""A coordinator whose PostgreSQL goes away, comes back, or becomes another's: what its use cases make of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from common.errors import Reason, UnavailableError
from coordinator.adapters.storage.postgres import held
from coordinator.app import round_driver
from coordinator.app.counted_time import MARK_SECONDS
from coordinator.domain.values import RunState
from tests.fakes.coordinator_values import ANNA, SITES
from tests.fakes.coordinator_world import HANG_SECONDS, World, coordinator, running
from tests.postgres import PostgresServer


@pytest.fixture
async def world(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[World]:
    with held(postgres.url(tmp_path)) as database:
        async with coordinator(tmp_path, database=database) as world:
            await world.training()
            yield world


async def test_a_server_that_is_away_for_a_while_does_not_end_the_watch(
    world: World, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_driver, "RETRY_BASE_SECONDS", 0.0)
    world.clock.advance(MARK_SECONDS)
    postgres.stop()
    async with running(world.driver.watch()), asyncio.timeout(HANG_SECONDS):
        try:
            while len(world.observer.watch_failures) < 3:
                with pytest.raises(DBAPIError):
                    await world.store.counted_until()  # the question itself lets the watch go on
        finally:
            postgres.start()
        while await world.store.counted_until() != world.clock.now():
            pass
    assert world.run.state is RunState.RUNNING


async def test_an_answer_that_could_not_be_stored_is_taken_when_the_server_is_back(
    world: World, postgres: PostgresServer
) -> None:
    postgres.stop()
    try:
        with pytest.raises(DBAPIError):
            await world.answer(ANNA)
    finally:
        postgres.start()
    assert world.entry(ANNA).update is None
    for site in SITES:
        await world.answer(site)
    assert await world.store.load_runs() == (world.run,)
    assert all(world.entry(site).update is not None for site in SITES)


async def test_an_answer_to_one_whose_store_was_taken_is_no_clear_no(
    world: World, postgres: PostgresServer, tmp_path: Path
) -> None:
    postgres.execute("UPDATE writer SET epoch = epoch + 1", database=postgres.database(tmp_path))
    with pytest.raises(UnavailableError) as refused:
        await world.answer(ANNA)
    assert (refused.value.reason, refused.value.retryable) == (Reason.STORE_IN_USE, True)
    assert world.entry(ANNA).update is None
