"""A run that is followed where there is no terminal: a line for each change, each once."""

from __future__ import annotations

import io

from rich.console import Console

from coordinator.cli_live import showing
from fedmedlora.v1 import admin_pb2, errors_pb2
from tests.fakes.demo_values import make_run

COMMITTED, TRAINING, EVALUATING = admin_pb2.PHASE_COMMITTED, admin_pb2.PHASE_TRAINING, admin_pb2.PHASE_EVALUATING


def told(*reports: admin_pb2.RunReport) -> list[str]:
    """The lines that a log gets from ``reports``."""
    output = io.StringIO()
    with showing(Console(file=output), lambda report: "a page", is_kept=True) as show:
        for report in reports:
            show(report)
    return output.getvalue().splitlines()


def test_a_log_gets_a_line_for_each_phase_and_each_round_that_ends() -> None:
    assert told(
        make_run((TRAINING,), is_over=False),
        make_run((TRAINING,), is_over=False),  # a trainer has gone on, the phase has not
        make_run((EVALUATING,), is_over=False),
        make_run((COMMITTED, TRAINING), is_over=False),
        make_run((COMMITTED, COMMITTED)),
    ) == [
        "run trial: running",
        "round 1: training",
        "round 1: evaluating",
        "round 1: committed in 10 s, 2 accepted",
        "round 2: training",
        "round 2: committed in 20 s, 2 accepted",
        "run trial: completed",
    ]


def test_a_log_says_why_a_run_failed() -> None:
    failed = make_run((admin_pb2.PHASE_FAILED,))
    failed.summary.state = admin_pb2.RUN_STATE_FAILED
    failed.summary.reason = failed.rounds[0].reason = errors_pb2.REASON_QUORUM_IMPOSSIBLE

    assert told(failed) == [
        "round 1: failed in 10 s, 2 accepted, QUORUM_IMPOSSIBLE",
        "run trial: failed QUORUM_IMPOSSIBLE",
    ]
