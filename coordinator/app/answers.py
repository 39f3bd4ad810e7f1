"""The short answers of agents: progress, a no, scores. Uploads are in `coordinator.app.update_intake`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from common.clock import Clock
from common.errors import InputInvalidError, NotNowError, Reason
from common.ids import AssignmentId
from common.tls import Caller
from coordinator.app.poll import find_assignment
from coordinator.app.round_driver import RoundDriver
from coordinator.domain import events as ev
from coordinator.domain.admission import (
    check_gate_metric,
    check_same_set,
    check_scores,
    check_task_scores,
    explain_dead_assignment,
)
from coordinator.domain.assignments import Assignment, AssignmentKind
from coordinator.domain.cohort import evaluate_assignment_id, score_assignment_id
from coordinator.domain.values import Round, Run, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteProgress:
    """How far a trainer is; ``loss`` in nats, ``step`` of ``steps``."""

    stage: str
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None


class Answers:
    """Answers ``ReportProgress``, ``DeclineAssignment`` and ``ReportEvaluation``. Progress is kept in memory alone."""

    def __init__(self, driver: RoundDriver, clock: Clock) -> None:
        self._driver = driver
        self._clock = clock
        self._progress: dict[AssignmentId, SiteProgress] = {}

    def progress_of(self, assignment_id: AssignmentId) -> SiteProgress | None:
        """The last progress heard of an assignment that is still awaited."""
        return self._progress.get(assignment_id)

    async def note_progress(self, caller: Caller, assignment_id: AssignmentId, progress: SiteProgress) -> None:
        """Keep the last progress of a live assignment; it counts as taking the assignment up."""
        assignment = self._live(caller, assignment_id)
        self._progress[assignment_id] = progress
        self._forget_past()
        taken = ev.AssignmentTaken(at=self._clock.now(), assignment_id=assignment_id)
        await self._driver.post(assignment.run.run_id, taken, caller)

    async def decline(self, caller: Caller, assignment_id: AssignmentId, reason: Reason) -> None:
        """Take a site's or evaluator's no."""
        assignment = self._live(caller, assignment_id)
        declined = ev.AssignmentDeclined(
            at=self._clock.now(), assignment_id=assignment_id, by=caller.name, reason=reason
        )
        await self._driver.post(assignment.run.run_id, declined, caller)

    async def take_scores(self, caller: Caller, assignment_id: AssignmentId, scores: Scores) -> None:
        """Take an evaluator's scores of an update or of a candidate; the same scores again get the same answer.

        Raises:
            InputInvalidError: the scores are not numbers, or lack what the gate compares; this evaluator is out.
            NotNowError, NotAllowedError, NotFoundError: see ``explain_dead_assignment``.
        """
        if self._were_taken(caller, assignment_id, scores):
            return
        assignment = self._live(caller, assignment_id)
        try:
            event = _scored(assignment, scores, self._clock.now())
        except InputInvalidError as refusal:
            if assignment.kind in (AssignmentKind.SCORE, AssignmentKind.EVALUATE):
                refused = ev.AnswerRefused(
                    at=self._clock.now(), assignment_id=assignment_id, by=caller.name, reason=refusal.reason
                )
                await self._driver.post(assignment.run.run_id, refused, caller)
            raise
        await self._driver.post(assignment.run.run_id, event, caller)
        if not self._were_taken(caller, assignment_id, scores):
            explain_dead_assignment(self._driver.runs, caller.name, assignment_id)
            raise NotNowError(Reason.ROUND_CLOSED, "the round closed while the scores were arriving")

    def _were_taken(self, caller: Caller, assignment_id: AssignmentId, scores: Scores) -> bool:
        return any(
            assignment_id in _given_by(run, past, caller, scores) for run in self._driver.runs for past in run.rounds
        )

    def _live(self, caller: Caller, assignment_id: AssignmentId) -> Assignment:
        assignment = find_assignment(self._driver.runs, caller, assignment_id)
        if assignment is None:
            explain_dead_assignment(self._driver.runs, caller.name, assignment_id)
            raise NotNowError(Reason.ROUND_CLOSED, "the round of this assignment is closed")
        return assignment

    def _forget_past(self) -> None:
        """Keep the progress of open rounds only, so that memory does not grow with rounds."""
        open_ids = {entry.assignment_id for run in self._driver.runs if run.current for entry in run.current.awaited}
        for assignment_id in [known for known in self._progress if known not in open_ids]:
            del self._progress[assignment_id]


def _scored(assignment: Assignment, scores: Scores, at: datetime) -> ev.UpdateScored | ev.ScoresReported:
    """What scores mean for the round.

    Raises:
        InputInvalidError: the assignment asks for none, or they are not what it asks for.
    """
    match assignment.kind:
        case AssignmentKind.SCORE if assignment.entry is not None:
            check_scores(scores)
            check_task_scores(assignment.run.terms, scores)
            check_same_set(assignment.run, scores)
            site = assignment.entry.site
            return ev.UpdateScored(at=at, round_number=assignment.round_number, site=site, scores=scores)
        case AssignmentKind.EVALUATE:
            check_scores(scores)
            check_task_scores(assignment.run.terms, scores)
            check_gate_metric(assignment.run.terms, scores)
            return ev.ScoresReported(at=at, round_number=assignment.round_number, scores=scores)
    raise InputInvalidError(Reason.FIELD_INVALID, f"scores: expected the answer to {assignment.kind}, got scores")


def _given_by(run: Run, past: Round, evaluator: Caller, scores: Scores) -> Iterator[AssignmentId]:
    """The assignments of a round with which ``evaluator`` would have given these very scores."""
    if past.scores == scores:
        yield evaluate_assignment_id(run.run_id, past.number, evaluator.name)
    for entry in past.roster:
        if entry.scores == scores:
            yield score_assignment_id(run.run_id, past.number, evaluator.name, entry.site)
