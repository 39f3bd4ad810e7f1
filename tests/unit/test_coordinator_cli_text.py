"""Words for a terminal, also for what a newer coordinator says."""

from __future__ import annotations

import io
from typing import cast

import pytest
from rich.console import Console
from typer.testing import CliRunner

from coordinator import cli_text
from coordinator.cli_runs import _page, runs
from fedmedlora.v1 import admin_pb2, errors_pb2

NEWER = 9999


def test_a_reason_is_its_name_and_none_is_nothing() -> None:
    assert cli_text.reason(errors_pb2.REASON_OUT_OF_MEMORY) == "OUT_OF_MEMORY"
    assert cli_text.reason(errors_pb2.REASON_UNSPECIFIED) == ""


def test_a_reason_of_a_newer_coordinator_is_its_number() -> None:
    assert cli_text.reason(cast(errors_pb2.Reason.ValueType, NEWER)) == "reason 9999"


@pytest.mark.parametrize("word", [cli_text.phase, cli_text.state, cli_text.outcome])
def test_a_value_of_a_newer_coordinator_is_its_number(word: object) -> None:
    assert callable(word)
    assert word(NEWER) == "9999"


def test_a_value_is_the_last_part_of_its_name() -> None:
    assert cli_text.phase(admin_pb2.PHASE_TRAINING) == "training"
    assert cli_text.outcome(admin_pb2.SITE_OUTCOME_STRAGGLER) == "straggler"


def test_the_story_and_the_page_say_which_evaluator_said_no_and_why() -> None:
    initialise = admin_pb2.EvaluatorOutcome(
        evaluator="eva", outcome=admin_pb2.SITE_OUTCOME_REFUSED, reason=errors_pb2.REASON_SPEC_INVALID
    )
    score = admin_pb2.EvaluatorOutcome(
        evaluator="eva", outcome=admin_pb2.SITE_OUTCOME_DECLINED, reason=errors_pb2.REASON_OUT_OF_MEMORY
    )
    report = admin_pb2.RunReport(
        evaluator_outcomes=[initialise],
        rounds=[
            admin_pb2.RoundReport(round_number=2, phase=admin_pb2.PHASE_EVALUATING, evaluator_outcomes=[score]),
        ],
    )
    no_to_initialise, no_to_score, *_ = cli_text.story(report)
    assert no_to_initialise == "evaluator eva refused: SPEC_INVALID"
    assert no_to_score == "round 2: evaluator eva declined: OUT_OF_MEMORY"
    page = io.StringIO()
    Console(file=page).print(_page(report))
    assert no_to_initialise in page.getvalue() and "evaluator eva declined: OUT_OF_MEMORY" in page.getvalue()


def test_a_candidate_that_was_promoted_unscored_is_said_to_be() -> None:
    report = admin_pb2.RoundReport(phase=admin_pb2.PHASE_COMMITTED, is_unscored=True)
    assert cli_text.scores(report) == "promoted unscored"


def page_of(report: admin_pb2.RunReport) -> str:
    page = io.StringIO()
    Console(file=page, width=120).print(_page(report))
    return page.getvalue()


def test_the_page_says_what_the_run_waits_for_and_until_when() -> None:
    deadline = admin_pb2.Deadline(name="train_deadline")
    deadline.at.FromJsonString("2026-11-26T12:30:00Z")
    assert "train_deadline at 2026-11-26 12:30:00 UTC" in page_of(admin_pb2.RunReport(deadlines=[deadline]))


def test_the_page_and_the_list_say_that_a_run_is_paused() -> None:
    summary = admin_pb2.RunSummary(name="trial", state=admin_pb2.RUN_STATE_RUNNING, is_paused=True)
    assert "\npaused\n" in page_of(admin_pb2.RunReport(summary=summary)).replace(" ", "")
    table = io.StringIO()
    Console(file=table, width=120).print(cli_text.runs_table([summary]))
    assert "running, paused" in table.getvalue()


@pytest.mark.parametrize("by", ["soon", "-1h", "9999999999999d"])
def test_a_time_that_is_none_is_refused_before_anyone_is_asked(by: str) -> None:
    arguments = ["extend", "trial", "--by", by, "--coordinator", "nowhere:1", "--identity", "none"]
    assert CliRunner().invoke(runs, arguments).exit_code == 2
