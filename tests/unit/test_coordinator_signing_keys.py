"""Which key a site signs with now: the one that it enrolled with last, or one of the root's; never a revoked one."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from common.errors import FedMedError, InputInvalidError, Reason
from common.ids import Role, SiteName
from common.signing import SigningKey, fingerprint, load_signing_key
from common.signing_requests import make_key, make_request
from common.tls import Caller
from coordinator.adapters.pki.issuing import FolderIssuer
from coordinator.adapters.pki.key_certification import make_signing_key
from coordinator.adapters.pki.signing_keys import KnownSigningKeys
from coordinator.app.check_signature import statement_of
from coordinator.app.enrol_site import Application, Enrolment
from coordinator.app.members import Members
from coordinator.app.update_intake import ReceivedChunk, UpdateIntake, UploadClaim
from coordinator.domain.audit import AuditAction, AuditEvent
from coordinator.domain.values import Phase, SiteOutcome
from tests.fakes.coordinator_updates import chunks_of
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, START
from tests.fakes.coordinator_world import World, coordinator, no_chunks, peer, refusal, site_caller
from tests.fakes.signing import Signers

OPERATOR = Caller(name=SiteName("operator"), role=Role.OPERATOR, consortium="demo")


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture(scope="module")
def another(signers: Signers) -> SigningKey:
    """A second key of anna's that the root certified, too."""
    folder = signers.folder / "another"
    folder.mkdir()
    make_signing_key(signers.folder / "ca", site_caller(ANNA), folder)
    key = load_signing_key(folder)
    assert key is not None
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A coordinator that knows its members' keys, and whoever decides on them."""

    world: World
    members: Members
    enrolment: Enrolment

    def claim(self, key: SigningKey, site: SiteName = ANNA) -> UploadClaim:
        """The site's claim, signed by that key."""
        claim = self.world.claim(site, self.world.honest_bytes(1))
        assert claim.update is not None
        statement = statement_of(self.world.run, self.world.round.number, claim.digest, claim.update)
        return replace(claim, signature=key.sign_update(statement))

    async def refused(self, claim: UploadClaim) -> Reason:
        """Why anna's claim is refused, before a byte of the update is read."""
        return (await refusal(self.world, ANNA, claim, no_chunks())).reason

    async def send(self, claim: UploadClaim, site: SiteName = ANNA) -> SiteOutcome:
        await self.world.intake.receive(site_caller(site), claim, chunks_of(self.world.honest_bytes(1)))
        return self.world.entry(site).outcome

    async def enrol(self, key: SigningKey, site: SiteName = ANNA) -> None:
        token, _ = await self.enrolment.create_token(OPERATOR, site, "site", timedelta(days=1))
        await self.enrolment.enrol("127.0.0.1", token, application(key, site))


def application(key: SigningKey, site: SiteName = ANNA) -> Application:
    return Application(
        request_pem=make_request(make_key(), site_caller(site)), signing_public_key=bytes.fromhex(key.public_key)
    )


def bare(key: SigningKey) -> SigningKey:
    """The key without its certificate."""
    return replace(key, certificate_pem="")


@asynccontextmanager
async def scene(folder: Path, signers: Signers) -> AsyncIterator[Scene]:
    issuer = FolderIssuer(
        folder=signers.folder / "ca",
        consortium="demo",
        lifetime=timedelta(days=7),
        trust_bundle_pem=lambda: signers.root_pem,
    )
    async with coordinator(folder) as world:
        standings = world.standings
        keys = KnownSigningKeys(lambda: signers.root_pem, standings.signing_key, standings.is_key_revoked)
        intake = UpdateIntake(world.driver, world.kept, world.clock, keys, standings)
        yield Scene(
            world=replace(world, intake=intake),
            members=Members(world.members, standings, world.driver, world.kept, world.clock),
            enrolment=Enrolment(world.members, standings, issuer, world.store, world.clock, secrets.token_urlsafe),
        )


