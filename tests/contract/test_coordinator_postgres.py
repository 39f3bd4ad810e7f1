"""PostgreSQL as the store: one holder, whatever it is that ends, stops or breaks; what is said of what is no store."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError

from common.errors import FedMedError, InputInvalidError, NotNowError, Reason, UnavailableError
from coordinator.adapters.storage import postgres as module
from coordinator.adapters.storage.postgres import PostgresDatabase, held
from coordinator.adapters.storage.run_store import SqlRunStore
from coordinator.adapters.storage.tables import RUNS, WRITER
from coordinator.app.ports import Traffic
from tests.fakes.coordinator_values import ANNA, RUN_ID, START, new_run, selecting_run
from tests.postgres import LOCK_SESSION, PASSWORD, PostgresServer
from tests.running import free_port, wait_until

WAIT_SECONDS = 60.0
ROW = {"run_id": RUN_ID, "name": "trial", "state": "running", "created_at": START, "document": "{}"}
TRAFFIC = Traffic(round_number=1, site=ANNA, upload_bytes=1, download_bytes=1)


@pytest.fixture
def url(postgres: PostgresServer, tmp_path: Path) -> str:
    return postgres.url(tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[PostgresDatabase]:
    with held(url) as database:
        yield database


def names(database: PostgresDatabase) -> list[str]:
    with database.begin() as connection:
        return list(connection.execute(select(RUNS.c.name)).scalars())


def epoch(database: PostgresDatabase) -> int:
    with database.begin() as connection:
        return int(connection.execute(select(WRITER.c.epoch)).scalar_one())


def taken_from(database: PostgresDatabase, server: PostgresServer, folder: Path, stack: ExitStack) -> PostgresDatabase:
    """Another holder, after the first one's session with the lock was ended."""
    assert server.end_sessions(folder, LOCK_SESSION) == 1
    other = stack.enter_context(held(server.url(folder)))
    assert other is not database
    return other


