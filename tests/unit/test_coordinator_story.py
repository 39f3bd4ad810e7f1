"""The log of a run: INFO alone tells its story, in allowed fields; and what the metrics count of it."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from common.errors import Reason
from common.logging import ALLOWED_FIELDS, get_logger
from coordinator.adapters.metrics import CoordinatorMetrics
from coordinator.adapters.story import Story
from coordinator.domain import events as ev
from coordinator.domain import run_machine
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.values import Run
from tests.fakes.coordinator_rounds import evaluator_says_no, first_adapter_is_refused
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    EVALUATOR,
    RUN_ID,
    accepted,
    at,
    candidate_ready,
    everyone_present,
    first_adapter,
    make_round_terms,
    make_terms,
    new_run,
    published,
    scored,
    train_id,
)

NOTE = "seventy-year-old man with chest pain"


def told() -> tuple[list[dict[str, Any]], CoordinatorMetrics]:
    """Play a run of one round, in which clara is refused; what was logged, and the metrics."""
    metrics = CoordinatorMetrics()
    story = Story(get_logger("tests"), metrics)
    run = new_run(make_terms(rounds=make_round_terms(count=1)))
    refusal = ev.AnswerRefused(at=at(12), assignment_id=train_id(CLARA), by=CLARA, reason=Reason.UPDATE_NOT_FINITE)
    with capture_logs() as lines:
        story.run_moved(None, run, None)
        run = tell(story, run, first_adapter_is_refused())
        for answer in (first_adapter(), everyone_present(), accepted(ANNA), accepted(BERTA), refusal):
            run = tell(story, run, answer)
        for outcome in (candidate_ready(run), evaluator_says_no(), scored(), published()):
            run = tell(story, run, outcome)
    return [dict(line) for line in lines], metrics


def tell(story: Story, run: Run, event: ev.RunEvent) -> Run:
    moved, _ = run_machine.step(run, event)
    story.run_moved(run, moved, event)
    return moved


def test_the_log_reads_as_the_story_of_the_run() -> None:
    lines, _ = told()
    steps = [
        str(line.get("phase") or line.get("run_state") or (line.get("site") and f"{line['site']} {line['outcome']}"))
        for line in lines
        if line["event"] in ("round_phase", "run_state", "site_outcome")
    ]
    assert steps == [
        "selecting",
        "running",
        *(f"{site} invited" for site in ("anna", "berta", "clara")),
        "training",
        "anna accepted",
        "berta accepted",
        "clara refused",
        "aggregating",
        "evaluating",
        "committed",
        "completed",
    ]
    assert {line["log_level"] for line in lines} == {"info"}


def test_the_log_says_which_evaluator_said_no_to_what_and_why() -> None:
    lines, _ = told()
    told_no = [line for line in lines if line["event"] == "evaluator_outcome"]
    assert [(line["round_number"], line["site"], line["outcome"], line["reason"]) for line in told_no] == [
        (0, EVALUATOR, "refused", Reason.SPEC_INVALID),
        (1, EVALUATOR, "declined", Reason.OUT_OF_MEMORY),
    ]


def test_the_log_says_why_and_on_whom() -> None:
    lines, _ = told()
    (refused,) = [line for line in lines if line["event"] == "site_outcome" and line["outcome"] == "refused"]
    assert refused["reason"] is Reason.UPDATE_NOT_FINITE
    (committed,) = [line for line in lines if line.get("phase") == "committed"]
    assert (committed["updates"], committed["sites"], committed["is_subset"]) == (2, 3, True)
    assert committed["is_unscored"] is False
    weights = [(line["site"], line["weight"]) for line in lines if line["event"] == "site_weight"]
    assert weights == [("anna", 0.5), ("berta", 0.5)]


def test_every_field_is_an_allowed_one() -> None:
    lines, _ = told()
    fields = {name for line in lines for name in line} - {"event", "log_level", "module"}
    assert fields <= ALLOWED_FIELDS


def test_a_command_that_failed_is_told_without_the_errors_text() -> None:
    command = Command(kind=CommandKind.PUBLISH, run_id=RUN_ID, round_number=1)
    with capture_logs() as lines:
        Story(get_logger("tests"), CoordinatorMetrics()).command_failed(command, ValueError(NOTE))
    (line,) = lines
    assert (line["event"], line["command_id"]) == ("command_failed", command.command_id)
    assert NOTE not in str({name: value for name, value in line.items() if name != "exc_info"})


def test_the_metrics_count_answers_and_rounds() -> None:
    _, metrics = told()
    value = metrics.registry.get_sample_value
    assert value("fedmed_updates_total", {"outcome": "accepted"}) == 2
    assert value("fedmed_updates_total", {"outcome": "refused"}) == 1
    assert value("fedmed_rounds_total", {"phase": "committed"}) == 1
    assert value("fedmed_round_duration_seconds_sum") == 30
