"""Peers who never become callers: silence, noise, endless metadata, other versions of TLS, many at once."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.hostile.scene import (  # isort: skip  (hardens TLS first)
    CALL_SECONDS,
    HONEST,
    Scene,
    descriptor_limit,
    honest_round,
    refusal_of,
    unhurt,
)

from common.ids import digest_of
from common.tls import HANDSHAKE_SECONDS, Role
from fedmedlora.v1 import rounds_pb2
from tests.conftest import skip_unless_ci
from tests.running import wait_until

SILENT = 1100  # more than the descriptors that a process has unless it asks for more
AWAIT = "/fedmedlora.v1.RoundService/AwaitAssignment"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process, too, hold that many connections."""
    with descriptor_limit(4 * SILENT):
        yield


def dial(scene: Scene) -> socket.socket:
    return socket.create_connection(("127.0.0.1", scene.coordinator.port), timeout=CALL_SECONDS)


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_connections_that_say_nothing_hold_nobody_up_and_are_let_go(scene: Scene) -> None:
    with silent_peers(scene):  # what the first thousand ever allocate is no leak
        pass
    before = scene.descriptors
    with unhurt(scene), silent_peers(scene):
        with honest_round(scene) as assignments:
            content = scene.update(seed=1)
            assert scene.upload(HONEST, assignments[HONEST], content) == digest_of(content)
        wait_until(lambda: scene.descriptors < before + 0.01 * SILENT, 3 * HANDSHAKE_SECONDS)


@contextmanager
def silent_peers(scene: Scene) -> Iterator[None]:
    """SILENT connections that are open, for the block; after it, the coordinator has let go of them."""
    before = scene.descriptors
    with ExitStack() as stack:
        for _ in range(SILENT):
            stack.enter_context(dial(scene))
        wait_until(lambda: scene.descriptors > before + 0.99 * SILENT, CALL_SECONDS)
        yield
    wait_until(lambda: scene.descriptors < before + 0.01 * SILENT, CALL_SECONDS)


@pytest.mark.usefixtures("many_descriptors")
def test_a_member_that_opens_hundreds_of_connections_and_asks_nothing_holds_nobody_up(guarded: Scene) -> None:
    context = member_context(guarded, "clara")
    with ExitStack() as stack:
        for _ in range(SILENT // 4):
            stack.enter_context(context.wrap_socket(stack.enter_context(dial(guarded)), server_hostname="localhost"))
        with honest_round(guarded) as assignments:
            content = guarded.update(seed=1)
            assert guarded.upload(HONEST, assignments[HONEST], content) == digest_of(content)


def member_context(scene: Scene, name: str) -> ssl.SSLContext:
    identity = scene.coordinator.consortium.identity(name, Role.SITE)
    context = ssl.create_default_context(cafile=str(identity / "trust_bundle.pem"))
    context.load_cert_chain(identity / "certificate.pem", identity / "key.pem")
    context.set_alpn_protocols(["h2"])
    return context


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(4096),
        b"\x16\x03\x01\xff\xff" + bytes(64),
    ],
    ids=["HTTP/1.1", "HTTP/2 without TLS", "zeros", "a TLS record of 64 KiB that does not come"],
)
def test_what_is_no_handshake_is_let_go(guarded: Scene, noise: bytes) -> None:
    with dial(guarded) as plain:
        plain.settimeout(3 * HANDSHAKE_SECONDS)
        plain.sendall(noise)
        received = b"".join(iter(lambda: _received(plain), b""))
    assert len(received) < 1024


def _received(plain: socket.socket) -> bytes:
    try:
        return plain.recv(1024)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    "frame", [b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", bytes(range(256)) * 16], ids=["16 MiB", "noise"]
)
def test_frames_that_are_not_http_2_end_a_members_connection(guarded: Scene, frame: bytes) -> None:
    context = member_context(guarded, "clara")
    with dial(guarded) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
        secure.settimeout(CALL_SECONDS)
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + frame)
        while _received(secure):
            pass
        assert _received(secure) == b"", "the connection has ended"


@pytest.mark.parametrize("size_bytes", [2**20, 64 * 2**20])
def test_metadata_without_end_are_refused(guarded: Scene, size_bytes: int) -> None:
    request = rounds_pb2.AwaitAssignmentRequest().SerializeToString()
    with guarded.channel("clara", Role.SITE) as channel:
        metadata = [("novel", "x" * size_bytes)]
        reason = refusal_of(lambda: channel.unary_unary(AWAIT)(request, metadata=metadata, timeout=CALL_SECONDS))
    assert reason in {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL"}  # gRPC's own statuses; the call never began


def test_a_scanner_finds_tls_1_3_and_nothing_else(guarded: Scene, tmp_path: Path) -> None:
    """Sslscan (Debian), which knows nothing of this project: versions, suites and their strengths that are accepted."""
    scanner = shutil.which("sslscan")
    if scanner is None:
        skip_unless_ci("no TLS scanner: Debian's package `sslscan` has it")
    report = tmp_path / "scan.xml"
    address = f"127.0.0.1:{guarded.coordinator.port}"
    command = [scanner, f"--xml={report}", "--no-colour", "--no-heartbleed", "--sni-name=localhost", address]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    scan = ElementTree.parse(report).getroot()
    protocols = {(p.get("type"), p.get("version")): p.get("enabled") for p in scan.iter("protocol")}
    assert {name for name, enabled in protocols.items() if enabled == "1"} == {("tls", "1.3")}
    assert {("ssl", "2"), ("ssl", "3"), ("tls", "1.0"), ("tls", "1.1"), ("tls", "1.2")} <= protocols.keys()
    suites = [(suite.get("sslversion"), int(suite.get("bits", "0"))) for suite in scan.iter("cipher")]
    assert suites and all(version == "TLSv1.3" and bits >= 128 for version, bits in suites)
