"""What the use cases need of the world, as Protocols. Implementations are in `adapters/`; nothing is done here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from common.errors import Reason
from common.ids import AssignmentId, Digest
from common.terms import Terms
from site_agent.app.answers import EvaluationScores, ReportedProgress, UploadHeader, UploadOffset
from site_agent.domain.assignment import Assignment, Cancel
from site_agent.domain.assignment_machine import AssignmentState
from site_agent.domain.egress import FileLayout
from site_agent.domain.times import Begun
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

    async def await_assignment(
        self, current: AssignmentId | None, held_for: Reason | None = None
    ) -> Assignment | Unreadable | Cancel | None:
        """Hold one poll open; None when there is nothing yet. ``held_for``: why ``current`` is not begun yet."""

    async def decline(self, assignment_id: AssignmentId, reason: Reason) -> None:
        """Say no."""

    def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes | memoryview, None]:
        """An adapter file's bytes from ``offset``, chunk after chunk, in order and without a hole."""

    async def upload_offset(self, assignment_id: AssignmentId, digest: Digest) -> UploadOffset:
        """How far an upload is."""

    async def upload(self, header: UploadHeader, path: Path, offset: int) -> None:
        """Send the file's bytes from ``offset``; returns once the update is accepted."""

    async def report_progress(self, assignment_id: AssignmentId, progress: ReportedProgress) -> None:
        """Tell how far the trainer is."""

    async def report_evaluation(self, assignment_id: AssignmentId, scores: EvaluationScores) -> None:
        """Give scores."""


class Trainer(Protocol):
    """Whoever holds notes and GPU."""

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure | None:
        """Do ``order`` in its folder, unless it was done already. Cancelled, it stops the work.

        None: it ended because it was asked to stop; done again, the order goes on from what it left in the folder.
        """

    def ask_to_stop(self, folder: Path) -> None:
        """Let the work in ``folder`` write down where it stands and end; it may end by itself before."""

    def outcome(self, folder: Path) -> Result | Failure | None:
        """What was left in the folder by work that is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedFile:
    """A safetensors file as the egress check and the upload's header need it."""

    layout: FileLayout
    digest: Digest
    size_bytes: int


# Reads a file that the trainer wrote. Raises UpdateRefusedError when it is none.
DescribeFile = Callable[[Path], DescribedFile]

# Frobenius norm of what changed from the adapter in the second file to the update in the first. Raises
# UpdateRefusedError when one of them is no safetensors file, or a tensor of the update has no counterpart.
MeasureMove = Callable[[Path, Path], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One assignment and where it stands."""

    assignment: Assignment
    state: AssignmentState


class Journal(Protocol):
    """The assignments this agent knows, on disk, each with its order folder."""

    def save(self, entry: Entry) -> None:
        """Store ``entry`` durably; of one that has ended, what is heavy is removed, and so are old entries."""

    def find(self, assignment_id: AssignmentId) -> Entry | None:
        """The entry of this id."""

    def open_entries(self) -> list[Entry]:
        """What is still to be done, oldest first."""

    def folder(self, assignment_id: AssignmentId) -> Path:
        """The order folder of an assignment in the journal."""


class PersonalAdapters(Protocol):
    """Factors that stay at the site: its own part of each run's adapter, round by round."""

    def lay_out(self, terms: Terms, round_number: int, target: Path) -> None:
        """Copy what the site starts round ``round_number`` from to ``target``; nothing, when it has none.

        That is what it kept last in the run before that round, or else its head start.
        """

    def keep(self, terms: Terms, round_number: int, source: Path) -> None:
        """Keep what came out of the round, durably; done twice it changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a person at the site said to the terms of a run.

    Attributes:
        by: The user of the operating system.
        because: In the person's own words, for the people at the site.
    """

    is_approved: bool
    by: str
    at: datetime
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableVerdict:
    """Somebody said something, and it cannot be known what: it may be a no."""

    detail: str


class Approvals(Protocol):
    """Terms that were offered to this site, and what people said to them, on disk; both by the terms' digest."""

    def show(self, terms: Terms, at: datetime) -> None:
        """Let people see these terms; those that they see already stay as they are."""

    def verdict(self, terms_digest: Digest) -> Verdict | UnreadableVerdict | None:
        """What a person said, as of now; None when nobody did."""


class BegunRounds(Protocol):
    """When this site began which assignments to train, on disk, as far as they count in a day."""

    def begun(self) -> Begun:
        """All of them."""

    def begin(self, assignment_id: AssignmentId, at: datetime) -> None:
        """One more, durably; one that is there stays as it is."""


class Observer(Protocol):
    """Counts what happens; see `adapters/metrics.py`."""

    def connection_changed(self, is_connected: bool) -> None:
        """The coordinator answers, or no longer does."""

    def assignment_moved(self, entry: Entry) -> None:
        """An assignment stands somewhere else."""

    def trainer_progressed(self, progress: Progress) -> None:
        """The trainer said where it stands."""

    def update_accepted(self, num_examples: int) -> None:
        """An update of so many examples is in the round."""
