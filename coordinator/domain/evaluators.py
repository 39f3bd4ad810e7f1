"""Evaluators that will not answer: each one's no, and whether anyone is left to ask. Asks nobody."""

from __future__ import annotations

from common.ids import SiteName
from coordinator.domain import events as ev
from coordinator.domain.values import EvaluatorOutcome, SiteOutcome

Outcomes = tuple[EvaluatorOutcome, ...]


def has_outcome(outcomes: Outcomes, evaluator: SiteName) -> bool:
    """Whether ``evaluator`` is not to be asked again."""
    return any(each.evaluator == evaluator for each in outcomes)


def with_no(outcomes: Outcomes, event: ev.AssignmentDeclined | ev.AnswerRefused) -> Outcomes:
    """``outcomes`` with that evaluator's no; its first one stands."""
    if has_outcome(outcomes, event.by):
        return outcomes
    outcome = SiteOutcome.DECLINED if isinstance(event, ev.AssignmentDeclined) else SiteOutcome.REFUSED
    return (*outcomes, EvaluatorOutcome(evaluator=event.by, outcome=outcome, reason=event.reason))


def is_nobody_left(outcomes: Outcomes, known: frozenset[SiteName]) -> bool:
    """Whether every known evaluator is out; before the first no, one that nobody knows yet may still come."""
    return bool(outcomes) and known <= {each.evaluator for each in outcomes}
