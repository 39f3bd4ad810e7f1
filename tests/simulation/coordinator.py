"""The coordinator as it runs on a simulated machine: real store, folders, use cases and rpcs."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc

from common.logging import get_logger
from common.terms import Terms
from coordinator.adapters.metrics import CoordinatorMetrics
from coordinator.adapters.rpc.interceptor import GuardInterceptor
from coordinator.adapters.rpc.rounds_service import RoundServicer
from coordinator.app.counted_time import LONGEST_GAP_SECONDS
from coordinator.app.create_run import create
from fedmedlora.v1 import rounds_pb2_grpc
from tests.fakes.coordinator_served import round_use_cases
from tests.fakes.coordinator_world import FakeClock, World, coordinator
from tests.simulation.database import LifeDatabase
from tests.simulation.machines import Life
from tests.simulation.network import Network
from tests.simulation.system_calls import ROOT

Rpcs: TypeAlias = "dict[str, grpc.RpcMethodHandler[Any, Any]]"


class _Served:
    """Takes the place of gRPC's server: keeps what it would serve."""

    def __init__(self) -> None:
        self.rpcs: Rpcs = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """They are the same as the registered ones."""

    def add_registered_method_handlers(self, service: str, handlers: Rpcs) -> None:
        self.rpcs |= {f"/{service}/{method}": handler for method, handler in handlers.items()}


class CoordinatorProgram:
    """What each life of the coordinator does. ``world`` is that of the newest one."""

    def __init__(self, network: Network, terms: Terms) -> None:
        self.world: World | None = None
        self._network = network
        self._terms = terms

    async def __call__(self, life: Life) -> None:
        root = Path(f"/{ROOT}/{life.name}/srv/state")
        clock = cast(FakeClock, life.machine.clock)  # nobody advances it
        database = LifeDatabase(life)
        async with coordinator(root, clock, LONGEST_GAP_SECONDS, database) as world:
            self.world = world
            world.presence.know(site.name for site in await world.store.known_sites())
            self._network.listen(life, await _rpcs(world))
            await create(world.driver, world.clock, self._terms)  # an operator who does it until it is done
            async with asyncio.TaskGroup() as group:
                group.create_task(world.driver.watch())
                group.create_task(world.driver.perform_commands(world.performer.perform))


async def _rpcs(world: World) -> Rpcs:
    """The rpcs of an agent, behind the guard."""
    served = _Served()
    rounds_pb2_grpc.add_RoundServiceServicer_to_server(RoundServicer(round_use_cases(world)), cast(Any, served))
    guard = GuardInterceptor("demo", _metrics(), get_logger("coordinator"))
    return {method: await _guarded(guard, method, handler) for method, handler in served.rpcs.items()}


async def _guarded(
    guard: GuardInterceptor, method: str, handler: grpc.RpcMethodHandler[Any, Any]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def found(_details: object) -> grpc.RpcMethodHandler[Any, Any]:
        return handler

    details = cast(grpc.HandlerCallDetails, _Details(method))
    guarded = await guard.intercept_service(found, details)
    assert guarded is not None
    return guarded


class _Details:
    def __init__(self, method: str) -> None:
        self.method = method


@cache
def _metrics() -> CoordinatorMetrics:
    """Nobody reads them here: one for all lives."""
    return CoordinatorMetrics()
