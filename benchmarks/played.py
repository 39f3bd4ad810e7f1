"""A coordinator and an evaluator as processes, and sites that this process plays over the agent's own client.

So a benchmark decides when a site sends what, and what stands between the two; the trainer is synthetic.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from benchmarks.federation import prepare, synthetic_terms, trainer_of
from common.clock import SystemClock
from common.errors import Reason
from common.ids import SiteName
from common.terms import LoraTerms, Terms
from common.tls import Caller, Role, load_identity
from coordinator.adapters.pki.key_certification import make_signing_key
from coordinator.adapters.rpc.operator_client import OperatorClient, connect
from demo.federation import loopback, start_coordinator
from demo.prepare import Prepared
from demo.processes import process_group
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.outgoing import CommandAttribution
from site_agent.adapters.recorded_channel import Dial, Recorder
from site_agent.adapters.rpc_client import RpcCoordinator
from site_agent.app.answers import TrainedUpdate
from site_agent.app.download import download_once
from site_agent.domain.assignment import Assignment, TrainWork
from site_agent.domain.ledger import Origin

LARGE = ("llama-3.1-8b", LoraTerms(lora_rank=16, lora_alpha=32))  # 84 MB in bf16
_FAR = datetime.now(UTC) + timedelta(days=1)


class Counted:
    """The client's `Traffic`: tells ``on_sent`` how many bytes of an upload have been handed over."""

    def __init__(self, on_sent: Callable[[int], None] = lambda _bytes: None) -> None:
        self._on_sent = on_sent
        self._sent = 0

    def sent(self, rpc: str, count: int) -> None:
        """So many bytes more."""
        if rpc == "UploadUpdate":
            self._sent += count
            self._on_sent(self._sent)

    def received(self, rpc: str, count: int) -> None:
        """Nothing is asked of these."""

    def failed(self, reason: Reason) -> None:
        """The call raises it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What runs, and how to reach it."""

    prepared: Prepared
    address: str
    operator: OperatorClient

    @property
    def terms(self) -> Terms:
        """Of the one run."""
        return self.prepared.terms

    def home(self, site: str) -> Path:
        """The folder of a site; its identity lies in ``identity``."""
        return self.prepared.agent_configs[site].parent

    @asynccontextmanager
    async def site(
        self, name: str, traffic: Counted | None = None, recorder: Recorder | None = None
    ) -> AsyncIterator[RpcCoordinator]:
        """The coordinator as that site's agent calls it; ``recorder`` in place of the site's ledger."""
        ledger = recorder or FileLedger(self.home(name), name, Origin.COMMAND, SystemClock())
        dial = Dial(self.address, ledger, CommandAttribution(), "localhost")
        async with dial.channel(load_identity(self.home(name) / "identity")) as channel:
            yield RpcCoordinator(channel, traffic or Counted(), _FAR)


@asynccontextmanager
async def playing(folder: Path, sites: list[str], rounds: int) -> AsyncIterator[Played]:
    """A run of ``rounds`` rounds of the large adapter with ``sites``; an update of one is enough for a round."""
    shape, lora = LARGE
    terms = synthetic_terms(lora, sites, rounds)
    terms = replace(terms, rounds=replace(terms.rounds, quorum=1, train_deadline=86_400.0, grace=86_400.0))
    addresses = loopback(1)
    prepared = prepare(folder, terms, addresses, trainer_of(shape, "ONCE"))
    for site in sites:
        caller = Caller(name=SiteName(site), role=Role.SITE, consortium="benchmark")
        make_signing_key(folder / "ca", caller, prepared.agent_configs[site].parent / "identity")
    with process_group(folder / "logs") as group:
        await asyncio.to_thread(start_coordinator, prepared, addresses, group)
        group.start("evaluator", "site_agent", "run", "--config", str(prepared.agent_configs["evaluator"]))
        async with connect(addresses.coordinator, prepared.operator_identity) as operator:
            await operator.create_run(terms)
            yield Played(prepared=prepared, address=addresses.coordinator, operator=operator)


async def next_assignment(site: RpcCoordinator, after: str = "") -> Assignment:
    """What the site is to train now; another one than ``after``."""
    while True:
        answer = await site.await_assignment(None)
        if isinstance(answer, Assignment) and answer.assignment_id != after:
            return answer
        await asyncio.sleep(0.05)


async def global_adapter(site: RpcCoordinator, assignment: Assignment, path: Path) -> TrainedUpdate:
    """Fetch what the round starts from; sent back as it is, it is an update with this content."""
    assert isinstance(assignment.work, TrainWork)
    await download_once(site, assignment.work.global_adapter, path)
    return TrainedUpdate(
        base_digest=assignment.work.global_adapter.digest, num_examples=100, num_label_tokens=5_000, mean_loss=1.0
    )


def told(line: str) -> None:
    """Say how far a benchmark is."""
    Console(file=sys.stderr).print(line)
