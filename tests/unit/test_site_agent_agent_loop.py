"""The agent's loop against a scripted coordinator and trainer, one step at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.errors import (
    FedMedError,
    NotNowError,
    Reason,
    UnauthenticatedError,
    UnavailableError,
    UpdateRefusedError,
)
from common.ids import AssignmentId, Digest
from common.terms import AggregationTerms
from site_agent.adapters.journal import FileJournal
from site_agent.adapters.metrics import AgentMetrics
from site_agent.app.agent_loop import AgentLoop
from site_agent.app.answers import EvaluationScores, ReportedProgress, UploadHeader, UploadOffset
from site_agent.app.ordering import LocalSettings
from site_agent.app.parts import Parts
from site_agent.app.ports import DescribedFile, Entry, Order, ProgressRelay, Result, Unreadable
from site_agent.app.retrying import Patience
from site_agent.domain.assignment import Assignment, Cancel, InitialiseWork
from site_agent.domain.assignment_machine import AssignmentState, Stage
from site_agent.domain.egress import FileLayout
from site_agent.orders import Failure, FailureReason, InitialiseResult, Progress, TrainerStage, TrainResult
from tests.fakes.site_values import (
    EVERY_KIND,
    digest,
    make_assignment,
    make_ref,
    make_spec,
    train_assignment,
    with_work,
)

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
    answers: asyncio.Queue[Answer | FedMedError] = field(default_factory=asyncio.Queue)
    upload_errors: list[FedMedError] = field(default_factory=list)
    uploads: list[UploadHeader] = field(default_factory=list)
    declined: list[Reason] = field(default_factory=list)
    decline_errors: list[FedMedError] = field(default_factory=list)
    progress: list[ReportedProgress] = field(default_factory=list)
    upload_may_end: asyncio.Event = field(default_factory=asyncio.Event)
    upload_began: asyncio.Event = field(default_factory=asyncio.Event)

    async def await_assignment(self, current: AssignmentId | None) -> Answer:
        self.polls.append(current)
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
    """Gives ``result`` once it may end, or raises it."""

    result: Result | Failure | Exception = TRAINED
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    starts: int = 0
    was_stopped: bool = False

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure:
        self.starts += 1
        await relay(Progress(stage=TrainerStage.TRAINING))
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_stopped = True
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def outcome(self, folder: Path) -> Result | Failure | None:
        return None if isinstance(self.result, Exception) else self.result


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An agent that runs, and everything around it."""

    coordinator: ScriptedCoordinator
    trainer: ScriptedTrainer
    journal: FileJournal
    observer: AgentMetrics

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
    async with asyncio.timeout(20):
        while not happened():  # noqa: ASYNC110 - the journal's files have no event
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def scene(folder: Path, result: Result | Failure | Exception = TRAINED, **layout: object) -> AsyncIterator[Scene]:
    """A scene on ``folder``; ``layout`` changes what the trainer's file looks like."""
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
    )
    parts = Parts(
        coordinator=on.coordinator,
        trainer=on.trainer,
        journal=on.journal,
        describe_file=lambda path: described,
        observer=on.observer,
        policy=EVERY_KIND,
        local=LocalSettings(
            base_model_location="/model", device="cpu", threads=1, train_files=("/notes",), validation_files=()
        ),
        patience=Patience(jitter=lambda: 0.0),
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


async def test_an_update_that_was_accepted_ends_the_assignment_and_is_counted(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DONE)
        assert on.sample("fedmed_agent_train_examples_total") == TRAINED.num_examples
        assert on.sample("fedmed_agent_assignments_total", kind="train", outcome="done") == 1


async def test_the_poll_goes_on_while_the_trainer_works_and_names_its_assignment(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.TRAINING)
        await on.says(None)
        assert on.coordinator.polls == [None, *[assignment_of().assignment_id] * 2]


async def test_a_new_poll_is_opened_as_soon_as_the_work_has_ended(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment_of())
        await until(lambda: on.coordinator.polls[-1] is None)


async def test_a_cancel_stops_the_trainer(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.TRAINING)
        await until(lambda: on.trainer.starts)
        await on.says(Cancel(assignment_id=assignment_of().assignment_id, reason=Reason.ROUND_CLOSED))
        assert on.trainer.was_stopped
        assert on.stage_of(assignment_of()) is Stage.CANCELLED


async def test_a_cancel_of_another_assignment_stops_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.TRAINING)
        await on.says(Cancel(assignment_id=assignment_of(2).assignment_id, reason=Reason.ROUND_CLOSED))
        assert on.stage_of(assignment_of()) is Stage.TRAINING


async def test_a_cancel_that_is_the_echo_of_an_answer_under_way_stops_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.coordinator.upload_began.wait()
        await on.says(Cancel(assignment_id=assignment_of().assignment_id, reason=Reason.ALREADY_ANSWERED))
        on.coordinator.upload_may_end.set()
        await on.reaches(assignment_of(), Stage.DONE)


