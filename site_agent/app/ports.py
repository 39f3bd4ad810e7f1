"""What the use cases need of the world, as Protocols. Implementations are in `adapters/`; nothing is done here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.errors import Reason
from common.ids import AssignmentId, Digest
from site_agent.app.answers import EvaluationScores, UploadHeader, UploadOffset
from site_agent.domain.assignment import Assignment, Cancel
from site_agent.domain.assignment_machine import AssignmentState
from site_agent.orders import (
    EvaluateOrder,
    EvaluateResult,
    Failure,
    InitialiseOrder,
    InitialiseResult,
    Progress,
    TrainOrder,
    TrainResult,
)

Order = InitialiseOrder | TrainOrder | EvaluateOrder
Result = InitialiseResult | TrainResult | EvaluateResult
ProgressRelay = Callable[[Progress], Awaitable[None]]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An assignment that this agent cannot read: it asks for something that a newer agent may know."""

    assignment_id: AssignmentId
    detail: str


class Coordinator(Protocol):
    """The coordinator, as an agent may call it. Every call has a deadline and raises errors of `common.errors`."""

    async def await_assignment(self, current: AssignmentId | None) -> Assignment | Unreadable | Cancel | None:
        """Hold one poll open; None when there is nothing yet."""

    async def decline(self, assignment_id: AssignmentId, reason: Reason) -> None:
        """Say no."""

    def download(self, digest: Digest, offset: int) -> AsyncIterator[bytes]:
        """An adapter file's bytes from ``offset``, chunk after chunk, in order and without a hole."""

    async def upload_offset(self, assignment_id: AssignmentId, digest: Digest) -> UploadOffset:
        """How far an upload is."""

    async def upload(self, header: UploadHeader, path: Path, offset: int) -> None:
        """Send the file's bytes from ``offset``; returns once the update is accepted."""

    async def report_progress(self, assignment_id: AssignmentId, progress: Progress) -> None:
        """Tell how far the trainer is."""

    async def report_evaluation(self, assignment_id: AssignmentId, scores: EvaluationScores) -> None:
        """Give scores."""


class Trainer(Protocol):
    """Whoever holds notes and GPU."""

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure:
        """Do ``order`` in its folder, unless it was done already. Cancelled, it stops the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One assignment and where it stands."""

    assignment: Assignment
    state: AssignmentState


class Journal(Protocol):
    """The assignments this agent knows, on disk, each with its order folder."""

    def save(self, entry: Entry) -> None:
        """Store ``entry`` durably; once it has ended, what is heavy in its folder is removed, and so are old entries."""

    def find(self, assignment_id: AssignmentId) -> Entry | None:
        """The entry of this id."""

    def open_entries(self) -> list[Entry]:
        """What is still to be done, oldest first."""

    def folder(self, assignment_id: AssignmentId) -> Path:
        """The order folder of an assignment in the journal."""


class Observer(Protocol):
    """Counts what happens; see `adapters/metrics.py`."""

    def coordinator_is_present(self, is_present: bool) -> None:
        """The coordinator answers, or no longer does."""

    def assignment_ended(self, entry: Entry) -> None:
        """An assignment reached its end."""

    def bytes_received(self, count: int) -> None:
        """Adapter bytes came in."""

    def bytes_sent(self, count: int) -> None:
        """Update bytes went out."""

    def trainer_progressed(self, progress: Progress) -> None:
        """The trainer said where it stands."""

    def trainer_finished(self, result: Result) -> None:
        """The trainer left a result."""