async def test_a_site_that_enrolled_with_another_key_signs_no_more_with_one_that_the_root_once_certified(
    tmp_path: Path, signers: Signers, another: SigningKey
) -> None:
    async with scene(tmp_path, signers) as at:
        await at.world.training()
        await at.enrol(another)
        assert await at.refused(at.claim(signers.key_of(ANNA))) is Reason.SIGNING_KEY_UNKNOWN


@pytest.mark.parametrize("with_certificate", [True, False])
async def test_a_site_signs_with_the_key_that_it_enrolled_with_last(
    tmp_path: Path, signers: Signers, another: SigningKey, with_certificate: bool
) -> None:
    async with scene(tmp_path, signers) as at:
        await at.world.training()
        await at.enrol(signers.key_of(ANNA))
        await at.enrol(another)
        assert await at.send(at.claim(another if with_certificate else bare(another))) is SiteOutcome.ACCEPTED


@pytest.mark.parametrize("enrols", [True, False])
async def test_a_revoked_key_signs_nothing_more_whoever_certified_it(
    tmp_path: Path, signers: Signers, enrols: bool
) -> None:
    key = signers.key_of(ANNA)
    async with scene(tmp_path, signers) as at:
        await at.world.training()
        if enrols:
            await at.enrol(key)
        await at.members.revoke_key(OPERATOR, fingerprint(key.public_key))
        assert await at.refused(at.claim(key)) is Reason.SIGNING_KEY_REVOKED


async def test_where_nobody_enrols_the_root_s_certificate_of_another_key_is_enough_in_place_of_a_revoked_one(
    tmp_path: Path, signers: Signers, another: SigningKey
) -> None:
    async with scene(tmp_path, signers) as at:
        await at.world.training()
        await at.members.revoke_key(OPERATOR, fingerprint(signers.key_of(ANNA).public_key))
        assert await at.send(at.claim(another)) is SiteOutcome.ACCEPTED


async def test_in_place_of_a_revoked_key_that_was_enrolled_comes_one_by_the_root_or_by_a_new_token_and_by_no_renewal(
    tmp_path: Path, signers: Signers, another: SigningKey
) -> None:
    key = signers.key_of(ANNA)
    async with scene(tmp_path, signers) as at:
        await at.world.training()
        await at.enrol(key)
        await at.members.revoke_key(OPERATOR, fingerprint(key.public_key))
        with pytest.raises(FedMedError) as refused:
            await at.enrol(key)
        assert refused.value.reason is Reason.SIGNING_KEY_REVOKED
        await at.enrolment.renew(peer(site_caller(ANNA)), application(another))
        assert at.world.standings.signing_key(ANNA) == ""
        assert await at.refused(at.claim(bare(another))) is Reason.SIGNING_KEY_UNKNOWN
    async with scene(tmp_path / "by the root", signers) as at:
        await at.world.training()
        await at.enrol(key)
        await at.members.revoke_key(OPERATOR, fingerprint(key.public_key))
        assert await at.send(at.claim(another)) is SiteOutcome.ACCEPTED
    async with scene(tmp_path / "by a token", signers) as at:
        await at.world.training()
        await at.enrol(key)
        await at.members.revoke_key(OPERATOR, fingerprint(key.public_key))
        await at.enrol(another)
        assert await at.send(at.claim(bare(another))) is SiteOutcome.ACCEPTED


async def test_a_key_that_is_revoked_before_anybody_has_enrolled_with_it_is_noted_by_no_renewal(
    tmp_path: Path, signers: Signers
) -> None:
    key = signers.key_of(ANNA)
    async with scene(tmp_path, signers) as at:
        await at.members.revoke_key(OPERATOR, fingerprint(key.public_key))
        await at.enrolment.renew(peer(site_caller(ANNA)), application(key))
        assert (await at.world.members.membership()).members == ()


