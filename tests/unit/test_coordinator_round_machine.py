"""Every transition of a round, as a sentence; and what moves nothing."""

from __future__ import annotations

from datetime import datetime

import pytest

from common.errors import Reason
from common.ids import SiteName
from common.terms import GateMetric, GateTerms, OnEvaluatorAbsent
from coordinator.domain import events as ev
from coordinator.domain.commands import CommandKind
from coordinator.domain.values import Deadline, DeadlineName, EvaluatorOutcome, Phase, Round, SiteOutcome
from tests.fakes.coordinator_rounds import (
    candidate,
    commanded,
    context,
    declined,
    evaluator_says_no,
    held,
    in_phase,
    known_evaluators,
    moved,
    passed,
    refused,
    scores_are_refused,
    taken,
)
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    EVALUATOR,
    SITES,
    START,
    accepted,
    at,
    everyone_present,
    file,
    make_round_terms,
    make_scores,
    make_terms,
    make_update,
    scored,
)


def outcomes(current: Round) -> dict[str, SiteOutcome]:
    return {entry.site: entry.outcome for entry in current.roster}


def deadlines(current: Round) -> dict[DeadlineName, datetime]:
    return {deadline.name: deadline.at for deadline in current.deadlines}


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_is_reached_by_legal_events(phase: Phase) -> None:
    assert in_phase(phase).phase is phase


# SELECTING


def test_a_new_round_waits_for_sites_without_a_deadline() -> None:
    selecting = in_phase(Phase.SELECTING)
    assert (selecting.roster, selecting.deadlines, selecting.opened_at) == ((), (), START)


def test_everyone_expected_being_there_begins_training_and_invites_them_sorted() -> None:
    training = moved(in_phase(Phase.SELECTING), everyone_present(5, (CLARA, ANNA, BERTA)))
    assert training.phase is Phase.TRAINING
    assert [entry.site for entry in training.roster] == [ANNA, BERTA, CLARA]
    assert set(outcomes(training).values()) == {SiteOutcome.INVITED}
    assert training.deadlines == (Deadline(name=DeadlineName.TRAIN, at=at(1005)),)


def test_too_few_sites_leave_the_round_waiting_without_a_deadline() -> None:
    selecting = in_phase(Phase.SELECTING)
    assert moved(selecting, everyone_present(5, (ANNA,))) == selecting


def test_a_quorum_being_there_starts_the_grace() -> None:
    waiting = moved(in_phase(Phase.SELECTING), everyone_present(5, (ANNA, BERTA)))
    assert waiting.phase is Phase.SELECTING
    assert deadlines(waiting) == {DeadlineName.GRACE: at(105)}


def test_seeing_the_same_quorum_again_does_not_prolong_the_grace() -> None:
    waiting = moved(in_phase(Phase.SELECTING), everyone_present(5, (ANNA, BERTA)))
    assert moved(waiting, everyone_present(50, (ANNA, BERTA))) == waiting


def test_after_the_grace_training_begins_and_invites_the_absent_too() -> None:
    waiting = moved(in_phase(Phase.SELECTING), everyone_present(5, (ANNA, BERTA)))
    training = moved(waiting, everyone_present(105, (ANNA, BERTA)))
    assert training.phase is Phase.TRAINING
    assert outcomes(training)[CLARA] is SiteOutcome.INVITED


def test_losing_the_quorum_forgets_the_grace() -> None:
    waiting = moved(in_phase(Phase.SELECTING), everyone_present(5, (ANNA, BERTA)))
    assert moved(waiting, everyone_present(200, (ANNA,))) == in_phase(Phase.SELECTING)


def test_a_site_that_the_terms_do_not_name_does_not_count() -> None:
    terms = make_terms(rounds=make_round_terms(sites=(ANNA, BERTA)))
    waiting = moved(in_phase(Phase.SELECTING), everyone_present(5, (ANNA, CLARA)), by=context(terms))
    assert waiting == in_phase(Phase.SELECTING)


def test_terms_that_name_no_site_invite_every_enrolled_one() -> None:
    terms = make_terms(rounds=make_round_terms(sites=()))
    training = moved(in_phase(Phase.SELECTING), everyone_present(), by=context(terms))
    assert [entry.site for entry in training.roster] == list(SITES)


# TRAINING


