"""What counts against deadlines: time in which the coordinator ran, however its clock is set. Over the real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from coordinator.adapters.storage.run_store import SqlRunStore
from coordinator.app import round_driver
from coordinator.app.counted_time import LONGEST_GAP_SECONDS, MARK_SECONDS
from coordinator.app.create_run import create
from coordinator.domain import events as ev
from coordinator.domain.values import DeadlineName, Run, RunState
from tests.fakes.coordinator_values import make_terms
from tests.fakes.coordinator_world import HANG_SECONDS, FakeClock, World, coordinator, running


class SetClock(FakeClock):
    """A clock whose time of day can be set, as an operator or NTP does."""

    def __init__(self) -> None:
        super().__init__()
        self.set_by = timedelta()

    def now(self) -> datetime:
        return super().now() + self.set_by


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def world(tmp_path: Path, clock: SetClock) -> AsyncIterator[World]:
    async with coordinator(tmp_path, clock, LONGEST_GAP_SECONDS) as world:
        await world.training()
        yield world


def seconds_left(run: Run, clock: FakeClock) -> float:
    """Until the deadline of training."""
    (deadline,) = [each for each in run.open_deadlines if each.name is DeadlineName.TRAIN]
    return (deadline.at - clock.now()).total_seconds()


async def pass_time(world: World, seconds: float) -> None:
    """Let time pass while the coordinator runs: its loop comes round every MARK_SECONDS."""
    while seconds > 0:
        world.clock.advance(min(seconds, MARK_SECONDS))
        await world.driver.account_time()
        seconds -= MARK_SECONDS


async def test_time_in_which_the_coordinator_runs_counts(world: World, clock: SetClock) -> None:
    await pass_time(world, 600)
    assert seconds_left(world.run, clock) == 400


async def test_an_hour_of_downtime_does_not_count(world: World, clock: SetClock, tmp_path: Path) -> None:
    await pass_time(world, 600)
    await world.store.close()
    clock.advance(3600)
    async with coordinator(tmp_path, clock, LONGEST_GAP_SECONDS) as next_life:
        await next_life.driver.fire_deadlines()
        assert next_life.run.state is RunState.RUNNING
        assert seconds_left(next_life.run, clock) == 400


async def test_what_passed_since_the_last_mark_before_a_crash_does_not_count(
    world: World, clock: SetClock, tmp_path: Path
) -> None:
    clock.advance(MARK_SECONDS - 1)  # a crash here loses the seconds since the last mark, in the sites' favour
    await world.store.close()
    async with coordinator(tmp_path, clock, LONGEST_GAP_SECONDS) as next_life:
        assert seconds_left(next_life.run, clock) == 1000


async def test_restarts_one_after_the_other_do_not_count_a_gap_twice(
    world: World, clock: SetClock, tmp_path: Path
) -> None:
    await world.store.close()
    for _ in range(3):
        clock.advance(3600)
        async with coordinator(tmp_path, clock, LONGEST_GAP_SECONDS) as life:
            assert seconds_left(life.run, clock) == 1000


async def test_a_process_that_was_stopped_for_an_hour_labels_nobody(world: World, clock: SetClock) -> None:
    clock.advance(3600)
    await world.driver.account_time()
    await world.driver.fire_deadlines()
    assert world.run.state is RunState.RUNNING
    assert seconds_left(world.run, clock) == 1000 - LONGEST_GAP_SECONDS


@pytest.mark.parametrize("set_by", [timedelta(days=60), timedelta(hours=-3)])
async def test_a_clock_that_is_set_moves_no_deadline_nearer_or_further(
    world: World, clock: SetClock, set_by: timedelta
) -> None:
    clock.set_by = set_by
    await world.driver.account_time()
    await world.driver.fire_deadlines()
    assert seconds_left(world.run, clock) == 1000


async def test_a_clock_that_is_disciplined_moves_nothing(world: World, clock: SetClock) -> None:
    before = world.run
    clock.set_by = timedelta(milliseconds=900)
    await world.driver.account_time()
    assert world.run is before


async def test_every_event_is_stepped_after_time_was_accounted_for(world: World, clock: SetClock) -> None:
    clock.advance(3600)
    await world.post(ev.DeadlinePassed(at=clock.now(), name=DeadlineName.TRAIN))
    assert world.run.state is RunState.RUNNING
    assert seconds_left(world.run, clock) == 1000 - LONGEST_GAP_SECONDS


async def test_a_run_created_after_a_stop_is_given_its_own_time(world: World, clock: SetClock) -> None:
    clock.advance(3600)
    run = await create(world.driver, clock, make_terms("later"))
    await world.driver.account_time()
    (deadline,) = world.driver.run_of(run.run_id).open_deadlines
    assert (deadline.at - clock.now()).total_seconds() == 10_000


async def test_time_lost_that_could_not_be_stored_is_lost_all_the_same(
    world: World, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.advance(3600)
    with monkeypatch.context() as broken:
        broken.setattr(SqlRunStore, "save_time_lost", _full_disk)
        with pytest.raises(OSError, match="full"):
            await world.driver.account_time()
    await world.driver.account_time()
    assert seconds_left(world.run, clock) == 1000 - LONGEST_GAP_SECONDS


async def _full_disk(*_: object) -> None:
    raise OSError("the disk is full")


async def test_a_store_that_fails_for_a_while_does_not_end_the_watch(
    world: World, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_driver, "RETRY_BASE_SECONDS", 0.0)
    with monkeypatch.context() as broken:
        broken.setattr(SqlRunStore, "save_time_lost", _full_disk)
        clock.advance(MARK_SECONDS)
        async with running(world.driver.watch()), asyncio.timeout(HANG_SECONDS):
            while len(world.observer.watch_failures) < 3:
                await world.store.counted_until()  # the question itself lets the watch go on
    async with running(world.driver.watch()), asyncio.timeout(HANG_SECONDS):
        while await world.store.counted_until() != clock.now():
            pass
    assert world.run.state is RunState.RUNNING


async def test_a_watch_that_is_cancelled_parts_nothing_that_is_held_from_what_is_stored(
    world: World, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, may_end = asyncio.Event(), asyncio.Event()
    save = SqlRunStore.save_time_lost

    async def save_and_wait(store: SqlRunStore, moved: Sequence[Run], until: datetime) -> None:
        await save(store, moved, until)
        stored.set()
        await may_end.wait()

    monkeypatch.setattr(SqlRunStore, "save_time_lost", save_and_wait)
    before = world.run
    clock.advance(3600)
    watch = asyncio.ensure_future(world.driver.account_time())
    await stored.wait()
    watch.cancel()
    may_end.set()
    async with asyncio.timeout(HANG_SECONDS):
        while world.run == before:
            await world.store.counted_until()
    assert await world.store.load_runs() == (world.run,)


async def test_what_was_lost_is_told_once(world: World, clock: SetClock) -> None:
    clock.advance(3600)
    for _ in range(3):
        await world.driver.account_time()
    told = [event for _, _, event in world.observer.moves if isinstance(event, ev.TimeLost)]
    assert [event.lost for event in told] == [timedelta(seconds=3600 - LONGEST_GAP_SECONDS)]


async def test_what_is_held_is_what_is_stored(world: World, clock: SetClock) -> None:
    clock.advance(3600)
    await world.driver.account_time()
    assert await world.store.load_runs() == (world.run,)
