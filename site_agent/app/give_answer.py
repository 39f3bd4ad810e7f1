"""Gives the coordinator what the trainer brought about, if the egress check lets it out. It trains nothing."""

from __future__ import annotations

import asyncio
from functools import partial

from common.errors import Reason, UpdateRefusedError
from site_agent.app.answers import (
    EvaluationScores,
    FirstAdapter,
    TrainedUpdate,
    UploadHeader,
    evaluation_scores,
    metric_names,
    trained_update,
)
from site_agent.app.parts import Parts
from site_agent.app.retrying import keep_trying
from site_agent.app.story import tell_interruption
from site_agent.app.upload import upload_once
from site_agent.domain.assignment import Assignment, EvaluateWork, InitialiseWork, ScoreWork, TrainWork, UpdateSpec
from site_agent.domain.assignment_machine import Event, EventKind
from site_agent.domain.egress import EVALUATION_METRICS, UPDATE_METRICS, judge_file, judge_metrics
from site_agent.domain.eligibility import Decision, judge_spec
from site_agent.orders import UPDATE_FILE, EvaluateResult, InitialiseResult, TrainResult

ACCEPTED = Event(kind=EventKind.ACCEPTED)


async def give_answer(assignment: Assignment, parts: Parts) -> Event:
    """Send the trainer's result, as often as it takes; or say why it stays here."""
    outcome = parts.trainer.outcome(parts.journal.folder(assignment.assignment_id))
    match assignment.work, outcome:
        case TrainWork() as work, TrainResult() as result:
            update = trained_update(result, work.global_adapter.digest)
            decision = judge_metrics(metric_names(update), UPDATE_METRICS)
            return await _send_file(assignment, decision, work.update_spec, update, parts)
        case InitialiseWork(), InitialiseResult(spec=spec):
            decision = judge_spec(spec, assignment.terms)
            wanted = UpdateSpec(tensors=spec.tensors, dtype=spec.dtype)
            return await _send_file(assignment, decision, wanted, FirstAdapter(spec=spec), parts)
        case ScoreWork() | EvaluateWork(), EvaluateResult(mean_loss=float(mean_loss)) as evaluation:
            return await _send_scores(assignment, evaluation_scores(evaluation, mean_loss), parts)
    detail = f"expected a result of {assignment.kind}, got {type(outcome).__name__}"
    return Event(kind=EventKind.UNABLE, reason=Reason.TRAINER_CRASHED, detail=detail)


async def _send_file(
    assignment: Assignment,
    decision: Decision,
    wanted: UpdateSpec,
    content: TrainedUpdate | FirstAdapter,
    parts: Parts,
) -> Event:
    path = parts.journal.folder(assignment.assignment_id) / UPDATE_FILE
    try:
        file = await asyncio.to_thread(parts.describe_file, path)
    except (UpdateRefusedError, FileNotFoundError):
        detail = f"expected {UPDATE_FILE} to be a safetensors file"
        return Event(kind=EventKind.UNABLE, reason=Reason.TRAINER_CRASHED, detail=detail)
    if decision.is_allowed:
        decision = judge_file(file.layout, wanted)
    if not decision.is_allowed:
        return _withheld(decision)
    header = UploadHeader(
        assignment_id=assignment.assignment_id,
        digest=file.digest,
        size_bytes=file.size_bytes,
        content=content,
    )
    call = partial(upload_once, parts.coordinator, header, path)
    await keep_trying(call, parts.patience, partial(tell_interruption, assignment, "upload_interrupted"))
    if isinstance(content, TrainedUpdate):
        parts.observer.update_accepted(content.num_examples)
    return ACCEPTED


async def _send_scores(assignment: Assignment, scores: EvaluationScores, parts: Parts) -> Event:
    decision = judge_metrics(metric_names(scores), EVALUATION_METRICS)
    if not decision.is_allowed:
        return _withheld(decision)
    call = partial(parts.coordinator.report_evaluation, assignment.assignment_id, scores)
    await keep_trying(call, parts.patience, partial(tell_interruption, assignment, "report_interrupted"))
    return ACCEPTED


def _withheld(decision: Decision) -> Event:
    return Event(kind=EventKind.UNABLE, reason=Reason.EGRESS_DENIED, detail=decision.detail)
