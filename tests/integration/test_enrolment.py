"""A site enrols: its own client against the enrolment port, over real sockets, and how that is refused."""

from __future__ import annotations

import asyncio
import base64
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.running import make_consortium  # isort: skip  (hardens TLS first)

import grpc
import grpc.aio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateSigningRequestBuilder, Name, SubjectAlternativeName, UniformResourceIdentifier

from common.errors import FedMedError, Reason
from common.identity_folder import CertifiedIdentity, prepare_signing_key, read_certified
from common.ids import Role, SiteName, digest_of
from common.join_file import JoinFile, read_join_file, write_join_file
from common.rpc_errors import from_rpc_error
from common.signing_requests import make_key, make_request
from common.tls import CHANNEL_OPTIONS, Caller, channel_credentials
from coordinator.adapters.rpc.access import ROLES_BY_RPC, RPCS_BY_JOIN_TOKEN
from fedmedlora.v1 import admin_pb2, admin_pb2_grpc, enrolment_pb2, enrolment_pb2_grpc
from site_agent.adapters import enrolment_client
from site_agent.adapters.outgoing import CommandAttribution
from site_agent.adapters.recorded_channel import Dial
from site_agent.domain.ledger import Delivery, OutgoingMessage
from tests.fakes.coordinator_served import Served, serving
from tests.fakes.coordinator_world import coordinator

DAY = timedelta(days=1)
CALL_SECONDS = 20.0


class NoLedger:
    """Writes nothing down."""

    def record(self, message: OutgoingMessage) -> None:
        """Not kept."""

    def settle(self, ticket: Any, delivery: Delivery) -> None:
        """Not kept."""


async def enrol(join: JoinFile, folder: Path) -> datetime:
    return await enrolment_client.enrol(join, folder, Dial(join.address, NoLedger(), CommandAttribution()))


