"""Every rpc by every kind of caller over real sockets: all as the one table says, and how many calls that were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from tests.running import make_consortium  # isort: skip  (hardens TLS first)

import grpc
import grpc.aio

from common.ids import Role
from common.rpc_errors import from_rpc_error
from common.tls import CHANNEL_OPTIONS, Identity, caller_from_certificate, channel_credentials, load_identity
from coordinator.adapters.rpc.access import ROLES_BY_RPC, RPCS_BY_JOIN_TOKEN
from coordinator.domain.enrolment import ENROLLABLE_ROLES
from tests.conftest import Tell
from tests.fakes.coordinator_served import Served, serving
from tests.fakes.coordinator_world import coordinator

RPCS = sorted(ROLES_BY_RPC.keys() | RPCS_BY_JOIN_TOKEN)
STREAMED = ("/DownloadAdapter", "/WatchRun", "/Watch")
# `current_assignment_id` that is none: a poll that is let in answers at once.
NO_ASSIGNMENT = b"\x0a\x01x"
CALL_SECONDS = 20.0
LET_IN, NO_CONNECTION = "let in", "no connection"


class Without(Enum):
    """What else a caller may be than one of a role."""

    CERTIFICATE = "none"
    STANDING = "banned"
    TIME = "expired"


Kind = Role | Without
KINDS: tuple[Kind, ...] = (*Role, *Without)


@dataclass(frozen=True, slots=True)
class Table:
    """A coordinator, and callers of every kind; each rpc is called by names of its own: no call spoils another."""

    served: Served
    trust_bundle_pem: bytes

    def identity(self, kind: Kind, number: int) -> Identity | None:
        """Who calls; a banned or an expired one is of a role that would be let in, if there is one."""
        consortium = self.served.consortium
        match kind:
            case Without.CERTIFICATE:
                return None
            case Without.STANDING:
                return load_identity(consortium.identity(f"banned-{number}", self.allowed(number)))
            case Without.TIME:
                return load_identity(
                    consortium.identity(f"expired-{number}", self.allowed(number), timedelta(seconds=-60))
                )
        return load_identity(consortium.identity(f"{kind}-{number}", kind))

    @staticmethod
    def allowed(number: int) -> Role:
        roles = ROLES_BY_RPC.get(RPCS[number], frozenset())
        return min(roles & ENROLLABLE_ROLES or {Role.SITE})

    def expected(self, kind: Kind, number: int) -> str:
        rpc = RPCS[number]
        if rpc in RPCS_BY_JOIN_TOKEN:  # whoever they are: the token decides, and there is none
            return LET_IN
        if kind in (Without.CERTIFICATE, Without.TIME):
            return NO_CONNECTION
        role = self.allowed(number) if isinstance(kind, Without) else kind
        if role not in ROLES_BY_RPC[rpc]:
            return "ROLE_NOT_ALLOWED"
        return "SITE_BANNED" if kind is Without.STANDING else LET_IN

    async def outcome(self, kind: Kind, number: int) -> str:
        rpc, who = RPCS[number], self.identity(kind, number)
        address = self.served.address
        if rpc in RPCS_BY_JOIN_TOKEN:
            address, who = f"localhost:{self.served.membership.enrolment_port}", None
        credentials = grpc.ssl_channel_credentials(self.trust_bundle_pem) if who is None else channel_credentials(who)
        channel: Any  # the type stubs insist on serializers; bytes need none
        async with grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS) as channel:
            try:
                await _call(channel, rpc)
            except grpc.aio.AioRpcError as error:
                return _outcome_of(error)
        return LET_IN


async def _call(channel: Any, rpc: str) -> None:
    request = NO_ASSIGNMENT if rpc.endswith("/AwaitAssignment") else b""
    if rpc.endswith("/UploadUpdate"):
        await channel.stream_unary(rpc)(iter([request]), timeout=CALL_SECONDS)
    elif rpc.endswith(STREAMED):
        call = channel.unary_stream(rpc)(request, timeout=CALL_SECONDS)
        await call.read()  # a first message: it was let in
        call.cancel()
    else:
        await channel.unary_unary(rpc)(request, timeout=CALL_SECONDS)


def _outcome_of(error: grpc.aio.AioRpcError) -> str:
    reason = str(from_rpc_error(error).reason)
    if reason in ("ROLE_NOT_ALLOWED", "SITE_BANNED"):
        return reason
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return NO_CONNECTION
    # Read, and found to be nothing: its caller was let in. A fault, or a certificate that names nobody, is neither.
    return reason if reason in ("INTERNAL", "CERTIFICATE_INVALID", "CERTIFICATE_REVOKED", "PEER_AWAY") else LET_IN


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    consortium = make_consortium(tmp_path)
    operator = consortium.identity("operator", Role.OPERATOR)
    async with coordinator(tmp_path / "state") as world, serving(world, consortium) as served:
        caller = load_identity(operator)
        for number in range(len(RPCS)):
            await served.membership.members.ban(caller_from_certificate(caller.certificate_pem), f"banned-{number}")
        yield Table(served, caller.trust_bundle_pem)


async def test_every_rpc_answers_every_kind_of_caller_as_the_table_says(table: Table, tell: Tell) -> None:
    wrong, count = [], 0
    async with asyncio.timeout(300):
        for number, rpc in enumerate(RPCS):
            for kind in KINDS:
                expected, got = table.expected(kind, number), await table.outcome(kind, number)
                count += 1
                if got != expected:
                    wrong.append((rpc, kind.value, expected, got))
    tell(f"role table: {len(RPCS)} rpcs x {len(KINDS)} kinds of caller = {count} calls, {len(wrong)} wrong")
    assert wrong == []
    assert count == len(RPCS) * (len(Role) + len(Without))