def test_a_taken_assignment_joins_its_site_alone() -> None:
    training = moved(in_phase(Phase.TRAINING), taken(BERTA))
    assert outcomes(training) == {
        ANNA: SiteOutcome.INVITED,
        BERTA: SiteOutcome.JOINED,
        CLARA: SiteOutcome.INVITED,
    }


def test_a_held_assignment_keeps_its_reason_until_it_is_taken() -> None:
    waiting = moved(in_phase(Phase.TRAINING), held(ANNA))
    assert (waiting.roster[0].outcome, waiting.roster[0].reason) == (SiteOutcome.INVITED, Reason.APPROVAL_AWAITED)
    begun = moved(waiting, taken(ANNA))
    assert (begun.roster[0].outcome, begun.roster[0].reason) == (SiteOutcome.JOINED, None)
    assert moved(waiting, accepted(ANNA)).roster[0].reason is None


def test_a_straggler_that_held_its_assignment_says_why() -> None:
    waiting = moved(in_phase(Phase.TRAINING), held(CLARA), accepted(ANNA), accepted(BERTA))
    entry = moved(waiting, passed(DeadlineName.GRACE, 120)).roster[2]
    assert (entry.outcome, entry.reason) == (SiteOutcome.STRAGGLER, Reason.APPROVAL_AWAITED)


def test_an_accepted_update_is_in_the_roster_with_its_counts() -> None:
    update = make_update("anna's", num_examples=7, num_label_tokens=70)
    training = moved(in_phase(Phase.TRAINING), accepted(ANNA, update=update))
    entry = training.roster[0]
    assert (entry.outcome, entry.update, entry.reason) == (SiteOutcome.ACCEPTED, update, None)


def test_a_refused_update_is_in_the_roster_with_its_reason() -> None:
    entry = moved(in_phase(Phase.TRAINING), refused(ANNA)).roster[0]
    assert (entry.outcome, entry.reason, entry.update) == (SiteOutcome.REFUSED, Reason.UPDATE_NOT_FINITE, None)


def test_a_decline_is_in_the_roster_with_its_reason() -> None:
    entry = moved(in_phase(Phase.TRAINING), declined(ANNA)).roster[0]
    assert (entry.outcome, entry.reason) == (SiteOutcome.DECLINED, Reason.NOTES_TOO_FEW)


def test_the_quorum_being_in_starts_the_grace_beside_the_deadline() -> None:
    training = moved(in_phase(Phase.TRAINING), accepted(ANNA, seconds=10), accepted(BERTA, seconds=20))
    assert training.phase is Phase.TRAINING
    assert deadlines(training) == {DeadlineName.TRAIN: at(1000), DeadlineName.GRACE: at(120)}


def test_an_update_within_the_grace_does_not_prolong_it() -> None:
    terms = make_terms(rounds=make_round_terms(quorum=1))
    two_in = moved(in_phase(Phase.TRAINING), accepted(ANNA, seconds=10), accepted(BERTA, seconds=20), by=context(terms))
    assert deadlines(two_in)[DeadlineName.GRACE] == at(110)


def test_all_answers_being_in_begins_aggregation_at_once() -> None:
    training = moved(in_phase(Phase.TRAINING), accepted(ANNA), accepted(BERTA))
    assert commanded(training, accepted(CLARA)) == [CommandKind.AGGREGATE]
    aggregating = moved(training, accepted(CLARA))
    assert (aggregating.phase, aggregating.deadlines) == (Phase.AGGREGATING, ())


def test_the_last_answer_being_a_refusal_begins_aggregation_of_the_others() -> None:
    aggregating = moved(in_phase(Phase.TRAINING), accepted(ANNA), accepted(BERTA), refused(CLARA))
    assert aggregating.phase is Phase.AGGREGATING
    assert [entry.site for entry in aggregating.accepted] == [ANNA, BERTA]
    assert aggregating.is_subset


def test_the_end_of_the_grace_begins_aggregation_and_labels_stragglers() -> None:
    waiting = moved(in_phase(Phase.TRAINING), taken(CLARA), accepted(ANNA), accepted(BERTA))
    aggregating = moved(waiting, passed(DeadlineName.GRACE, 120))
    assert aggregating.phase is Phase.AGGREGATING
    assert outcomes(aggregating)[CLARA] is SiteOutcome.STRAGGLER


def test_the_deadline_with_a_quorum_begins_aggregation() -> None:
    waiting = moved(in_phase(Phase.TRAINING), accepted(ANNA), accepted(BERTA))
    assert commanded(waiting, passed(DeadlineName.TRAIN)) == [CommandKind.AGGREGATE]


