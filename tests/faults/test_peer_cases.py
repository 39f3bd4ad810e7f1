"""What became of a run of three sites and four rounds on other systems when a process of it was killed, replayed here.

The faults are those that Flower 1.41 and NVIDIA FLARE 2.9 were measured with. There a killed site was waited for for
minutes or for ever, rounds were made of one update where two were required, and a killed server ended the run.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import Reason
from common.terms import Terms
from tests.faults.conftest import Undisturbed
from tests.faults.long_form import IS_LONG
from tests.faults.processes import Federation, make_terms
from tests.faults.steps import COORDINATOR

pytestmark = pytest.mark.slow

ROUNDS, SITES = 4 if IS_LONG else 2, ("site-1", "site-2", "site-3")
ONE, TWO, THREE = SITES
AWAY_SECONDS = 20.0 if IS_LONG else 3.0


def _terms(quorum: int, grace: float, train_deadline: float = 600.0) -> Terms:
    terms = make_terms(ROUNDS, sites=SITES)
    rounds = replace(terms.rounds, quorum=quorum, grace=grace, train_deadline=train_deadline)
    return replace(terms, rounds=rounds)


def test_a_site_that_is_killed_is_waited_for_for_the_grace_and_every_round_goes_on_with_the_others(
    tmp_path: Path,
) -> None:
    terms = _terms(quorum=2, grace=1.0)
    for name in ("killed", "absent"):
        (tmp_path / name).mkdir()
    outcomes = {}
    with Federation(tmp_path / "killed", terms) as federation:
        federation.create_run()
        for process, line in federation.follow():
            if process == THREE and line["event"] == "assignment_taken":
                federation.kill_for_good(THREE)
            if line["event"] == "site_outcome" and line["site"] == THREE:
                outcomes[line["round_number"]] = line["outcome"]
        published = federation.published()
    assert outcomes == dict.fromkeys(range(1, ROUNDS + 1), "straggler")
    with Federation(tmp_path / "absent", terms) as federation:
        federation.kill_for_good(THREE)
        assert federation.run() == published


def test_a_site_that_is_killed_and_comes_back_is_in_the_same_round(tmp_path: Path, undisturbed: Undisturbed) -> None:
    wanted = undisturbed(make_terms(ROUNDS, sites=SITES))
    with Federation(tmp_path, make_terms(ROUNDS, sites=SITES)) as federation:
        federation.create_run()
        killed_at: list[float] = []

        def come_back() -> None:
            if THREE not in federation.processes and time.monotonic() > killed_at[0] + AWAY_SECONDS:
                federation.start(THREE)

        for process, line in federation.follow(come_back):
            if process == THREE and line["event"] == "assignment_taken" and not killed_at:
                killed_at.append(time.monotonic())
                federation.kill_for_good(THREE)
        assert killed_at
        assert federation.published() == wanted
        assert federation.done_twice() == []


def test_where_two_of_three_are_required_no_round_is_made_of_one_update(tmp_path: Path) -> None:
    with Federation(tmp_path, _terms(quorum=2, grace=1.0, train_deadline=6.0)) as federation:
        federation.create_run()
        ended = []
        with pytest.raises(AssertionError, match="the run failed"):
            for process, line in federation.follow():
                if process in (TWO, THREE) and line["event"] == "assignment_taken":
                    federation.kill_for_good(process)
                if line["event"] == "round_phase" and line["phase"] in ("committed", "failed"):
                    ended.append((line["phase"], line.get("reason")))
        assert ended == [("failed", Reason.QUORUM_NOT_REACHED)]
        assert federation.published() == {}


def test_a_coordinator_that_is_killed_in_every_round_loses_none_of_them(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    wanted = undisturbed(make_terms(ROUNDS, sites=SITES))
    with Federation(tmp_path, make_terms(ROUNDS, sites=SITES)) as federation:
        federation.create_run()
        killed = set()
        for _, line in federation.follow():
            if line["event"] == "site_outcome" and line["outcome"] == "accepted" and line["round_number"] not in killed:
                killed.add(line["round_number"])
                federation.kill(COORDINATOR)
        assert len(killed) == ROUNDS
        assert federation.published() == wanted
        assert federation.done_twice() == []