@pytest.mark.parametrize("how", ["revoked", "replaced"])
async def test_a_key_that_counts_no_more_while_its_update_arrives_brings_it_into_no_round(
    tmp_path: Path, signers: Signers, another: SigningKey, how: str
) -> None:
    key = signers.key_of(ANNA)
    async with scene(tmp_path, signers) as at:
        await at.world.training()

        async def chunks() -> AsyncIterator[ReceivedChunk]:
            async for chunk in chunks_of(at.world.honest_bytes(1)):
                yield chunk
            if how == "revoked":
                await at.members.revoke_key(OPERATOR, fingerprint(key.public_key))
            else:
                await at.enrol(another)

        error = await refusal(at.world, ANNA, at.claim(key), chunks())
        expected = Reason.SIGNING_KEY_REVOKED if how == "revoked" else Reason.SIGNING_KEY_UNKNOWN
        assert (error.reason, at.world.entry(ANNA).outcome) == (expected, SiteOutcome.REFUSED)
        assert at.world.update_files() == []


async def test_a_revocation_takes_updates_of_its_key_out_of_the_open_round_and_no_others(
    tmp_path: Path, signers: Signers
) -> None:
    key = signers.key_of(ANNA)
    async with scene(tmp_path, signers) as at:
        await at.world.training()
        await at.send(at.claim(key))
        await at.send(at.claim(signers.key_of(BERTA), BERTA), BERTA)
        for _ in range(2):
            assert await at.members.revoke_key(OPERATOR, fingerprint(key.public_key)) == ()
        outcomes = {entry.site: (entry.outcome, entry.reason) for entry in at.world.round.roster}
        assert outcomes == {
            ANNA: (SiteOutcome.DECLINED, Reason.SIGNING_KEY_REVOKED),
            BERTA: (SiteOutcome.ACCEPTED, None),
            CLARA: (SiteOutcome.INVITED, None),
        }
        events = [json.loads(line) for line in await at.world.store.audit_lines(0, 100)]
        revocations = [each for each in events if each["action"] == "signing_key_revoked"]
        assert [(each["caller"], each["subject"]) for each in revocations] == [
            ("spiffe://demo/operator/operator", fingerprint(key.public_key))
        ]


async def test_a_round_that_is_being_combined_is_finished_with_what_a_key_had_signed(
    tmp_path: Path, signers: Signers
) -> None:
    key = signers.key_of(ANNA)
    async with scene(tmp_path, signers) as at:
        await at.world.training()
        await at.send(at.claim(key))
        await at.world.answer(BERTA, CLARA)
        assert at.world.round.phase is Phase.AGGREGATING
        still_in = await at.members.revoke_key(OPERATOR, fingerprint(key.public_key))
        assert still_in == ((at.world.run.terms.name, 1),)
        assert at.world.entry(ANNA).outcome is SiteOutcome.ACCEPTED


async def test_a_revocation_whose_life_ended_before_it_was_acted_upon_is_finished_in_the_next(
    tmp_path: Path, signers: Signers
) -> None:
    key = signers.key_of(ANNA)
    async with scene(tmp_path, signers) as at:
        await at.world.training()
        await at.send(at.claim(key))
        event = AuditEvent(at=START, action=AuditAction.SIGNING_KEY_REVOKED, caller=OPERATOR.uri, subject="a key")
        await at.world.members.revoke_key(fingerprint(key.public_key), event)
    async with scene(tmp_path, signers) as at:
        await at.members.finish()
        assert at.world.entry(ANNA).reason is Reason.SIGNING_KEY_REVOKED


async def test_what_is_no_fingerprint_is_refused(tmp_path: Path, signers: Signers) -> None:
    async with scene(tmp_path, signers) as at:
        with pytest.raises(InputInvalidError, match="expected 'sha256:' and 64 hex digits"):
            await at.members.revoke_key(OPERATOR, signers.key_of(ANNA).public_key)
