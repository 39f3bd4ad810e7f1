"""Certificates that are renewed, rolled over and taken away while an upload of 84 MB is under way, on real sockets."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from tests.running import make_consortium  # isort: skip  (hardens TLS first)

from common.clock import SystemClock
from common.errors import FedMedError, Reason
from common.identity_folder import IdentityFolder, prepare_signing_key, read_certified
from common.ids import digest_of
from common.logging import get_logger
from common.tls import Caller, Role
from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE, create_ca, create_issuing_ca
from coordinator.adapters.pki.issuing import FolderIssuer
from coordinator.adapters.pki.own_certificate import OwnCertificate
from coordinator.adapters.pki.trust import distrust, trust
from coordinator.adapters.rpc.operator_client import connect
from coordinator.cli_text import site_page
from coordinator.domain.values import SiteOutcome
from fedmedlora.v1 import admin_pb2
from site_agent.adapters import enrolment_client
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.metrics import AgentMetrics
from site_agent.adapters.outgoing import CommandAttribution
from site_agent.adapters.recorded_channel import Dial
from site_agent.adapters.renewable_coordinator import RenewableCoordinator, connected
from site_agent.app.answers import TrainedUpdate, UploadHeader
from site_agent.app.keep_identity import look_after
from site_agent.app.retrying import Patience, keep_trying
from site_agent.app.upload import upload_once
from site_agent.domain.ledger import Origin
from tests.conftest import Tell
from tests.fakes.coordinator_served import Served, serving
from tests.fakes.coordinator_values import ANNA, BERTA, RANK, SITES, make_spec
from tests.fakes.coordinator_world import World, coordinator
from tests.fakes.gated_uploads import Gate, gated_intake, written

MODULES = 64
# What an 8B model's adapter takes; and enough for several chunks.
UPDATE_BYTES, SMALL_BYTES = 84_000_000, 8_000_000
HANG_SECONDS = 120
# The coordinator's certificate lives so short that it is due while its successor, which is good from five minutes
# before it is made, is good already.
SERVER_LIFE = timedelta(minutes=8)
SERVER_AHEAD = 4.5 / (24 * 60)


@dataclass(frozen=True, slots=True)
class AheadClock:
    """The machine's clock, so many days ahead: a certificate is due by it that TLS still takes."""

    days: float = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days)

    def monotonic(self) -> float:
        return SystemClock().monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A coordinator in whose round anna's upload stands still half-way, and anna's agent."""

    world: World
    served: Served
    gate: Gate
    agent: RenewableCoordinator
    upload: asyncio.Task[None]
    folder: Path

    @property
    def anna(self) -> Path:
        return self.served.consortium.identity(ANNA, Role.SITE)

    async def renewed(self) -> str:
        """Let anna's agent find that its certificate is due; returns the serial of the one that it has then."""
        await look_after(self.agent, AheadClock(6.0))
        return self.agent.current().serial


def roll_server(served: Served, ca: Path) -> str:
    """Let the coordinator find that its own certificate is due; returns the serial of the one that it has then."""
    issuer = FolderIssuer(
        folder=ca,
        consortium="demo",
        lifetime=timedelta(days=7),
        trust_bundle_pem=lambda: served.identity.identity().trust_bundle_pem,
    )
    clock = AheadClock(SERVER_AHEAD)
    return OwnCertificate(folder=served.identity, issuer=issuer, clock=clock, log=get_logger("tests")).look().serial


def dial_of(served: Served, folder: Path) -> Dial:
    ledger = FileLedger(folder / "agent", "spiffe://demo/site/anna", Origin.AGENT, SystemClock())
    return Dial(served.address, ledger, CommandAttribution())


def agent_of(identity: IdentityFolder, served: Served, folder: Path) -> RenewableCoordinator:
    return RenewableCoordinator(identity, dial_of(served, folder), AgentMetrics(0.0), SystemClock())


async def send(agent: RenewableCoordinator, header: UploadHeader, path: Path) -> None:
    patience = Patience(base_seconds=0.0, cap_seconds=0.0, jitter=lambda: 0.0)
    await keep_trying(lambda: upload_once(agent, header, path), patience, lambda *_: None)


