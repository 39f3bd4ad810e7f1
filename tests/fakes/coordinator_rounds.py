"""One round of three sites, moved by legal events to any phase, and every event that can happen to it."""

from __future__ import annotations

from typing import assert_never

from common.errors import Reason
from common.ids import SiteName
from common.strategy_terms import FedMedLoraPlusTerms
from common.terms import AggregationTerms, Terms
from coordinator.domain import events as ev
from coordinator.domain.cohort import evaluate_assignment_id, initialise_assignment_id, score_assignment_id
from coordinator.domain.commands import CommandKind
from coordinator.domain.round_machine import RoundContext, open_round, step
from coordinator.domain.values import DeadlineName, Phase, Round, Scores
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    EVALUATOR,
    RUN_ID,
    SITES,
    START,
    accepted,
    at,
    everyone_present,
    file,
    make_scores,
    make_terms,
    scored,
    train_id,
)

CONTEXT = RoundContext(run_id=RUN_ID, terms=make_terms())
PLUS_AGGREGATION = AggregationTerms(strategy="fed_medlora_plus", fed_medlora_plus=FedMedLoraPlusTerms())
# Of a round in which each update is scored.
PLUS = RoundContext(run_id=RUN_ID, terms=make_terms(aggregation=PLUS_AGGREGATION))
ABORT = ev.AbortRequested(at=at(50))


def context(terms: Terms, served: Scores | None = None) -> RoundContext:
    return RoundContext(run_id=RUN_ID, terms=terms, served_scores=served)


def moved(current: Round, *events: ev.RoundEvent, by: RoundContext = CONTEXT) -> Round:
    for event in events:
        current, _ = step(by, current, event)
    return current


def commanded(current: Round, event: ev.RoundEvent, by: RoundContext = CONTEXT) -> list[CommandKind]:
    return [command.kind for command in step(by, current, event)[1]]


def candidate(round_number: int = 1) -> ev.CandidateReady:
    weights = ((ANNA, 0.5), (BERTA, 0.25), (CLARA, 0.25))
    return ev.CandidateReady(at=at(20), round_number=round_number, candidate=file("candidate"), weights=weights)


def held(site: SiteName, reason: Reason = Reason.APPROVAL_AWAITED) -> ev.AssignmentHeld:
    """The site may not begin yet."""
    return ev.AssignmentHeld(at=at(1), assignment_id=train_id(site), by=site, reason=reason)


def taken(site: SiteName) -> ev.AssignmentTaken:
    return ev.AssignmentTaken(at=at(1), assignment_id=train_id(site))


def declined(site: SiteName) -> ev.AssignmentDeclined:
    return ev.AssignmentDeclined(at=at(2), assignment_id=train_id(site), by=site, reason=Reason.NOTES_TOO_FEW)


def refused(site: SiteName) -> ev.AnswerRefused:
    return ev.AnswerRefused(at=at(3), assignment_id=train_id(site), by=site, reason=Reason.UPDATE_NOT_FINITE)


def known_evaluators(*names: SiteName) -> ev.PresenceObserved:
    return ev.PresenceObserved(at=at(28), present=frozenset(), enrolled=frozenset(SITES), evaluators=frozenset(names))


def passed(name: DeadlineName, seconds: float = 1000) -> ev.DeadlinePassed:
    return ev.DeadlinePassed(at=at(seconds), name=name)


def in_phase(phase: Phase) -> Round:
    """A round of three sites that got to ``phase`` by legal events."""
    selecting = open_round(1, file("start"), START)
    training = moved(selecting, everyone_present())
    aggregating = moved(training, *(accepted(site) for site in SITES))
    evaluating = moved(aggregating, candidate())
    match phase:
        case Phase.SELECTING:
            return selecting
        case Phase.TRAINING:
            return training
        case Phase.SCORING:
            return moved(training, *(accepted(site) for site in SITES), by=PLUS)
        case Phase.AGGREGATING:
            return aggregating
        case Phase.EVALUATING:
            return evaluating
        case Phase.COMMITTED:
            return moved(evaluating, scored())
        case Phase.REJECTED:
            return moved(evaluating, scored(f1_tenths=1), by=context(make_terms(), make_scores(9)))
        case Phase.FAILED:
            return moved(evaluating, passed(DeadlineName.EVALUATE))
        case Phase.ABORTED:
            return moved(evaluating, ABORT)
    assert_never(phase)


def evaluator_says_no(seconds: float = 25, round_number: int = 1) -> ev.AssignmentDeclined:
    wanted = evaluate_assignment_id(RUN_ID, round_number, EVALUATOR)
    return ev.AssignmentDeclined(at=at(seconds), assignment_id=wanted, by=EVALUATOR, reason=Reason.OUT_OF_MEMORY)


def first_adapter_is_refused() -> ev.AnswerRefused:
    wanted = initialise_assignment_id(RUN_ID, EVALUATOR)
    return ev.AnswerRefused(at=at(1), assignment_id=wanted, by=EVALUATOR, reason=Reason.SPEC_INVALID)


def update_scored(site: SiteName, seconds: float = 25, loss: float = 0.5, round_number: int = 1) -> ev.UpdateScored:
    return ev.UpdateScored(at=at(seconds), round_number=round_number, site=site, scores=update_scores(loss))


def update_scores(loss: float = 0.5) -> Scores:
    return Scores(mean_loss=loss, num_examples=20, num_label_tokens=200)


def scoring_is_declined(
    site: SiteName, reason: Reason = Reason.OUT_OF_MEMORY, by: SiteName = EVALUATOR
) -> ev.AssignmentDeclined:
    wanted = score_assignment_id(RUN_ID, 1, by, site)
    return ev.AssignmentDeclined(at=at(25), assignment_id=wanted, by=by, reason=reason)


def scores_are_refused(seconds: float = 25, round_number: int = 1) -> ev.AnswerRefused:
    wanted = evaluate_assignment_id(RUN_ID, round_number, EVALUATOR)
    return ev.AnswerRefused(at=at(seconds), assignment_id=wanted, by=EVALUATOR, reason=Reason.METRIC_MISSING)
