"""Opens the database: SQLite's one file, one writer, migrated to the newest schema. Holds no query."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Protocol

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event

from common.errors import NotNowError, Reason
from common.files import make_folder

DATABASE_FILE = "coordinator.db"
LOCK_FILE = "coordinator.lock"
MIGRATIONS = "coordinator.adapters.storage:migrations"


class Database(Protocol):
    """A database at the newest schema, which this process alone may write.

    Attributes:
        lost: Done when that is so no more: why the process must end.
    """

    @property
    def lost(self) -> Future[NotNowError]: ...  # noqa: D102

    def begin(self) -> AbstractContextManager[Connection]:
        """One transaction: committed at the end of the block, or undone with its error."""

    def stop_waiting(self) -> None:
        """The process is about to end: a transaction waits for nothing any more."""

    def dispose(self) -> None:
        """Give back the connections; the hold on the store is its opener's to end."""


class SqliteDatabase:
    """Implements `Database`. The file lock guards it, which nobody can lose who still runs."""

    def __init__(self, state_folder: Path) -> None:
        self._engine = open_engine(state_folder)
        self.lost: Future[NotNowError] = Future()

    def begin(self) -> AbstractContextManager[Connection]:
        """One transaction."""
        return self._engine.begin()

    def stop_waiting(self) -> None:
        """There is nothing that it waits for."""

    def dispose(self) -> None:
        """Close the file."""
        self._engine.dispose()


@contextmanager
def exclusive(state_folder: Path) -> Iterator[None]:
    """Hold the store for this process; the kernel gives the lock back however the process ends.

    Raises:
        NotNowError: STORE_IN_USE, when another coordinator holds it.
    """
    make_folder(state_folder, 0o700)
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
    engine = unmigrated_engine(state_folder)
    migrate(engine)
    return engine


def unmigrated_engine(state_folder: Path) -> Engine:
    """The same engine, whatever schema there is."""
    engine = create_engine(f"sqlite:///{state_folder / DATABASE_FILE}")
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
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
