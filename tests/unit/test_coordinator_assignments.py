"""Who is asked for what, and under which id."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import InputInvalidError, Reason
from common.ids import RunId, SiteName
from common.terms import AggregationTerms
from coordinator.domain import assignments
from coordinator.domain import events as ev
from coordinator.domain.aggregation import STRATEGIES, strategy_of
from coordinator.domain.aggregation.fed_medlora import FedMedLora
from coordinator.domain.aggregation.strategy import Plan
from coordinator.domain.assignments import AssignmentKind
from coordinator.domain.cohort import (
    evaluate_assignment_id,
    expected_sites,
    initialise_assignment_id,
    invite,
    train_assignment_id,
)
from coordinator.domain.values import DeadlineName, Run
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    EVALUATOR,
    RUN_ID,
    SITES,
    accepted,
    after,
    aggregating_run,
    at,
    evaluating_run,
    everyone_present,
    file,
    make_round_terms,
    make_terms,
    new_run,
    scored,
    selecting_run,
    train_id,
    training_run,
)

ABORT = ev.AbortRequested(at=at(50))
STRANGER = SiteName("stranger")


def test_asked_twice_an_assignment_is_the_same() -> None:
    run = training_run()
    once, twice = (assignments.for_site(run, ANNA) for _ in range(2))
    assert once is not None
    assert once == twice


def test_taking_an_assignment_up_does_not_change_it() -> None:
    run = training_run()
    taken = after(run, ev.AssignmentTaken(at=at(1), assignment_id=train_id(ANNA)))
    before, now = assignments.for_site(run, ANNA), assignments.for_site(taken, ANNA)
    assert before is not None and now is not None
    assert replace(now, run=run) == before


def test_a_train_assignment_says_from_which_adapter_until_when_and_how() -> None:
    given = assignments.for_site(training_run(), ANNA)
    assert given is not None
    assert (given.kind, given.assignment_id, given.round_number) == (AssignmentKind.TRAIN, train_id(ANNA), 1)
    assert (given.adapter, given.deadline_at, given.plan) == (file("first"), at(1000), Plan())


def test_the_deadline_of_an_assignment_is_not_shortened_by_the_grace() -> None:
    given = assignments.for_site(after(training_run(), accepted(ANNA), accepted(BERTA)), CLARA)
    assert given is not None
    assert given.deadline_at == at(1000)


@pytest.mark.parametrize("run", [new_run(), selecting_run(), aggregating_run(), evaluating_run()])
def test_a_site_has_an_assignment_in_training_alone(run: Run) -> None:
    assert assignments.for_site(run, ANNA) is None


def test_a_site_that_answered_has_no_assignment_and_the_others_keep_theirs() -> None:
    run = after(training_run(), accepted(ANNA))
    assert assignments.for_site(run, ANNA) is None
    assert assignments.for_site(run, BERTA) is not None


@pytest.mark.parametrize("name", [STRANGER, EVALUATOR])
def test_who_is_not_invited_has_no_train_assignment(name: SiteName) -> None:
    assert assignments.for_site(training_run(), name) is None


def test_every_evaluator_is_asked_for_the_first_adapter() -> None:
    for evaluator in (EVALUATOR, SiteName("other")):
        given = assignments.for_evaluator(new_run(), evaluator)
        assert given is not None
        assert (given.kind, given.assignment_id) == (
            AssignmentKind.INITIALISE,
            initialise_assignment_id(RUN_ID, evaluator),
        )
        assert (given.adapter, given.plan, given.deadline_at) == (None, None, at(10_000))


def test_every_evaluator_is_asked_to_score_the_candidate() -> None:
    given = assignments.for_evaluator(evaluating_run(), EVALUATOR)
    assert given is not None
    assert (given.kind, given.assignment_id) == (
        AssignmentKind.EVALUATE,
        evaluate_assignment_id(RUN_ID, 1, EVALUATOR),
    )
    assert (given.adapter, given.round_number, given.deadline_at) == (file("candidate 1"), 1, at(10_020))


@pytest.mark.parametrize("run", [selecting_run(), training_run(), aggregating_run()])
def test_an_evaluator_never_sees_a_train_assignment(run: Run) -> None:
    assert assignments.for_evaluator(run, EVALUATOR) is None
    assert assignments.for_evaluator(run, ANNA) is None


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        (new_run(), initialise_assignment_id(RUN_ID, EVALUATOR)),
        (evaluating_run(), evaluate_assignment_id(RUN_ID, 1, EVALUATOR)),
    ],
)
def test_an_evaluator_that_declined_is_not_asked_again_and_the_others_are(run: Run, wanted: str) -> None:
    given = assignments.for_evaluator(run, EVALUATOR)
    assert given is not None and given.assignment_id == wanted
    no = ev.AssignmentDeclined(
        at=at(1), assignment_id=given.assignment_id, by=EVALUATOR, reason=Reason.DEVICE_UNAVAILABLE
    )
    assert assignments.for_evaluator(after(run, no), EVALUATOR) is None
    assert assignments.for_evaluator(after(run, no), SiteName("other")) is not None


@pytest.mark.parametrize("run", [new_run(), training_run(), evaluating_run()])
def test_an_ended_run_asks_nobody(run: Run) -> None:
    aborted = after(run, ABORT)
    assert assignments.for_site(aborted, ANNA) is None
    assert assignments.for_evaluator(aborted, EVALUATOR) is None


def test_a_straggler_has_a_new_assignment_in_the_next_round() -> None:
    late = ev.DeadlinePassed(at=at(1000), name=DeadlineName.TRAIN)
    run = after(training_run(), accepted(ANNA), accepted(BERTA), late)
    assert assignments.for_site(run, CLARA) is None
    candidate = ev.CandidateReady(at=at(1001), round_number=1, candidate=file("c"), weights=((ANNA, 0.5), (BERTA, 0.5)))
    next_round = after(run, candidate, scored(), everyone_present(1002))
    given = assignments.for_site(next_round, CLARA)
    assert given is not None
    assert (given.round_number, given.assignment_id) == (2, train_id(CLARA, 2))


def test_no_two_pieces_of_work_share_an_id() -> None:
    other = RunId("f" * 32)
    ids = [train_assignment_id(run, number, site) for run in (RUN_ID, other) for number in (1, 2) for site in SITES]
    ids += [evaluate_assignment_id(run, number, ANNA) for run in (RUN_ID, other) for number in (0, 1, 2)]
    ids += [initialise_assignment_id(run, ANNA) for run in (RUN_ID, other)]
    assert len(set(ids)) == len(ids)


# The cohort


def test_named_sites_are_expected_whoever_is_enrolled() -> None:
    assert expected_sites(make_round_terms(sites=(ANNA, BERTA)), frozenset({CLARA})) == {ANNA, BERTA}


def test_without_names_every_enrolled_site_is_expected() -> None:
    assert expected_sites(make_round_terms(sites=()), frozenset({ANNA, CLARA})) == {ANNA, CLARA}


def test_an_invitation_is_sorted_whatever_the_order_of_the_set() -> None:
    assert [entry.site for entry in invite(RUN_ID, 1, frozenset((CLARA, ANNA, BERTA)))] == [ANNA, BERTA, CLARA]


# The strategies


def test_a_strategy_is_found_by_its_name() -> None:
    assert isinstance(strategy_of(make_terms()), FedMedLora)
    assert all(make(make_terms()).name == name for name, make in STRATEGIES.items())


def test_an_unknown_strategy_is_refused_with_the_names_that_exist() -> None:
    terms = make_terms(aggregation=AggregationTerms(strategy="no_such_rule"))
    with pytest.raises(InputInvalidError, match=r"expected one of .*fed_medlora, .*got 'no_such_rule'") as refused:
        strategy_of(terms)
    assert refused.value.reason is Reason.TERMS_INVALID
