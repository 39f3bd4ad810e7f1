"""A run from its first adapter to its end: every transition, as a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import Reason
from common.ids import SiteName
from common.terms import GateMetric, GateTerms, OnEvaluatorAbsent, OnRejection, Terms
from coordinator.domain import events as ev
from coordinator.domain import run_machine
from coordinator.domain.cohort import initialise_assignment_id
from coordinator.domain.commands import CommandKind
from coordinator.domain.values import (
    Deadline,
    DeadlineName,
    EvaluatorOutcome,
    Phase,
    Run,
    RunState,
    SiteOutcome,
)
from tests.fakes.coordinator_rounds import first_adapter_is_refused, known_evaluators
from tests.fakes.coordinator_values import (
    EVALUATOR,
    RUN_ID,
    SITES,
    START,
    accepted,
    after,
    aggregating_run,
    at,
    candidate_ready,
    commands_of,
    evaluating_run,
    everyone_present,
    file,
    first_adapter,
    make_round_terms,
    make_spec,
    make_terms,
    new_run,
    open_round_of,
    published,
    scored,
    selecting_run,
    training_run,
)

ABORT = ev.AbortRequested(at=at(50))
EVALUATE_PASSED = ev.DeadlinePassed(at=at(10_020), name=DeadlineName.EVALUATE)


def gated(on_rejection: OnRejection) -> Terms:
    return make_terms(rounds=make_round_terms(count=3), gate=GateTerms(on_rejection=on_rejection))


def through_round(run: Run, f1_tenths: int) -> Run:
    """Play the open round with all three sites to its scores."""
    number = open_round_of(run).number
    run = after(run, everyone_present(), *(accepted(site, number) for site in SITES))
    return after(run, candidate_ready(run), scored(number, f1_tenths=f1_tenths), published(number))


def evaluator_says_no() -> ev.AssignmentDeclined:
    wanted = initialise_assignment_id(RUN_ID, EVALUATOR)
    return ev.AssignmentDeclined(at=at(1), assignment_id=wanted, by=EVALUATOR, reason=Reason.OUT_OF_MEMORY)


def test_a_new_run_waits_for_its_first_adapter_until_the_evaluate_deadline() -> None:
    run = new_run()
    assert (run.state, run.rounds, run.created_at) == (RunState.INITIALISING, (), START)
    assert run.open_deadlines == (Deadline(name=DeadlineName.EVALUATE, at=at(10_000)),)


def test_the_first_adapter_starts_the_run_and_opens_round_one_from_it() -> None:
    run = after(new_run(), first_adapter(5))
    assert (run.state, run.spec, run.first_adapter) == (RunState.RUNNING, make_spec(), file("first"))
    opened = open_round_of(run)
    assert (opened.number, opened.phase, opened.global_adapter) == (1, Phase.SELECTING, file("first"))
    assert (opened.opened_at, run.deadlines, run.open_deadlines) == (at(5), (), ())


def test_a_second_first_adapter_changes_nothing() -> None:
    run = selecting_run()
    other = ev.FirstAdapterReceived(at=at(9), adapter=file("other"), spec=make_spec(modules=3))
    assert run_machine.step(run, other) == (run, ())


@pytest.mark.parametrize(
    ("no", "outcome"),
    [(evaluator_says_no(), SiteOutcome.DECLINED), (first_adapter_is_refused(), SiteOutcome.REFUSED)],
    ids=["declined", "refused"],
)
def test_an_evaluators_no_is_kept_with_its_reason_and_the_run_waits_for_another(
    no: ev.AssignmentDeclined | ev.AnswerRefused, outcome: SiteOutcome
) -> None:
    run = after(new_run(), no, known_evaluators(EVALUATOR, SiteName("other")))
    assert run.state is RunState.INITIALISING
    assert run.evaluator_outcomes == (EvaluatorOutcome(evaluator=EVALUATOR, outcome=outcome, reason=no.reason),)


def test_when_the_last_known_evaluator_says_no_the_run_fails_at_once() -> None:
    run = after(new_run(), first_adapter_is_refused(), known_evaluators(EVALUATOR))
    assert (run.state, run.reason, run.ended_at) == (RunState.FAILED, Reason.NO_EVALUATOR_LEFT, at(28))


def test_before_the_first_no_a_run_waits_for_an_evaluator_that_nobody_knows_yet() -> None:
    assert after(new_run(), known_evaluators()) == new_run()


@pytest.mark.parametrize("event", [first_adapter(), EVALUATE_PASSED, ABORT], ids=["there", "late", "aborted"])
def test_beginnings_of_first_adapters_are_deleted_when_none_is_awaited_any_more(event: ev.RunEvent) -> None:
    (command,) = commands_of(new_run(), event)
    assert (command.kind, command.round_number) == (CommandKind.DELETE_UPDATES, 0)


def test_an_evaluators_second_no_changes_nothing() -> None:
    run = after(new_run(), evaluator_says_no())
    for again in (evaluator_says_no(), first_adapter_is_refused()):
        assert run_machine.step(run, again) == (run, ())


def test_a_no_to_another_assignment_changes_nothing_while_initialising() -> None:
    run = new_run()
    assert run_machine.step(run, replace(evaluator_says_no(), by=SITES[0])) == (run, ())


def test_without_an_evaluator_the_run_fails_at_the_deadline() -> None:
    run = after(new_run(), EVALUATE_PASSED)
    assert (run.state, run.reason, run.ended_at) == (RunState.FAILED, Reason.EVALUATOR_ABSENT, at(10_020))
    assert run.open_deadlines == ()


def test_events_of_a_round_change_nothing_before_the_first_adapter() -> None:
    run = new_run()
    train_passed = ev.DeadlinePassed(at=at(9), name=DeadlineName.TRAIN)
    for event in (everyone_present(), accepted(SITES[0]), scored(), train_passed):
        assert run_machine.step(run, event) == (run, ())


def test_a_run_of_two_rounds_completes_after_the_second() -> None:
    once = through_round(selecting_run(), f1_tenths=5)
    assert (once.state, open_round_of(once).number) == (RunState.RUNNING, 2)
    twice = through_round(once, f1_tenths=5)
    assert (twice.state, twice.reason, twice.ended_at) == (RunState.COMPLETED, None, at(40))
    assert [past.phase for past in twice.rounds] == [Phase.COMMITTED, Phase.COMMITTED]


def test_a_promoted_candidate_is_served_and_the_next_round_starts_from_it() -> None:
    run = through_round(selecting_run(), f1_tenths=5)
    assert run.served is not None
    assert (run.served.adapter, run.served.version) == (file("candidate 1"), 1)
    assert open_round_of(run).global_adapter == file("candidate 1")


def test_a_rejected_candidate_is_not_served() -> None:
    run = through_round(through_round(selecting_run(gated(OnRejection.CONTINUE)), f1_tenths=5), f1_tenths=4)
    assert run.rounds[1].phase is Phase.REJECTED
    assert run.served is not None
    assert run.served.adapter == file("candidate 1")


def test_continuing_after_a_rejection_starts_from_the_rejected_candidate() -> None:
    run = through_round(through_round(selecting_run(gated(OnRejection.CONTINUE)), f1_tenths=5), f1_tenths=4)
    assert open_round_of(run).global_adapter == file("candidate 2")


def test_reverting_after_a_rejection_starts_from_the_served_adapter() -> None:
    run = through_round(through_round(selecting_run(gated(OnRejection.REVERT)), f1_tenths=5), f1_tenths=4)
    assert open_round_of(run).global_adapter == file("candidate 1")


def test_the_gate_compares_with_the_served_adapter_and_not_with_the_last_candidate() -> None:
    run = selecting_run(gated(OnRejection.CONTINUE))
    for f1_tenths in (5, 3, 4):
        run = through_round(run, f1_tenths)
    assert [past.phase for past in run.rounds] == [Phase.COMMITTED, Phase.REJECTED, Phase.REJECTED]


def test_a_rejected_last_round_still_completes_the_run() -> None:
    run = through_round(through_round(selecting_run(), f1_tenths=5), f1_tenths=4)
    assert (run.state, run.rounds[-1].phase) == (RunState.COMPLETED, Phase.REJECTED)


def test_without_a_gate_every_round_is_served_unscored() -> None:
    run = aggregating_run(make_terms(gate=GateTerms(metric=GateMetric.NONE)))
    run = after(run, candidate_ready(run), published())
    assert run.served is not None
    assert (run.served.version, run.rounds[0].scores, open_round_of(run).number) == (1, None, 2)


@pytest.mark.parametrize("f1_tenths", [4, 5], ids=["rejected", "promoted"])
def test_the_last_version_ends_the_run_when_it_is_published_and_not_before(f1_tenths: int) -> None:
    run = through_round(selecting_run(), f1_tenths=5)
    run = after(run, everyone_present(), *(accepted(site, 2) for site in SITES))
    run = after(run, candidate_ready(run), scored(2, f1_tenths=f1_tenths))
    assert (run.state, run.current, run.served and run.served.version) == (RunState.RUNNING, None, 1)
    run = after(run, published(2))
    promoted = run.rounds[1].phase is Phase.COMMITTED
    assert (run.state, run.served and run.served.version) == (RunState.COMPLETED, 2 if promoted else 1)


def test_a_promoted_version_that_is_published_after_the_runs_end_is_served_all_the_same() -> None:
    run = evaluating_run()
    run = after(run, scored(), ABORT)
    assert (run.state, run.served) == (RunState.ABORTED, None)
    run = after(run, published())
    assert (run.state, run.served and run.served.version) == (RunState.ABORTED, 1)


def test_an_operator_aborts_a_run_whose_last_version_cannot_be_published() -> None:
    run = evaluating_run(make_terms(rounds=make_round_terms(count=1)))
    run = after(run, scored(), ABORT)
    assert (run.state, run.reason) == (RunState.ABORTED, Reason.ABORTED_BY_OPERATOR)


@pytest.mark.parametrize("run", [new_run(), training_run(), evaluating_run()])
def test_what_has_no_version_is_not_published(run: Run) -> None:
    for number in (0, 1, 2):
        assert run_machine.step(run, published(number)) == (run, ())


def unscored_then(*f1_tenths: int) -> list[Phase]:
    """The phases of rounds with these scores, after one of 0.8 and one that nobody scored."""
    gate = GateTerms(on_evaluator_absent=OnEvaluatorAbsent.PROMOTE)
    run = selecting_run(make_terms(rounds=make_round_terms(count=4), gate=gate))
    run = through_round(run, f1_tenths=8)
    run = after(run, everyone_present(), *(accepted(site, 2) for site in SITES))
    run = after(run, candidate_ready(run), EVALUATE_PASSED, published(2))
    assert run.rounds[1].is_unscored
    for tenths in f1_tenths:
        run = through_round(run, tenths)
    return [past.phase for past in run.rounds[2 : 2 + len(f1_tenths)]]


def test_after_an_unscored_promotion_the_scores_to_beat_are_the_last_ones_promoted() -> None:
    assert unscored_then(1, 8) == [Phase.REJECTED, Phase.COMMITTED]


def test_when_nothing_was_scored_yet_the_first_scored_candidate_is_promoted() -> None:
    run = evaluating_run(make_terms(gate=GateTerms(on_evaluator_absent=OnEvaluatorAbsent.PROMOTE)))
    run = through_round(after(run, EVALUATE_PASSED), f1_tenths=0)
    assert [past.phase for past in run.rounds] == [Phase.COMMITTED, Phase.COMMITTED]


def test_an_absent_evaluator_ends_the_run_when_the_terms_say_fail() -> None:
    run = after(evaluating_run(), EVALUATE_PASSED)
    assert (run.state, run.reason, run.served) == (RunState.FAILED, Reason.EVALUATOR_ABSENT, None)


def test_a_failed_round_ends_the_run_with_its_reason() -> None:
    run = after(training_run(), ev.DeadlinePassed(at=at(1000), name=DeadlineName.TRAIN))
    assert (run.state, run.reason, run.ended_at) == (RunState.FAILED, Reason.QUORUM_NOT_REACHED, at(1000))
    assert (len(run.rounds), run.current) == (1, None)


@pytest.mark.parametrize("run", [new_run(), selecting_run(), training_run(), aggregating_run(), evaluating_run()])
def test_an_operator_aborts_a_run_wherever_it_stands(run: Run) -> None:
    aborted = after(run, ABORT)
    assert (aborted.state, aborted.reason, aborted.ended_at) == (
        RunState.ABORTED,
        Reason.ABORTED_BY_OPERATOR,
        at(50),
    )
    assert all(past.phase is Phase.ABORTED for past in aborted.rounds)
    assert (aborted.current, aborted.open_deadlines) == (None, ())


@pytest.mark.parametrize("ended", [after(training_run(), ABORT), after(new_run(), EVALUATE_PASSED)])
def test_a_run_that_has_ended_never_moves(ended: Run) -> None:
    for event in (first_adapter(), everyone_present(), accepted(SITES[0]), scored(), ABORT, EVALUATE_PASSED):
        assert run_machine.step(ended, event) == (ended, ())


def test_the_commands_of_a_round_carry_its_run_and_number() -> None:
    run = through_round(selecting_run(), f1_tenths=5)
    run = after(run, everyone_present(), *(accepted(site, 2) for site in SITES[:2]))
    (command,) = commands_of(run, accepted(SITES[2], 2))
    assert (command.kind, command.run_id, command.round_number) == (CommandKind.AGGREGATE, RUN_ID, 2)


def test_deadlines_of_a_run_are_those_of_its_open_round() -> None:
    run = training_run()
    assert run.open_deadlines == open_round_of(run).deadlines != ()
