"""Gives the coordinator what the trainer brought about, if the egress check lets it out. It trains nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.errors import Reason, UpdateRefusedError
from common.ids import Digest
from common.signing import UpdateSignature, UpdateStatement
from site_agent.app.answers import (
    EvaluationScores,
    FirstAdapter,
    TrainedUpdate,
    UploadHeader,
    evaluation_scores,
    metric_names,
    trained_update,
)
from site_agent.app.consent import Hold, await_verdict, may_answer, unable
from site_agent.app.parts import Parts
from site_agent.app.retrying import keep_trying
from site_agent.app.story import tell_interruption
from site_agent.app.upload import upload_once
from site_agent.domain.assignment import Assignment, EvaluateWork, InitialiseWork, ScoreWork, TrainWork, UpdateSpec
from site_agent.domain.assignment_machine import Event, EventKind
from site_agent.domain.decision import ALLOWED, Decision, first_no
from site_agent.domain.egress import (
    EVALUATION_METRICS,
    UPDATE_METRICS,
    given_under,
    judge_counts,
    judge_file,
    judge_metrics,
    judge_norm,
    judge_tensors,
)
from site_agent.domain.eligibility import judge_spec
from site_agent.orders import ADAPTER_FILE, UPDATE_FILE, EvaluateResult, InitialiseResult, TrainResult

ACCEPTED = Event(kind=EventKind.ACCEPTED)


async def give_answer(assignment: Assignment, parts: Parts, hold: Hold) -> Event:
    """Send the trainer's result, as often as it takes; or say why it stays here.

    ``hold`` is told why it waits here: nobody at the site has said yes to it.
    """
    may = await await_verdict(assignment, parts, hold, may_answer)
    if not may.is_allowed:
        return unable(may)
    outcome = parts.trainer.outcome(parts.journal.folder(assignment.assignment_id))
    egress = parts.policy.egress
    match assignment.work, outcome:
        case TrainWork() as work, TrainResult() as result:
            update = trained_update(result, work.global_adapter.digest, egress)
            if work.asks_given_under:
                update = replace(update, given_under=given_under(parts.policy))
            decision = first_no(judge_metrics(metric_names(update), UPDATE_METRICS), _judge_counts(update, parts))
            return await _send_file(assignment, decision, work.update_spec, update, parts, hold)
        case InitialiseWork(), InitialiseResult(spec=spec):
            decision = judge_spec(spec, assignment.terms)
            if not decision.is_allowed:  # what was made is not what was asked for, and stays
                decision = replace(decision, reason=Reason.EGRESS_DENIED)
            wanted = UpdateSpec(tensors=spec.tensors, dtype=spec.dtype)
            return await _send_file(assignment, decision, wanted, FirstAdapter(spec=spec), parts, hold)
        case ScoreWork() | EvaluateWork(), EvaluateResult(mean_loss=float(mean_loss)) as evaluation:
            return await _send_scores(assignment, evaluation_scores(evaluation, mean_loss, egress), parts, hold)
    detail = f"expected a result of {assignment.kind}, got {type(outcome).__name__}"
    return Event(kind=EventKind.UNABLE, reason=Reason.TRAINER_CRASHED, detail=detail)


async def _send_file(
    assignment: Assignment,
    decision: Decision,
    wanted: UpdateSpec,
    content: TrainedUpdate | FirstAdapter,
    parts: Parts,
    hold: Hold,
) -> Event:
    folder = parts.journal.folder(assignment.assignment_id)
    path = folder / UPDATE_FILE
    try:
        file = await asyncio.to_thread(parts.describe_file, path)
        if decision.is_allowed:
            decision = first_no(
                judge_file(file.layout, wanted), judge_tensors(file.layout, file.size_bytes, parts.policy)
            )
        if decision.is_allowed and isinstance(content, TrainedUpdate):
            decision = await _judge_move(folder, parts)
    except (UpdateRefusedError, FileNotFoundError):
        detail = f"expected {UPDATE_FILE} to be a safetensors file with the tensors of the adapter it began with"
        return Event(kind=EventKind.UNABLE, reason=Reason.TRAINER_CRASHED, detail=detail)
    if not decision.is_allowed:
        return unable(decision)
    header = UploadHeader(
        assignment_id=assignment.assignment_id,
        digest=file.digest,
        size_bytes=file.size_bytes,
        content=content,
        signature=_signature(assignment, content, file.digest, parts),
    )
    event = await _deliver(assignment, partial(upload_once, parts.coordinator, header, path), "upload", parts, hold)
    if event is ACCEPTED and isinstance(content, TrainedUpdate):
        parts.observer.update_accepted(content.num_examples)
    return event


async def _judge_move(folder: Path, parts: Parts) -> Decision:
    """Whether the update is near enough to what it began with; not measured where any distance is."""
    egress = parts.policy.egress
    if math.isinf(egress.max_norm):
        return ALLOWED
    move = await asyncio.to_thread(parts.measure_move, folder / UPDATE_FILE, folder / ADAPTER_FILE)
    return judge_norm(move, egress)


def _judge_counts(answer: TrainedUpdate | EvaluationScores, parts: Parts) -> Decision:
    counts = {"num_examples": answer.num_examples, "num_label_tokens": answer.num_label_tokens}
    for one in answer.tasks:
        counts[f"{one.task}.num_examples"] = one.num_examples
        counts[f"{one.task}.num_label_tokens"] = one.num_label_tokens
    return judge_counts(counts, parts.policy.egress)


def _signature(
    assignment: Assignment, content: TrainedUpdate | FirstAdapter, digest: Digest, parts: Parts
) -> UpdateSignature | None:
    """The site's word for an update that may leave; None where it has no key, or the content is no update."""
    if parts.signing_key is None or not isinstance(content, TrainedUpdate):
        return None
    return parts.signing_key.sign_update(
        UpdateStatement(
            run_id=assignment.run_id,
            terms_digest=assignment.terms.digest,
            round_number=assignment.round_number,
            base_digest=content.base_digest,
            update_digest=digest,
            num_examples=content.num_examples,
            num_label_tokens=content.num_label_tokens,
            tasks=tuple((each.task, each.num_examples, each.num_label_tokens) for each in content.tasks),
            given_under=content.given_under,
        )
    )


async def _send_scores(assignment: Assignment, scores: EvaluationScores, parts: Parts, hold: Hold) -> Event:
    decision = first_no(judge_metrics(metric_names(scores), EVALUATION_METRICS), _judge_counts(scores, parts))
    if not decision.is_allowed:
        return unable(decision)
    call = partial(parts.coordinator.report_evaluation, assignment.assignment_id, scores)
    return await _deliver(assignment, call, "report", parts, hold)


async def _deliver(
    assignment: Assignment, call: Callable[[], Awaitable[None]], what: str, parts: Parts, hold: Hold
) -> Event:
    """Make ``call`` until it succeeds; a person may take the yes back while the coordinator is away."""

    async def attempt() -> Decision:
        may = await await_verdict(assignment, parts, hold, may_answer)
        if may.is_allowed:
            await call()
        return may

    may = await keep_trying(attempt, parts.patience, partial(tell_interruption, assignment, f"{what}_interrupted"))
    return ACCEPTED if may.is_allowed else unable(may)
