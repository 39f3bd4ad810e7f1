"""What a store of members must keep: one suite, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from common.ids import Role, SiteName, digest_of
from coordinator.adapters.storage.audit_log import lines_after
from coordinator.adapters.storage.engine import SqliteDatabase
from coordinator.adapters.storage.member_store import SqlMemberStore
from coordinator.adapters.storage.postgres import held
from coordinator.adapters.storage.run_store import SqlRunStore
from coordinator.app.ports import Membership
from coordinator.domain.audit import AuditAction, AuditEvent
from coordinator.domain.enrolment import IssuedCertificate, JoinToken, Member, Standing
from tests.fakes.coordinator_values import START
from tests.postgres import PostgresServer

DAY = timedelta(days=1)
TOKEN = JoinToken(token_hash=digest_of(b"token"), name=SiteName("north"), role=Role.SITE, expires_at=START + DAY)
NORTH = Member(name=SiteName("north"), role=Role.SITE, enrolled_at=START, signing_public_key="ab" * 32)
CERTIFICATE = IssuedCertificate(serial="1f", name="north", key_digest=digest_of(b"key"), expires_at=START + 7 * DAY)
NEXT = replace(CERTIFICATE, serial="2e", key_digest=digest_of(b"next key"), expires_at=START + 14 * DAY)


def event(at: datetime = START) -> AuditEvent:
    return AuditEvent(at=at, action=AuditAction.SITE_ENROLLED, caller="127.0.0.1", subject="north")


class Lives:
    """Opens the store of one folder, again and again."""

    def __init__(self, folder: Path, server: PostgresServer | None) -> None:
        self._folder = folder
        self._server = server

    @staticmethod
    async def audit_lines(store: SqlMemberStore) -> tuple[bytes, ...]:
        return await store._transactions.transact(lambda connection: lines_after(connection, 0, 100))

    @asynccontextmanager
    async def life(self) -> AsyncIterator[SqlMemberStore]:
        if self._server is None:
            store = SqlRunStore(SqliteDatabase(self._folder))
            yield SqlMemberStore(store)
            await store.close()
            return
        with held(self._server.url(self._folder)) as database:
            store = SqlRunStore(database)
            yield SqlMemberStore(store)
            await store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def lives(request: pytest.FixtureRequest, tmp_path: Path) -> Lives:
    return Lives(tmp_path, None if request.param == "sqlite" else request.getfixturevalue("postgres"))


async def test_a_new_store_knows_nobody(lives: Lives) -> None:
    async with lives.life() as store:
        assert await store.membership() == Membership()
        assert await store.token(TOKEN.token_hash) is None


async def test_an_enrolment_is_there_in_the_next_life_and_its_token_is_spent(lives: Lives) -> None:
    async with lives.life() as store:
        await store.add_token(TOKEN, event())
        assert await store.enrol(TOKEN.token_hash, NORTH, CERTIFICATE, event())
    async with lives.life() as store:
        assert await store.membership() == Membership(members=(NORTH,), certificates=(CERTIFICATE,))
        assert await store.token(TOKEN.token_hash) == replace(TOKEN, spent_by=digest_of(b"key"))


async def test_a_token_that_another_key_has_spent_changes_nothing(lives: Lives) -> None:
    async with lives.life() as store:
        await store.add_token(TOKEN, event())
        await store.enrol(TOKEN.token_hash, NORTH, CERTIFICATE, event())
        before = await store.membership()
        assert not await store.enrol(TOKEN.token_hash, replace(NORTH, standing=Standing.BANNED), NEXT, event())
        assert await store.membership() == before


async def test_a_token_that_nobody_made_admits_nobody(lives: Lives) -> None:
    async with lives.life() as store:
        assert not await store.enrol(TOKEN.token_hash, NORTH, CERTIFICATE, event())
        assert await store.membership() == Membership()


async def test_an_enrolment_with_another_key_revokes_what_the_name_had(lives: Lives) -> None:
    second = replace(TOKEN, token_hash=digest_of(b"second"))
    async with lives.life() as store:
        for token, certificate in ((TOKEN, CERTIFICATE), (second, NEXT)):
            await store.add_token(token, event())
            assert await store.enrol(token.token_hash, NORTH, certificate, event())
        assert (await store.membership()).certificates == (replace(CERTIFICATE, revoked_at=START), NEXT)


async def test_a_renewal_leaves_the_earlier_certificate_good_and_forgets_the_expired(lives: Lives) -> None:
    async with lives.life() as store:
        await store.add_certificate(CERTIFICATE, event())
        await store.add_certificate(NEXT, event(START + DAY))
        assert (await store.membership()).certificates == (CERTIFICATE, NEXT)
        last = replace(NEXT, serial="3d")
        await store.add_certificate(last, event(START + 8 * DAY))
        assert (await store.membership()).certificates == (NEXT, last)


async def test_a_standing_is_replaced(lives: Lives) -> None:
    async with lives.life() as store:
        await store.save_member(NORTH)
        await store.save_member(replace(NORTH, standing=Standing.WITHDRAWN))
    async with lives.life() as store:
        assert (await store.membership()).members == (replace(NORTH, standing=Standing.WITHDRAWN),)


async def test_a_name_that_was_banned_before_anybody_came_by_it_has_no_role(lives: Lives) -> None:
    banned = Member(name=SiteName("south"), role=None, standing=Standing.BANNED)
    async with lives.life() as store:
        await store.save_member(banned)
    async with lives.life() as store:
        assert (await store.membership()).members == (banned,)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_certificate_is_revoked_whether_it_was_issued_here_or_not(lives: Lives, is_known: bool) -> None:
    revoked = replace(CERTIFICATE, revoked_at=START + DAY)
    async with lives.life() as store:
        if is_known:
            await store.add_certificate(CERTIFICATE, event())
        await store.revoke(revoked, event())
        assert (await store.membership()).certificates == (revoked,)


async def test_a_revoked_signing_key_is_known_in_the_next_life_and_may_be_revoked_again(lives: Lives) -> None:
    key, other = digest_of(b"key"), digest_of(b"another key")
    async with lives.life() as store:
        for each in (key, other, key):
            await store.revoke_key(each, event())
    async with lives.life() as store:
        assert (await store.membership()).revoked_keys == {key, other}


async def test_tokens_that_expired_long_ago_are_forgotten_and_others_are_not(lives: Lives) -> None:
    late = replace(TOKEN, token_hash=digest_of(b"late"), expires_at=START + 60 * DAY)
    async with lives.life() as store:
        await store.add_token(TOKEN, event())
        await store.add_token(replace(late, token_hash=digest_of(b"soon")), event(START + 2 * DAY))
        assert await store.token(TOKEN.token_hash) == TOKEN
        await store.add_token(late, event(START + 32 * DAY))
        assert await store.token(TOKEN.token_hash) is None
        assert await store.token(late.token_hash) == late


@pytest.mark.parametrize("by", ["ban", "revocation", "another token"])
async def test_a_spent_token_is_closed_and_one_that_is_not_spent_is_kept(lives: Lives, by: str) -> None:
    unspent = replace(TOKEN, token_hash=digest_of(b"unspent"))
    second = replace(TOKEN, token_hash=digest_of(b"second"))
    async with lives.life() as store:
        for token in (TOKEN, unspent, second):
            await store.add_token(token, event())
        await store.enrol(TOKEN.token_hash, NORTH, CERTIFICATE, event())
        match by:
            case "ban":
                await store.save_member(replace(NORTH, standing=Standing.BANNED), event())
            case "revocation":
                await store.revoke(replace(CERTIFICATE, revoked_at=START), event())
            case _:
                await store.enrol(second.token_hash, NORTH, NEXT, event())
        again = replace(CERTIFICATE, serial="4c")
        assert not await store.enrol(TOKEN.token_hash, NORTH, again, event())
        assert await store.enrol(unspent.token_hash, NORTH, again, event())


async def test_each_change_tells_the_audit_log_and_what_changed_nothing_does_not(lives: Lives) -> None:
    async with lives.life() as store:
        await store.add_token(TOKEN, event())
        await store.enrol(TOKEN.token_hash, NORTH, CERTIFICATE, event())
        await store.enrol(TOKEN.token_hash, NORTH, NEXT, event())  # spent by another key: refused
        await store.save_member(NORTH, event())
        await store.revoke(CERTIFICATE, event())
        await store.add_certificate(NEXT, event())
    async with lives.life() as store:
        assert len(await lives.audit_lines(store)) == 5