def test_the_deadline_without_a_quorum_fails_the_round_and_labels_stragglers() -> None:
    waiting = moved(in_phase(Phase.TRAINING), accepted(ANNA))
    failed = moved(waiting, passed(DeadlineName.TRAIN))
    assert (failed.phase, failed.reason, failed.closed_at) == (Phase.FAILED, Reason.QUORUM_NOT_REACHED, at(1000))
    assert outcomes(failed) == {
        ANNA: SiteOutcome.ACCEPTED,
        BERTA: SiteOutcome.STRAGGLER,
        CLARA: SiteOutcome.STRAGGLER,
    }
    assert commanded(waiting, passed(DeadlineName.TRAIN)) == [CommandKind.DELETE_UPDATES]


def test_a_grace_that_passes_without_a_quorum_changes_nothing() -> None:
    waiting = moved(in_phase(Phase.TRAINING), accepted(ANNA))
    assert moved(waiting, passed(DeadlineName.GRACE)) == waiting


def test_a_quorum_out_of_reach_fails_the_round_without_waiting_for_the_deadline() -> None:
    failed = moved(in_phase(Phase.TRAINING), declined(ANNA), refused(BERTA))
    assert (failed.phase, failed.reason) == (Phase.FAILED, Reason.QUORUM_IMPOSSIBLE)
    assert outcomes(failed)[CLARA] is SiteOutcome.INVITED


def test_one_no_with_the_quorum_still_in_reach_lets_the_round_wait() -> None:
    assert moved(in_phase(Phase.TRAINING), declined(ANNA)).phase is Phase.TRAINING


@pytest.mark.parametrize(
    "again",
    [accepted(ANNA, update=make_update("another")), refused(ANNA), declined(ANNA), taken(ANNA)],
    ids=["update", "refusal", "decline", "take"],
)
def test_a_second_answer_changes_nothing(again: ev.RoundEvent) -> None:
    answered = moved(in_phase(Phase.TRAINING), accepted(ANNA))
    assert moved(answered, again) == answered


def test_an_answer_to_an_assignment_of_another_round_changes_nothing() -> None:
    training = in_phase(Phase.TRAINING)
    assert moved(training, accepted(ANNA, round_number=2)) == training


# AGGREGATING


def test_a_candidate_begins_evaluation_and_writes_the_weights_into_the_roster() -> None:
    evaluating = moved(in_phase(Phase.AGGREGATING), candidate())
    assert (evaluating.phase, evaluating.candidate) == (Phase.EVALUATING, file("candidate"))
    assert [entry.weight for entry in evaluating.roster] == [0.5, 0.25, 0.25]
    assert deadlines(evaluating) == {DeadlineName.EVALUATE: at(10_020)}
    assert commanded(in_phase(Phase.AGGREGATING), candidate()) == []


def test_without_a_gate_a_candidate_is_committed_and_published_before_updates_are_deleted() -> None:
    gateless = context(make_terms(gate=GateTerms(metric=GateMetric.NONE)))
    committed = moved(in_phase(Phase.AGGREGATING), candidate(), by=gateless)
    assert (committed.phase, committed.candidate, committed.scores) == (Phase.COMMITTED, file("candidate"), None)
    assert not committed.is_unscored
    kinds = commanded(in_phase(Phase.AGGREGATING), candidate(), by=gateless)
    assert kinds == [CommandKind.PUBLISH, CommandKind.DELETE_UPDATES]


def test_a_failed_aggregation_fails_the_round_with_its_reason() -> None:
    event = ev.AggregationFailed(at=at(20), round_number=1, reason=Reason.AGGREGATION_FAILED)
    failed = moved(in_phase(Phase.AGGREGATING), event)
    assert (failed.phase, failed.reason, failed.candidate) == (Phase.FAILED, Reason.AGGREGATION_FAILED, None)
    assert commanded(in_phase(Phase.AGGREGATING), event) == [CommandKind.DELETE_UPDATES]


def test_an_outcome_of_another_round_changes_nothing() -> None:
    aggregating = in_phase(Phase.AGGREGATING)
    failed = ev.AggregationFailed(at=at(20), round_number=2, reason=Reason.AGGREGATION_FAILED)
    assert moved(aggregating, candidate(round_number=2), failed) == aggregating


# EVALUATING


