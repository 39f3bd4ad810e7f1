"""SIGSTOP for longer than a deadline, with real processes: a site's time counts, the coordinator's does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from common.terms import Terms
from tests.faults.conftest import Undisturbed
from tests.faults.processes import SITES, Federation, make_terms
from tests.faults.steps import COORDINATOR

pytestmark = pytest.mark.slow

# Of a stop at most 15 s count (docs/operations.md).
DEADLINE_SECONDS, STOP_SECONDS = 25.0, 28.0


def _terms(quorum: int, train_deadline: float, grace: float) -> Terms:
    terms = make_terms(rounds=2)
    return replace(terms, rounds=replace(terms.rounds, quorum=quorum, train_deadline=train_deadline, grace=grace))


def test_a_site_that_is_stopped_beyond_the_grace_is_a_straggler_and_the_round_as_without_it(tmp_path: Path) -> None:
    terms = _terms(quorum=1, train_deadline=600.0, grace=2.0)
    for name in ("stopped", "absent"):
        (tmp_path / name).mkdir()
    outcomes = []
    with Federation(tmp_path / "stopped", terms) as federation:
        federation.create_run()
        for process, line in federation.follow():
            if process == SITES[1] and line["event"] == "assignment_taken" and line["round_number"] == 1:
                federation.stop(SITES[1], seconds=math.inf)  # until it is known to be a straggler
            if line["event"] == "site_outcome" and line["site"] == SITES[1]:
                outcomes.append((line["round_number"], line["outcome"]))
                if outcomes[-1] == (1, "straggler"):
                    federation.go_on(SITES[1])
        published = federation.published()
        assert federation.done_twice() == []
    assert (1, "straggler") in outcomes
    with Federation(tmp_path / "absent", terms) as federation:
        federation.kill_for_good(SITES[1])
        assert federation.run()["v0001"] == published["v0001"]


def test_the_time_in_which_the_coordinator_is_stopped_is_nobodys_fault(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    terms = _terms(quorum=len(SITES), train_deadline=DEADLINE_SECONDS, grace=DEADLINE_SECONDS)
    wanted = undisturbed(terms)
    is_stopped = False
    with Federation(tmp_path, terms) as federation:
        federation.create_run()
        for _, line in federation.follow():
            if line["event"] == "round_phase" and line["phase"] == "training" and not is_stopped:
                is_stopped = True
                federation.stop(COORDINATOR, STOP_SECONDS)
        assert federation.published() == wanted
        assert federation.done_twice() == []
    assert is_stopped
