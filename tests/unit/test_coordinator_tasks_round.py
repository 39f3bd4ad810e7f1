"""A round of two tasks: one site of entities, one of relations, one of both; what weighs, what is shown and kept."""

from __future__ import annotations

import io
import json
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from common.errors import Reason
from common.ids import SiteName
from common.peft_folder import LINEAGE_FILE
from common.terms import GateMetric, GateTerms, Task, TaskTerms
from coordinator import cli_text
from coordinator.adapters.metrics import CoordinatorMetrics, Snapshot
from coordinator.adapters.rpc.reports import run_report
from coordinator.app.poll import live_assignment
from coordinator.domain.assignments import AssignmentKind
from coordinator.domain.values import F1Score, Phase, Scores, SiteOutcome, TaskCounts, TaskScores
from tests.fakes.coordinator_rounds import PLUS_AGGREGATION
from tests.fakes.coordinator_updates import chunks_of
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, SITES, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator, refusal, site_caller

TERMS = replace(
    make_terms(aggregation=PLUS_AGGREGATION, gate=GateTerms(metric=GateMetric.COMBINED_F1)),
    task=TaskTerms(relation_types=("treats",)),
)
TASKS_OF = {ANNA: (Task.ENTITIES,), BERTA: (Task.RELATIONS,), CLARA: (Task.ENTITIES, Task.RELATIONS)}
# In nats: relations are harder for everyone, and Clara is the better in both.
LOSSES = {
    ANNA: {Task.ENTITIES: 0.9, Task.RELATIONS: 3.0},
    BERTA: {Task.ENTITIES: 2.0, Task.RELATIONS: 1.9},
    CLARA: {Task.ENTITIES: 0.4, Task.RELATIONS: 1.4},
}


def counts_of(site: SiteName) -> tuple[TaskCounts, ...]:
    share = 10 // len(TASKS_OF[site])
    return tuple(TaskCounts(task=task, num_examples=share, num_label_tokens=10 * share) for task in TASKS_OF[site])


def scores_of(losses: dict[Task, float], strict: tuple[int, int] = (0, 0)) -> Scores:
    tasks = tuple(
        TaskScores(
            task=task,
            mean_loss=loss,
            num_examples=10,
            num_label_tokens=100,
            strict=F1Score(true_positives=found, predicted=10, gold=10),
        )
        for (task, loss), found in zip(losses.items(), strict, strict=True)
    )
    return Scores(mean_loss=sum(losses.values()) / 2, num_examples=20, num_label_tokens=200, tasks=tasks)


async def send(world: World, site: SiteName, tasks: tuple[TaskCounts, ...]) -> None:
    content = world.honest_bytes(SITES.index(site))
    claim = world.claim(site, content)
    assert claim.update is not None
    claim = replace(claim, update=replace(claim.update, tasks=tasks))
    await world.intake.receive(site_caller(site), claim, chunks_of(content))


async def score_all(world: World) -> None:
    """Every update, then the candidate."""
    while (given := live_assignment(world.driver.runs, evaluator())) is not None:
        if given.kind is AssignmentKind.SCORE and given.entry is not None:
            scores = scores_of(LOSSES[given.entry.site])
        else:
            scores = scores_of({Task.ENTITIES: 0.3, Task.RELATIONS: 1.1}, strict=(8, 4))
        await world.answers.take_scores(evaluator(), given.assignment_id, scores)
        await world.perform_pending()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        await world.training(TERMS)
        yield world


@pytest.fixture
async def scored(world: World) -> World:
    for site in SITES:
        await send(world, site, counts_of(site))
    await score_all(world)
    assert world.run.rounds[0].phase is Phase.COMMITTED
    return world


async def test_each_task_is_weighed_by_itself_and_no_site_is_starved(scored: World) -> None:
    """Two sites in each task, so each task has half; within it the losses of that task alone decide."""
    better = 1 / (1 + math.exp(-0.5))
    weights = {entry.site: entry.weight for entry in scored.run.rounds[0].roster}
    assert weights == pytest.approx({ANNA: (1 - better) / 2, BERTA: (1 - better) / 2, CLARA: better})


async def test_an_update_that_does_not_say_what_it_was_trained_on_is_refused(world: World) -> None:
    content = world.honest_bytes(0)
    error = await refusal(world, ANNA, world.claim(ANNA, content), chunks_of(content))
    assert error.reason is Reason.UPDATE_COUNT_ABSURD
    assert world.entry(ANNA).outcome is SiteOutcome.REFUSED


async def test_scores_of_one_task_do_not_do_for_a_combined_gate(world: World) -> None:
    for site in SITES:
        await send(world, site, counts_of(site))
    while (given := live_assignment(world.driver.runs, evaluator())) is not None and given.entry is not None:
        await world.answers.take_scores(evaluator(), given.assignment_id, scores_of(LOSSES[given.entry.site]))
    await world.perform_pending()
    given = live_assignment(world.driver.runs, evaluator())
    assert given is not None and given.kind is AssignmentKind.EVALUATE
    whole = scores_of({Task.ENTITIES: 0.3, Task.RELATIONS: 1.1})
    half = replace(whole, tasks=whole.tasks[:1], num_examples=10, num_label_tokens=100)
    with pytest.raises(Exception, match="combined_f1") as caught:
        await world.answers.take_scores(evaluator(), given.assignment_id, half)
    assert getattr(caught.value, "reason", None) is Reason.METRIC_MISSING


async def test_the_lineage_says_what_each_update_was_of_and_how_the_candidate_did_in_each_task(scored: World) -> None:
    lineage = json.loads((scored.registry / "trial" / "v0001" / LINEAGE_FILE).read_text())
    rows = {row["site"]: row["tasks"] for row in lineage["roster"]}
    assert rows[BERTA] == [{"task": "relations", "num_examples": 10, "num_label_tokens": 100}]
    assert [(each["task"], each["strict_f1"]) for each in lineage["scores"]["tasks"]] == [
        ("entities", 0.8),
        ("relations", 0.4),
    ]


async def test_an_operator_sees_losses_and_scores_of_each_task(scored: World) -> None:
    report = run_report(scored.run, {}, lambda _: None, scored.clock.now())
    page = io.StringIO()
    Console(file=page, width=200).print(cli_text.round_table(report.rounds[0]))
    header, *_ = [line for line in page.getvalue().splitlines() if "site" in line]
    assert "entities loss" in header and "relations loss" in header
    assert all(f"{loss:.4f}" in page.getvalue() for losses in LOSSES.values() for loss in losses.values())
    assert cli_text.scores(report.rounds[0]) == (
        "loss 0.7000, entities: loss 0.3000, relations: loss 1.1000, strict F1 0.400"
    )
    assert [(each.num_examples, each.num_label_tokens) for each in report.rounds[0].roster[0].task_counts] == [
        (10, 100)
    ]


async def test_the_metrics_have_the_scores_of_each_task(scored: World) -> None:
    metrics = CoordinatorMetrics()
    metrics.show(lambda: Snapshot(runs=scored.driver.runs, presence=(), certificate_expires_at=0.0))
    labels = {"run": "trial", "task": "relations"}
    assert metrics.registry.get_sample_value("fedmed_candidate_task_strict_f1_ratio", labels) == 0.4
    assert metrics.registry.get_sample_value("fedmed_candidate_task_loss", labels) == 1.1
