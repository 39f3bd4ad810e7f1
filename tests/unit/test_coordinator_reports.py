"""What an operator is told of runs of any length: it fits into a message, and says which rounds it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.chunks import MAX_MESSAGE_BYTES
from common.terms import GateTerms, OnEvaluatorAbsent
from coordinator.adapters.rpc.reports import MAX_LIST_BYTES, adapter_versions, run_report
from coordinator.cli_text import rounds_left_out
from coordinator.domain import events as ev
from coordinator.domain.values import DeadlineName, Phase, Run
from fedmedlora.v1 import admin_pb2, errors_pb2
from tests.fakes.coordinator_rounds import evaluator_says_no, first_adapter_is_refused
from tests.fakes.coordinator_values import (
    EVALUATOR,
    SITES,
    START,
    accepted,
    after,
    at,
    candidate_ready,
    evaluating_run,
    everyone_present,
    make_terms,
    new_run,
    published,
    scored,
    selecting_run,
)

ROUNDS = 10_000  # the most that terms allow


@pytest.fixture(scope="module")
def long_run() -> Run:
    """A run of as many rounds as terms allow; all but the first one were rejected."""
    run = after(selecting_run(), everyone_present(), *(accepted(site) for site in SITES))
    (first, *_) = after(run, candidate_ready(run), scored()).rounds
    rejected = (replace(first, number=number, phase=Phase.REJECTED) for number in range(2, ROUNDS + 1))
    return replace(run, rounds=(first, *rejected))


def rounds_of(run: Run, last_round: int = 0) -> list[int]:
    report = run_report(run, {}, lambda _: None, START, last_round)
    assert report.ByteSize() < MAX_MESSAGE_BYTES
    return [past.round_number for past in report.rounds]


def test_a_report_of_many_rounds_fits_into_a_message_and_holds_the_latest(long_run: Run) -> None:
    shown = rounds_of(long_run)
    assert shown == list(range(shown[0], ROUNDS + 1))
    assert 100 < len(shown) < ROUNDS


def test_every_round_can_be_asked_for(long_run: Run) -> None:
    seen: list[int] = []
    while not seen or seen[0] > 1:
        seen[:0] = rounds_of(long_run, seen[0] - 1 if seen else 0)
    assert seen == list(range(1, ROUNDS + 1))


def test_a_round_that_alone_is_too_large_is_told_all_the_same(long_run: Run) -> None:
    first, second, *_ = long_run.rounds
    crowd = tuple(replace(second.roster[0], site=f"site-{number}") for number in range(20_000))  # type: ignore[arg-type]
    report = run_report(replace(long_run, rounds=(first, replace(second, roster=crowd))), {}, lambda _: None, START)
    assert [past.round_number for past in report.rounds] == [2]
    assert MAX_LIST_BYTES < report.ByteSize() < MAX_MESSAGE_BYTES


def test_a_short_run_is_told_whole(long_run: Run) -> None:
    assert rounds_of(replace(long_run, rounds=long_run.rounds[:3])) == [1, 2, 3]


def test_the_latest_versions_fit_into_a_message_and_the_promoted_one_is_among_them(long_run: Run) -> None:
    versions = adapter_versions(long_run)
    assert sum(version.ByteSize() for version in versions) < MAX_LIST_BYTES + 1024
    assert (versions[0].version, versions[-1].version) == (1, ROUNDS)
    assert [version.version for version in versions if version.is_promoted] == [1]


def test_a_person_is_told_which_rounds_are_shown(long_run: Run) -> None:
    (line,) = rounds_left_out(run_report(long_run, {}, lambda _: None, START))
    first = rounds_of(long_run)[0]
    assert line == f"rounds {first} to {ROUNDS} of {ROUNDS}; earlier ones: run show --last-round {first - 1}"
    assert rounds_left_out(run_report(long_run, {}, lambda _: None, START, 2)) == [f"rounds 1 to 2 of {ROUNDS}"]
    short = replace(long_run, rounds=long_run.rounds[:3])
    assert rounds_left_out(run_report(short, {}, lambda _: None, START)) == []


def test_an_evaluators_no_is_reported_with_its_reason() -> None:
    report = run_report(after(new_run(), first_adapter_is_refused()), {}, lambda _: None, START)
    assert list(report.evaluator_outcomes) == [
        admin_pb2.EvaluatorOutcome(
            evaluator=EVALUATOR,
            outcome=admin_pb2.SITE_OUTCOME_REFUSED,
            reason=errors_pb2.REASON_SPEC_INVALID,
        )
    ]
    (scoring,) = run_report(after(evaluating_run(), evaluator_says_no()), {}, lambda _: None, START).rounds
    assert list(scoring.evaluator_outcomes) == [
        admin_pb2.EvaluatorOutcome(
            evaluator=EVALUATOR,
            outcome=admin_pb2.SITE_OUTCOME_DECLINED,
            reason=errors_pb2.REASON_OUT_OF_MEMORY,
        )
    ]


def test_a_candidate_that_was_promoted_unscored_is_reported_so() -> None:
    run = evaluating_run(make_terms(gate=GateTerms(on_evaluator_absent=OnEvaluatorAbsent.PROMOTE)))
    nobody = ev.DeadlinePassed(at=at(10_020), name=DeadlineName.EVALUATE)
    for event, is_unscored in ((nobody, True), (scored(), False)):
        report = run_report(after(run, event), {}, lambda _: None, START)
        assert report.rounds[0].is_unscored is is_unscored


def test_a_served_folder_is_told_when_it_is_there() -> None:
    committed = after(evaluating_run(), scored())
    told = [run_report(run, {}, lambda _: None, START) for run in (committed, after(committed, published()))]
    assert [report.served_folder for report in told] == ["", "registry/trial/v0001"]
