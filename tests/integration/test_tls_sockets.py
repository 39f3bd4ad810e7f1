"""Who gets a connection, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.errors import FedMedError, Reason, UnauthenticatedError
from common.rpc_errors import abort_with, from_rpc_error
from common.tls import (
    CHANNEL_OPTIONS,
    SERVER_OPTIONS,
    Caller,
    Identity,
    Role,
    caller_from_context,
    channel_credentials,
    load_identity,
    server_credentials,
)
from coordinator.adapters.pki.ca import create_ca, issue

CALL_SECONDS = 20


@dataclass
class Consortium:
    """A CA, and identities of it."""

    folder: Path
    made: int = field(default=0)

    def identity(self, role: Role, hosts: tuple[str, ...] = (), lifetime: timedelta = timedelta(days=1)) -> Identity:
        self.made += 1
        out = self.folder / f"identity-{self.made}"
        issue(self.folder / "ca", "north", role, out, hosts, lifetime)
        return load_identity(out)


def consortium(folder: Path) -> Consortium:
    create_ca(folder / "ca", "onco")
    return Consortium(folder)


@pytest.fixture
def ours(tmp_path: Path) -> Consortium:
    return consortium(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Consortium:
    return consortium(tmp_path / "theirs")


class Greeter(health_pb2_grpc.HealthServicer):
    """Says SERVING to whoever has a name, and remembers who it was."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now
        self.callers: list[Caller] = []

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        try:
            self.callers.append(caller_from_context(context, self.now))
        except FedMedError as error:
            await abort_with(context, error)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def serving(identity: Identity, greeter: Greeter) -> AsyncIterator[int]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(greeter, server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(lambda: identity))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def check(port: int, credentials: grpc.ChannelCredentials) -> health_pb2.HealthCheckResponse:
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=CHANNEL_OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
        return answer


async def assert_no_connection(port: int, credentials: grpc.ChannelCredentials) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(port, credentials)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


SERVER = ("127.0.0.1", "localhost")


@pytest.mark.parametrize("role", [Role.SITE, Role.EVALUATOR, Role.OPERATOR])
async def test_a_good_certificate_connects_and_names_its_caller(ours: Consortium, role: Role) -> None:
    greeter = Greeter()
    async with serving(ours.identity(Role.COORDINATOR, SERVER), greeter) as port:
        answer = await check(port, channel_credentials(ours.identity(role)))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert [(caller.name, caller.role, caller.consortium) for caller in greeter.callers] == [("north", role, "onco")]


async def test_without_a_certificate_there_is_no_connection(ours: Consortium) -> None:
    greeter = Greeter()
    async with serving(ours.identity(Role.COORDINATOR, SERVER), greeter) as port:
        trust = ours.identity(Role.SITE).trust_bundle_pem
        await assert_no_connection(port, grpc.ssl_channel_credentials(root_certificates=trust))
    assert greeter.callers == []


async def test_a_certificate_of_another_ca_gets_no_connection(ours: Consortium, theirs: Consortium) -> None:
    greeter = Greeter()
    async with serving(ours.identity(Role.COORDINATOR, SERVER), greeter) as port:
        foreign = theirs.identity(Role.SITE)
        credentials = grpc.ssl_channel_credentials(
            ours.identity(Role.SITE).trust_bundle_pem, foreign.key_pem, foreign.certificate_pem
        )
        await assert_no_connection(port, credentials)
    assert greeter.callers == []


async def test_an_expired_certificate_gets_no_connection(ours: Consortium) -> None:
    greeter = Greeter()
    async with serving(ours.identity(Role.COORDINATOR, SERVER), greeter) as port:
        await assert_no_connection(port, channel_credentials(ours.identity(Role.SITE, lifetime=-timedelta(hours=1))))
    assert greeter.callers == []


async def test_a_connection_that_outlives_its_certificate_names_nobody(ours: Consortium) -> None:
    greeter = Greeter(now=datetime.now(UTC) + timedelta(days=2))
    async with serving(ours.identity(Role.COORDINATOR, SERVER), greeter) as port:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(port, channel_credentials(ours.identity(Role.SITE)))
    error = from_rpc_error(caught.value)
    assert isinstance(error, UnauthenticatedError) and error.reason is Reason.CERTIFICATE_INVALID


async def test_a_connection_without_tls_names_nobody() -> None:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(Greeter(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
    finally:
        await server.stop(None)
    assert from_rpc_error(caught.value).reason is Reason.CERTIFICATE_INVALID


async def test_an_agent_does_not_connect_to_a_coordinator_of_another_ca(ours: Consortium, theirs: Consortium) -> None:
    async with serving(theirs.identity(Role.COORDINATOR, SERVER), Greeter()) as port:
        await assert_no_connection(port, channel_credentials(ours.identity(Role.SITE)))


async def test_an_agent_does_not_connect_to_a_coordinator_under_another_host(ours: Consortium) -> None:
    async with serving(ours.identity(Role.COORDINATOR, ("coordinator.example",)), Greeter()) as port:
        await assert_no_connection(port, channel_credentials(ours.identity(Role.SITE)))


async def test_a_site_cannot_pass_for_a_coordinator(ours: Consortium) -> None:
    async with serving(ours.identity(Role.SITE), Greeter()) as port:
        await assert_no_connection(port, channel_credentials(ours.identity(Role.OPERATOR)))


def tls_version(ours: Consortium, port: int, version: ssl.TLSVersion) -> str | None:
    """What Python's own TLS agrees on with the server, when it offers nothing but ``version``."""
    identity = ours.folder / f"identity-{ours.made}"
    context = ssl.create_default_context(cafile=str(identity / "trust_bundle.pem"))
    context.load_cert_chain(identity / "certificate.pem", identity / "key.pem")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), timeout=CALL_SECONDS) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as secured,
    ):
        return secured.version()


async def test_tls_1_3_is_spoken_and_1_2_is_not(ours: Consortium) -> None:
    async with serving(ours.identity(Role.COORDINATOR, SERVER), Greeter()) as port:
        ours.identity(Role.SITE)
        assert await asyncio.to_thread(tls_version, ours, port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(tls_version, ours, port, ssl.TLSVersion.TLSv1_2)


async def test_a_second_server_does_not_share_the_port(ours: Consortium) -> None:
    identity = ours.identity(Role.COORDINATOR, SERVER)
    async with serving(identity, Greeter()) as port:
        second = grpc.aio.server(options=SERVER_OPTIONS)
        with pytest.raises(RuntimeError):
            second.add_secure_port(f"127.0.0.1:{port}", server_credentials(lambda: identity))


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("from common.tls import harden_tls; harden_tls(); import grpc; harden_tls()", 0),
        ("import grpc; from common.tls import harden_tls; harden_tls()", 1),
        ("import common.tls, sys; sys.exit('grpc' in sys.modules)", 0),
    ],
)
def test_hardening_comes_before_grpc_or_fails_loudly(program: str, code: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_SSL_CIPHER_SUITES"}
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, check=False)
    assert ended.returncode == code
    assert (b"must run before grpc" in ended.stderr) == bool(code)
