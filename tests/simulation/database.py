"""The coordinator's database, which outlives its processes: SQLite in memory, at the newest schema.

A transaction is committed whole and for good, or not at all: with ``synchronous = FULL``, which a contract test asks
for, that is SQLite's own promise, and tested there. A process dies before a commit, or right after it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from common.errors import NotNowError
from coordinator.adapters.storage.engine import migrate
from tests.simulation.machines import Life


@cache
def _engine() -> Engine:
    """One for all runs, which come one after the other: what SQLAlchemy has compiled is kept."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


@cache
def _template() -> sqlite3.Connection:
    """The newest schema, and nothing in it."""
    migrate(_engine())
    template = sqlite3.connect(":memory:", check_same_thread=False)
    _raw().backup(template)
    return template


def _raw() -> sqlite3.Connection:
    connection = _engine().raw_connection().driver_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


def empty_database() -> None:
    """Begin with a new store."""
    _template().backup(_raw())


class LifeDatabase:
    """The `Database` of one life of the coordinator."""

    def __init__(self, life: Life) -> None:
        self.lost: Future[NotNowError] = Future()
        self._life = life

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with _engine().begin() as connection:
            yield connection
            self._life.place("commit")
        self._life.place("committed")

    def stop_waiting(self) -> None:
        """There is nothing that it waits for."""

    def dispose(self) -> None:
        """The next life finds it."""