def test_scores_that_pass_the_gate_commit_publish_and_delete() -> None:
    evaluating = in_phase(Phase.EVALUATING)
    committed = moved(evaluating, scored())
    assert (committed.phase, committed.scores, committed.closed_at) == (Phase.COMMITTED, make_scores(), at(30))
    assert commanded(evaluating, scored()) == [CommandKind.PUBLISH, CommandKind.DELETE_UPDATES]


def test_scores_below_the_served_adapters_reject_publish_and_delete() -> None:
    better = context(make_terms(), served=make_scores(6))
    evaluating = in_phase(Phase.EVALUATING)
    assert moved(evaluating, scored(f1_tenths=5), by=better).phase is Phase.REJECTED
    kinds = commanded(evaluating, scored(f1_tenths=5), by=better)
    assert kinds == [CommandKind.PUBLISH, CommandKind.DELETE_UPDATES]


def test_scores_of_another_round_change_nothing() -> None:
    evaluating = in_phase(Phase.EVALUATING)
    assert moved(evaluating, scored(round_number=2)) == evaluating


def test_an_absent_evaluator_fails_the_round_when_the_terms_say_fail() -> None:
    failed = moved(in_phase(Phase.EVALUATING), passed(DeadlineName.EVALUATE, 10_020))
    assert (failed.phase, failed.reason) == (Phase.FAILED, Reason.EVALUATOR_ABSENT)


def test_an_absent_evaluator_promotes_unscored_when_the_terms_say_promote() -> None:
    terms = make_terms(gate=GateTerms(on_evaluator_absent=OnEvaluatorAbsent.PROMOTE))
    committed = moved(in_phase(Phase.EVALUATING), passed(DeadlineName.EVALUATE), by=context(terms))
    assert (committed.phase, committed.scores, committed.is_unscored) == (Phase.COMMITTED, None, True)


@pytest.mark.parametrize(
    ("no", "outcome"),
    [(evaluator_says_no(), SiteOutcome.DECLINED), (scores_are_refused(), SiteOutcome.REFUSED)],
    ids=["declined", "refused"],
)
def test_an_evaluators_no_is_kept_with_its_reason_and_the_round_waits_for_another(
    no: ev.AssignmentDeclined | ev.AnswerRefused, outcome: SiteOutcome
) -> None:
    waiting = moved(in_phase(Phase.EVALUATING), no, known_evaluators(EVALUATOR, SiteName("other")))
    assert waiting.phase is Phase.EVALUATING
    assert waiting.evaluator_outcomes == (EvaluatorOutcome(evaluator=EVALUATOR, outcome=outcome, reason=no.reason),)


def test_when_the_last_known_evaluator_says_no_the_round_fails_at_once() -> None:
    failed = moved(in_phase(Phase.EVALUATING), scores_are_refused(), known_evaluators(EVALUATOR))
    assert (failed.phase, failed.reason) == (Phase.FAILED, Reason.NO_EVALUATOR_LEFT)


def test_when_the_last_known_evaluator_says_no_the_candidate_is_promoted_unscored_when_the_terms_say_promote() -> None:
    terms = make_terms(gate=GateTerms(on_evaluator_absent=OnEvaluatorAbsent.PROMOTE))
    committed = moved(in_phase(Phase.EVALUATING), evaluator_says_no(), known_evaluators(EVALUATOR), by=context(terms))
    assert (committed.phase, committed.is_unscored, committed.reason) == (Phase.COMMITTED, True, None)


def test_before_the_first_no_a_round_waits_for_an_evaluator_that_nobody_knows_yet() -> None:
    evaluating = in_phase(Phase.EVALUATING)
    assert moved(evaluating, known_evaluators()) == evaluating


def test_an_evaluators_second_no_changes_nothing() -> None:
    waiting = moved(in_phase(Phase.EVALUATING), evaluator_says_no())
    assert moved(waiting, evaluator_says_no(26), scores_are_refused(27)) == waiting


@pytest.mark.parametrize(
    "no",
    [evaluator_says_no(round_number=2), scores_are_refused(round_number=2), declined(ANNA), refused(ANNA)],
    ids=["other round", "scores of another round", "a site", "an update"],
)
def test_a_no_to_another_assignment_changes_nothing_in_evaluation(no: ev.AssignmentDeclined | ev.AnswerRefused) -> None:
    evaluating = in_phase(Phase.EVALUATING)
    assert moved(evaluating, no) == evaluating