@pytest.fixture
def no_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that is stopped for the length of a test, as far as the server can tell."""
    monkeypatch.setattr(module, "PING_SECONDS", 3600.0)


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PING_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(module, name, 0.05)


# One holder


def test_a_second_coordinator_is_refused_while_the_first_holds_the_store(database: PostgresDatabase, url: str) -> None:
    with pytest.raises(NotNowError) as refused, held(url):
        raise AssertionError("two coordinators on one store")
    assert refused.value.reason is Reason.STORE_IN_USE
    assert PASSWORD not in refused.value.message
    assert names(database) == []


def test_each_holder_has_an_epoch_of_its_own(url: str) -> None:
    epochs = []
    for _ in range(3):
        with held(url) as database:
            epochs.append(epoch(database))
    assert epochs == [1, 2, 3]


def test_other_databases_and_other_schemas_are_other_stores(
    database: PostgresDatabase, url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    postgres.execute("CREATE SCHEMA beside", database=postgres.database(tmp_path))
    with held(postgres.url(tmp_path / "other")) as other, held(f"{url}?options=-csearch_path%3Dbeside") as beside:
        assert [epoch(each) for each in (database, other, beside)] == [1, 1, 1]


def test_a_killed_coordinator_gives_the_store_back(url: str) -> None:
    hold = (
        "import sys; from coordinator.adapters.storage.postgres import held\n"
        "with held(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(NotNowError), held(url):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with ExitStack() as stack:
        wait_until(lambda: entered(stack, url), WAIT_SECONDS)


def entered(stack: ExitStack, url: str) -> bool:
    try:
        stack.enter_context(held(url))
    except NotNowError:
        return False
    return True


# A holder from which the store was taken


@pytest.mark.usefixtures("no_pings")
async def test_a_stopped_holder_stores_nothing_once_another_has_taken_the_store(
    database: PostgresDatabase, postgres: PostgresServer, tmp_path: Path
) -> None:
    first = SqlRunStore(database)
    await first.save(None, new_run(), ())
    with ExitStack() as stack:
        second = SqlRunStore(taken_from(database, postgres, tmp_path, stack))
        assert not database.lost.done()
        writes: list[Awaitable[None]] = [
            first.save(new_run(), selecting_run(), ()),
            first.save_time_lost([], START),
            first.add_traffic(RUN_ID, TRAFFIC),
        ]
        for write in writes:
            with pytest.raises(UnavailableError) as refused:
                await write
            assert refused.value.reason is Reason.STORE_IN_USE
        assert await second.load_runs() == (new_run(),)
        assert (await second.counted_until(), await second.traffic(RUN_ID)) == (None, ())
        await second.close()
    reason = database.lost.result(0)
    assert (reason.reason, PASSWORD in reason.message) == (Reason.STORE_IN_USE, False)
    await first.close()


@pytest.mark.usefixtures("quick_pings")
def test_a_holder_that_writes_nothing_notices_too(
    database: PostgresDatabase, postgres: PostgresServer, tmp_path: Path
) -> None:
    postgres.execute("UPDATE writer SET epoch = 7", database=postgres.database(tmp_path))
    assert not database.lost.done()
    assert postgres.end_sessions(tmp_path, LOCK_SESSION) == 1
    assert database.lost.result(WAIT_SECONDS).reason is Reason.STORE_IN_USE


@pytest.mark.usefixtures("no_pings")
def test_who_takes_over_waits_for_a_transaction_of_the_first_and_not_for_ever(
    url: str, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRANSACTION_IDLE_SECONDS", 1)
    with held(url) as database, ExitStack() as stack:
        with pytest.raises(DBAPIError), database.begin() as connection:
            connection.execute(insert(RUNS).values(ROW))
            second = taken_from(database, postgres, tmp_path, stack)  # the server undoes what stands still
        assert names(second) == []


@pytest.mark.usefixtures("no_pings")
def test_the_server_ends_the_lock_of_a_holder_that_is_not_heard_of(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_IDLE_SECONDS", 1)
    with held(url) as database, ExitStack() as stack:
        wait_until(lambda: entered(stack, url), WAIT_SECONDS)
        with pytest.raises(UnavailableError):
            names(database)


# What breaks while nobody else wants the store


@pytest.mark.usefixtures("quick_pings")
def test_a_holder_whose_session_was_ended_takes_the_lock_again(
    database: PostgresDatabase, url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    assert postgres.end_sessions(tmp_path, LOCK_SESSION) == 1
    name = postgres.database(tmp_path)
    held_again = (
        "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        "WHERE locktype = 'advisory' AND datname = %s"
    )
    wait_until(lambda: bool(postgres.execute(held_again, name)), WAIT_SECONDS)
    with pytest.raises(NotNowError), held(url):
        pass
    assert (epoch(database), database.lost.done()) == (1, False)


def test_a_transaction_after_its_connection_was_ended_is_stored(
    database: PostgresDatabase, postgres: PostgresServer, tmp_path: Path
) -> None:
    assert names(database) == []
    postgres.end_sessions(tmp_path)
    with database.begin() as connection:
        connection.execute(insert(RUNS).values(ROW))
    assert names(database) == ["trial"]


def test_a_transaction_in_the_middle_of_which_the_connection_is_ended_fails_and_stores_nothing(
    database: PostgresDatabase, postgres: PostgresServer, tmp_path: Path
) -> None:
    with pytest.raises(DBAPIError), database.begin() as connection:
        connection.execute(insert(RUNS).values(ROW))
        postgres.end_sessions(tmp_path)
    assert names(database) == []
    assert not database.lost.done()


def breaking(monkeypatch: pytest.MonkeyPatch, commit: bool, also: Callable[[], None] = lambda: None) -> None:
    """The next commit breaks the connection: after the server has it, or before."""
    real = psycopg.Connection.commit

    def broken(connection: psycopg.Connection) -> None:
        monkeypatch.setattr(psycopg.Connection, "commit", real)
        if commit:
            real(connection)
        connection.close()
        also()
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(psycopg.Connection, "commit", broken)


async def test_a_commit_whose_answer_is_lost_is_stored_once(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlRunStore(database)
    await store.save(None, new_run(), ())
    breaking(monkeypatch, commit=True)
    await store.add_traffic(RUN_ID, TRAFFIC)
    assert await store.traffic(RUN_ID) == (TRAFFIC,)
    await store.close()


async def test_a_commit_that_does_not_reach_the_server_fails_and_may_be_tried_again(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlRunStore(database)
    await store.save(None, new_run(), ())
    breaking(monkeypatch, commit=False)
    with pytest.raises(DBAPIError):
        await store.add_traffic(RUN_ID, TRAFFIC)
    await store.add_traffic(RUN_ID, TRAFFIC)
    assert await store.traffic(RUN_ID) == (TRAFFIC,)
    await store.close()


@pytest.mark.usefixtures("quick_pings")
async def test_a_commit_is_asked_about_until_the_server_is_back(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlRunStore(database)
    await store.save(None, new_run(), ())
    breaking(monkeypatch, commit=True, also=postgres.stop)
    moving = asyncio.create_task(store.save(new_run(), selecting_run(), ()))
    try:
        await asyncio.to_thread(wait_until, lambda: postgres.process is None, WAIT_SECONDS)
        assert not moving.done()
    finally:
        postgres.start()
    await moving
    assert await store.load_runs() == (selecting_run(),)
    assert not database.lost.done()
    await store.close()


async def test_a_coordinator_that_is_to_end_waits_for_no_server(
    database: PostgresDatabase, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlRunStore(database)
    breaking(monkeypatch, commit=True, also=postgres.stop)
    moving = asyncio.create_task(store.save(None, new_run(), ()))
    try:
        await asyncio.to_thread(wait_until, lambda: postgres.process is None, WAIT_SECONDS)
        await store.close()
        with pytest.raises(DBAPIError):
            await moving
    finally:
        postgres.start()


# What cannot be a store


def refusal(url: str) -> FedMedError:
    with pytest.raises(FedMedError) as refused, held(url):
        raise AssertionError("it was taken")
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(refused.value.__cause__)
    return refused.value


def test_a_server_that_is_away_is_said_in_one_line() -> None:
    port = free_port()
    error = refusal(f"postgresql+psycopg://fedmed:secret@127.0.0.1:{port}/runs")
    assert (type(error), error.reason) == (UnavailableError, Reason.PEER_AWAY)
    assert error.message.startswith(f"coordinator.database: the database 127.0.0.1:{port}/runs: connection failed")
    assert len(error.message.splitlines()) == 1


def test_a_wrong_password_is_said_and_not_shown(url: str) -> None:
    error = refusal(url.replace(PASSWORD, "secret"))
    assert error.reason is Reason.PEER_AWAY
    assert "password authentication failed" in error.message


def test_the_password_may_come_by_the_ways_of_libpq(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{PASSWORD}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    with held(url.replace(f":{PASSWORD}", "")) as database:
        assert names(database) == []


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = refusal("postgresql+psycopg://fedmed:secret@localhost/runs")
    assert (type(error), error.reason) == (InputInvalidError, Reason.CONFIG_INVALID)
    assert "pip install '.[coordinator,postgres]'" in error.message


def test_a_url_that_cannot_be_read_is_refused_without_showing_it() -> None:
    assert refusal("postgresql+psycopg://fedmed:x@y:secret/runs").reason is Reason.CONFIG_INVALID


def test_an_option_that_libpq_does_not_know_is_named(url: str) -> None:
    error = refusal(f"{url}?sslmod=require")
    assert (type(error), "sslmod" in error.message) == (InputInvalidError, True)


def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer, url: str) -> None:
    postgres.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'")
    error = refusal(url.rpartition("/")[0] + "/latin")
    assert "encoding UTF8, got LATIN1" in error.message


def test_a_user_who_may_not_make_tables_is_told(postgres: PostgresServer, url: str, tmp_path: Path) -> None:
    postgres.execute("CREATE ROLE reader LOGIN PASSWORD 'secret'")
    error = refusal(url.replace(f"fedmed:{PASSWORD}", "reader:secret"))
    assert (type(error), "permission denied" in error.message) == (InputInvalidError, True)


def test_a_session_is_durable_whatever_the_default_of_the_database(
    postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    postgres.execute(f"ALTER DATABASE {postgres.database(tmp_path)} SET synchronous_commit = off")
    with held(url) as database, database.begin() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
