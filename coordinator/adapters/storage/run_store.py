"""Runs in a relational database. One transaction a step; one thread, since a store has one writer anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import Connection, Table, insert, select, update

from common.hash_chain import ChainHead
from common.ids import RunId, SiteName
from common.tls import Role
from coordinator.adapters.storage import audit_log
from coordinator.adapters.storage.codec import decode_round, decode_run, encode_round, encode_run
from coordinator.adapters.storage.engine import Database
from coordinator.adapters.storage.tables import CLOCK, COMMANDS, ROUNDS, RUNS, SITES, STORE, TRAFFIC
from coordinator.app.ports import KnownSite, Traffic
from coordinator.domain.audit import AuditEvent
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.values import Round, Run

T = TypeVar("T")


class SqlRunStore:
    """Implements `coordinator.app.ports.RunStore` and `Audit` over SQLAlchemy."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    async def load_runs(self) -> tuple[Run, ...]:
        """All runs, oldest first."""
        return await self.transact(_load_runs)

    async def save(
        self, before: Run | None, after: Run, commands: Sequence[Command], audit: Sequence[AuditEvent] = ()
    ) -> None:
        """Store the run, the rounds that changed, the commands and what the audit log says, in one transaction."""
        known = {} if before is None else {past.number: past for past in before.rounds}
        changed = [past for past in after.rounds if known.get(past.number) != past]

        def work(connection: Connection) -> None:
            _save(connection, after, changed, commands)
            audit_log.append(connection, audit)

        await self.transact(work)

    async def save_time_lost(self, moved: Sequence[Run], counted_until: datetime) -> None:
        """Store the runs and the instant, in one transaction."""
        await self.transact(lambda connection: _save_time_lost(connection, moved, counted_until))

    async def counted_until(self) -> datetime | None:
        """The instant stored last."""
        return await self.transact(_counted_until)

    async def pending_commands(self) -> tuple[Command, ...]:
        """Commands stored and not completed, in the order stored."""
        return await self.transact(_pending_commands)

    async def complete(self, command: Command) -> None:
        """Mark the command's work as done."""
        statement = update(COMMANDS).where(COMMANDS.c.command_id == command.command_id).values(completed=1)
        await self.transact(lambda connection: connection.execute(statement))

    async def remember_site(self, name: SiteName, role: Role, at: datetime) -> None:
        """Note that this caller was heard of at ``at``."""
        row = {"name": name, "role": str(role), "last_seen_at": at}
        await self.transact(lambda connection: _replace(connection, SITES, {"name": name}, row))

    async def known_sites(self) -> tuple[KnownSite, ...]:
        """Everyone remembered, sorted by name."""
        return await self.transact(_known_sites)

    async def add_traffic(self, run_id: RunId, traffic: Traffic) -> None:
        """Add bytes to what is counted for that site and round."""
        await self.transact(lambda connection: _add_traffic(connection, run_id, traffic))

    async def traffic(self, run_id: RunId) -> tuple[Traffic, ...]:
        """All bytes counted for a run, by round and site."""
        return await self.transact(lambda connection: _traffic(connection, run_id))

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Add events to the audit log, in one transaction."""
        await self.transact(lambda connection: audit_log.append(connection, events))

    async def audit_head(self) -> ChainHead:
        """Where the audit log ends."""
        return await self.transact(audit_log.head_of)

    async def audit_lines(self, after: int, at_most: int) -> tuple[bytes, ...]:
        """At most so many lines of the audit log behind the one with number ``after``."""
        return await self.transact(lambda connection: audit_log.lines_after(connection, after, at_most))

    async def store_id(self) -> str:
        """The store's own name, 32 hex digits, the same for ever."""
        return await self.transact(lambda connection: str(connection.execute(select(STORE.c.store_id)).scalar_one()))

    async def close(self) -> None:
        """Finish what is under way and give back the database."""
        self._database.stop_waiting()
        await asyncio.to_thread(self._thread.shutdown)
        self._database.dispose()

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` gives, in one transaction on the store's thread: for other stores of the same database, too."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._in_transaction, work)

    def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        with self._database.begin() as connection:
            return work(connection)


def _load_runs(connection: Connection) -> tuple[Run, ...]:
    rounds: dict[str, list[Round]] = {}
    for row in connection.execute(select(ROUNDS).order_by(ROUNDS.c.run_id, ROUNDS.c.round_number)):
        rounds.setdefault(row.run_id, []).append(decode_round(row.document))
    rows = connection.execute(select(RUNS).order_by(RUNS.c.created_at, RUNS.c.run_id))
    return tuple(decode_run(row.document, tuple(rounds.get(row.run_id, ()))) for row in rows)


def _save(connection: Connection, run: Run, rounds: Sequence[Round], commands: Sequence[Command]) -> None:
    row = {
        "run_id": run.run_id,
        "name": run.terms.name,
        "state": str(run.state),
        "created_at": run.created_at,
        "document": encode_run(run),
    }
    _replace(connection, RUNS, {"run_id": run.run_id}, row)
    for past in rounds:
        key = {"run_id": run.run_id, "round_number": past.number}
        _replace(connection, ROUNDS, key, {**key, "phase": str(past.phase), "document": encode_round(past)})
    for command in commands:
        _store_once(connection, command)


def _save_time_lost(connection: Connection, moved: Sequence[Run], counted_until: datetime) -> None:
    for run in moved:
        _save(connection, run, [] if run.current is None else [run.current], ())
    _replace(connection, CLOCK, {"key": 1}, {"key": 1, "counted_until": counted_until})


def _counted_until(connection: Connection) -> datetime | None:
    row = connection.execute(select(CLOCK.c.counted_until)).first()
    return None if row is None else _utc(row.counted_until)


def _store_once(connection: Connection, command: Command) -> None:
    same = select(COMMANDS.c.position).where(COMMANDS.c.command_id == command.command_id)
    if connection.execute(same).first() is None:
        connection.execute(
            insert(COMMANDS).values(
                command_id=command.command_id,
                run_id=command.run_id,
                round_number=command.round_number,
                kind=str(command.kind),
            )
        )


def _replace(connection: Connection, table: Table, key: dict[str, object], row: dict[str, object]) -> None:
    """Update the row of that key, or insert it; inside one transaction of the one writer."""
    matches = [table.c[name] == value for name, value in key.items()]
    if connection.execute(update(table).where(*matches).values(row)).rowcount == 0:
        connection.execute(insert(table).values(row))


def _pending_commands(connection: Connection) -> tuple[Command, ...]:
    rows = connection.execute(select(COMMANDS).where(COMMANDS.c.completed == 0).order_by(COMMANDS.c.position))
    return tuple(
        Command(kind=CommandKind(row.kind), run_id=RunId(row.run_id), round_number=row.round_number) for row in rows
    )


def _known_sites(connection: Connection) -> tuple[KnownSite, ...]:
    known = (
        KnownSite(name=SiteName(row.name), role=Role(row.role), last_seen_at=_utc(row.last_seen_at))
        for row in connection.execute(select(SITES))
    )
    return tuple(sorted(known, key=lambda site: site.name))  # here: a server may sort text in a language's order


def _utc(at: datetime) -> datetime:
    """SQLite keeps no time zone, and PostgreSQL gives the session's; everything stored is UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _add_traffic(connection: Connection, run_id: RunId, traffic: Traffic) -> None:
    key: dict[str, object] = {"run_id": run_id, "round_number": traffic.round_number, "site": traffic.site}
    matches = [TRAFFIC.c[name] == value for name, value in key.items()]
    added = {
        "upload_bytes": TRAFFIC.c.upload_bytes + traffic.upload_bytes,
        "download_bytes": TRAFFIC.c.download_bytes + traffic.download_bytes,
    }
    if connection.execute(update(TRAFFIC).where(*matches).values(added)).rowcount == 0:
        first = {"upload_bytes": traffic.upload_bytes, "download_bytes": traffic.download_bytes}
        connection.execute(insert(TRAFFIC).values({**key, **first}))


def _traffic(connection: Connection, run_id: RunId) -> tuple[Traffic, ...]:
    counted = (
        Traffic(
            round_number=row.round_number,
            site=SiteName(row.site),
            upload_bytes=row.upload_bytes,
            download_bytes=row.download_bytes,
        )
        for row in connection.execute(select(TRAFFIC).where(TRAFFIC.c.run_id == run_id))
    )
    return tuple(sorted(counted, key=lambda traffic: (traffic.round_number, traffic.site)))
