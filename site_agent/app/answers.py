"""What a site gives in answer to an assignment: typed values from a trainer's result, no more than its policy names.

What may be missing and may not leave is left out here; whether the rest may leave is decided in `domain/egress.py`.
Nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from common.adapter import AdapterSpec
from common.given_under import GivenUnder
from common.ids import AssignmentId, Digest
from common.signing import UpdateSignature
from common.terms import Task
from site_agent.domain.egress import is_small_cell
from site_agent.domain.policy import EgressPolicy
from site_agent.orders import EvaluateResult, F1Counts, Progress, TaskCounts, TrainerStage, TrainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedUpdate:
    """What goes with a trained update; see ``fedmedlora.v1.TrainedUpdate``. A loss that may not leave is None."""

    base_digest: Digest
    num_examples: int
    num_label_tokens: int
    mean_loss: float | None
    tasks: tuple[TaskCounts, ...] = ()
    given_under: GivenUnder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAdapter:
    """What goes with a first adapter."""

    spec: AdapterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadHeader:
    """What an upload will bring: the digest and size are those of the whole file."""

    assignment_id: AssignmentId
    digest: Digest
    size_bytes: int
    content: TrainedUpdate | FirstAdapter
    signature: UpdateSignature | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOffset:
    """How far an upload is: bytes kept, and whether it was accepted already."""

    offset: int
    is_accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """Scores in one task; the counts are None when nothing was decoded."""

    task: Task
    mean_loss: float
    num_examples: int
    num_label_tokens: int
    strict: F1Counts | None
    lenient: F1Counts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationScores:
    """Scores of a candidate; the entity counts are None when nothing was decoded, or they may not leave."""

    mean_loss: float
    num_examples: int
    num_label_tokens: int
    strict: F1Counts | None
    lenient: F1Counts | None
    seconds: float
    tasks: tuple[TaskScores, ...] = ()
    data_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedProgress:
    """How far the trainer is, as the consortium may know it: numbers only."""

    stage: TrainerStage
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None


def trained_update(result: TrainResult, base_digest: Digest, egress: EgressPolicy) -> TrainedUpdate:
    """The part of a training result that the consortium asked for, without a loss that may not leave."""
    return TrainedUpdate(
        base_digest=base_digest,
        num_examples=result.num_examples,
        num_label_tokens=result.num_label_tokens,
        mean_loss=result.mean_loss if "mean_loss" in egress.metrics else None,
        tasks=result.tasks if "tasks" in egress.metrics else (),
    )


def evaluation_scores(result: EvaluateResult, mean_loss: float, egress: EgressPolicy) -> EvaluationScores:
    """The part of an evaluation, whose loss was measured, that the consortium asked for and that may leave."""
    return EvaluationScores(
        mean_loss=mean_loss,
        num_examples=result.num_examples,
        num_label_tokens=result.num_label_tokens,
        strict=_without_small_cells("strict", result.strict, egress),
        lenient=_without_small_cells("lenient", result.lenient, egress),
        seconds=result.seconds if "seconds" in egress.metrics else 0.0,
        tasks=tuple(
            TaskScores(
                task=one.task,
                mean_loss=one.mean_loss,
                num_examples=one.num_examples,
                num_label_tokens=one.num_label_tokens,
                strict=_without_small_cells("strict", one.strict, egress),
                lenient=_without_small_cells("lenient", one.lenient, egress),
            )
            for one in result.tasks
            if one.mean_loss is not None and "tasks" in egress.metrics
        ),
        data_digest=result.data_digest if "data_digest" in egress.metrics else "",
    )


def _without_small_cells(name: str, counts: F1Counts | None, egress: EgressPolicy) -> F1Counts | None:
    """The counts, unless one of them, or one that they give away (found wrongly, missed), is small."""
    if counts is None or name not in egress.metrics:
        return None
    found = counts.true_positives
    cells = (found, counts.predicted, counts.gold, counts.predicted - found, counts.gold - found)
    return None if any(is_small_cell(cell, egress) for cell in cells) else counts


def reported_progress(progress: Progress, egress: EgressPolicy) -> ReportedProgress:
    """The part of a progress report that the consortium asked for and that may leave."""
    return ReportedProgress(
        stage=progress.stage,
        step=progress.step if "step" in egress.metrics else 0,
        steps=progress.steps if "steps" in egress.metrics else 0,
        loss=progress.loss if egress.may_tell_losses else None,
        tokens_per_second=progress.tokens_per_second if "tokens_per_second" in egress.metrics else None,
    )


def metric_names(answer: TrainedUpdate | EvaluationScores | ReportedProgress) -> frozenset[str]:
    """Names of everything in ``answer`` that was measured here: a field added later is seen by the egress check.

    What stands in a part is named after it, as ``tasks.num_examples`` and ``given_under.digest``.
    """
    names = {field.name for field in fields(answer)} - {"base_digest", "tasks", "given_under"}
    if isinstance(answer, TrainedUpdate) and answer.given_under is not None:
        names |= {f"given_under.{field.name}" for field in fields(answer.given_under)}
    if not isinstance(answer, ReportedProgress):
        names |= {f"tasks.{field.name}" for part in answer.tasks for field in fields(part)}
    return frozenset(names)
