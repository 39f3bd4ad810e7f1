"""The gRPC server: mutual TLS, the guard around every rpc, the services, health. No reflection."""

from __future__ import annotations

import errno
import os
import resource
import socket
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from common.tls import SERVER_OPTIONS, Identity, server_credentials
from coordinator.adapters.rpc.admin_service import AdminServicer, RegistryServicer
from coordinator.adapters.rpc.interceptor import GuardInterceptor
from coordinator.adapters.rpc.rounds_service import RoundServicer
from fedmedlora.v1 import admin_pb2_grpc, registry_pb2_grpc, rounds_pb2_grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class Servicers:
    """Everything that answers."""

    rounds: RoundServicer
    admin: AdminServicer
    registry: RegistryServicer


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that listens on ``port``."""

    server: grpc.aio.Server
    port: int


async def start_server(listen: str, identity: Identity, guard: GuardInterceptor, servicers: Servicers) -> RunningServer:
    """Listen on ``listen`` (``host:port``; port 0 takes a free one).

    Raises:
        OSError: the address cannot be bound; it is in ``filename``.
    """
    _raise_descriptor_limit()
    server = grpc.aio.server(interceptors=[guard], options=SERVER_OPTIONS)
    rounds_pb2_grpc.add_RoundServiceServicer_to_server(servicers.rounds, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(servicers.admin, server)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicers.registry, server)
    health = health_aio.HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_secure_port(listen, server_credentials(identity))
    except RuntimeError:
        raise _bind_error(listen) from None
    await server.start()
    return RunningServer(server=server, port=port)


def _raise_descriptor_limit() -> None:
    """Ask for as many open files as the system allows: each connection is one, and silent peers soon take 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bind_error(listen: str) -> OSError:
    """What the system says of an address that gRPC cannot bind; gRPC itself does not tell."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        return OSError(error.errno, os.strerror(error.errno or 0), f"coordinator.listen {listen}")
    return OSError(errno.EADDRNOTAVAIL, "gRPC cannot bind it", f"coordinator.listen {listen}")
