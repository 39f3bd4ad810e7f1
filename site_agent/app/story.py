"""Tells what happens at this site, to the log and the metrics: INFO alone reads as the story of a round.

It decides nothing, and says numbers, states and digests only. Why an assignment failed stands, in words, in its folder.
"""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from common.errors import FedMedError
from common.logging import get_logger
from common.terms import Task
from site_agent.app.ports import Entry, Result
from site_agent.domain.assignment import Assignment
from site_agent.domain.assignment_machine import Stage
from site_agent.orders import EvaluateResult, F1Counts, TrainResult

_SAID: dict[Stage, str] = {
    Stage.DOWNLOADING: "assignment_taken",
    Stage.TRAINING: "trainer_started",
    Stage.DONE: "answer_accepted",
    Stage.DECLINED: "assignment_declined",
    Stage.REFUSED: "answer_refused",
    Stage.CANCELLED: "assignment_cancelled",
}
_WARNED = frozenset({Stage.DECLINED, Stage.REFUSED})


def log_of(assignment: Assignment) -> FilteringBoundLogger:
    """A log whose lines say which assignment they are about."""
    return get_logger("site_agent").bind(
        assignment_id=assignment.assignment_id,
        run_name=assignment.terms.name,
        round_number=assignment.round_number,
        kind=assignment.kind,
    )


def tell_move(entry: Entry) -> None:
    """Say where an assignment stands now, if that is part of the story."""
    event = _SAID.get(entry.state.stage)
    if event is None:
        return
    log = log_of(entry.assignment)
    if entry.state.reason is not None:
        log = log.bind(reason=str(entry.state.reason))
    (log.warning if entry.state.stage in _WARNED else log.info)(event)


def tell_result(assignment: Assignment, result: Result) -> None:
    """Say in numbers what the trainer brought about."""
    log = log_of(assignment)
    match result:
        case TrainResult():
            log.info(
                "trainer_finished",
                num_examples=result.num_examples,
                num_label_tokens=result.num_label_tokens,
                loss=round(result.mean_loss, 4),
                steps=result.steps,
                seconds=round(result.seconds, 1),
                tokens_per_second=round(result.tokens_per_second, 1),
                num_left_out=result.num_left_out,
                padding_share=round(result.padding_share, 4),
                peak_memory_bytes=result.peak_memory_bytes,
            )
        case EvaluateResult():
            relations = next((one for one in result.tasks if one.task is Task.RELATIONS), None)
            log.info(
                "trainer_finished",
                num_passages=result.num_passages,
                loss=None if result.mean_loss is None else round(result.mean_loss, 4),
                strict_f1=_f1(result.strict),
                lenient_f1=_f1(result.lenient),
                relation_strict_f1=_f1(relations.strict if relations else None),
                relation_lenient_f1=_f1(relations.lenient if relations else None),
                malformed_answers=result.malformed_answers,
                seconds=round(result.seconds, 1),
            )
        case _:
            log.info("trainer_finished", count=result.spec.parameters)


def tell_interruption(assignment: Assignment, event: str, error: FedMedError, attempt: int, wait: float) -> None:
    """Say that a call to the coordinator failed and will be repeated."""
    log_of(assignment).warning(event, reason=str(error.reason), attempt=attempt, wait_seconds=round(wait, 1))


def _f1(counts: F1Counts | None) -> float | None:
    """F1 = 2 tp / (predicted + gold), rounded for people; 0 when there was nothing to find and nothing found."""
    if counts is None:
        return None
    total = counts.predicted + counts.gold
    return round(2 * counts.true_positives / total, 4) if total else 0.0
