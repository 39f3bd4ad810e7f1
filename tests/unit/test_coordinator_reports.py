"""What an operator is told of runs of any length: it fits into a message, and says which rounds it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.chunks import MAX_MESSAGE_BYTES
from coordinator.adapters.rpc.reports import MAX_LIST_BYTES, adapter_versions, run_report
from coordinator.cli_text import rounds_left_out
from coordinator.domain.values import Phase, Run
from tests.fakes.coordinator_values import (
    SITES,
    START,
    accepted,
    after,
    candidate_ready,
    everyone_present,
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
