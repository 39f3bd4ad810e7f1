"""An agent's loop with a scripted coordinator and trainer around it: each answer is given by the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from common.errors import (
    FedMedError,
    NotNowError,
    Reason,
)
from common.ids import AssignmentId, Digest
from common.signing import SigningKey
from site_agent.adapters.approval_folder import ApprovalFolder
from site_agent.adapters.begun_rounds import BegunFile
from site_agent.adapters.journal import FileJournal
from site_agent.adapters.metrics import AgentMetrics
from site_agent.adapters.personal_folder import PersonalFolder
from site_agent.app.agent_loop import AgentLoop
from site_agent.app.answers import EvaluationScores, ReportedProgress, UploadHeader, UploadOffset
from site_agent.app.ordering import LocalSettings
from site_agent.app.parts import Parts
from site_agent.app.ports import DescribedFile, Order, ProgressRelay, Result, Unreadable
from site_agent.app.retrying import Patience
from site_agent.domain.assignment import Assignment, Cancel
from site_agent.domain.assignment_machine import Stage
from site_agent.domain.egress import FileLayout
from site_agent.domain.policy import SitePolicy
from site_agent.orders import Failure, Progress, TrainerStage, TrainResult
from tests.fakes.site_values import (
    EVERY_KIND,
    digest,
    make_ref,
    make_spec,
    train_assignment,
    with_work,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
Answer = Assignment | Unreadable | Cancel | None
TRAINED = TrainResult(
    num_examples=3,
    num_label_tokens=9,
    mean_loss=0.5,
    steps=2,
    seconds=1.0,
    tokens_per_second=5.0,
    padding_share=0.0,
    peak_memory_bytes=1,
)
ADAPTER = b"a" * (make_spec().data_bytes + 500)


@dataclass
class ScriptedCoordinator:
    """Answers polls as told; every other call succeeds unless it is told to fail."""

    polls: list[AssignmentId | None] = field(default_factory=list)
    held: list[Reason | None] = field(default_factory=list)
    answers: asyncio.Queue[Answer | FedMedError] = field(default_factory=asyncio.Queue)
    upload_errors: list[FedMedError] = field(default_factory=list)
    uploads: list[UploadHeader] = field(default_factory=list)
    declined: list[Reason] = field(default_factory=list)
    decline_errors: list[FedMedError] = field(default_factory=list)
    progress: list[ReportedProgress] = field(default_factory=list)
    upload_may_end: asyncio.Event = field(default_factory=asyncio.Event)
    upload_began: asyncio.Event = field(default_factory=asyncio.Event)

    async def await_assignment(self, current: AssignmentId | None, held_for: Reason | None = None) -> Answer:
        self.polls.append(current)
        self.held.append(held_for)
        answer = await self.answers.get()
        if isinstance(answer, FedMedError):
            raise answer
        return answer

    async def decline(self, assignment_id: AssignmentId, reason: Reason) -> None:
        if self.decline_errors:
            raise self.decline_errors.pop(0)
        self.declined.append(reason)

    async def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes, None]:
        yield ADAPTER[offset:]

    async def upload_offset(self, assignment_id: AssignmentId, digest: Digest) -> UploadOffset:
        return UploadOffset(offset=0, is_accepted=False)

    async def upload(self, header: UploadHeader, path: Path, offset: int) -> None:
        self.uploads.append(header)
        self.upload_began.set()
        if self.upload_errors:
            raise self.upload_errors.pop(0)
        await self.upload_may_end.wait()

    async def report_progress(self, assignment_id: AssignmentId, progress: ReportedProgress) -> None:
        self.progress.append(progress)
        raise NotNowError(Reason.ROUND_CLOSED, "a lost report costs nothing")

    async def report_evaluation(self, assignment_id: AssignmentId, scores: EvaluationScores) -> None:
        raise AssertionError("no evaluation is expected")


@dataclass
class ScriptedTrainer:
    """Gives ``result`` once it may end, or raises it; asked to stop it ends without one, if it heeds that."""

    result: Result | Failure | Exception = TRAINED
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    starts: int = 0
    stops: int = 0
    heeds: bool = True
    was_stopped: bool = False

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure | None:
        self.starts += 1
        stops = self.stops
        await relay(Progress(stage=TrainerStage.TRAINING))
        try:
            while not self.may_end.is_set():
                if self.stops > stops and self.heeds:
                    return None
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.was_stopped = True
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def ask_to_stop(self, folder: Path) -> None:
        self.stops += 1

    def outcome(self, folder: Path) -> Result | Failure | None:
        return None if isinstance(self.result, Exception) else self.result


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An agent that runs, and everything around it."""

    coordinator: ScriptedCoordinator
    trainer: ScriptedTrainer
    journal: FileJournal
    observer: AgentMetrics
    approvals: ApprovalFolder

    async def says(self, answer: Answer | FedMedError) -> None:
        """The coordinator answers the open poll; returns when the agent polls again."""
        polls = len(self.coordinator.polls)
        self.coordinator.answers.put_nowait(answer)
        await until(lambda: len(self.coordinator.polls) > polls)

    async def reaches(self, assignment: Assignment, stage: Stage) -> None:
        """Wait until the assignment stands there."""
        await until(lambda: self.stage_of(assignment) is stage)

    def stage_of(self, assignment: Assignment) -> Stage | None:
        entry = self.journal.find(assignment.assignment_id)
        return None if entry is None else entry.state.stage

    def sample(self, name: str, **labels: str) -> float | None:
        return self.observer.registry.get_sample_value(name, labels)


