"""Membership over its real store: decisions that meet, callers that hang up, spent tokens, an expired CA."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from common.errors import FedMedError, Reason
from common.ids import Role, SiteName, digest_of
from common.signing_requests import make_key, make_request
from common.tls import Caller
from coordinator.adapters.pki.ca import create_ca
from coordinator.adapters.pki.issuing import FolderIssuer
from coordinator.app.enrol_site import Application, Certified, Enrolment
from coordinator.app.members import Members
from coordinator.domain.enrolment import Standing
from tests.fakes.coordinator_world import FakeClock, World, coordinator, site_caller

NORTH = SiteName("north")
OPERATOR = Caller(name=SiteName("operator"), role=Role.OPERATOR, consortium="demo")
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The use cases of membership, and a site's request for a certificate."""

    world: World
    clock: FakeClock
    enrolment: Enrolment
    members: Members
    application: Application

    async def token(self) -> str:
        return (await self.enrolment.create_token(OPERATOR, NORTH, "site", DAY))[0]

    async def enrol(self, token: str) -> Certified:
        return await self.enrolment.enrol("127.0.0.1", token, self.application)

    async def refusal(self, token: str) -> Reason:
        with pytest.raises(FedMedError) as refused:
            await self.enrol(token)
        return refused.value.reason

    async def standings(self) -> tuple[Standing | None, Standing | None]:
        """In memory, and in the store."""
        held, (stored,) = self.world.standings.member(NORTH), (await self.world.members.membership()).members
        return (None if held is None else held.standing), stored.standing


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    clock = FakeClock()
    create_ca(folder / "ca", "demo")
    issuer = FolderIssuer(folder=folder / "ca", consortium="demo", lifetime=7 * DAY, trust_bundle_pem=lambda: b"")
    async with coordinator(folder / "state", clock) as world:
        yield Scene(
            world=world,
            clock=clock,
            enrolment=Enrolment(world.members, world.standings, issuer, world.store, clock, secrets.token_urlsafe),
            members=Members(world.members, world.standings, world.driver, world.kept, clock),
            application=Application(
                request_pem=make_request(make_key(), site_caller(NORTH)), signing_public_key=b"k" * 32
            ),
        )


async def test_a_ban_outlasts_whatever_meets_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        token, caller = await at.token(), site_caller(NORTH)
        await asyncio.gather(
            at.enrol(token),
            at.enrolment.renew(caller, at.application),
            at.members.withdraw(caller),
            at.members.ban(OPERATOR, NORTH),
            at.enrol(token),
            at.enrolment.renew(caller, at.application),
            at.members.withdraw(caller),
            return_exceptions=True,
        )
        held, stored = await at.standings()
        assert held is stored is Standing.BANNED_WITHDRAWN


async def test_a_ban_that_meets_an_enrolment_holds(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        enrolment = at.enrol(await at.token())
        await asyncio.gather(enrolment, at.members.ban(OPERATOR, NORTH), return_exceptions=True)
        assert await at.standings() == (Standing.BANNED, Standing.BANNED)


async def test_a_ban_that_meets_a_renewal_holds(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        renewal = at.enrolment.renew(site_caller(NORTH), at.application)
        await asyncio.gather(at.members.ban(OPERATOR, NORTH), renewal, return_exceptions=True)
        assert await at.standings() == (Standing.BANNED, Standing.BANNED)


async def test_a_caller_who_hangs_up_does_not_part_memory_from_store(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.enrol(await at.token())
        ban = asyncio.ensure_future(at.members.ban(OPERATOR, NORTH))
        for _ in range(3):  # until its transaction is under way
            await asyncio.sleep(0)
        ban.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ban
        await at.members.revoke(OPERATOR, "1f")  # the next change waits for it
        assert await at.standings() == (Standing.BANNED, Standing.BANNED)


async def test_a_spent_token_undoes_no_revocation(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        token = await at.token()
        await at.enrol(token)
        (issued,) = at.world.standings.certificates(at.clock.now())
        await at.members.revoke(OPERATOR, issued.serial)
        assert await at.refusal(token) is Reason.TOKEN_SPENT


async def test_a_spent_token_undoes_no_withdrawal_and_a_new_one_does(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        token = await at.token()
        await at.enrol(token)
        await at.members.withdraw(site_caller(NORTH))
        assert await at.refusal(token) is Reason.TOKEN_SPENT
        assert await at.standings() == (Standing.WITHDRAWN, Standing.WITHDRAWN)
        await at.enrol(await at.token())
        assert await at.standings() == (Standing.MEMBER, Standing.MEMBER)
        assert await at.refusal(token) is Reason.TOKEN_SPENT


async def test_a_ban_that_is_lifted_leaves_who_had_withdrawn_withdrawn(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.enrol(await at.token())
        await at.members.withdraw(site_caller(NORTH))
        await at.members.ban(OPERATOR, NORTH)
        await at.members.unban(OPERATOR, NORTH)
        assert await at.standings() == (Standing.WITHDRAWN, Standing.WITHDRAWN)


async def test_an_issuing_ca_that_expired_spends_no_token(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.clock.advance(timedelta(days=365 * 30).total_seconds())
        token = await at.token()
        assert await at.refusal(token) is Reason.NOT_ISSUING
        kept = await at.world.members.token(digest_of(token.encode()))
        assert kept is not None and kept.spent_by is None
