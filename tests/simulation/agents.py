"""A site's or evaluator's agent as it runs on a simulated machine: real journal, loop and rpcs; its trainer is played.

The trainer dies with its agent, trains for a while that is drawn, and keeps a checkpoint; what it brings about is a
function of the order, the adapter and the site.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from common.errors import Reason
from common.files import write_whole
from common.ids import AssignmentId, Digest
from coordinator.domain.aggregation import STRATEGIES
from site_agent.adapters.approval_folder import ApprovalFolder
from site_agent.adapters.begun_rounds import BegunFile
from site_agent.adapters.journal import FileJournal
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.order_folder import read_outcome, write_order
from site_agent.adapters.outgoing import JournalAttribution
from site_agent.adapters.personal_folder import PersonalFolder
from site_agent.adapters.recorded_channel import RecordedChannel
from site_agent.adapters.rpc_client import RpcCoordinator
from site_agent.adapters.update_file import describe_file, measure_move
from site_agent.app.agent_loop import AgentLoop
from site_agent.app.answers import UploadHeader
from site_agent.app.ordering import LocalSettings
from site_agent.app.parts import Parts
from site_agent.app.ports import Entry, Order, ProgressRelay, Result
from site_agent.app.retrying import Patience
from site_agent.domain.ledger import Origin
from site_agent.orders import (
    CHECKPOINT_FILE,
    RESULT,
    RESULT_FILE,
    SIDE_FILE,
    Failure,
    Progress,
    TrainerStage,
    TrainOrder,
)
from tests.fakes import tiny_trainer
from tests.fakes.site_values import EVERY_KIND
from tests.simulation.machines import Life
from tests.simulation.network import Channel, Network
from tests.simulation.system_calls import ROOT

EVERY_STRATEGY = frozenset(STRATEGIES)
FAR_AWAY = datetime(2100, 1, 1, tzinfo=UTC)
_TOO_LATE = frozenset({Reason.ROUND_CLOSED, Reason.RUN_ENDED})
LOCAL = LocalSettings(
    base_model_location="/model", device="cpu", threads=1, train_files=("/notes",), validation_files=("/notes",)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What a site's notes make of an adapter: every number raised by ``step``; so many tokens.

    ``max_lora_rank``: the highest at which it trains; 0: any.
    """

    step: float = tiny_trainer.STEP
    num_label_tokens: int = tiny_trainer.NUM_LABEL_TOKENS
    max_lora_rank: int = 0


@dataclass(slots=True)
class Book:
    """What is known from outside of the work of all agents: it outlives them."""

    begun: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    accepted: dict[AssignmentId, Digest] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)  # for another reason than that others were faster


@dataclass(slots=True)
class PlayedTrainer:
    """The `Trainer` port; a result that is there is never made again."""

    notes: Notes
    book: Book
    rng: random.Random

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure:
        outcome = read_outcome(folder)
        if outcome is not None:
            return outcome
        write_order(folder, order)
        if isinstance(order, TrainOrder) and bool(order.side_lora_rank) is not (folder / SIDE_FILE).exists():
            self.book.refused.append(f"{folder.name}: a side of rank {order.side_lora_rank} is not what was fetched")
        self.book.begun[folder.name] += 1
        steps = 2
        for step in range(steps):
            await asyncio.sleep(self.rng.expovariate(1 / 20))
            write_whole(folder / CHECKPOINT_FILE, bytes([step]))
            await relay(Progress(stage=TrainerStage.TRAINING, step=step + 1, steps=steps, loss=1.0))
        result = tiny_trainer.perform(folder, self.notes.step, self.notes.num_label_tokens)
        write_whole(folder / RESULT_FILE, RESULT.dump_json(result))
        self.book.finished[folder.name] += 1
        return result

    def ask_to_stop(self, folder: Path) -> None:
        raise AssertionError("no site of the simulation has hours")

    def outcome(self, folder: Path) -> Result | Failure | None:
        return read_outcome(folder)


@dataclass(frozen=True, slots=True)
class _Watcher:
    """The `Observer` port, and the traffic of the rpcs: of all that, only a no goes into the book."""

    book: Book

    def assignment_moved(self, entry: Entry) -> None:
        reason = entry.state.reason
        if reason is not None and reason not in _TOO_LATE:
            self.book.refused.append(f"{entry.assignment.kind} {entry.state.stage}: {reason}, {entry.state.detail}")

    def connection_changed(self, is_connected: bool) -> None: ...
    def trainer_progressed(self, progress: Progress) -> None: ...
    def update_accepted(self, num_examples: int) -> None: ...
    def sent(self, rpc: str, count: int) -> None: ...
    def received(self, rpc: str, count: int) -> None: ...
    def failed(self, reason: Reason) -> None: ...


class _Coordinator(RpcCoordinator):
    """The real one; what it was told is accepted goes into the book."""

    book: Book

    async def upload(self, header: UploadHeader, path: Path, offset: int) -> None:
        await super().upload(header, path, offset)
        self.book.accepted[header.assignment_id] = header.digest


@dataclass(frozen=True, slots=True)
class AgentProgram:
    """What each life of an agent does."""

    network: Network
    notes: Notes
    book: Book
    rng: random.Random
    jitter: Callable[[], float]

    async def __call__(self, life: Life) -> None:
        watcher = _Watcher(self.book)
        state = Path(f"/{ROOT}/{life.name}/srv/state")
        journal = FileJournal(state)
        ledger = FileLedger(state, life.name, Origin.AGENT, life.machine.clock)
        channel = RecordedChannel(cast(Any, Channel(self.network, life)), ledger, JournalAttribution(journal))
        coordinator = _Coordinator(channel, watcher, FAR_AWAY, life.machine.clock, self.notes.max_lora_rank)
        coordinator.book = self.book
        parts = Parts(
            coordinator=coordinator,
            trainer=PlayedTrainer(self.notes, self.book, self.rng),
            journal=journal,
            personal=PersonalFolder(Path(f"/{ROOT}/{life.name}/srv/state")),
            approvals=ApprovalFolder(Path(f"/{ROOT}/{life.name}/srv/state")),
            begun=BegunFile(Path(f"/{ROOT}/{life.name}/srv/state")),
            describe_file=describe_file,
            measure_move=measure_move,
            observer=watcher,
            policy=replace(EVERY_KIND, strategies=EVERY_STRATEGY),
            local=LOCAL,
            now=life.machine.clock.now,
            patience=Patience(jitter=self.jitter),
        )
        await AgentLoop(parts).run()
