"""A PostgreSQL database as the store: an advisory lock says who takes it, an epoch who may write. Queries no run.

The lock belongs to a session of its own, which the server ends when nothing is heard on it: so the store becomes free
however its holder, its machine or the network between ended. That takes it from one that is merely stopped, too, and
cannot tell it: hence the epoch, a row that whoever takes the store counts up, and that every transaction writes to.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from common.errors import FedMedError, InputInvalidError, NotNowError, Reason, UnavailableError
from common.logging import get_logger
from coordinator.adapters.storage.engine import migrate
from coordinator.adapters.storage.tables import WRITER

# The server ends the session with the lock when it has heard nothing for so long, and the lock is free.
LOCK_IDLE_SECONDS = 20
# The same while the store is being taken, in which a migration may take its time.
TAKING_SECONDS = 600
# How often it hears of us.
PING_SECONDS = 5.0
# It undoes a transaction in the middle of which it has heard nothing for so long: whoever takes over waits for that.
TRANSACTION_IDLE_SECONDS = 10
# How soon it is tried again when it did not answer.
RETRY_SECONDS = 1.0
# How long the end of the process waits for a ping that is under way.
END_SECONDS = 2.0
# idle_session_timeout, postgresql.org/docs/14/runtime-config-client.html
OLDEST_VERSION = (14,)
# What libpq does unless the URL says otherwise (postgresql.org/docs/current/libpq-connect.html): a server that is gone
# is noticed in 15 seconds, whether it is asked or listened to.
_LIBPQ = {
    "application_name": "fedmed-coordinator",
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}


@contextmanager
def held(url: str) -> Iterator[PostgresDatabase]:
    """Hold the store at ``url`` for this process, migrated to the newest schema.

    Raises:
        NotNowError: STORE_IN_USE, when another coordinator holds it.
        UnavailableError: PEER_AWAY, when the server cannot be reached.
        InputInvalidError: CONFIG_INVALID, when it cannot be a store, or its driver is not installed.
    """
    database = PostgresDatabase(url)
    try:
        database.take()
        yield database
    finally:
        database.let_go()


class PostgresDatabase:
    """Implements `coordinator.adapters.storage.engine.Database`."""

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self._engine = _engine(self._url, pool_pre_ping=True)
        self._lock_engine = _engine(self._url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._session: Connection | None = None
        self._epoch = 0
        self._stopping, self._ending, self._losing = threading.Event(), threading.Event(), threading.Lock()
        self._keeper = threading.Thread(target=self._keep, name="store-lock", daemon=True)
        self.lost: Future[NotNowError] = Future()

    def take(self) -> None:
        """Take the lock, migrate, count the epoch up and keep the lock from then on; for what it raises see `held`."""
        try:
            self._session = self._lock_engine.connect()
            self._check_server(self._session)
            if not _lock(self._session):
                raise _in_use(f"another coordinator holds {_place(self._url)}; stop it, or use another database")
            self._session.exec_driver_sql(f"SET idle_session_timeout = '{TAKING_SECONDS}s'")  # nobody pings it yet
            migrate(self._engine)
            with self._engine.begin() as connection:
                taken = update(WRITER).values(epoch=WRITER.c.epoch + 1).returning(WRITER.c.epoch)
                self._epoch = connection.execute(taken).scalar_one()
            _bound_idleness(self._session)
        except DBAPIError as error:
            raise self._refused(error) from None
        self._keeper.start()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction of the holder of the store.

        Raises:
            UnavailableError: STORE_IN_USE, when it is another by now: who asks may ask that one.
        """
        with self._engine.connect() as connection:
            transaction = connection.begin()
            token = self._claim(connection)
            yield connection
            try:
                transaction.commit()
            except DBAPIError as error:
                if not error.connection_invalidated or not self._was_committed(token):
                    raise

    def stop_waiting(self) -> None:
        """Do not wait any more for a server that is away."""
        self._stopping.set()

    def dispose(self) -> None:
        """Close the connections of transactions; the lock stays."""
        self._engine.dispose()

    def let_go(self) -> None:
        """Give the lock back."""
        self._stopping.set()
        self._ending.set()
        if self._keeper.is_alive():
            self._keeper.join(END_SECONDS)
        if self._session is not None and not self._keeper.is_alive():
            with suppress(SQLAlchemyError):  # else the server gives it back by itself, a moment later
                self._session.exec_driver_sql("SELECT pg_advisory_unlock_all()")
            self._drop_session()
        self._engine.dispose()

    # The lock

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(SQLAlchemyError):
                session.close()

    def _keep(self) -> None:
        """For as long as this process is the holder: be heard of, and take the lock again when its session ended."""
        log, is_kept = get_logger("storage"), True
        while not self.lost.done() and not self._ending.wait(PING_SECONDS if is_kept else RETRY_SECONDS):
            was_kept = is_kept
            try:
                is_kept = self._ping()
            except SQLAlchemyError:
                self._drop_session()
                is_kept = False
            if is_kept is not was_kept:
                log.warning("store_lock_kept" if is_kept else "store_lock_away")

    def _ping(self) -> bool:
        """Whether the lock is held, still or again."""
        if self._session is not None:
            self._session.exec_driver_sql("SELECT 1")
            return True
        session = self._lock_engine.connect()
        try:
            if is_locked := _lock(session):
                _bound_idleness(session)
            self._compare(session.execute(select(WRITER.c.epoch)).scalar_one())
        except SQLAlchemyError:
            session.close()
            raise
        # Not locked, and nobody has taken the store: an earlier session of ours, perhaps, that the server still keeps.
        if is_locked and not self.lost.done():
            self._session = session
            return True
        session.close()
        return False

    # The epoch

    def _claim(self, connection: Connection) -> str:
        """Who takes over waits for this transaction from here on; a token that is stored if the transaction is.

        Raises:
            UnavailableError: STORE_IN_USE.
        """
        token = secrets.token_hex(16)
        claimed = update(WRITER).where(WRITER.c.epoch == self._epoch).values(last_transaction=token)
        if connection.execute(claimed).rowcount == 0:
            self._compare(connection.execute(select(WRITER.c.epoch)).scalar_one())
            raise UnavailableError(Reason.STORE_IN_USE, "another coordinator has taken the store")
        return token

    def _compare(self, epoch: int) -> bool:
        """Whether ``epoch`` is still this process's; if it is not, the process is told to end."""
        with self._losing:
            if epoch != self._epoch and not self.lost.done():
                stored = f"epoch {self._epoch} was this one's, {epoch} is stored"
                self.lost.set_result(_in_use(f"another coordinator has taken {_place(self._url)}: {stored}"))
        return epoch == self._epoch

    def _was_committed(self, token: str) -> bool:
        """What became of a transaction whose connection broke during its commit: asked until the server says.

        By its token and not by its id, which a server that crashed may give again. The row's lock waits for its end.
        """
        asked = select(WRITER.c.epoch, WRITER.c.last_transaction).with_for_update(read=True)
        while not self._stopping.is_set():
            with suppress(DBAPIError), self._engine.connect() as connection:
                row = connection.execute(asked).one()
                return self._compare(row.epoch) and bool(row.last_transaction == token)
            self._stopping.wait(RETRY_SECONDS)
        return False  # unknown; the process is about to end, and the next one reads what is there

    # The server

    def _check_server(self, session: Connection) -> None:
        version = session.dialect.server_version_info or OLDEST_VERSION
        if version < OLDEST_VERSION:
            raise self._invalid(f"expected PostgreSQL {OLDEST_VERSION[0]} or later, got {version[0]}")
        asked = "SELECT current_setting('server_encoding'), current_schema() IS NOT NULL, pg_is_in_recovery()"
        encoding, has_schema, is_replica = session.exec_driver_sql(asked).one()
        if encoding != "UTF8":
            raise self._invalid(f"expected a database with the encoding UTF8, got {encoding}")
        if not has_schema:
            raise self._invalid("expected a search_path that names a schema, got none that there is")
        if is_replica:
            raise UnavailableError(Reason.PEER_AWAY, f"{_named(self._url)}: expected the primary, got a replica")

    def _refused(self, error: DBAPIError) -> FedMedError:
        """What libpq or the server says, in one line; the password is in none of it that is known, and taken out."""
        said = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        if self._url.password:
            said = said.replace(str(self._url.password), "***")
        if isinstance(error, OperationalError | InterfaceError):
            return UnavailableError(Reason.PEER_AWAY, f"{_named(self._url)}: {said}")
        return self._invalid(said)

    def _invalid(self, problem: str) -> InputInvalidError:
        return InputInvalidError(Reason.CONFIG_INVALID, f"{_named(self._url)}: {problem}")


