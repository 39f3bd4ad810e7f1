"""A world of `tests.fakes.coordinator_world` behind the real gRPC server: mutual TLS, guard, servicers, metrics."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import grpc.aio

from common.clock import Clock, SystemClock
from common.identity_folder import IdentityFolder
from common.logging import get_logger
from common.signing import SigningKey
from common.tls import CHANNEL_OPTIONS, Role, channel_credentials, load_identity
from coordinator.adapters.metrics import CoordinatorMetrics
from coordinator.adapters.pki.issuing import FolderIssuer
from coordinator.adapters.rpc.admin_service import AdminServicer, AdminUseCases, MembershipUseCases, RegistryServicer
from coordinator.adapters.rpc.identity_service import EnrolmentServicer, IdentityServicer
from coordinator.adapters.rpc.interceptor import GuardInterceptor
from coordinator.adapters.rpc.rounds_service import RoundServicer, RoundUseCases
from coordinator.adapters.rpc.server import Servicers, start_enrolment_server, start_server
from coordinator.adapters.rpc.traffic_meter import TrafficMeter
from coordinator.app.enrol_site import Enrolment
from coordinator.app.make_release import ReleaseMaker
from coordinator.app.members import Members
from tests.fakes.coordinator_world import World
from tests.running import Consortium

STREAM_PROGRESS_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server that listens, and what it counts."""

    consortium: Consortium
    address: str
    metrics: CoordinatorMetrics
    world: World
    membership: MembershipUseCases
    identity: IdentityFolder

    def channel(self, name: str, role: Role) -> grpc.aio.Channel:
        """A channel of that caller; close it, or use it as a context."""
        credentials = channel_credentials(load_identity(self.consortium.identity(name, role)))
        return grpc.aio.secure_channel(self.address, credentials, options=CHANNEL_OPTIONS)

    async def audited(self) -> list[dict[str, str]]:
        """What the audit log tells, oldest first."""
        lines = await self.world.store.audit_lines(0, 1000)
        return [json.loads(line) for line in lines]

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
    world: World,
    consortium: Consortium,
    *,
    stream_progress_seconds: float = STREAM_PROGRESS_SECONDS,
    clock: Clock | None = None,
    release_key: SigningKey | None = None,
) -> AsyncIterator[Served]:
    """Serve ``world`` on free ports of loopback; certificates go by ``clock``, the machine's own unless said."""
    clock = clock or SystemClock()
    metrics = CoordinatorMetrics()
    rounds = round_use_cases(world, stream_progress_seconds)
    identity = IdentityFolder(consortium.identity("coordinator", Role.COORDINATOR))
    issuer = FolderIssuer(
        folder=consortium.folder / "ca",
        consortium="demo",
        lifetime=timedelta(days=7),
        trust_bundle_pem=lambda: identity.identity().trust_bundle_pem,
    )
    enrolment = Enrolment(world.members, world.standings, issuer, world.store, clock, secrets.token_urlsafe)
    stranger = EnrolmentServicer(enrolment, metrics, get_logger("tests"))
    enrolling = await start_enrolment_server("127.0.0.1:0", identity.identity, stranger)
    membership = MembershipUseCases(
        enrolment=enrolment,
        members=Members(world.members, world.standings, world.driver, world.kept, clock),
        standings=world.standings,
        issuer=issuer,
        consortium="demo",
        enrolment_port=enrolling.port,
    )
    admin = AdminUseCases(
        driver=world.driver,
        answers=world.answers,
        presence=world.presence,
        store=world.store,
        clock=world.clock,
        membership=membership,
        audit=world.store,
        releases=ReleaseMaker(world.driver, world.store, world.clock, release_key),
    )
    servicers = Servicers(
        rounds=RoundServicer(rounds),
        admin=AdminServicer(admin),
        registry=RegistryServicer(world.driver),
        identity=IdentityServicer(enrolment, membership.members),
    )
    guard = GuardInterceptor("demo", metrics, get_logger("tests"), stream_progress_seconds, world.standings)
    running = await start_server("127.0.0.1:0", identity.identity, guard, servicers)
    try:
        yield Served(
            consortium=consortium,
            address=f"localhost:{running.port}",
            metrics=metrics,
            world=world,
            membership=membership,
            identity=identity,
        )
    finally:
        await running.server.stop(0)
        await enrolling.server.stop(0)
