"""The gRPC server: mutual TLS, the guard around every rpc, the services, health. No reflection."""

from __future__ import annotations

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
        OSError: the address cannot be bound.
    """
    server = grpc.aio.server(interceptors=[guard], options=SERVER_OPTIONS)
    rounds_pb2_grpc.add_RoundServiceServicer_to_server(servicers.rounds, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(servicers.admin, server)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicers.registry, server)
    health = health_aio.HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_secure_port(listen, server_credentials(identity))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {listen}") from error
    await server.start()
    return RunningServer(server=server, port=port)
