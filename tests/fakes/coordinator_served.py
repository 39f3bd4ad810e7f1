"""A world of `tests.fakes.coordinator_world` behind the real gRPC server: mutual TLS, guard, servicers, metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from common.logging import get_logger
from common.tls import CHANNEL_OPTIONS, Role, channel_credentials, load_identity
from coordinator.adapters.metrics import CoordinatorMetrics
from coordinator.adapters.rpc.admin_service import AdminServicer, AdminUseCases, RegistryServicer
from coordinator.adapters.rpc.interceptor import GuardInterceptor
from coordinator.adapters.rpc.rounds_service import RoundServicer, RoundUseCases
from coordinator.adapters.rpc.server import Servicers, start_server
from coordinator.adapters.rpc.traffic_meter import TrafficMeter
from tests.fakes.coordinator_world import World
from tests.running import Consortium

STREAM_PROGRESS_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that listens, and what it counts."""

    consortium: Consortium
    address: str
    metrics: CoordinatorMetrics

    def channel(self, name: str, role: Role) -> grpc.aio.Channel:
        """A channel of that caller; close it, or use it as a context."""
        credentials = channel_credentials(load_identity(self.consortium.identity(name, role)))
        return grpc.aio.secure_channel(self.address, credentials, options=CHANNEL_OPTIONS)

    def counted(self, metric: str, **labels: str) -> float:
        """A counter's value; 0 when nothing was counted under those labels."""
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0


def round_use_cases(world: World, stream_progress_seconds: float = STREAM_PROGRESS_SECONDS) -> RoundUseCases:
    """What the rpcs of an agent need."""
    return RoundUseCases(
        driver=world.driver,
        poll=world.poll,
        intake=world.intake,
        answers=world.answers,
        blobs=world.kept,
        meter=TrafficMeter(world.store),
        stream_progress_seconds=stream_progress_seconds,
    )


@asynccontextmanager
async def serving(
    world: World, consortium: Consortium, *, stream_progress_seconds: float = STREAM_PROGRESS_SECONDS
) -> AsyncIterator[Served]:
    """Serve ``world`` on a free port of loopback."""
    metrics = CoordinatorMetrics()
    rounds = round_use_cases(world, stream_progress_seconds)
    admin = AdminUseCases(
        driver=world.driver, answers=world.answers, presence=world.presence, store=world.store, clock=world.clock
    )
    servicers = Servicers(
        rounds=RoundServicer(rounds), admin=AdminServicer(admin), registry=RegistryServicer(world.driver)
    )
    guard = GuardInterceptor("demo", metrics, get_logger("tests"), stream_progress_seconds)
    identity = load_identity(consortium.identity("coordinator", Role.COORDINATOR))
    running = await start_server("127.0.0.1:0", identity, guard, servicers)
    try:
        yield Served(consortium=consortium, address=f"localhost:{running.port}", metrics=metrics)
    finally:
        await running.server.stop(0)