def _parsed(text_of_url: str) -> URL:
    try:
        return make_url(text_of_url)
    except (SQLAlchemyError, ValueError):  # their text may hold the password
        raise InputInvalidError(
            Reason.CONFIG_INVALID, "coordinator.database: expected postgresql+psycopg://[user@]host[:port]/database"
        ) from None


def _engine(url: URL, **options: Any) -> Engine:
    arguments = {name: value for name, value in _LIBPQ.items() if name not in url.query}
    try:
        engine = create_engine(url, hide_parameters=True, connect_args=arguments, **options)
    except ImportError:
        raise InputInvalidError(
            Reason.CONFIG_INVALID,
            "coordinator.database: PostgreSQL needs the driver psycopg: pip install '.[coordinator,postgres]'",
        ) from None
    event.listen(engine, "connect", _set_up)
    return engine


def _set_up(connection: Any, _record: object) -> None:
    """What every session is asked for: a transaction that was answered for survives a power cut, as with SQLite."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{TRANSACTION_IDLE_SECONDS}s'")
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()


def _bound_idleness(session: Connection) -> None:
    session.exec_driver_sql(f"SET idle_session_timeout = '{LOCK_IDLE_SECONDS}s'")


def _lock(session: Connection) -> bool:
    """Advisory locks are a database's own; in it, every schema may be the store of a consortium."""
    schema = session.exec_driver_sql("SELECT current_schema()").scalar_one()
    digest = hashlib.sha256(f"fedmedlora.coordinator.{schema}".encode()).digest()
    key = int.from_bytes(digest[:8], "big", signed=True)
    return bool(session.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar_one())


def _in_use(message: str) -> NotNowError:
    return NotNowError(Reason.STORE_IN_USE, message)


def _place(url: URL) -> str:
    """Where the database is, without user, password and options."""
    port = f":{url.port}" if url.port else ""
    return f"the database {url.host or url.query.get('host') or ''}{port}/{url.database or ''}"


def _named(url: URL) -> str:
    return f"coordinator.database: {_place(url)}"
