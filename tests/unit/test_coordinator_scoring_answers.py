"""Scores of updates, as evaluators give them: taken once, told again, refused; and the weights that come of them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputInvalidError, NotFoundError, NotNowError, Reason, UpdateRefusedError
from common.ids import AssignmentId, SiteName
from common.peft_folder import LINEAGE_FILE
from common.terms import GateMetric, GateTerms, Terms
from coordinator.app.poll import Cancelled, live_assignment
from coordinator.domain.assignments import Assignment
from coordinator.domain.cohort import score_assignment_id
from coordinator.domain.values import Phase, Scores, SiteOutcome
from tests.fakes.coordinator_rounds import PLUS_AGGREGATION, update_scores
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, EVALUATOR, SITES, make_scores, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator, running, site_caller

OTHER = SiteName("other")
LOSSES = {ANNA: 0.3, BERTA: 0.9, CLARA: 2.0}


def terms() -> Terms:
    return make_terms(aggregation=PLUS_AGGREGATION, gate=GateTerms(metric=GateMetric.NONE))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        await world.training(terms())
        await world.answer(*SITES)
        assert world.round.phase is Phase.SCORING
        yield world


def score_id(world: World, site: SiteName, name: SiteName = EVALUATOR) -> AssignmentId:
    return score_assignment_id(world.run.run_id, 1, name, site)


async def score(world: World, site: SiteName, scores: Scores, name: SiteName = EVALUATOR) -> None:
    """Answer the assignments of ``name`` until the one for ``site`` is there, and that with ``scores``."""
    while (given := live_assignment(world.driver.runs, evaluator(name))) is not None and given.entry is not None:
        here = given.entry.site
        await world.answers.take_scores(
            evaluator(name), given.assignment_id, scores if here == site else update_scores(LOSSES[here])
        )
        if here == site:
            return
    raise AssertionError(f"{name} was not asked for {site}")


async def test_an_evaluator_that_asks_is_given_updates_until_none_is_left(world: World) -> None:
    seen = []
    while isinstance(given := await world.poll.wait(evaluator(), None), Assignment):
        assert given.entry is not None
        seen.append(given.entry.site)
        await world.answers.take_scores(evaluator(), given.assignment_id, update_scores(LOSSES[given.entry.site]))
        if len(seen) == len(SITES):
            break
    assert (sorted(seen), world.round.phase) == (list(SITES), Phase.AGGREGATING)


async def test_the_weights_are_those_of_the_losses_and_the_lineage_says_both(world: World) -> None:
    for site in SITES:
        if world.round.phase is Phase.SCORING and site in [entry.site for entry in world.round.unscored]:
            await score(world, site, update_scores(LOSSES[site]))
    await world.perform_pending()
    shares = {site: math.exp(-loss) for site, loss in LOSSES.items()}
    expected = {site: share / sum(shares.values()) for site, share in shares.items()}
    closed = world.run.rounds[0]
    assert {entry.site: entry.weight for entry in closed.roster} == pytest.approx(expected)
    lineage = json.loads((world.registry / "trial" / "v0001" / LINEAGE_FILE).read_text())
    assert {row["site"]: row["validation_loss"] for row in lineage["roster"]} == LOSSES
    assert lineage["is_weighed_by_size"] is False


async def test_the_same_score_again_gets_the_same_answer_and_another_one_a_refusal(world: World) -> None:
    await score(world, ANNA, update_scores(0.3))
    before = world.run
    await world.answers.take_scores(evaluator(), score_id(world, ANNA), update_scores(0.3))
    with pytest.raises(NotNowError) as refused:
        await world.answers.take_scores(evaluator(), score_id(world, ANNA), update_scores(0.4))
    assert (refused.value.reason, world.run) == (Reason.ALREADY_ANSWERED, before)


async def test_whoever_works_on_an_update_that_another_one_scored_is_told_to_stop(world: World) -> None:
    given = live_assignment(world.driver.runs, evaluator(OTHER))
    assert given is not None and given.entry is not None
    async with running(world.driver.watch()):
        await score(world, given.entry.site, update_scores(0.5))
        answer = await world.poll.wait(evaluator(OTHER), given.assignment_id)
    assert answer == Cancelled(assignment_id=given.assignment_id, reason=Reason.ALREADY_ANSWERED)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -0.1])
async def test_a_score_that_is_no_number_is_refused_and_its_evaluator_out(world: World, loss: float) -> None:
    given = live_assignment(world.driver.runs, evaluator())
    assert given is not None
    with pytest.raises(InputInvalidError) as refused:
        await world.answers.take_scores(evaluator(), given.assignment_id, update_scores(loss))
    assert refused.value.reason is Reason.METRIC_NOT_FINITE
    assert live_assignment(world.driver.runs, evaluator()) is None
    with pytest.raises(UpdateRefusedError):
        await world.answers.take_scores(evaluator(), given.assignment_id, update_scores())


async def test_a_score_needs_nothing_that_a_gate_compares(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training(replace(terms(), gate=GateTerms(metric=GateMetric.STRICT_F1)))
        await world.answer(*SITES)
        for site in SITES:
            if world.round.phase is Phase.SCORING and site in [entry.site for entry in world.round.unscored]:
                await score(world, site, update_scores(0.5))
        assert world.round.phase is Phase.AGGREGATING


async def test_an_evaluator_whose_loss_is_no_number_says_so_of_the_update_and_is_asked_for_the_next(
    world: World,
) -> None:
    given = live_assignment(world.driver.runs, evaluator())
    assert given is not None and given.entry is not None
    await world.answers.decline(evaluator(), given.assignment_id, Reason.LOSS_NOT_FINITE)
    entry = world.entry(given.entry.site)
    assert (entry.outcome, entry.reason) == (SiteOutcome.REFUSED, Reason.LOSS_NOT_FINITE)
    following = live_assignment(world.driver.runs, evaluator())
    assert following is not None and following.entry is not None and following.entry.site != entry.site


async def test_a_site_cannot_score(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.answers.take_scores(site_caller(ANNA), score_id(world, ANNA), make_scores())
    with pytest.raises(NotNowError):
        await world.answers.take_scores(site_caller(ANNA), world.round.roster[0].assignment_id, make_scores())
    assert len(world.round.unscored) == len(SITES)


async def test_a_coordinator_that_starts_again_knows_the_scores_and_asks_for_the_rest(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as first:
        await first.training(terms())
        await first.answer(*SITES)
        given = live_assignment(first.driver.runs, evaluator())
        assert given is not None
        await first.answers.take_scores(evaluator(), given.assignment_id, update_scores())
        before = first.run
    async with coordinator(tmp_path) as second:
        assert (second.run, second.swept) == (before, 0)
        given = live_assignment(second.driver.runs, evaluator())
        assert given is not None and given.entry in second.round.unscored
        assert len(second.round.unscored) == len(SITES) - 1


async def test_scores_of_another_validation_set_are_refused_and_their_evaluator_out(world: World) -> None:
    given = live_assignment(world.driver.runs, evaluator())
    assert given is not None
    await world.answers.take_scores(evaluator(), given.assignment_id, update_scores())
    other = live_assignment(world.driver.runs, evaluator(OTHER))
    assert other is not None
    elsewhere = replace(update_scores(), num_label_tokens=201)
    with pytest.raises(InputInvalidError, match=r"expected 20 examples with 200 label tokens, .* got 20 with 201"):
        await world.answers.take_scores(evaluator(OTHER), other.assignment_id, elsewhere)
    assert live_assignment(world.driver.runs, evaluator(OTHER)) is None
    assert live_assignment(world.driver.runs, evaluator()) is not None


async def test_of_two_evaluators_that_score_one_update_at_once_one_counts_and_the_other_hears_why(world: World) -> None:
    wanted = live_assignment(world.driver.runs, evaluator())
    assert wanted is not None and wanted.entry is not None
    names = [SiteName(f"evaluator-{number}") for number in range(20)]
    same = [
        (name, given.assignment_id)
        for name in names
        if (given := live_assignment(world.driver.runs, evaluator(name))) is not None and given.entry == wanted.entry
    ][:2]
    answers = await asyncio.gather(
        *(
            world.answers.take_scores(evaluator(name), assignment_id, update_scores(0.5 + number))
            for number, (name, assignment_id) in enumerate(same)
        ),
        return_exceptions=True,
    )
    assert answers[0] is None
    assert isinstance(answers[1], NotNowError) and answers[1].reason is Reason.ALREADY_ANSWERED
