"""The round as a value: ``step(context, round, event) -> (round, commands)``. No I/O, no clock.

::

    SELECTING -> TRAINING -> [SCORING] -> AGGREGATING -> [EVALUATING] -> COMMITTED | REJECTED
        |            |           |             |              |
        +------------+-----------+-------------+--------------+-> FAILED(reason) | ABORTED

An event that means nothing in the round's phase (a late deadline, an answer given twice) leaves it as it is; whether a
peer's late answer deserves a refusal is decided before an event is made of it (`coordinator.domain.admission`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from common.errors import Reason
from common.ids import AssignmentId, RunId, SiteName
from common.terms import GateMetric, OnEvaluatorAbsent, Terms
from coordinator.domain import events as ev
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.strategy import Need
from coordinator.domain.cohort import evaluate_assignment_id, expected_sites, invite, score_assignment_id, with_ranks
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.evaluators import is_nobody_left, with_no
from coordinator.domain.promotion import is_promoted
from coordinator.domain.values import (
    AdapterFile,
    Deadline,
    DeadlineName,
    Phase,
    RosterEntry,
    Round,
    Scores,
    SiteOutcome,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """What a round needs of its run: whose it is, by which terms, and the scores to beat (the last ones promoted)."""

    run_id: RunId
    terms: Terms
    served_scores: Scores | None = None


Step = tuple[Round, tuple[Command, ...]]


def open_round(number: int, start: AdapterFile, at: datetime) -> Round:
    """Begin round ``number`` from the adapter ``start``; it waits to be told who is present."""
    return Round(number=number, phase=Phase.SELECTING, global_adapter=start, opened_at=at)


def step(context: RoundContext, current: Round, event: ev.RoundEvent) -> Step:
    """Move the round by one event; a closed round never moves."""
    if not current.phase.is_open:
        return current, ()
    if isinstance(event, ev.AbortRequested):
        return close(context, current, Phase.ABORTED, event.at, Reason.ABORTED_BY_OPERATOR)
    match current.phase:
        case Phase.SELECTING:
            return _selecting(context, current, event)
        case Phase.TRAINING:
            return _training(context, current, event)
        case Phase.SCORING:
            return _scoring(context, current, event)
        case Phase.AGGREGATING:
            return _aggregating(context, current, event)
        case _:
            return _evaluating(context, current, event)


def close(context: RoundContext, current: Round, phase: Phase, at: datetime, reason: Reason | None = None) -> Step:
    """End the round in ``phase``; its updates are no longer needed."""
    closed = replace(current, phase=phase, reason=reason, closed_at=at, deadlines=())
    commands = [_command(context, closed, CommandKind.DELETE_UPDATES)] if closed.roster else []
    if phase in (Phase.COMMITTED, Phase.REJECTED):
        commands.insert(0, _command(context, closed, CommandKind.PUBLISH))
    return closed, tuple(commands)


# SELECTING: wait until everyone expected is there, or `grace` after the quorum was. The shell observes presence when it
# changes and when a deadline of this phase has come, so one event serves both.


def _selecting(context: RoundContext, current: Round, event: ev.RoundEvent) -> Step:
    if not isinstance(event, ev.PresenceObserved):
        return current, ()
    expected = expected_sites(context.terms.rounds, event.enrolled) - event.out
    if len(expected & event.present) < context.terms.rounds.quorum:
        return replace(current, deadlines=()), ()
    if expected <= event.present or any(deadline.at <= event.at for deadline in current.deadlines):
        return _begin_training(context, current, expected, event)
    return _with_grace(context, current, event.at), ()


def _begin_training(
    context: RoundContext, current: Round, sites: frozenset[SiteName], event: ev.PresenceObserved
) -> Step:
    roster = with_ranks(invite(context.run_id, current.number, sites), context.terms.lora, dict(event.max_lora_ranks))
    deadline = _deadline(DeadlineName.TRAIN, event.at, context.terms.rounds.train_deadline)
    training = replace(current, phase=Phase.TRAINING, roster=roster, deadlines=(deadline,))
    plans = (strategy_of(context.terms).plan(current.number, site) for site in sites)
    if context.terms.lora.least_lora_rank or any(plan.keeps_rest for plan in plans):
        return training, (_command(context, training, CommandKind.CUT_PARTS),)
    return training, ()


# TRAINING: gather answers until all are in, or the quorum is and `grace` has passed, or the deadline has.


def _training(context: RoundContext, current: Round, event: ev.RoundEvent) -> Step:
    match event:
        case ev.AssignmentTaken():
            return _answer(
                current, event.assignment_id, lambda e: replace(e, outcome=SiteOutcome.JOINED, reason=None)
            ), ()
        case ev.AssignmentHeld(reason=reason):
            return _answer(
                current, event.assignment_id, lambda e: replace(e, outcome=SiteOutcome.INVITED, reason=reason)
            ), ()
        case ev.PartsReady(round_number=number) if number == current.number:
            return replace(current, parts=event.parts), ()
        case ev.UpdateAccepted(update=update):
            answered = _answer(
                current,
                event.assignment_id,
                lambda e: replace(e, outcome=SiteOutcome.ACCEPTED, reason=None, update=update),
            )
        case ev.AnswerRefused(reason=reason):
            answered = _answer(
                current, event.assignment_id, lambda e: replace(e, outcome=SiteOutcome.REFUSED, reason=reason)
            )
        case ev.AssignmentDeclined(reason=reason):
            answered = _answer(
                current,
                event.assignment_id,
                lambda e: replace(e, outcome=SiteOutcome.DECLINED, reason=reason),
            )
        case ev.SiteLeft():
            answered = _without_site(current, event)
            if answered == current:
                return current, ()
        case ev.DeadlinePassed(name=DeadlineName.TRAIN | DeadlineName.GRACE):
            return _training_deadline(context, current, event)
        case _:
            return current, ()
    return _settle(context, answered, event.at)


def _with_entry(current: Round, site: SiteName, change: Callable[[RosterEntry], RosterEntry]) -> Round:
    return replace(current, roster=tuple(change(each) if each.site == site else each for each in current.roster))


def _answer(current: Round, assignment_id: AssignmentId, change: Callable[[RosterEntry], RosterEntry]) -> Round:
    """Change the entry of that assignment, if its answer is still awaited; otherwise nothing."""
    roster = tuple(
        change(entry) if entry.assignment_id == assignment_id and entry.outcome.is_open else entry
        for entry in current.roster
    )
    return replace(current, roster=roster)


def _without_site(current: Round, event: ev.SiteLeft) -> Round:
    """The round in which that site declined, even if its update was accepted."""

    def leave(entry: RosterEntry) -> RosterEntry:
        if not entry.outcome.is_open and entry.outcome is not SiteOutcome.ACCEPTED:
            return entry
        return replace(entry, outcome=SiteOutcome.DECLINED, reason=event.reason, update=None, scores=None)

    return _with_entry(current, event.site, leave)


def _settle(context: RoundContext, current: Round, at: datetime) -> Step:
    """After an answer: go on when all are in, fail when the quorum is out of reach, else wait."""
    quorum = context.terms.rounds.quorum
    accepted, awaited = len(current.accepted), len(current.awaited)
    if accepted + awaited < quorum:
        return close(context, current, Phase.FAILED, at, Reason.QUORUM_IMPOSSIBLE)
    if awaited == 0:
        return _end_training(context, current, at)
    return (_with_grace(context, current, at) if accepted >= quorum else current), ()


def _training_deadline(context: RoundContext, current: Round, event: ev.DeadlinePassed) -> Step:
    if len(current.accepted) >= context.terms.rounds.quorum:
        return _end_training(context, _label_stragglers(current), event.at)
    if event.name is DeadlineName.TRAIN:
        return close(context, _label_stragglers(current), Phase.FAILED, event.at, Reason.QUORUM_NOT_REACHED)
    return current, ()


def _label_stragglers(current: Round) -> Round:
    roster = tuple(
        replace(entry, outcome=SiteOutcome.STRAGGLER) if entry.outcome.is_open else entry for entry in current.roster
    )
    return replace(current, roster=roster)


def _end_training(context: RoundContext, current: Round, at: datetime) -> Step:
    if Need.UPDATE_SCORES not in strategy_of(context.terms).needs:
        return _begin_aggregating(context, current)
    deadline = _deadline(DeadlineName.EVALUATE, at, context.terms.rounds.evaluate_deadline)
    return replace(current, phase=Phase.SCORING, deadlines=(deadline,)), ()


# SCORING: evaluators score one update after the other, and the deadline is for each. An update under which the model's
# loss is no number is refused after all. Without scores for all of them, the terms decide: sizes alone, or the end.


def _scoring(context: RoundContext, current: Round, event: ev.RoundEvent) -> Step:
    match event:
        case ev.UpdateScored(round_number=number, site=site, scores=scores) if number == current.number:
            if site not in (entry.site for entry in current.unscored):
                return current, ()
            scored = _with_entry(current, site, lambda entry: replace(entry, scores=scores))
            return _after_a_score(context, scored, event.at)
        case ev.AssignmentDeclined() | ev.AnswerRefused():
            site_or_none = _site_to_score(context, current, event)
            if site_or_none is None:
                return current, ()
            if event.reason is not Reason.LOSS_NOT_FINITE:
                return replace(current, evaluator_outcomes=with_no(current.evaluator_outcomes, event)), ()
            refused = _with_entry(current, site_or_none, _refused_unscorable)
            return _after_a_score(context, refused, event.at)
        case ev.SiteLeft():
            without = _without_site(current, event)
            return (current, ()) if without == current else _after_a_score(context, without, event.at)
        case ev.PresenceObserved(evaluators=known) if is_nobody_left(current.evaluator_outcomes, known):
            return _without_scores(context, current, event.at, Reason.NO_EVALUATOR_LEFT)
        case ev.DeadlinePassed(name=DeadlineName.EVALUATE):
            return _without_scores(context, current, event.at, Reason.EVALUATOR_ABSENT)
    return current, ()


def _refused_unscorable(entry: RosterEntry) -> RosterEntry:
    return replace(entry, outcome=SiteOutcome.REFUSED, reason=Reason.LOSS_NOT_FINITE)


def _after_a_score(context: RoundContext, current: Round, at: datetime) -> Step:
    if len(current.accepted) < context.terms.rounds.quorum:
        return close(context, current, Phase.FAILED, at, Reason.QUORUM_IMPOSSIBLE)
    if not current.unscored:
        return _begin_aggregating(context, current)
    next_one = _deadline(DeadlineName.EVALUATE, at, context.terms.rounds.evaluate_deadline)
    later = tuple(replace(each, at=max(each.at, next_one.at)) for each in current.deadlines)  # one may be extended
    return replace(current, deadlines=later), ()


def _site_to_score(
    context: RoundContext, current: Round, event: ev.AssignmentDeclined | ev.AnswerRefused
) -> SiteName | None:
    """Whose update the assignment asked for that was declined; None when it asked for something else."""
    sites = (entry.site for entry in current.unscored)
    ids = {score_assignment_id(context.run_id, current.number, event.by, site): site for site in sites}
    return ids.get(event.assignment_id)


def _without_scores(context: RoundContext, current: Round, at: datetime, reason: Reason) -> Step:
    if context.terms.gate.on_evaluator_absent is OnEvaluatorAbsent.PROMOTE:
        return _begin_aggregating(context, replace(current, is_weighed_by_size=True))
    return close(context, current, Phase.FAILED, at, reason)


# AGGREGATING: the shell combines; it answers with a candidate or with why there is none.


def _begin_aggregating(context: RoundContext, current: Round) -> Step:
    aggregating = replace(current, phase=Phase.AGGREGATING, deadlines=())
    return aggregating, (_command(context, aggregating, CommandKind.AGGREGATE),)


def _aggregating(context: RoundContext, current: Round, event: ev.RoundEvent) -> Step:
    match event:
        case ev.CandidateReady(round_number=number) if number == current.number:
            weights = dict(event.weights)
            roster = tuple(replace(entry, weight=weights.get(entry.site, 0.0)) for entry in current.roster)
            combined = replace(current, roster=roster, candidate=event.candidate, state=event.state)
            plan = strategy_of(context.terms).plan(current.number, current.roster[0].site)
            if plan.is_partial or context.terms.gate.metric is GateMetric.NONE:
                return close(context, replace(combined, is_partial=plan.is_partial), Phase.COMMITTED, event.at)
            deadline = _deadline(DeadlineName.EVALUATE, event.at, context.terms.rounds.evaluate_deadline)
            return replace(combined, phase=Phase.EVALUATING, deadlines=(deadline,)), ()
        case ev.AggregationFailed(round_number=number) if number == current.number:
            return close(context, current, Phase.FAILED, event.at, event.reason)
    return current, ()


# EVALUATING: the first evaluator that gives scores decides. One that declined, or whose scores were refused, is not
# asked again; when none is left that is known, or the deadline has passed, the candidate stays unscored.


def _evaluating(context: RoundContext, current: Round, event: ev.RoundEvent) -> Step:
    match event:
        case ev.ScoresReported(round_number=number, scores=scores) if number == current.number:
            promoted = is_promoted(context.terms.gate, scores, context.served_scores)
            phase = Phase.COMMITTED if promoted else Phase.REJECTED
            return close(context, replace(current, scores=scores), phase, event.at)
        case ev.AssignmentDeclined(by=evaluator) | ev.AnswerRefused(by=evaluator):
            if event.assignment_id != evaluate_assignment_id(context.run_id, current.number, evaluator):
                return current, ()
            return replace(current, evaluator_outcomes=with_no(current.evaluator_outcomes, event)), ()
        case ev.PresenceObserved(evaluators=known) if is_nobody_left(current.evaluator_outcomes, known):
            return _unscored(context, current, event.at, Reason.NO_EVALUATOR_LEFT)
        case ev.DeadlinePassed(name=DeadlineName.EVALUATE):
            return _unscored(context, current, event.at, Reason.EVALUATOR_ABSENT)
    return current, ()


def _unscored(context: RoundContext, current: Round, at: datetime, reason: Reason) -> Step:
    if context.terms.gate.on_evaluator_absent is OnEvaluatorAbsent.PROMOTE:
        return close(context, replace(current, is_unscored=True), Phase.COMMITTED, at)
    return close(context, current, Phase.FAILED, at, reason)


def _with_grace(context: RoundContext, current: Round, at: datetime) -> Round:
    if any(deadline.name is DeadlineName.GRACE for deadline in current.deadlines):
        return current
    grace = _deadline(DeadlineName.GRACE, at, context.terms.rounds.grace)
    return replace(current, deadlines=(*current.deadlines, grace))


def _deadline(name: DeadlineName, at: datetime, seconds: float) -> Deadline:
    return Deadline(name=name, at=at + timedelta(seconds=seconds))


def _command(context: RoundContext, current: Round, kind: CommandKind) -> Command:
    return Command(kind=kind, run_id=context.run_id, round_number=current.number)
