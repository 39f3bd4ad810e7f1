"""The gRPC server: mutual TLS, the guard around every rpc, the services, health. No reflection."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from common.tls import SERVER_OPTIONS, Identity, server_credentials
from coordinator.adapters.rpc.admin_service import AdminServicer, RegistryServicer
from coordinator.adapters.rpc.identity_service import EnrolmentServicer, IdentityServicer
from coordinator.adapters.rpc.interceptor import GuardInterceptor
from coordinator.adapters.rpc.rounds_service import RoundServicer
from fedmedlora.v1 import admin_pb2_grpc, enrolment_pb2_grpc, registry_pb2_grpc, rounds_pb2_grpc

# Of strangers: a token, a signing request and a key are far smaller, and more calls are refused before they are read.
MAX_ENROLMENT_BYTES = 64 * 2**10
MAX_ENROLMENT_CALLS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Servicers:
    """Everything that answers."""

    rounds: RoundServicer
    admin: AdminServicer
    registry: RegistryServicer
    identity: IdentityServicer


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that listens on ``port``."""

    server: grpc.aio.Server
    port: int


async def start_server(
    listen: str, identity: Callable[[], Identity], guard: GuardInterceptor, servicers: Servicers
) -> RunningServer:
    """Listen on ``listen`` (``host:port``; port 0 takes a free one), as whom ``identity`` gives at each new connection.

    Raises:
        OSError: the address cannot be bound; it is in ``filename``.
    """
    _raise_descriptor_limit()
    server = grpc.aio.server(interceptors=[guard], options=SERVER_OPTIONS)
    rounds_pb2_grpc.add_RoundServiceServicer_to_server(servicers.rounds, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(servicers.admin, server)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicers.registry, server)
    enrolment_pb2_grpc.add_IdentityServiceServicer_to_server(servicers.identity, server)
    health = health_aio.HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return await _started(server, listen, server_credentials(identity), "coordinator.listen")


async def start_enrolment_server(
    listen: str, identity: Callable[[], Identity], servicer: EnrolmentServicer
) -> RunningServer:
    """Listen for those who have no certificate yet: TLS of the server's, and one service; raises as `start_server`."""
    options = (*SERVER_OPTIONS, ("grpc.max_receive_message_length", MAX_ENROLMENT_BYTES))
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MAX_ENROLMENT_CALLS)
    enrolment_pb2_grpc.add_EnrolmentServiceServicer_to_server(servicer, server)
    credentials = server_credentials(identity, clients_are_known=False)
    return await _started(server, listen, credentials, "enrolment.listen")


async def _started(
    server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials, what: str
) -> RunningServer:
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError:
        raise _bind_error(listen, what) from None
    await server.start()
    return RunningServer(server=server, port=port)


def _raise_descriptor_limit() -> None:
    """Ask for as many open files as the system allows: each connection is one, and silent peers soon take 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bind_error(listen: str, what: str) -> OSError:
    """What the system says of an address that gRPC cannot bind; gRPC itself does not tell."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        return OSError(error.errno, os.strerror(error.errno or 0), f"{what} {listen}")
    return OSError(errno.EADDRNOTAVAIL, "gRPC cannot bind it", f"{what} {listen}")
