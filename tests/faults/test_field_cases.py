"""What went wrong for users of other systems, by the name of the thread in which they tell it, replayed on this one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.terms import Terms
from fedmedlora.v1 import admin_pb2
from tests.faults.conftest import Undisturbed
from tests.faults.processes import SITES, Federation, make_terms
from tests.faults.proxy import Link

pytestmark = pytest.mark.slow

ONE, TWO = SITES
AGENTS = len(SITES) + 1
# The adapter at rank 1: 626,064 bytes; the last of them fit into what may be sent ahead.
LAST_BYTES = 560_000


def _terms(rounds: int, quorum: int = 1, grace: float = 3.0) -> Terms:
    terms = make_terms(rounds)
    return replace(terms, rounds=replace(terms.rounds, quorum=quorum, grace=grace))


def _outcomes(lines: Sequence[dict[str, Any]], site: str) -> dict[int, str]:
    """The last outcome of a site by round."""
    return {
        line["round_number"]: line["outcome"]
        for line in lines
        if line["event"] == "site_outcome" and line["site"] == site
    }


async def _report(federation: Federation) -> admin_pb2.RunReport:
    async with federation.operator() as client:
        return await client.get_run(federation.prepared.terms.name)


def test_flip_684_an_update_that_arrived_and_whose_acknowledgement_was_lost(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    wanted = undisturbed(make_terms(rounds=2))
    link = Link(lose_answers_after_bytes=LAST_BYTES, lossy_connections=AGENTS)
    with Federation(tmp_path, make_terms(rounds=2), link) as federation:
        assert federation.run() == wanted
        assert federation.proxy is not None and federation.proxy.cuts == AGENTS
        assert federation.done_twice() == []
        report = asyncio.run(_report(federation))
        assert "upload_interrupted" in federation.events("evaluator")  # the round goes on without waiting for the sites
        for entry in report.rounds[0].roster:  # what had arrived was not sent again
            assert entry.upload_bytes < 1.2 * report.served_adapter.size_bytes


def test_mediswarm_348_a_connection_that_is_down_in_the_middle_of_a_round(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    wanted = undisturbed(make_terms(rounds=2))
    with Federation(tmp_path, make_terms(rounds=2), Link()) as federation:
        assert federation.proxy is not None
        federation.create_run()
        for process, line in federation.follow():
            if process == ONE and line["event"] == "trainer_started" and line["round_number"] == 1:
                federation.proxy.cut_off(seconds=6.0)
        assert federation.proxy.cuts >= len(SITES)
        assert federation.published() == wanted
        assert federation.done_twice() == []


def test_mediswarm_511_and_595_a_site_that_is_away_is_named_and_costs_the_grace_and_is_welcome_back(
    tmp_path: Path,
) -> None:
    with Federation(tmp_path, _terms(rounds=4)) as federation:
        federation.kill_for_good(TWO)
        federation.create_run()
        lines = []
        for _, line in federation.follow():
            lines.append(line)
            if line["event"] == "round_phase" and (line["round_number"], line["phase"]) == (2, "training"):
                federation.start(TWO)
        report = asyncio.run(_report(federation))
    outcomes = _outcomes(lines, TWO)
    assert outcomes[1] == "straggler"
    assert outcomes[4] == "accepted"
    first = report.rounds[0]
    assert [(entry.site, entry.weight > 0) for entry in first.roster] == [(ONE, True), (TWO, False)]
    ends = [line for line in lines if line["event"] == "round_phase" and line["phase"] == "committed"]
    assert [(line["round_number"], line["updates"], line["is_subset"]) for line in (ends[0], ends[-1])] == [
        (1, 1, True),
        (4, 2, False),
    ]


def test_nvflare_5311_an_update_that_comes_a_round_late_enters_no_aggregate(tmp_path: Path) -> None:
    for name in ("late", "absent"):
        (tmp_path / name).mkdir()
    terms = _terms(rounds=2, grace=2.0)
    with Federation(tmp_path / "absent", terms) as federation:
        federation.kill_for_good(TWO)
        without = federation.run()
    with Federation(tmp_path / "late", terms) as federation:
        federation.create_run()
        said, lines = [], []
        for process, line in federation.follow():
            if process == TWO and line["event"] == "trainer_finished" and line["round_number"] == 1:
                federation.stop(TWO, seconds=3600.0)  # until round 2 trains
            if line["event"] == "round_phase" and (line["round_number"], line["phase"]) == (2, "training"):
                federation.go_on(TWO)
            if process == TWO and line.get("round_number") == 1:
                said.append(line["event"])
            lines.append(line)
        published = federation.published()
    assert "trainer_finished" in said, "it had an update"
    assert "answer_accepted" not in said
    assert published["v0001"] == without["v0001"]
    # In round 2 it is a straggler, or its update is the one of that round.
    is_in = _outcomes(lines, TWO)[2] == "accepted"
    assert (published["v0002"] != without["v0002"]) is is_in
