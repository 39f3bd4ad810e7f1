"""Who gets in: a real coordinator process, real sockets, every kind of caller."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.running import RunningCoordinator, make_consortium, running_coordinator  # isort: skip  (hardens TLS first)

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from common.chunks import MAX_MESSAGE_BYTES
from common.errors import NotAllowedError
from common.tls import Role, parse_caller
from coordinator.adapters.rpc.access import ROLES_BY_RPC, authorise
from fedmedlora.v1 import admin_pb2, admin_pb2_grpc, rounds_pb2, rounds_pb2_grpc

CALL_SECONDS = 30.0


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCoordinator]:
    with running_coordinator(make_consortium(tmp_path_factory.mktemp("consortium"))) as running:
        yield running


def status_of(coordinator: RunningCoordinator, identity: Path, rpc: str, request: bytes = b"") -> grpc.RpcError:
    """Call ``rpc`` with raw bytes, whatever its kind, and return the error that comes back."""
    raw: Any  # the type stubs insist on serializers; bytes need none
    with coordinator.channel(identity) as raw, pytest.raises(grpc.RpcError) as caught:
        if rpc.endswith("UploadUpdate"):
            raw.stream_unary(rpc)(iter([request]), timeout=CALL_SECONDS)
        elif rpc.endswith(("DownloadAdapter", "WatchRun", "Watch")):
            list(raw.unary_stream(rpc)(request, timeout=CALL_SECONDS))
        else:
            raw.unary_unary(rpc)(request, timeout=CALL_SECONDS)
    return caught.value


def reason_of(error: Any) -> str:
    status = rpc_status.from_call(error)
    assert status is not None, f"expected a reason, got {error.code()}: {error.details()}"
    detail = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(detail)
    return str(detail.reason)


WRONG_ROLES = [(rpc, role) for rpc, roles in ROLES_BY_RPC.items() for role in Role if role not in roles]


@pytest.mark.parametrize(("rpc", "role"), WRONG_ROLES, ids=lambda value: str(value).rpartition("/")[2])
def test_a_wrong_role_is_refused_on_every_rpc(coordinator: RunningCoordinator, rpc: str, role: Role) -> None:
    error = status_of(coordinator, coordinator.consortium.identity("caller", role), rpc)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_ALLOWED")


def test_an_operator_may_list_runs(coordinator: RunningCoordinator) -> None:
    with coordinator.channel(coordinator.consortium.identity("operator", Role.OPERATOR)) as channel:
        response = admin_pb2_grpc.AdminServiceStub(channel).ListRuns(admin_pb2.ListRunsRequest(), timeout=CALL_SECONDS)
    assert list(response.runs) == []


def test_a_connection_without_a_certificate_is_refused(coordinator: RunningCoordinator) -> None:
    bundle = (coordinator.consortium.identity("operator", Role.OPERATOR) / "trust_bundle.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=bundle)
    with grpc.secure_channel(coordinator.address, credentials) as channel, pytest.raises(grpc.RpcError) as caught:
        admin_pb2_grpc.AdminServiceStub(channel).ListRuns(admin_pb2.ListRunsRequest(), timeout=CALL_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_connection_in_plain_text_is_refused(coordinator: RunningCoordinator) -> None:
    with grpc.insecure_channel(coordinator.address) as channel, pytest.raises(grpc.RpcError) as caught:
        admin_pb2_grpc.AdminServiceStub(channel).ListRuns(admin_pb2.ListRunsRequest(), timeout=CALL_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_ca_is_refused(coordinator: RunningCoordinator, tmp_path: Path) -> None:
    other = make_consortium(tmp_path)
    identity = other.identity("operator", Role.OPERATOR)
    ours = coordinator.consortium.identity("operator", Role.OPERATOR)
    # It trusts our coordinator, so that the refusal is the coordinator's.
    (identity / "trust_bundle.pem").write_bytes((ours / "trust_bundle.pem").read_bytes())
    error = status_of(coordinator, identity, "/fedmedlora.v1.AdminService/ListRuns")
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_is_refused(coordinator: RunningCoordinator) -> None:
    identity = coordinator.consortium.identity("late", Role.OPERATOR, life=timedelta(seconds=-60))
    error = status_of(coordinator, identity, "/fedmedlora.v1.AdminService/ListRuns")
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_1_2_is_refused_even_with_a_good_certificate(coordinator: RunningCoordinator) -> None:
    identity = coordinator.consortium.identity("operator", Role.OPERATOR)
    context = ssl.create_default_context(cafile=str(identity / "trust_bundle.pem"))
    context.load_cert_chain(identity / "certificate.pem", identity / "key.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        _handshake(context, coordinator)


def test_tls_1_3_is_what_a_good_certificate_gets(coordinator: RunningCoordinator) -> None:
    identity = coordinator.consortium.identity("operator", Role.OPERATOR)
    context = ssl.create_default_context(cafile=str(identity / "trust_bundle.pem"))
    context.load_cert_chain(identity / "certificate.pem", identity / "key.pem")
    context.set_alpn_protocols(["h2"])
    assert _handshake(context, coordinator) == "TLSv1.3"


def _handshake(context: ssl.SSLContext, coordinator: RunningCoordinator) -> str | None:
    with (
        socket.create_connection(("127.0.0.1", coordinator.port), timeout=CALL_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return secure.version()


def test_reflection_is_not_served(coordinator: RunningCoordinator) -> None:
    identity = coordinator.consortium.identity("operator", Role.OPERATOR)
    error = status_of(coordinator, identity, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_one_mebibyte_is_refused_unread(coordinator: RunningCoordinator) -> None:
    site = coordinator.consortium.identity("caller", Role.SITE)
    error = status_of(coordinator, site, "/fedmedlora.v1.RoundService/UploadUpdate", bytes(MAX_MESSAGE_BYTES + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 32 + "/", "G" * 32, "0" * 31])
def test_an_assignment_id_that_is_none_is_refused(coordinator: RunningCoordinator, name: str) -> None:
    header = rounds_pb2.UploadHeader(assignment_id=name, digest="sha256:" + "0" * 64, size_bytes=8)
    request = rounds_pb2.UploadUpdateRequest(header=header).SerializeToString()
    site = coordinator.consortium.identity("caller", Role.SITE)
    error = status_of(coordinator, site, "/fedmedlora.v1.RoundService/UploadUpdate", request)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


def test_an_unknown_assignment_is_refused(coordinator: RunningCoordinator) -> None:
    header = rounds_pb2.UploadHeader(
        assignment_id="0" * 32,
        digest="sha256:" + "0" * 64,
        size_bytes=8,
        trained=rounds_pb2.TrainedUpdate(base_digest="sha256:" + "0" * 64, num_examples=1, num_label_tokens=1),
    )
    request = rounds_pb2.UploadUpdateRequest(header=header).SerializeToString()
    site = coordinator.consortium.identity("caller", Role.SITE)
    error = status_of(coordinator, site, "/fedmedlora.v1.RoundService/UploadUpdate", request)
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "ASSIGNMENT_UNKNOWN")


def test_a_stream_that_begins_with_a_chunk_is_refused(coordinator: RunningCoordinator) -> None:
    request = rounds_pb2.UploadUpdateRequest()
    request.chunk.offset = 0
    site = coordinator.consortium.identity("caller", Role.SITE)
    error = status_of(coordinator, site, "/fedmedlora.v1.RoundService/UploadUpdate", request.SerializeToString())
    assert reason_of(error) == "HEADER_EXPECTED"


def test_a_download_of_nothing_known_is_refused(coordinator: RunningCoordinator) -> None:
    site = coordinator.consortium.identity("caller", Role.SITE)
    with coordinator.channel(site) as channel, pytest.raises(grpc.RpcError) as caught:
        list(
            rounds_pb2_grpc.RoundServiceStub(channel).DownloadAdapter(
                rounds_pb2.DownloadAdapterRequest(digest="sha256:" + "1" * 64), timeout=CALL_SECONDS
            )
        )
    assert reason_of(caught.value) == "ADAPTER_UNKNOWN"


def test_refusals_are_counted_for_prometheus(coordinator: RunningCoordinator) -> None:
    site = coordinator.consortium.identity("caller", Role.SITE)
    status_of(coordinator, site, "/fedmedlora.v1.AdminService/ListRuns")
    with urllib.request.urlopen(f"http://127.0.0.1:{coordinator.metrics_port}/metrics") as response:
        text = response.read().decode()
    assert 'fedmed_refusals_total{reason="ROLE_NOT_ALLOWED"}' in text


def test_a_second_coordinator_on_the_same_store_exits(coordinator: RunningCoordinator) -> None:
    command = [
        sys.executable,
        "-m",
        "coordinator",
        "serve",
        "--config",
        str(coordinator.consortium.folder / "coordinator.toml"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("STORE_IN_USE")


def test_a_caller_of_another_consortium_is_refused() -> None:
    with pytest.raises(NotAllowedError, match="expected one of consortium demo"):
        authorise(parse_caller("spiffe://other/operator/boss"), "/fedmedlora.v1.AdminService/ListRuns", "demo")
