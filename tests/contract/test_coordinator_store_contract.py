"""What every run store must keep: one suite, run on each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings

from common.errors import Reason
from common.ids import RunId, SiteName
from common.tls import Role
from coordinator.adapters.storage.engine import SqliteDatabase
from coordinator.adapters.storage.postgres import PostgresDatabase
from coordinator.adapters.storage.run_store import SqlRunStore
from coordinator.app.ports import KnownSite, RunStore, Traffic
from coordinator.domain import events as ev
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.values import Run
from tests.fakes.coordinator_run_strategies import runs
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    EVALUATOR,
    RUN_ID,
    SITES,
    START,
    accepted,
    after,
    at,
    everyone_present,
    make_terms,
    new_run,
    selecting_run,
    training_run,
)
from tests.postgres import PostgresServer

T = TypeVar("T")


class ClosableStore(RunStore, Protocol):
    """A store that a test opens and closes."""

    async def close(self) -> None:
        """Give back what it holds."""


class PostgresStore(SqlRunStore):
    """Closes its database too, which the wiring holds beyond the store."""

    def __init__(self, url: str) -> None:
        self._held = PostgresDatabase(url)
        self._held.take()
        super().__init__(self._held)

    async def close(self) -> None:
        await super().close()
        self._held.let_go()


OpenStore = Callable[[Path], ClosableStore]


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """Opens the store that belongs to a folder."""
    if request.param == "sqlite":
        return lambda folder: SqlRunStore(SqliteDatabase(folder))
    server: PostgresServer = request.getfixturevalue("postgres")
    return lambda folder: PostgresStore(server.url(folder))


async def in_one_life(folder: Path, open_store: OpenStore, work: Callable[[ClosableStore], Awaitable[T]]) -> T:
    """Open the store, work with it, close it; what is read afterwards comes from the disk."""
    store = open_store(folder)
    try:
        return await work(store)
    finally:
        await store.close()


def command(kind: CommandKind = CommandKind.AGGREGATE, run_id: RunId = RUN_ID, round_number: int = 1) -> Command:
    return Command(kind=kind, run_id=run_id, round_number=round_number)


def saving(before: Run | None, after: Run) -> Callable[[ClosableStore], Awaitable[None]]:
    return lambda store: store.save(before, after, ())


# Runs


async def test_a_new_store_is_empty(tmp_path: Path, open_store: OpenStore) -> None:
    async def everything(store: ClosableStore) -> list[tuple[object, ...]]:
        return [
            await store.load_runs(),
            await store.pending_commands(),
            await store.known_sites(),
            await store.traffic(RUN_ID),
        ]

    assert await in_one_life(tmp_path, open_store, everything) == [()] * 4


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_any_run_is_read_as_it_was_stored(
    tmp_path_factory: pytest.TempPathFactory, open_store: OpenStore, run: Run
) -> None:
    folder = tmp_path_factory.mktemp("store")

    async def play() -> tuple[Run, ...]:
        await in_one_life(folder, open_store, saving(None, run))
        return await in_one_life(folder, open_store, lambda store: store.load_runs())

    (read,) = asyncio.run(play())
    assert read == run
    assert read.terms.digest == run.terms.digest


async def test_a_step_is_read_as_it_was_stored_whatever_part_of_the_run_moved(
    tmp_path: Path, open_store: OpenStore
) -> None:
    run = new_run()
    await in_one_life(tmp_path, open_store, saving(None, run))
    for moved in (selecting_run(), training_run(), after(training_run(), *(accepted(site) for site in SITES))):
        await in_one_life(tmp_path, open_store, saving(run, moved))
        assert await in_one_life(tmp_path, open_store, lambda store: store.load_runs()) == (moved,)
        run = moved


async def test_a_second_round_is_stored_beside_the_first(tmp_path: Path, open_store: OpenStore) -> None:
    run = training_run()
    first, second = run.rounds[0], replace(run.rounds[0], number=2)
    longer = replace(run, rounds=(first, second))

    async def both(store: ClosableStore) -> tuple[Run, ...]:
        await store.save(None, run, ())
        await store.save(run, longer, ())
        return await store.load_runs()

    assert await in_one_life(tmp_path, open_store, both) == (longer,)


async def test_runs_are_loaded_oldest_first_whatever_their_ids(tmp_path: Path, open_store: OpenStore) -> None:
    ages = {"c": 2, "a": 1, "b": 0}
    made = [
        replace(new_run(make_terms(name)), run_id=RunId(name * 32), created_at=START + timedelta(microseconds=age))
        for name, age in ages.items()
    ]

    async def all_of_them(store: ClosableStore) -> list[str]:
        for run in made:
            await store.save(None, run, ())
        return [run.terms.name for run in await store.load_runs()]

    assert await in_one_life(tmp_path, open_store, all_of_them) == ["b", "a", "c"]


async def test_two_runs_of_one_name_are_not_stored(tmp_path: Path, open_store: OpenStore) -> None:
    run = new_run()
    rival = replace(run, run_id=RunId("f" * 32))

    async def both(store: ClosableStore) -> tuple[Run, ...]:
        await store.save(None, run, ())
        with pytest.raises(Exception, match=r"(?i)unique"):
            await store.save(None, rival, ())
        return await store.load_runs()

    assert await in_one_life(tmp_path, open_store, both) == (run,)


# One transaction


async def test_a_save_that_fails_half_way_stores_neither_run_nor_round_nor_command(
    tmp_path: Path, open_store: OpenStore
) -> None:
    run = selecting_run()
    moved = after(run, everyone_present())
    good, impossible = command(), command(run_id=RunId("f" * 32))  # of a run that is not stored

    async def fail(store: ClosableStore) -> None:
        await store.save(None, run, ())
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            await store.save(run, moved, [good, impossible])

    await in_one_life(tmp_path, open_store, fail)
    assert await in_one_life(tmp_path, open_store, lambda store: store.load_runs()) == (run,)
    assert await in_one_life(tmp_path, open_store, lambda store: store.pending_commands()) == ()


async def test_a_store_works_on_after_a_save_that_failed(tmp_path: Path, open_store: OpenStore) -> None:
    run = selecting_run()
    moved = after(run, everyone_present())

    async def fail_then_save(store: ClosableStore) -> tuple[Run, ...]:
        await store.save(None, run, ())
        with suppress(Exception):
            await store.save(run, moved, [command(run_id=RunId("f" * 32))])
        await store.save(run, moved, ())
        return await store.load_runs()

    assert await in_one_life(tmp_path, open_store, fail_then_save) == (moved,)


# Commands


async def test_commands_are_pending_in_the_order_stored_until_they_are_completed(
    tmp_path: Path, open_store: OpenStore
) -> None:
    kinds = [CommandKind.PUBLISH, CommandKind.AGGREGATE, CommandKind.DELETE_UPDATES]
    commands = [command(kind) for kind in kinds]
    await in_one_life(tmp_path, open_store, lambda store: store.save(None, training_run(), commands))
    assert await in_one_life(tmp_path, open_store, lambda store: store.pending_commands()) == tuple(commands)
    await in_one_life(tmp_path, open_store, lambda store: store.complete(commands[1]))
    left = (commands[0], commands[2])
    assert await in_one_life(tmp_path, open_store, lambda store: store.pending_commands()) == left


async def test_a_command_stored_twice_is_pending_once(tmp_path: Path, open_store: OpenStore) -> None:
    async def twice(store: ClosableStore) -> tuple[Command, ...]:
        run = training_run()
        await store.save(None, run, [command()])
        await store.save(run, run, [command()])
        return await store.pending_commands()

    assert await in_one_life(tmp_path, open_store, twice) == (command(),)


async def test_a_completed_command_stored_again_stays_completed(tmp_path: Path, open_store: OpenStore) -> None:
    async def again(store: ClosableStore) -> tuple[Command, ...]:
        run = training_run()
        await store.save(None, run, [command()])
        await store.complete(command())
        await store.save(run, run, [command()])
        return await store.pending_commands()

    assert await in_one_life(tmp_path, open_store, again) == ()


async def test_completing_twice_is_no_error(tmp_path: Path, open_store: OpenStore) -> None:
    async def twice(store: ClosableStore) -> tuple[Command, ...]:
        await store.save(None, training_run(), [command()])
        await store.complete(command())
        await store.complete(command())
        return await store.pending_commands()

    assert await in_one_life(tmp_path, open_store, twice) == ()


# Time that does not count


async def test_a_new_store_has_counted_no_time(tmp_path: Path, open_store: OpenStore) -> None:
    assert await in_one_life(tmp_path, open_store, lambda store: store.counted_until()) is None


async def test_runs_whose_time_moved_are_stored_with_the_instant(tmp_path: Path, open_store: OpenStore) -> None:
    before = training_run()
    moved = after(before, ev.TimeLost(at=at(50), lost=timedelta(seconds=3600)))

    async def work(store: ClosableStore) -> None:
        await store.save(None, before, ())
        await store.save_time_lost([moved], at(50))
        await store.save_time_lost([], at(55))

    await in_one_life(tmp_path, open_store, work)
    assert await in_one_life(tmp_path, open_store, lambda store: store.load_runs()) == (moved,)
    assert await in_one_life(tmp_path, open_store, lambda store: store.counted_until()) == at(55)


# Sites


async def test_sites_are_remembered_by_name_with_the_last_time_heard_of(tmp_path: Path, open_store: OpenStore) -> None:
    async def hear(store: ClosableStore) -> None:
        await store.remember_site(BERTA, Role.SITE, at(1))
        await store.remember_site(EVALUATOR, Role.EVALUATOR, at(2))
        await store.remember_site(ANNA, Role.SITE, at(3))
        await store.remember_site(BERTA, Role.SITE, at(4))

    await in_one_life(tmp_path, open_store, hear)
    assert await in_one_life(tmp_path, open_store, lambda store: store.known_sites()) == (
        KnownSite(name=ANNA, role=Role.SITE, last_seen_at=at(3)),
        KnownSite(name=BERTA, role=Role.SITE, last_seen_at=at(4)),
        KnownSite(name=EVALUATOR, role=Role.EVALUATOR, last_seen_at=at(2)),
    )


async def test_sites_are_sorted_by_their_characters_whatever_the_language_of_the_server(
    tmp_path: Path, open_store: OpenStore
) -> None:
    names = [SiteName(name) for name in ("a-c", "ab", "a1", "b-1")]

    async def hear(store: ClosableStore) -> tuple[list[str], list[str]]:
        await store.save(None, training_run(), ())
        for name in names:
            await store.remember_site(name, Role.SITE, at(1))
            await store.add_traffic(RUN_ID, traffic(name))
        return [site.name for site in await store.known_sites()], [row.site for row in await store.traffic(RUN_ID)]

    assert await in_one_life(tmp_path, open_store, hear) == (sorted(names), sorted(names))


# Traffic


def traffic(site: SiteName = ANNA, round_number: int = 1, up: int = 10, down: int = 20) -> Traffic:
    return Traffic(round_number=round_number, site=site, upload_bytes=up, download_bytes=down)


async def test_traffic_adds_up_by_run_round_and_site(tmp_path: Path, open_store: OpenStore) -> None:
    other = replace(training_run(make_terms("other")), run_id=RunId("f" * 32))

    async def count(store: ClosableStore) -> tuple[Traffic, ...]:
        for run in (training_run(), other):
            await store.save(None, run, ())
        for added in (traffic(BERTA), traffic(), traffic(round_number=2), traffic(up=1, down=2)):
            await store.add_traffic(RUN_ID, added)
        await store.add_traffic(other.run_id, traffic(up=1000))
        return await store.traffic(RUN_ID)

    assert await in_one_life(tmp_path, open_store, count) == (
        traffic(up=11, down=22),
        traffic(BERTA),
        traffic(round_number=2),
    )


async def test_traffic_counts_terabytes(tmp_path: Path, open_store: OpenStore) -> None:
    huge = traffic(up=2**50, down=2**51)

    async def count(store: ClosableStore) -> tuple[Traffic, ...]:
        await store.save(None, training_run(), ())
        await store.add_traffic(RUN_ID, huge)
        return await store.traffic(RUN_ID)

    assert await in_one_life(tmp_path, open_store, count) == (huge,)


# From several callers at once


async def test_many_callers_at_once_are_all_stored(tmp_path: Path, open_store: OpenStore) -> None:
    async def crowd(store: ClosableStore) -> tuple[Traffic, ...]:
        await store.save(None, replace(training_run(), reason=Reason.INTERNAL), ())
        await asyncio.gather(*(store.add_traffic(RUN_ID, traffic(up=1, down=1)) for _ in range(50)))
        return await store.traffic(RUN_ID)

    assert await in_one_life(tmp_path, open_store, crowd) == (traffic(up=50, down=50),)