async def until(happened: Callable[[], object]) -> None:
    """Let the loop run until ``happened``, for a bounded time."""
    async with asyncio.timeout(60):
        while not happened():  # noqa: ASYNC110 - the journal's files have no event
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def scene(
    folder: Path,
    result: Result | Failure | Exception = TRAINED,
    policy: SitePolicy = EVERY_KIND,
    now: Callable[[], datetime] = lambda: NOON,
    moved: float = 1.0,
    signing_key: SigningKey | None = None,
    layout: Mapping[str, object] = MappingProxyType({}),
    stop_seconds: float = 20.0,
) -> AsyncIterator[Scene]:
    """A scene on ``folder``; ``layout`` changes what the trainer's file looks like, ``moved`` how far it is."""
    spec = make_spec()
    usual = FileLayout(
        tensors=spec.tensors, dtypes=frozenset({"bf16"}), metadata=frozenset({("format", "pt")}), stray_bytes=0
    )
    described = DescribedFile(layout=replace(usual, **layout), digest=digest("update"), size_bytes=100)  # type: ignore[arg-type]
    on = Scene(
        coordinator=ScriptedCoordinator(),
        trainer=ScriptedTrainer(result=result),
        journal=FileJournal(folder),
        observer=AgentMetrics(certificate_expires_at=0.0),
        approvals=ApprovalFolder(folder),
    )
    parts = Parts(
        coordinator=on.coordinator,
        trainer=on.trainer,
        journal=on.journal,
        personal=PersonalFolder(folder),
        approvals=on.approvals,
        begun=BegunFile(folder),
        describe_file=lambda path: described,
        measure_move=lambda update, start: moved,
        observer=on.observer,
        policy=policy,
        local=LocalSettings(
            base_model_location="/model", device="cpu", threads=1, train_files=("/notes",), validation_files=()
        ),
        now=now,
        patience=Patience(jitter=lambda: 0.0, look_seconds=0.001, stop_seconds=stop_seconds),
        signing_key=signing_key,
    )
    running = asyncio.create_task(AgentLoop(parts, pause_seconds=0.0).run())
    try:
        yield on
    finally:
        if not running.done():
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def assignment_of(number: int = 1) -> Assignment:
    """A TRAIN assignment whose adapter the scripted coordinator has."""
    return with_work(train_assignment(number), global_adapter=make_ref(make_spec(), ADAPTER))
