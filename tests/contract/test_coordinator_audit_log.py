"""What the audit log must keep, in each kind of database: in the state's own transaction, in one unbroken chain."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy.exc import SQLAlchemyError

from common.errors import Reason
from common.hash_chain import EMPTY_CHAIN, entries_of
from common.ids import RunId, SiteName, digest_of
from coordinator.adapters.storage.engine import SqliteDatabase
from coordinator.adapters.storage.postgres import PostgresDatabase
from coordinator.adapters.storage.run_store import SqlRunStore
from coordinator.domain.audit import AuditAction, AuditEvent
from coordinator.domain.commands import Command, CommandKind
from tests.fakes.coordinator_values import ANNA, RUN_ID, START, new_run, selecting_run
from tests.postgres import PostgresServer


def made(action: AuditAction = AuditAction.RUN_CREATED, **more: object) -> AuditEvent:
    return AuditEvent(at=START, action=action, caller="coordinator", subject="trial", **more)  # type: ignore[arg-type]


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlRunStore]:
    """An empty store."""
    if request.param == "sqlite":
        opened = SqlRunStore(SqliteDatabase(tmp_path))
        yield opened
        await opened.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    held = PostgresDatabase(server.url(tmp_path))
    held.take()
    opened = SqlRunStore(held)
    yield opened
    await opened.close()
    held.let_go()


async def documents(store: SqlRunStore) -> list[dict[str, object]]:
    return [entry.document for entry in entries_of(await store.audit_lines(0, 1000))]


def actions(entries: Sequence[dict[str, object]]) -> list[object]:
    return [entry["action"] for entry in entries]


async def test_a_new_log_is_an_empty_chain(store: SqlRunStore) -> None:
    assert await store.audit_head() == EMPTY_CHAIN
    assert await store.audit_lines(0, 1000) == ()


async def test_entries_follow_each_other_in_one_chain_whether_recorded_alone_or_with_a_step(
    store: SqlRunStore,
) -> None:
    await store.record([made(), made(AuditAction.RUN_PAUSED)])
    await store.save(None, new_run(), (), [made(AuditAction.ROUND_OPENED)])
    await store.record([made(AuditAction.RELEASED)])
    assert actions(await documents(store)) == ["run_created", "run_paused", "round_opened", "released"]
    last = list(entries_of(await store.audit_lines(0, 1000)))[-1]
    assert await store.audit_head() == last.head


async def test_an_entry_holds_what_its_event_says_and_nothing_else(store: SqlRunStore) -> None:
    digest = digest_of(b"an update")
    event = AuditEvent(
        at=datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2))).astimezone(UTC),
        action=AuditAction.UPDATE_REFUSED,
        caller="spiffe://demo/site/anna",
        subject="trial",
        run_id=RunId(RUN_ID),
        round_number=3,
        site=SiteName(ANNA),
        reason=Reason.UPDATE_NOT_FINITE,
        digest=digest,
    )
    await store.record([event])
    (line,) = await store.audit_lines(0, 1)
    assert json.loads(line) == {
        "action": "update_refused",
        "at": "2026-01-02T03:04:05Z",
        "caller": "spiffe://demo/site/anna",
        "digest": digest,
        "previous": EMPTY_CHAIN.digest,
        "reason": "UPDATE_NOT_FINITE",
        "round_number": 3,
        "run_id": RUN_ID,
        "sequence": 1,
        "site": ANNA,
        "subject": "trial",
    }


async def test_a_step_that_is_not_stored_leaves_no_entry(store: SqlRunStore) -> None:
    await store.save(None, new_run(), (), [made()])
    of_no_run = Command(kind=CommandKind.AGGREGATE, run_id=RunId("f" * 32), round_number=1)
    with pytest.raises(SQLAlchemyError):
        await store.save(new_run(), selecting_run(), [of_no_run], [made(AuditAction.ROUND_OPENED)])
    assert actions(await documents(store)) == ["run_created"]


async def test_the_log_is_read_piece_by_piece(store: SqlRunStore) -> None:
    await store.record([made() for _ in range(5)])
    everything = await store.audit_lines(0, 5)
    assert (await store.audit_lines(0, 2)) + (await store.audit_lines(2, 2)) + (
        await store.audit_lines(4, 2)
    ) == everything
    assert await store.audit_lines(5, 2) == ()
