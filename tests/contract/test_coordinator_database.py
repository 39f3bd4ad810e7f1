"""The database file: its schema by migrations, all or nothing, and one coordinator at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text

from common.errors import NotNowError, Reason
from coordinator.adapters.storage.engine import DATABASE_FILE, MIGRATIONS, exclusive, migrate, open_engine
from coordinator.adapters.storage.tables import METADATA


def tables_of(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_migrations_end_at_the_schema_that_the_queries_are_written_for(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_opening_an_up_to_date_database_changes_nothing(tmp_path: Path) -> None:
    open_engine(tmp_path).dispose()
    before = (tmp_path / DATABASE_FILE).read_bytes()
    open_engine(tmp_path).dispose()
    assert (tmp_path / DATABASE_FILE).read_bytes() == before


def test_migrations_can_be_undone(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert tables_of(engine) == {"alembic_version"}
    migrate(engine)
    assert tables_of(engine) > set(METADATA.tables)
    engine.dispose()


def test_a_migration_that_fails_half_way_leaves_nothing_and_may_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_the_fourth_table(_connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if "CREATE TABLE sites" in statement:
            raise OSError("disk full")

    event.listen(Engine, "before_cursor_execute", fail_at_the_fourth_table)
    try:
        with pytest.raises(OSError, match="disk full"):
            open_engine(tmp_path)
    finally:
        event.remove(Engine, "before_cursor_execute", fail_at_the_fourth_table)
    bare = create_engine(f"sqlite:///{tmp_path / DATABASE_FILE}")
    assert tables_of(bare) == set()
    bare.dispose()
    engine = open_engine(tmp_path)
    assert tables_of(engine) > set(METADATA.tables)
    engine.dispose()


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
