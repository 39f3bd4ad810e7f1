"""The registry and the health of the coordinator over gRPC, for the commands. Assignments are `rpc_client`'s."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.errors import Reason
from common.ids import Digest, check_digest
from common.rpc_errors import from_rpc_error
from common.wire import spec_from_proto, terms_from_proto
from fedmedlora.v1 import registry_pb2, registry_pb2_grpc, rounds_pb2, rounds_pb2_grpc
from site_agent.adapters.recorded_channel import RecordedChannel
from site_agent.adapters.rpc_client import CALL_SECONDS, RpcCoordinator
from site_agent.adapters.translate import adapter_ref
from site_agent.app.fetch_adapter import AdapterVersion, RunAdapters


class _Uncounted:
    """The `Traffic` of a command, which nobody scrapes."""

    def sent(self, rpc: str, count: int) -> None:
        """Not counted."""

    def received(self, rpc: str, count: int) -> None:
        """Not counted."""

    def failed(self, reason: Reason) -> None:
        """Not counted."""


class RegistryClient:
    """Implements `site_agent.app.fetch_adapter.Registry`."""

    def __init__(self, channel: RecordedChannel, expires_at: datetime) -> None:
        self._registry = channel.stub(registry_pb2_grpc.RegistryServiceStub)
        self._coordinator = RpcCoordinator(channel, _Uncounted(), expires_at)

    async def adapters_of(self, run: str) -> RunAdapters:
        """See the port."""
        request = registry_pb2.ListAdapterVersionsRequest(run=run)
        try:
            response = await self._registry.ListAdapterVersions(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return RunAdapters(
            versions=tuple(_version(message) for message in response.versions),
            terms=terms_from_proto(response.terms),
            spec=spec_from_proto(response.spec) if response.HasField("spec") else None,
        )

    def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes | memoryview, None]:
        """See the port."""
        return self._coordinator.download(digest, offset)


def _version(message: registry_pb2.AdapterVersion) -> AdapterVersion:
    return AdapterVersion(
        version=message.version,
        adapter=adapter_ref(message.adapter),
        parent_digest=check_digest(message.parent_digest, "parent_digest") if message.parent_digest else None,
        is_promoted=message.is_promoted,
        contributors=tuple(message.contributors),
    )


async def coordinator_serves(channel: RecordedChannel) -> bool:
    """Whether the coordinator answers this identity, and says that it serves."""
    health: Any = channel.stub(health_pb2_grpc.HealthStub)  # its type stubs know no methods
    try:
        response = await health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def server_time(channel: RecordedChannel) -> datetime:
    """The coordinator's time.

    Raises:
        FedMedError: It does not answer, or refuses; INTERNAL when it is of a version that does not tell its time.
    """
    rounds = channel.stub(rounds_pb2_grpc.RoundServiceStub)
    try:
        response = await rounds.GetServerTime(rounds_pb2.GetServerTimeRequest(), timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    return response.now.ToDatetime(UTC)
