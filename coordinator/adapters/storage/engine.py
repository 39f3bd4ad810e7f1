"""Opens the database: one file, one writer, migrated to the newest schema. Holds no query."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event

from common.errors import NotNowError, Reason

DATABASE_FILE = "coordinator.db"
LOCK_FILE = "coordinator.lock"
MIGRATIONS = "coordinator.adapters.storage:migrations"


@contextmanager
def exclusive(state_folder: Path) -> Iterator[None]:
    """Hold the store for this process; the kernel gives the lock back however the process ends.

    Raises:
        NotNowError: STORE_IN_USE, when another coordinator holds it.
    """
    state_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(state_folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotNowError(
                Reason.STORE_IN_USE, f"another coordinator holds {state_folder}; stop it, or use another state folder"
            ) from None
        yield
    finally:
        os.close(handle)


def open_engine(state_folder: Path) -> Engine:
    """The engine of ``<state_folder>/coordinator.db``, created or migrated to the newest schema."""
    engine = create_engine(f"sqlite:///{state_folder / DATABASE_FILE}")
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    migrate(engine)
    return engine


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to ``revision``, in one transaction."""
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _set_pragmas(connection: SqliteConnection, _record: object) -> None:
    # FULL: a transaction that was answered for survives a power cut (sqlite.org/pragma.html#pragma_synchronous).
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    # By itself Python's sqlite3 begins no transaction before a CREATE TABLE: a migration would not be all or nothing.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
