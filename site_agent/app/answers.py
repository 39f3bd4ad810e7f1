"""What a site gives in answer to an assignment: typed values from a trainer's result. It decides and sends nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields

from common.adapter import AdapterSpec
from common.ids import AssignmentId, Digest
from common.terms import Task
from site_agent.orders import EvaluateResult, F1Counts, Progress, TaskCounts, TrainerStage, TrainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedUpdate:
    """What goes with a trained update; see ``fedmedlora.v1.TrainedUpdate``."""

    base_digest: Digest
    num_examples: int
    num_label_tokens: int
    mean_loss: float
    tasks: tuple[TaskCounts, ...] = ()


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
    """Scores of a candidate; the entity counts are None when nothing was decoded."""

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


def trained_update(result: TrainResult, base_digest: Digest) -> TrainedUpdate:
    """The part of a training result that the consortium asked for."""
    return TrainedUpdate(
        base_digest=base_digest,
        num_examples=result.num_examples,
        num_label_tokens=result.num_label_tokens,
        mean_loss=result.mean_loss,
        tasks=result.tasks,
    )


def evaluation_scores(result: EvaluateResult, mean_loss: float) -> EvaluationScores:
    """The part of an evaluation, whose loss was measured, that the consortium asked for."""
    return EvaluationScores(
        mean_loss=mean_loss,
        num_examples=result.num_examples,
        num_label_tokens=result.num_label_tokens,
        strict=result.strict,
        lenient=result.lenient,
        seconds=result.seconds,
        tasks=tuple(
            TaskScores(
                task=one.task,
                mean_loss=one.mean_loss,
                num_examples=one.num_examples,
                num_label_tokens=one.num_label_tokens,
                strict=one.strict,
                lenient=one.lenient,
            )
            for one in result.tasks
            if one.mean_loss is not None
        ),
        data_digest=result.data_digest,
    )


def reported_progress(progress: Progress) -> ReportedProgress:
    """The part of a progress report that the consortium asked for."""
    return ReportedProgress(
        stage=progress.stage,
        step=progress.step,
        steps=progress.steps,
        loss=progress.loss,
        tokens_per_second=progress.tokens_per_second,
    )


def metric_names(answer: TrainedUpdate | EvaluationScores | ReportedProgress) -> frozenset[str]:
    """Names of everything in ``answer`` that was measured here: a field added later is seen by the egress check.

    What stands in a task's part is named after it, as ``tasks.num_examples``.
    """
    names = {field.name for field in fields(answer)} - {"base_digest", "tasks"}
    if not isinstance(answer, ReportedProgress):
        names |= {f"tasks.{field.name}" for part in answer.tasks for field in fields(part)}
    return frozenset(names)
