"""The database: its schema by migrations, all or nothing; SQLite's file, and one coordinator at a time on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, inspect, select, text

from common.errors import NotNowError, Reason
from coordinator.adapters.storage.engine import (
    DATABASE_FILE,
    MIGRATIONS,
    exclusive,
    migrate,
    open_engine,
    unmigrated_engine,
)
from coordinator.adapters.storage.tables import COMMANDS, MEMBERS, METADATA, ROUNDS, RUNS, SITES, TRAFFIC
from tests.postgres import PostgresServer

NOW = datetime(2026, 11, 26, 12, 0, 0, 1, UTC)
# A row of every table of the first schema.
ROWS: dict[Table, dict[str, object]] = {
    RUNS: {"run_id": "a" * 32, "name": "trial", "state": "running", "created_at": NOW, "document": '{"ü": "\\u0000"}'},
    ROUNDS: {"run_id": "a" * 32, "round_number": 1, "phase": "training", "document": "{}"},
    COMMANDS: {"command_id": "c", "run_id": "a" * 32, "round_number": 1, "kind": "publish"},
    SITES: {"name": "anna", "role": "site", "last_seen_at": NOW},
    TRAFFIC: {"run_id": "a" * 32, "round_number": 1, "site": "anna", "upload_bytes": 2**40, "download_bytes": 1},
}


def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    return config


REVISIONS = [each.revision for each in reversed(list(ScriptDirectory.from_config(migrations()).walk_revisions()))]


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    if request.param == "sqlite":
        engine = unmigrated_engine(tmp_path)
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        engine = create_engine(server.url(tmp_path))
    yield engine
    engine.dispose()


def tables_of(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def differences(engine: Engine) -> list[object]:
    """What the database has otherwise than the queries expect."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, METADATA))


def test_migrations_end_at_the_schema_that_the_queries_are_written_for(engine: Engine) -> None:
    migrate(engine)
    assert differences(engine) == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_earlier_schema_is_migrated_with_what_it_holds(engine: Engine, revision: str) -> None:
    migrate(engine, revision)
    with engine.begin() as connection:
        for table, row in ROWS.items():
            connection.execute(insert(table).values(row))
    migrate(engine)
    assert differences(engine) == []
    with engine.begin() as connection:
        for table, row in ROWS.items():
            columns = [table.c[name] for name in row]
            (stored,) = connection.execute(select(*columns)).mappings()
            expected = {name: in_time_zone_of(engine, value) for name, value in row.items()}
            assert dict(stored) == expected
        assert connection.execute(select(COMMANDS.c.completed)).scalar_one() == 0


def test_a_name_that_an_operator_alone_has_banned_was_noted_as_a_site_and_is_of_no_role_now(engine: Engine) -> None:
    rows: list[dict[str, object]] = [
        {"name": "banned", "standing": "banned", "enrolled_at": None, "signing_public_key": ""},
        {"name": "enrolled", "standing": "banned", "enrolled_at": NOW, "signing_public_key": ""},
        {"name": "renewed", "standing": "member", "enrolled_at": None, "signing_public_key": "ab" * 32},
        {"name": "left", "standing": "withdrawn", "enrolled_at": None, "signing_public_key": ""},
    ]
    migrate(engine, "0006")
    with engine.begin() as connection:
        connection.execute(insert(MEMBERS), [{**row, "role": "site"} for row in rows])
    migrate(engine)
    with engine.begin() as connection:
        roles = {row.name: row.role for row in connection.execute(select(MEMBERS))}
    assert roles == {"banned": "", "enrolled": "site", "renewed": "site", "left": "site"}


def in_time_zone_of(engine: Engine, value: object) -> object:
    return value.replace(tzinfo=None) if isinstance(value, datetime) and engine.dialect.name == "sqlite" else value


def test_opening_an_up_to_date_database_changes_nothing(tmp_path: Path) -> None:
    open_engine(tmp_path).dispose()
    before = (tmp_path / DATABASE_FILE).read_bytes()
    open_engine(tmp_path).dispose()
    assert (tmp_path / DATABASE_FILE).read_bytes() == before


def test_migrations_can_be_undone(engine: Engine) -> None:
    migrate(engine)
    config = migrations()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert tables_of(engine) == {"alembic_version"}
    migrate(engine)
    assert tables_of(engine) > set(METADATA.tables)


def test_a_migration_that_fails_half_way_leaves_nothing_and_may_be_run_again(engine: Engine) -> None:
    def fail_at_the_fourth_table(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if "CREATE TABLE sites" in statement:
            raise OSError("disk full")

    event.listen(Engine, "before_cursor_execute", fail_at_the_fourth_table)
    try:
        with pytest.raises(OSError, match="disk full"):
            migrate(engine)
    finally:
        event.remove(Engine, "before_cursor_execute", fail_at_the_fourth_table)
    assert tables_of(engine) == set()
    migrate(engine)
    assert tables_of(engine) > set(METADATA.tables)


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 5000)]
)
def test_every_connection_is_durable_and_checks_its_references(tmp_path: Path, pragma: str, value: str | int) -> None:
    engine = open_engine(tmp_path)
    with engine.connect() as connection:
        assert connection.execute(text(f"PRAGMA {pragma}")).scalar() == value
    engine.dispose()


# One coordinator at a time


def test_a_second_coordinator_is_refused_while_the_first_holds_the_store(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(NotNowError) as refused, exclusive(tmp_path):
        raise AssertionError("two coordinators on one store")
    assert refused.value.reason is Reason.STORE_IN_USE


def test_the_store_is_free_again_when_the_first_has_ended(tmp_path: Path) -> None:
    lives = []
    for life in (1, 2):
        with exclusive(tmp_path):
            lives.append(life)
    assert lives == [1, 2]


def test_other_folders_are_other_stores(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "one"),
        exclusive(tmp_path / "two"),
        pytest.raises(NotNowError),
        exclusive(tmp_path / "one"),
    ):
        raise AssertionError("two coordinators on one store")


def test_a_killed_coordinator_gives_the_store_back(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from coordinator.adapters.storage.engine import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(NotNowError), exclusive(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with exclusive(tmp_path):
        pass
