"""Runs the demo's federation: a coordinator, an evaluator and the sites as processes of their own, over loopback."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from common.errors import FedMedError
from coordinator.adapters.rpc.operator_client import connect
from demo.enrolment import enrol_agents
from demo.live import follow_run
from demo.options import DemoOptions
from demo.prepare import Addresses, Prepared, prepare
from demo.processes import ProcessGroup
from demo.release import Release, release_best
from fedmedlora.v1 import admin_pb2

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Federated:
    """A run that has ended, what it ran on, and what came of it for everybody else."""

    prepared: Prepared
    run: admin_pb2.RunReport
    release: Release

    @property
    def adapter_folder(self) -> Path:
        """The served adapter: a plain PEFT folder."""
        return self.prepared.state / self.run.served_folder


def loopback(agents: int) -> Addresses:
    """Free ports of this machine for a coordinator and ``agents`` agents."""
    return addresses_of(free_ports(agents + 3))


def addresses_of(ports: Sequence[int]) -> Addresses:
    """What a federation on loopback listens on: two ports of the coordinator, and one for metrics of each process."""
    port, enrolment_port, *others = ports
    return Addresses(
        coordinator=f"localhost:{port}",
        coordinator_listen=f"127.0.0.1:{port}",
        enrolment_listen=f"127.0.0.1:{enrolment_port}",
        metrics=[f"127.0.0.1:{other}" for other in others],
    )


def run_federation(options: DemoOptions, group: ProcessGroup, console: Console) -> Federated:
    """Prepare, start, follow to the end, release, stop.

    Raises:
        RuntimeError: a process died, the run did not complete, or the release does not verify; says where a log is.
    """
    addresses = loopback(options.sites + 1)
    console.print(
        f"preparing a consortium with {options.sites} sites and an evaluator in {options.out}", soft_wrap=True
    )
    prepared = prepare(options, addresses)
    console.print(f"metrics of every process (Prometheus): {_urls(addresses.metrics)}", soft_wrap=True)
    run = _run_to_the_end(prepared, addresses, group, console)
    release = release_best(prepared, addresses.coordinator, options.out / "release", group)
    console.print(f"released the best adapter, and verified: {release.said[0]}", soft_wrap=True, highlight=False)
    group.stop()
    return Federated(prepared=prepared, run=run, release=release)


def run_prepared(
    prepared: Prepared, addresses: Addresses, group: ProcessGroup, console: Console
) -> admin_pb2.RunReport:
    """Start the processes in ``group``, create the run, follow it to its end, stop the processes.

    Raises:
        RuntimeError: a process died, or the run did not complete; says where its log is.
    """
    run = _run_to_the_end(prepared, addresses, group, console)
    group.stop()
    return run


def _run_to_the_end(
    prepared: Prepared, addresses: Addresses, group: ProcessGroup, console: Console
) -> admin_pb2.RunReport:
    start_coordinator(prepared, addresses, group)
    enrol_agents(prepared, addresses.coordinator, group, console)
    for name, config in prepared.agent_configs.items():
        group.start(name, "site_agent", "run", "--config", str(config), environment={"OMP_NUM_THREADS": "1"})
    asyncio.run(_create(addresses.coordinator, prepared))
    run = follow_run(
        addresses.coordinator, prepared.operator_identity, prepared.terms.name, console, lambda: _all_alive(group)
    )
    if run.summary.state != admin_pb2.RUN_STATE_COMPLETED or not run.served_folder:
        state = admin_pb2.RunState.Name(run.summary.state)
        raise RuntimeError(f"the run ended as {state}; the processes' logs are beside {group.log_of('coordinator')}")
    return run


def start_coordinator(prepared: Prepared, addresses: Addresses, group: ProcessGroup) -> None:
    """Start the coordinator in ``group``; returns when it serves.

    Raises:
        RuntimeError: it died, or does not serve in time.
    """
    group.start("coordinator", "coordinator", "serve", "--config", str(prepared.coordinator_config))
    _wait_until_serving(addresses.coordinator, prepared.operator_identity, group)


async def _create(address: str, prepared: Prepared) -> None:
    async with connect(address, prepared.operator_identity) as client:
        await client.create_run(prepared.terms)


def _wait_until_serving(address: str, identity: Path, group: ProcessGroup) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while time.monotonic() < ends_at:
        _all_alive(group)
        with suppress(FedMedError):  # it does not listen yet
            if asyncio.run(_is_serving(address, identity)):
                return
        time.sleep(0.2)
    raise RuntimeError(f"the coordinator does not serve after {START_SECONDS:g} s: {group.log_of('coordinator')}")


async def _is_serving(address: str, identity: Path) -> bool:
    async with connect(address, identity) as client:
        return await client.is_serving()


def _all_alive(group: ProcessGroup) -> None:
    for name, code in group.ended().items():
        raise RuntimeError(f"{name} ended with exit code {code}: {group.log_of(name)}")


def _urls(listens: Sequence[str]) -> str:
    return " ".join(f"http://{listen}/metrics" for listen in listens)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
