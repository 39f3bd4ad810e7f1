"""Membership over its real store: decisions that meet, callers that hang up, spent tokens, an expired CA, two roles."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
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
from coordinator.domain.enrolment import BACKDATING, Standing
from tests.fakes.coordinator_values import START
from tests.fakes.coordinator_world import FakeClock, World, coordinator, evaluator, peer, site_caller

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

    async def token(self, role: Role = Role.SITE) -> str:
        return (await self.enrolment.create_token(OPERATOR, NORTH, role, DAY))[0]

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
            at.enrolment.renew(peer(caller), at.application),
            at.members.withdraw(caller),
            at.members.ban(OPERATOR, NORTH),
            at.enrol(token),
            at.enrolment.renew(peer(caller), at.application),
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
        renewal = at.enrolment.renew(peer(site_caller(NORTH)), at.application)
        await asyncio.gather(at.members.ban(OPERATOR, NORTH), renewal, return_exceptions=True)
        assert await at.standings() == (Standing.BANNED, Standing.BANNED)


async def test_a_ban_that_meets_an_invitation_leaves_no_token_behind(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        ban = asyncio.ensure_future(at.members.ban(OPERATOR, NORTH))
        await asyncio.sleep(0)  # it has its turn, and its transaction is under way
        with pytest.raises(FedMedError) as refused:
            await at.token()
        assert refused.value.reason is Reason.SITE_BANNED
        await ban
        assert [each["action"] for each in await audited(at.world)] == ["site_banned"]


async def audited(world: World) -> list[dict[str, str]]:
    return [json.loads(line) for line in await world.store.audit_lines(0, 100)]


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


# Certificates from before an enrolment, of which nothing is noted here


@pytest.mark.parametrize(
    ("made", "is_let_in"), [(timedelta(seconds=-1), False), (timedelta(), True), (timedelta(seconds=1), True)]
)
async def test_a_certificate_that_is_noted_nowhere_is_good_from_the_enrolment_on(
    tmp_path: Path, made: timedelta, is_let_in: bool
) -> None:
    async with scene(tmp_path) as at:
        at.clock.advance(0.7)  # a certificate knows no part of a second
        await at.enrol(await at.token())
        refusal = at.world.standings.refusal(peer(site_caller(NORTH), START + made - BACKDATING, "1f"))
        assert (None if refusal is None else refusal.reason) == (None if is_let_in else Reason.CERTIFICATE_REVOKED)


async def test_certificates_that_are_noted_stay_good_through_an_enrolment_with_their_own_key(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        token = await at.token()
        await at.enrol(token)
        at.clock.advance(3600)
        await at.enrol(token)  # its answer was lost
        for issued in at.world.standings.certificates(at.clock.now()):
            who = peer(site_caller(NORTH), START - BACKDATING, issued.serial)
            assert at.world.standings.refusal(who) is None


async def test_where_nobody_enrols_a_certificate_of_any_age_is_good(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        old = peer(site_caller(NORTH), START - 300 * DAY, "1f")
        await at.enrolment.renew(old, at.application)  # its key is known here from now on, and no enrolment is
        assert at.world.standings.refusal(old) is None


async def test_who_calls_with_a_certificate_from_before_its_enrolment_gets_no_other_by_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.enrol(await at.token())
        with pytest.raises(FedMedError) as refused:
            await at.enrolment.renew(peer(site_caller(NORTH), START - DAY, "1f"), at.application)
        assert refused.value.reason is Reason.CERTIFICATE_REVOKED


# One name in two roles


def refused(at: Scene, caller: Caller) -> Reason | None:
    refusal = at.world.standings.refusal(peer(caller))
    return None if refusal is None else refusal.reason


async def test_of_two_tokens_for_one_name_in_two_roles_the_first_that_is_spent_decides(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        as_site, as_evaluator = await at.token(), await at.token(Role.EVALUATOR)
        await at.enrol(as_site)
        other = replace(at.application, request_pem=make_request(make_key(), evaluator(NORTH)))
        with pytest.raises(FedMedError) as refusal:
            await at.enrolment.enrol("127.0.0.1", as_evaluator, other)
        assert refusal.value.reason is Reason.ROLE_NOT_ALLOWED
        (member,) = (await at.world.members.membership()).members
        assert member.role is Role.SITE
        with pytest.raises(FedMedError, match="expected site, which north has, got evaluator"):
            await at.token(Role.EVALUATOR)


@pytest.mark.parametrize("how", ["polled", "enrolled"])
async def test_a_name_in_a_second_role_is_refused_and_moves_nothing_of_the_first(tmp_path: Path, how: str) -> None:
    first, second = site_caller(NORTH), evaluator(NORTH)
    async with scene(tmp_path) as at:
        if how == "enrolled":
            await at.enrol(await at.token())
        else:
            poll = asyncio.ensure_future(at.world.poll.wait(first, None))
            await asyncio.sleep(0)  # it has begun
            poll.cancel()
            await asyncio.wait({poll})
        with pytest.raises(FedMedError) as refusal:
            await at.world.poll.wait(second, None)  # it was let in before the first one came
        assert refusal.value.reason is Reason.ROLE_NOT_ALLOWED
        with pytest.raises(FedMedError) as refusal:
            await at.enrolment.renew(
                peer(second), replace(at.application, request_pem=make_request(make_key(), second))
            )
        assert refusal.value.reason is Reason.ROLE_NOT_ALLOWED
        assert (refused(at, first), refused(at, second)) == (None, Reason.ROLE_NOT_ALLOWED)
        await at.members.revoke(OPERATOR, "2e")
        assert (refused(at, first), refused(at, second)) == (None, Reason.ROLE_NOT_ALLOWED)
        await at.members.ban(OPERATOR, NORTH)
        assert (refused(at, first), refused(at, second)) == (Reason.SITE_BANNED, Reason.SITE_BANNED)
        await at.members.unban(OPERATOR, NORTH)
        assert (refused(at, first), refused(at, second)) == (None, Reason.ROLE_NOT_ALLOWED)
        await at.members.withdraw(first)
        assert (refused(at, first), refused(at, second)) == (Reason.SITE_WITHDRAWN, Reason.SITE_WITHDRAWN)
    async with coordinator(tmp_path / "state") as world:
        assert world.standings.role(NORTH) is Role.SITE


async def test_a_name_that_was_banned_before_anybody_came_by_it_is_of_either_role_afterwards(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.members.ban(OPERATOR, NORTH)
        await at.members.unban(OPERATOR, NORTH)
        assert refused(at, evaluator(NORTH)) is None
        application = replace(at.application, request_pem=make_request(make_key(), evaluator(NORTH)))
        await at.enrolment.enrol("127.0.0.1", await at.token(Role.EVALUATOR), application)
        assert (refused(at, evaluator(NORTH)), refused(at, site_caller(NORTH))) == (None, Reason.ROLE_NOT_ALLOWED)
