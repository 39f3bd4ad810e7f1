"""Words for a terminal, also for what a newer coordinator says."""

from __future__ import annotations

import io
from typing import cast

import pytest
from rich.console import Console

from coordinator import cli_text
from coordinator.cli_runs import _page
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