async def test_a_second_assignment_waits_for_the_first(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(assignment_of(1))
        await on.says(assignment_of(2))
        assert on.stage_of(assignment_of(2)) is None


async def test_an_assignment_that_ended_here_is_not_begun_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.trainer.may_end.set()
        on.coordinator.upload_may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DONE)
        await until(lambda: on.coordinator.polls[-1] is None)
        await on.says(assignment_of())
        assert on.trainer.starts == 1


async def test_what_the_journal_holds_open_is_begun_before_the_first_poll(tmp_path: Path) -> None:
    entry = Entry(assignment=assignment_of(), state=AssignmentState(stage=Stage.UPLOADING))
    FileJournal(tmp_path).save(entry)
    async with scene(tmp_path) as on:
        await on.coordinator.upload_began.wait()
        assert on.trainer.starts == 0
        assert on.coordinator.polls == [assignment_of().assignment_id]


async def test_an_assignment_that_the_policy_lacks_is_declined_without_a_trainer(tmp_path: Path) -> None:
    assignment = assignment_of()
    terms = replace(assignment.terms, aggregation=AggregationTerms(strategy="unheard_of"))
    async with scene(tmp_path) as on:
        await on.says(replace(assignment, terms=terms))
        await on.reaches(assignment, Stage.DECLINED)
        assert (on.coordinator.declined, on.trainer.starts) == ([Reason.SETTINGS_UNSUPPORTED], 0)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Failure(reason=FailureReason.NOTES_TOO_FEW, detail="expected 1, got 0", error_id="0"), Reason.NOTES_TOO_FEW),
        (OSError("a disk that fails"), Reason.TRAINER_CRASHED),
        (InitialiseResult(spec=make_spec()), Reason.TRAINER_CRASHED),
    ],
)
async def test_work_that_brings_no_answer_is_declined(
    tmp_path: Path, result: Result | Failure | Exception, reason: Reason
) -> None:
    async with scene(tmp_path, result) as on:
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([reason], [])


@pytest.mark.parametrize("layout", [{"tensors": make_spec().tensors[1:]}, {"metadata": frozenset({("note", "text")})}])
async def test_an_update_that_may_not_leave_stays_and_the_site_declines(
    tmp_path: Path, layout: dict[str, object]
) -> None:
    async with scene(tmp_path, TRAINED, **layout) as on:
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DECLINED)
        assert (on.coordinator.declined, on.coordinator.uploads) == ([Reason.EGRESS_DENIED], [])


async def test_a_first_adapter_of_other_settings_than_the_terms_stays(tmp_path: Path) -> None:
    assignment = make_assignment(InitialiseWork())
    async with scene(tmp_path, InitialiseResult(spec=replace(make_spec(), lora_alpha=99))) as on:
        on.trainer.may_end.set()
        await on.says(assignment)
        await on.reaches(assignment, Stage.DECLINED)
        assert on.coordinator.declined == [Reason.EGRESS_DENIED]


@pytest.mark.parametrize(
    "error",
    [
        FedMedError(Reason.INTERNAL, "a fault of the coordinator"),
        UnauthenticatedError(Reason.CERTIFICATE_INVALID, "expired"),
    ],
)
async def test_an_upload_is_repeated_after_what_may_pass(tmp_path: Path, error: FedMedError) -> None:
    async with scene(tmp_path) as on:
        on.coordinator.upload_errors = [error, error]
        on.coordinator.upload_may_end.set()
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.DONE)
        assert len(on.coordinator.uploads) == 3


@pytest.mark.parametrize(
    "error",
    [
        UpdateRefusedError(Reason.UPDATE_COUNT_ABSURD, "expected at most 10, got 11"),
        NotNowError(Reason.ROUND_CLOSED, "too late"),
    ],
)
async def test_a_refusal_ends_the_assignment_and_its_words_stay_in_the_folder(
    tmp_path: Path, error: FedMedError
) -> None:
    async with scene(tmp_path) as on:
        on.coordinator.upload_errors = [error]
        on.trainer.may_end.set()
        await on.says(assignment_of())
        await on.reaches(assignment_of(), Stage.REFUSED)
    entry = on.journal.find(assignment_of().assignment_id)
    assert entry is not None
    assert (entry.state.reason, entry.state.detail) == (error.reason, error.message)


async def test_an_unreadable_assignment_is_declined(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        await on.says(Unreadable(assignment_id=assignment_of().assignment_id, detail="terms.x: expected y"))
        assert on.coordinator.declined == [Reason.SETTINGS_UNSUPPORTED]


async def test_the_agent_outlives_a_decline_that_fails(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        on.coordinator.decline_errors = [NotNowError(Reason.ROUND_CLOSED, "too late")]
        await on.says(Unreadable(assignment_id=assignment_of().assignment_id, detail="terms.x: expected y"))
        await on.says(None)


async def test_the_connection_is_shown_as_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as on:
        shown = []
        for answer in (None, UnavailableError(Reason.PEER_AWAY, "away"), None):
            await on.says(answer)
            shown.append(on.sample("fedmed_agent_connected"))
        assert shown == [1, 0, 1]