@asynccontextmanager
async def half_way(folder: Path, size_bytes: int = UPDATE_BYTES) -> AsyncIterator[Scene]:
    gate, consortium = Gate(), make_consortium(folder)
    consortium.identity("coordinator", Role.COORDINATOR, SERVER_LIFE)
    async with asyncio.timeout(HANG_SECONDS), coordinator(folder / "state") as world:
        # 64 pairs of factors of (RANK, width) and (width + 1, RANK) in bf16.
        await world.training(spec=make_spec(modules=MODULES, width=size_bytes // (MODULES * RANK * 2 * 2)))
        content = world.honest_bytes(0)
        path = written(folder / "update.safetensors", content)
        header = UploadHeader(
            assignment_id=world.assignment(ANNA).assignment_id,
            digest=digest_of(content),
            size_bytes=len(content),
            content=TrainedUpdate(base_digest=world.base(), num_examples=10, num_label_tokens=100, mean_loss=1.0),
        )
        assert len(content) >= size_bytes
        del content
        gated = replace(world, intake=gated_intake(world, gate))
        async with serving(gated, consortium) as served:
            identity = IdentityFolder(consortium.identity(ANNA, Role.SITE))
            agent = agent_of(identity, served, folder)
            async with connected(agent):
                upload = asyncio.create_task(send(agent, header, path))
                await gate.reached.wait()
                scene = Scene(world=world, served=served, gate=gate, agent=agent, upload=upload, folder=folder)
                try:
                    yield scene
                finally:
                    upload.cancel()
                    await asyncio.wait({upload})


@pytest.mark.parametrize("how", ["goes on where it was", "is cut, and goes on under the new certificate"])
async def test_an_upload_survives_the_renewal_of_both_certificates_and_a_new_root_in_its_middle(
    tmp_path: Path, how: str
) -> None:
    async with half_way(tmp_path) as at:
        first, old_root, server = at.agent.current().serial, at.served.consortium.folder / "ca", at.served.identity
        new_root = create_ca(tmp_path / "new_root", "demo")
        issuing = create_issuing_ca(new_root.folder, tmp_path / "issuing")
        # Two roots: whoever renews from here on trusts both.
        trust(server.folder, (new_root.folder / CA_CERTIFICATE_FILE).read_bytes())
        second = await at.renewed()
        # The new root's CA issues: to the coordinator itself, and to anna.
        for name in ("ca_key.pem", "ca_certificate.pem"):
            (issuing.folder / name).replace(old_root / name)
        (old_root / "trust_bundle.pem").write_bytes(server.identity().trust_bundle_pem)
        before = server.current().serial
        assert roll_server(at.served, old_root) != before
        third = await at.renewed()
        # One root: certificates of the old one open no connection any more.
        old, *_ = trust(server.folder, server.identity().trust_bundle_pem)
        distrust(server.folder, old)
        fourth = await at.renewed()
        assert len({first, second, third, fourth}) == 4
        assert at.agent.current().identity.trust_bundle_pem == server.identity().trust_bundle_pem
        assert server.identity().trust_bundle_pem == (new_root.folder / CA_CERTIFICATE_FILE).read_bytes()

        if how == "goes on where it was":
            at.gate.open()
        else:
            at.gate.cut()
        await at.upload
        assert at.world.entry(ANNA).outcome is SiteOutcome.ACCEPTED


async def test_a_ban_ends_an_upload_of_84_mb_in_its_middle_and_says_how_soon(tmp_path: Path, tell: Tell) -> None:
    async with half_way(tmp_path) as at:
        operator = at.served.consortium.identity("operator", Role.OPERATOR)
        async with connect(at.served.address, operator) as client:
            await client.list_sites()  # it is connected
            began = time.monotonic()
            await client.ban_site(ANNA)
            with pytest.raises(FedMedError) as refused:
                await at.upload
        milliseconds = (time.monotonic() - began) * 1000
        tell(f"ban: the upload's end was at its site {milliseconds:.0f} ms after the operator asked for it")
        assert refused.value.reason is Reason.SITE_BANNED


@pytest.mark.parametrize("by", ["revocation", "withdrawal"])
async def test_an_upload_of_whoever_is_let_in_no_more_ends_in_its_middle(tmp_path: Path, by: str) -> None:
    async with half_way(tmp_path, SMALL_BYTES) as at:
        operator = at.served.consortium.identity("operator", Role.OPERATOR)
        async with connect(at.served.address, operator) as client:
            if by == "revocation":
                await client.revoke_certificate(at.agent.current().serial)
        if by == "withdrawal":
            async with dial_of(at.served, at.folder).channel(at.agent.current().identity) as channel:
                await enrolment_client.withdraw(channel)
                await enrolment_client.withdraw(channel)  # its answer may have been lost
        if by == "revocation":  # another certificate may be used: the agent asks again until it has one
            with pytest.raises(FedMedError) as refused:
                await at.agent.upload_offset(at.world.assignment(ANNA).assignment_id, digest_of(b""))
        else:
            with pytest.raises(FedMedError) as refused:
                await at.upload
        expected = Reason.CERTIFICATE_REVOKED if by == "revocation" else Reason.SITE_WITHDRAWN
        assert refused.value.reason is expected


async def test_who_withdraws_is_gone_from_presence_round_and_disk_and_the_audit_log_says_so(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "state") as world, serving(world, make_consortium(tmp_path)) as served:
        await world.training()
        await world.answer(ANNA)
        assert len(world.update_files()) == 1
        anna = IdentityFolder(served.consortium.identity(ANNA, Role.SITE)).identity()
        async with dial_of(served, tmp_path).channel(anna) as channel:
            await enrolment_client.withdraw(channel)
        assert world.update_files() == []
        assert (world.entry(ANNA).outcome, world.entry(ANNA).reason) == (SiteOutcome.DECLINED, Reason.SITE_WITHDRAWN)
        assert not world.presence.is_present(ANNA)
        operator = served.consortium.identity("operator", Role.OPERATOR)
        async with connect(served.address, operator) as client:
            sites = {site.name: site for site in await client.list_sites()}
        assert (sites[ANNA].standing, sites[ANNA].is_present) == (admin_pb2.STANDING_WITHDRAWN, False)
        assert sites[BERTA].standing == admin_pb2.STANDING_MEMBER
        event = (await served.audited())[-1]
        uri = Caller(name=ANNA, role=Role.SITE, consortium="demo").uri
        assert (event["action"], event["caller"], event["subject"]) == ("site_withdrawn", uri, ANNA)


async def test_a_site_that_withdrew_is_out_of_the_next_life_and_of_rounds_that_name_it(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "state") as world, serving(world, make_consortium(tmp_path)) as served:
        await world.begin()
        await served.membership.members.withdraw(Caller(name=ANNA, role=Role.SITE, consortium="demo"))
    async with coordinator(tmp_path / "state") as world:
        await world.invite()
        assert {entry.site for entry in world.round.roster} == set(SITES) - {ANNA}


async def test_a_ban_is_lifted_and_the_site_goes_on_with_the_certificate_that_it_has(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "state") as world, serving(world, make_consortium(tmp_path)) as served:
        operator = served.consortium.identity("operator", Role.OPERATOR)
        anna = IdentityFolder(served.consortium.identity(ANNA, Role.SITE))
        agent = agent_of(anna, served, tmp_path)
        async with connected(agent), connect(served.address, operator) as client:
            await client.ban_site(ANNA)
            with pytest.raises(FedMedError) as refused:
                await agent.renew()
            assert refused.value.reason is Reason.SITE_BANNED
            await client.unban_site(ANNA)
            await agent.renew()
            sites = {site.name: site for site in await client.list_sites()}
        assert sites[ANNA].signing_key_fingerprint == digest_of(prepare_signing_key(anna.folder))


async def test_an_operator_revokes_the_key_that_a_site_signs_with_and_sees_that_it_is(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "state") as world, serving(world, make_consortium(tmp_path)) as served:
        operator = served.consortium.identity("operator", Role.OPERATOR)
        agent = agent_of(IdentityFolder(served.consortium.identity(ANNA, Role.SITE)), served, tmp_path)
        async with connected(agent), connect(served.address, operator) as client:
            await agent.renew()
            (before,) = await client.list_sites()
            await client.revoke_signing_key(before.signing_key_fingerprint)
            (after,) = await client.list_sites()
            await agent.renew()  # its certificates are another matter
        assert (before.is_signing_key_revoked, after.is_signing_key_revoked) == (False, True)
        page = io.StringIO()
        Console(file=page, width=200).print(site_page(after))
        assert f"{before.signing_key_fingerprint}, which is revoked" in page.getvalue()


async def test_a_member_keeps_the_key_with_which_it_signs(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "state") as world, serving(world, make_consortium(tmp_path)) as served:
        anna = IdentityFolder(served.consortium.identity(ANNA, Role.SITE))
        agent = agent_of(anna, served, tmp_path)
        async with connected(agent):
            await agent.renew()
            (anna.folder / "signing_key.pem").unlink()
            with pytest.raises(FedMedError) as refused:
                await agent.renew()
        assert refused.value.reason is Reason.SIGNING_KEY_DIFFERS


@pytest.mark.parametrize("whose", ["operator", "coordinator"])
async def test_a_certificate_of_a_ca_that_its_holder_does_not_trust_takes_no_place(tmp_path: Path, whose: str) -> None:
    consortium = make_consortium(tmp_path)
    consortium.identity("coordinator", Role.COORDINATOR, SERVER_LIFE)
    operator = consortium.identity("operator", Role.OPERATOR)
    async with coordinator(tmp_path / "state") as world, serving(world, consortium) as served:
        folder = operator if whose == "operator" else served.identity.folder
        before = read_certified(folder)
        strange = create_ca(tmp_path / "strange", "demo").folder
        for name in ("ca_key.pem", "ca_certificate.pem"):
            (strange / name).replace(consortium.folder / "ca" / name)
        if whose == "operator":
            async with connect(served.address, operator) as client:
                with pytest.raises(FedMedError, match="signed by a CA of the trust bundle"):
                    await client.renew_certificate(operator)
        else:
            roll_server(served, consortium.folder / "ca")
        assert read_certified(folder) == before