@dataclass(slots=True)
class MovableClock:
    """The machine's clock, set forward by ``ahead``."""

    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return self.ahead.total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A coordinator that enrols, and a folder for sites."""

    served: Served
    clock: MovableClock
    folder: Path

    async def invited(self, name: str = "north", role: str = "site", lifetime: timedelta = DAY) -> JoinFile:
        request = admin_pb2.CreateJoinTokenRequest(name=name, role=role)
        request.lifetime.FromTimedelta(lifetime)
        async with self.served.channel("operator", Role.OPERATOR) as channel:
            made = await admin_pb2_grpc.AdminServiceStub(channel).CreateJoinToken(request, timeout=CALL_SECONDS)
        return JoinFile(
            address=f"localhost:{made.enrolment_port}",
            caller=Caller(name=SiteName(name), role=Role(role), consortium=made.consortium),
            token=made.token,
            ca_certificate_pem=made.trust_bundle_pem,
        )

    async def sites(self) -> dict[str, admin_pb2.Site]:
        async with self.served.channel("operator", Role.OPERATOR) as channel:
            listed = await admin_pb2_grpc.AdminServiceStub(channel).ListSites(
                admin_pb2.ListSitesRequest(), timeout=CALL_SECONDS
            )
        return {site.name: site for site in listed.sites}

    async def is_let_in(self, who: CertifiedIdentity) -> Reason | None:
        """Why a call with that identity is refused; None when it is answered."""
        credentials = channel_credentials(who.identity)
        channel: Any  # the type stubs insist on serializers; bytes need none
        async with grpc.aio.secure_channel(self.served.address, credentials, options=CHANNEL_OPTIONS) as channel:
            try:
                await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error).reason
        return None

    async def refusal(self, join: JoinFile, folder: str = "other") -> Reason:
        with pytest.raises(FedMedError) as refused:
            await enrol(join, self.folder / folder)
        return refused.value.reason


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    clock = MovableClock()
    async with (
        asyncio.timeout(60),
        coordinator(folder / "state") as world,
        serving(world, make_consortium(folder), clock=clock) as served,
    ):
        yield Scene(served=served, clock=clock, folder=folder / "sites")


async def test_a_site_becomes_a_member_and_its_keys_stay_where_they_were_made(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        join = await at.invited()
        await enrol(join, at.folder / "north")
        who = read_certified(at.folder / "north")
        assert who.caller == join.caller
        assert await at.is_let_in(who) is None
        assert {file.name: stat.S_IMODE(file.stat().st_mode) & 0o077 for file in (at.folder / "north").iterdir()} == {
            "key.pem": 0,
            "signing_key.pem": 0,
            "certificate.pem": 0o44,
            "trust_bundle.pem": 0o44,
        }
        member = (await at.sites())["north"]
        assert (member.role, member.standing) == ("site", admin_pb2.STANDING_MEMBER)
        assert member.signing_key_fingerprint == digest_of(prepare_signing_key(at.folder / "north"))
        assert [each.serial for each in member.certificates] == [who.serial]
        assert [event["action"] for event in await at.served.audited()] == ["token_created", "site_enrolled"]


async def test_a_join_file_brings_everything_that_a_site_needs(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        path, join = tmp_path / "north.join", await at.invited(role="evaluator")
        write_join_file(path, join, "tomorrow")
        assert read_join_file(path) == join
        assert join.token not in repr(join)
        path.chmod(0o640)
        with pytest.raises(FedMedError, match="chmod 600"):
            read_join_file(path)


async def test_whose_answer_was_lost_asks_again_and_nobody_else_can(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        join = await at.invited()
        key = make_key()
        request = enrolment_pb2.EnrolRequest(token=join.token, signing_request_pem=make_request(key, join.caller))
        credentials = grpc.ssl_channel_credentials(root_certificates=join.ca_certificate_pem)
        async with grpc.aio.secure_channel(join.address, credentials) as channel:
            stub = enrolment_pb2_grpc.EnrolmentServiceStub(channel)
            first, again = [await stub.Enrol(request, timeout=CALL_SECONDS) for _ in range(2)]
        assert first.certificate_chain_pem != again.certificate_chain_pem
        assert await at.refusal(join) is Reason.TOKEN_SPENT
        assert len((await at.sites())["north"].certificates) == 2


async def test_a_site_that_was_away_too_long_enrols_again_under_its_name_and_signs_with_the_same_key(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as at:
        await enrol(await at.invited(), at.folder / "north")
        first, signing_key = read_certified(at.folder / "north"), prepare_signing_key(at.folder / "north")
        await enrol(await at.invited(), at.folder / "north")
        second = read_certified(at.folder / "north")
        assert (second.caller, second.serial != first.serial) == (first.caller, True)
        assert prepare_signing_key(at.folder / "north") == signing_key
        assert await at.is_let_in(second) is None
        assert await at.is_let_in(first) is Reason.CERTIFICATE_REVOKED


async def test_a_certificate_that_was_issued_without_enrolment_ends_with_the_enrolment_of_its_name(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as at:
        issued = read_certified(at.served.consortium.identity("north", Role.SITE))
        assert await at.is_let_in(issued) is None
        at.clock.ahead = timedelta(seconds=2)
        await enrol(await at.invited(), at.folder / "north")
        assert await at.is_let_in(issued) is Reason.CERTIFICATE_REVOKED
        assert await at.is_let_in(read_certified(at.folder / "north")) is None


async def test_a_token_that_is_guessed_expired_or_for_another_is_refused_counted_and_audited(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        join = await at.invited(lifetime=timedelta(minutes=5))
        south = replace(join.caller, name=SiteName("south"))
        reasons = [
            await at.refusal(replace(join, token="guess")),
            await at.refusal(replace(join, caller=south)),
            await at.refusal(replace(join, caller=replace(join.caller, role=Role.EVALUATOR))),
        ]
        at.clock.ahead = timedelta(minutes=5)
        reasons.append(await at.refusal(join))
        assert reasons == [
            Reason.TOKEN_UNKNOWN,
            Reason.TOKEN_NAME_DIFFERS,
            Reason.TOKEN_NAME_DIFFERS,
            Reason.TOKEN_EXPIRED,
        ]
        refused = [event for event in await at.served.audited() if event["action"] == "enrolment_refused"]
        assert [event["reason"] for event in refused] == ["TOKEN_UNKNOWN", "TOKEN_NAME_DIFFERS", "TOKEN_EXPIRED"]
        assert {event["caller"] for event in refused} <= {"127.0.0.1", "::1::/64", "0000:0000:0000:0000::/64"}
        assert at.served.counted("fedmed_enrolment_refusals_total", reason="TOKEN_NAME_DIFFERS") == 2
        assert await at.sites() == {}


async def test_a_banned_name_does_not_come_back_by_a_token_and_gets_no_new_one(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        join = await at.invited()
        async with at.served.channel("operator", Role.OPERATOR) as channel:
            await admin_pb2_grpc.AdminServiceStub(channel).BanSite(admin_pb2.BanSiteRequest(name="north"))
        assert await at.refusal(join) is Reason.SITE_BANNED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await at.invited()
        assert from_rpc_error(refused.value).reason is Reason.SITE_BANNED


async def test_whoever_tries_too_often_must_wait_and_then_is_heard(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        join = await at.invited()
        reasons = [await at.refusal(replace(join, token=f"guess {number}")) for number in range(12)]
        assert reasons == [Reason.TOKEN_UNKNOWN] * 10 + [Reason.TOO_MANY_ATTEMPTS] * 2
        assert await at.refusal(join) is Reason.TOO_MANY_ATTEMPTS
        at.clock.ahead = timedelta(seconds=6)
        await enrol(join, at.folder / "north")


@pytest.mark.parametrize(("name", "role", "minutes"), [("North", "site", 1), ("n", "operator", 1), ("n", "site", 0)])
async def test_a_token_for_no_site_is_not_made(tmp_path: Path, name: str, role: str, minutes: int) -> None:
    async with scene(tmp_path) as at:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await at.invited(name, role, timedelta(minutes=minutes))
        assert from_rpc_error(refused.value).reason in (Reason.NAME_INVALID, Reason.FIELD_INVALID)
        assert await at.served.audited() == []


def foreign_requests() -> dict[str, bytes]:
    """Signing requests that are none, or ask for something else."""
    uri = UniformResourceIdentifier("spiffe://demo/site/north")
    other_uri = UniformResourceIdentifier("spiffe://demo/site/south")
    builder = CertificateSigningRequestBuilder().subject_name(Name([]))
    p256, p384 = make_key(), ec.generate_private_key(ec.SECP384R1())
    one, two = SubjectAlternativeName([uri]), SubjectAlternativeName([uri, other_uri])
    good = builder.add_extension(one, critical=False).sign(p256, SHA256()).public_bytes(Encoding.DER)
    forged = bytes([*good[:-1], good[-1] ^ 1])
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n%s\n-----END CERTIFICATE REQUEST-----\n"
    return {
        "nothing": b"",
        "no PEM": b"not a request",
        "no names": builder.sign(p256, SHA256()).public_bytes(Encoding.PEM),
        "two names": builder.add_extension(two, critical=False).sign(p256, SHA256()).public_bytes(Encoding.PEM),
        "another curve": builder.add_extension(one, critical=False).sign(p384, SHA256()).public_bytes(Encoding.PEM),
        "a forged signature": pem % base64.encodebytes(forged).strip(),
        "too long": b"x" * 20_000,
    }


@pytest.mark.parametrize("what", foreign_requests())
async def test_a_request_that_is_not_one_spends_no_token(tmp_path: Path, what: str) -> None:
    async with scene(tmp_path) as at:
        join = await at.invited()
        credentials = grpc.ssl_channel_credentials(root_certificates=join.ca_certificate_pem)
        async with grpc.aio.secure_channel(join.address, credentials) as channel:
            stub = enrolment_pb2_grpc.EnrolmentServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Enrol(
                    enrolment_pb2.EnrolRequest(token=join.token, signing_request_pem=foreign_requests()[what]),
                    timeout=CALL_SECONDS,
                )
        assert from_rpc_error(refused.value).reason is Reason.SIGNING_REQUEST_INVALID
        await enrol(join, at.folder / "north")


async def test_the_enrolment_port_has_one_service_and_the_main_port_has_all_others(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        join = await at.invited()
        credentials = grpc.ssl_channel_credentials(root_certificates=join.ca_certificate_pem)
        channel: Any  # the type stubs insist on serializers; bytes need none
        codes = set()
        async with grpc.aio.secure_channel(join.address, credentials) as channel:
            for rpc in ROLES_BY_RPC:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await channel.unary_unary(rpc)(b"", timeout=CALL_SECONDS)
                codes.add(refused.value.code())
        async with at.served.channel("operator", Role.OPERATOR) as channel:
            for rpc in RPCS_BY_JOIN_TOKEN:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await channel.unary_unary(rpc)(b"", timeout=CALL_SECONDS)
                codes.add(refused.value.code())
        assert codes == {grpc.StatusCode.UNIMPLEMENTED}


async def test_a_site_does_not_tell_its_token_to_who_is_not_of_that_ca(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        join = await at.invited()
        other = make_consortium(tmp_path / "elsewhere").identity("operator", Role.OPERATOR)
        foreign = replace(join, ca_certificate_pem=(other / "trust_bundle.pem").read_bytes())
        assert await at.refusal(foreign) is Reason.PEER_AWAY
        await enrol(join, at.folder / "north")
