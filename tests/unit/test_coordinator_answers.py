"""Progress, declines and scores: who may give them, when, and what a repetition does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import (
    FedMedError,
    InputInvalidError,
    NotAllowedError,
    NotFoundError,
    NotNowError,
    Reason,
    UpdateRefusedError,
)
from common.ids import AssignmentId, SiteName
from common.tls import Role
from coordinator.app.answers import SiteProgress
from coordinator.app.create_run import create
from coordinator.app.poll import live_assignment
from coordinator.domain.assignments import Assignment
from coordinator.domain.cohort import evaluate_assignment_id, initialise_assignment_id
from coordinator.domain.values import Phase, Round, Run, RunState, SiteOutcome
from tests.fakes.coordinator_values import ANNA, BERTA, EVALUATOR, SITES, make_scores, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator, foreign_id, running, site_caller, until

PROGRESS = SiteProgress(stage="training", step=3, steps=10, loss=1.5, tokens_per_second=100.0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        await world.training()
        yield world


@pytest.fixture
async def evaluating(world: World) -> World:
    await world.answer(*SITES)
    await world.perform_pending()
    assert world.round.phase is Phase.EVALUATING
    return world


def out(of: Run | Round) -> list[tuple[SiteName, SiteOutcome, Reason]]:
    """Who will not answer, and why."""
    return [(each.evaluator, each.outcome, each.reason) for each in of.evaluator_outcomes]


def evaluate_id(world: World, name: SiteName = EVALUATOR) -> AssignmentId:
    return evaluate_assignment_id(world.run.run_id, 1, name)


# Progress


async def test_progress_is_kept_and_counts_as_taking_the_assignment(world: World) -> None:
    wanted = world.assignment(ANNA).assignment_id
    await world.answers.note_progress(site_caller(ANNA), wanted, PROGRESS)
    assert world.answers.progress_of(wanted) == PROGRESS
    assert world.round.roster[0].outcome is SiteOutcome.JOINED


async def test_progress_of_an_answered_assignment_is_refused(world: World) -> None:
    wanted = world.assignment(ANNA).assignment_id
    await world.answer(ANNA)
    with pytest.raises(NotNowError) as refused:
        await world.answers.note_progress(site_caller(ANNA), wanted, PROGRESS)
    assert refused.value.reason is Reason.ALREADY_ANSWERED


async def test_progress_of_another_site_is_not_allowed(world: World) -> None:
    wanted = world.assignment(BERTA).assignment_id
    with pytest.raises(NotAllowedError):
        await world.answers.note_progress(site_caller(ANNA), wanted, PROGRESS)
    assert world.answers.progress_of(wanted) is None


async def test_progress_of_past_assignments_is_forgotten(world: World) -> None:
    anna, berta = (world.assignment(site).assignment_id for site in (ANNA, BERTA))
    await world.answers.note_progress(site_caller(ANNA), anna, PROGRESS)
    await world.answer(ANNA)
    await world.answers.note_progress(site_caller(BERTA), berta, PROGRESS)
    assert (world.answers.progress_of(anna), world.answers.progress_of(berta)) == (None, PROGRESS)


# Declines


async def test_a_decline_is_in_the_roster_with_its_reason(world: World) -> None:
    wanted = world.assignment(ANNA).assignment_id
    await world.answers.decline(site_caller(ANNA), wanted, Reason.NOTES_TOO_FEW)
    entry = world.round.roster[0]
    assert (entry.outcome, entry.reason) == (SiteOutcome.DECLINED, Reason.NOTES_TOO_FEW)


async def test_declining_for_another_site_is_not_allowed(world: World) -> None:
    wanted = world.assignment(BERTA).assignment_id
    with pytest.raises(NotAllowedError) as refused:
        await world.answers.decline(site_caller(ANNA), wanted, Reason.NOTES_TOO_FEW)
    assert refused.value.reason is Reason.ASSIGNMENT_NOT_YOURS


async def test_declining_what_was_answered_is_refused(world: World) -> None:
    wanted = world.assignment(ANNA).assignment_id
    await world.answer(ANNA)
    with pytest.raises(NotNowError) as refused:
        await world.answers.decline(site_caller(ANNA), wanted, Reason.NOTES_TOO_FEW)
    assert refused.value.reason is Reason.ALREADY_ANSWERED


async def test_an_evaluator_may_decline_and_another_is_still_asked(evaluating: World) -> None:
    await evaluating.answers.decline(evaluator(), evaluate_id(evaluating), Reason.OUT_OF_MEMORY)
    assert out(evaluating.round) == [(EVALUATOR, SiteOutcome.DECLINED, Reason.OUT_OF_MEMORY)]
    await evaluating.answers.take_scores(
        evaluator(SiteName("other")), evaluate_id(evaluating, SiteName("other")), make_scores()
    )
    assert evaluating.run.rounds[0].phase is Phase.COMMITTED


async def test_an_evaluator_may_decline_to_make_the_first_adapter(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        run = await create(world.driver, world.clock, make_terms())
        await world.answers.decline(evaluator(), initialise_assignment_id(run.run_id, EVALUATOR), Reason.OUT_OF_MEMORY)
        assert world.run.state is RunState.INITIALISING
        assert out(world.run) == [(EVALUATOR, SiteOutcome.DECLINED, Reason.OUT_OF_MEMORY)]


async def test_declining_again_is_told_that_it_was_answered(evaluating: World) -> None:
    await evaluating.answers.decline(evaluator(), evaluate_id(evaluating), Reason.OUT_OF_MEMORY)
    with pytest.raises(NotNowError) as refused:
        await evaluating.answers.decline(evaluator(), evaluate_id(evaluating), Reason.OUT_OF_MEMORY)
    assert refused.value.reason is Reason.ALREADY_ANSWERED


async def test_the_no_of_the_last_known_evaluator_ends_the_run_at_once(evaluating: World) -> None:
    other = SiteName("other")
    for name in (EVALUATOR, other):
        await evaluating.store.remember_site(name, Role.EVALUATOR, evaluating.clock.now())
    await evaluating.answers.decline(evaluator(), evaluate_id(evaluating), Reason.OUT_OF_MEMORY)
    await evaluating.driver.observe_presence()
    assert evaluating.round.phase is Phase.EVALUATING
    async with running(evaluating.driver.watch()):
        await evaluating.answers.decline(evaluator(other), evaluate_id(evaluating, other), Reason.OUT_OF_MEMORY)
        await until(evaluating, lambda run: run.reason is Reason.NO_EVALUATOR_LEFT)
    assert (evaluating.run.state, evaluating.clock.seconds) == (RunState.FAILED, 0)


async def test_an_evaluator_that_declined_one_run_is_offered_the_next(world: World) -> None:
    for name in ("second", "third"):
        await create(world.driver, world.clock, make_terms(name))
        world.clock.advance(1)
    second, third = world.driver.run_named("second"), world.driver.run_named("third")
    await world.answers.decline(evaluator(), initialise_assignment_id(second.run_id, EVALUATOR), Reason.OUT_OF_MEMORY)
    offered = await world.poll.wait(evaluator(), None)
    assert isinstance(offered, Assignment) and offered.run.run_id == third.run_id


# Scores


async def test_scores_decide_the_round(evaluating: World) -> None:
    await evaluating.answers.take_scores(evaluator(), evaluate_id(evaluating), make_scores())
    assert (evaluating.run.rounds[0].phase, evaluating.run.rounds[0].scores) == (Phase.COMMITTED, make_scores())


async def test_the_same_scores_again_get_the_same_answer(evaluating: World) -> None:
    wanted = evaluate_id(evaluating)
    await evaluating.answers.take_scores(evaluator(), wanted, make_scores())
    before = evaluating.run
    await evaluating.answers.take_scores(evaluator(), wanted, make_scores())
    assert evaluating.run == before


async def test_other_scores_afterwards_are_refused(evaluating: World) -> None:
    wanted = evaluate_id(evaluating)
    await evaluating.answers.take_scores(evaluator(), wanted, make_scores(5))
    with pytest.raises(NotNowError) as refused:
        await evaluating.answers.take_scores(evaluator(), wanted, make_scores(6))
    assert refused.value.reason is Reason.ROUND_CLOSED
    assert evaluating.run.rounds[0].scores == make_scores(5)


async def test_of_two_evaluators_at_once_one_decides_and_the_other_is_told_so(evaluating: World) -> None:
    names = [EVALUATOR, SiteName("other")]
    answers = await asyncio.gather(
        *(
            evaluating.answers.take_scores(evaluator(name), evaluate_id(evaluating, name), make_scores(5 + number))
            for number, name in enumerate(names)
        ),
        return_exceptions=True,
    )
    assert answers[0] is None
    assert isinstance(answers[1], NotNowError) and answers[1].reason is Reason.ROUND_CLOSED
    assert evaluating.run.rounds[0].scores == make_scores(5)


async def test_scores_that_are_no_numbers_are_refused_and_the_round_waits_on(evaluating: World) -> None:
    with pytest.raises(InputInvalidError) as refused:
        await evaluating.answers.take_scores(
            evaluator(), evaluate_id(evaluating), replace(make_scores(), mean_loss=float("nan"))
        )
    assert refused.value.reason is Reason.METRIC_NOT_FINITE
    assert evaluating.round.phase is Phase.EVALUATING
    assert out(evaluating.round) == [(EVALUATOR, SiteOutcome.REFUSED, Reason.METRIC_NOT_FINITE)]


async def test_an_evaluator_whose_scores_were_refused_is_not_asked_again_and_told_why(evaluating: World) -> None:
    lacking = replace(make_scores(), strict=None)
    with pytest.raises(InputInvalidError):
        await evaluating.answers.take_scores(evaluator(), evaluate_id(evaluating), lacking)
    assert live_assignment(evaluating.driver.runs, evaluator()) is None
    with pytest.raises(UpdateRefusedError) as again:
        await evaluating.answers.take_scores(evaluator(), evaluate_id(evaluating), make_scores())
    assert again.value.reason is Reason.METRIC_MISSING


async def test_scores_are_no_answer_to_training(world: World) -> None:
    with pytest.raises(InputInvalidError) as refused:
        await world.answers.take_scores(site_caller(ANNA), world.assignment(ANNA).assignment_id, make_scores())
    assert refused.value.reason is Reason.FIELD_INVALID


async def test_scores_are_no_first_adapter(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        run = await create(world.driver, world.clock, make_terms())
        with pytest.raises(FedMedError) as refused:
            await world.answers.take_scores(evaluator(), initialise_assignment_id(run.run_id, EVALUATOR), make_scores())
        assert refused.value.reason is Reason.FIELD_INVALID


async def test_a_site_cannot_score_a_candidate(evaluating: World) -> None:
    with pytest.raises(NotFoundError):
        await evaluating.answers.take_scores(site_caller(ANNA), evaluate_id(evaluating), make_scores())
    assert evaluating.round.phase is Phase.EVALUATING


async def test_scores_for_no_assignment_are_refused(evaluating: World) -> None:
    with pytest.raises(NotFoundError) as refused:
        await evaluating.answers.take_scores(evaluator(), foreign_id(), make_scores())
    assert refused.value.reason is Reason.ASSIGNMENT_UNKNOWN
