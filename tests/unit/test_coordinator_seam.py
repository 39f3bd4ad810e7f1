"""The seam of strategies: one of a test's own, of which the coordinator knows nothing but what it declares."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from common.adapter import FactorSet
from common.errors import InputInvalidError, Reason, UpdateRefusedError
from common.ids import SiteName
from common.strategy_terms import KrumTerms
from common.terms import AggregationTerms, GateMetric, GateTerms, Terms
from common.weights_io import write_weights
from coordinator.app.poll import live_assignment
from coordinator.domain.aggregation import STRATEGIES, check_needs, strategy_of
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan, StatefulStrategy
from coordinator.domain.assignments import Assignment
from coordinator.domain.values import Phase, SiteOutcome
from tests.fakes.coordinator_rounds import update_scores
from tests.fakes.coordinator_strategies import aggregation_of
from tests.fakes.coordinator_updates import random_weights, read_float64
from tests.fakes.coordinator_values import ANNA, SITES, make_round_terms, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator


class OneFactor:
    """Trains and sends one factor alone, and takes the plain mean of the pairs that it is given."""

    name = "one_factor"
    least_updates = 1
    allows_momentum = False
    is_elementwise = True

    def __init__(self, uploaded: FactorSet, needs: frozenset[Need] = frozenset({Need.EQUAL_RANKS})) -> None:
        self.needs = needs
        self._uploaded = uploaded

    def plan(self, round_number: int, site: SiteName) -> Plan:
        return Plan(trained=self._uploaded, uploaded=self._uploaded)

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        return (1 / len(contributions),) * len(contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        return Factors(
            a=np.mean([update.a.astype(np.float64) for update in updates], axis=0),
            b=np.mean([update.b.astype(np.float64) for update in updates], axis=0),
        )


class FewerLater(OneFactor):
    """Sends both factors until its third round, and one from then on."""

    def plan(self, round_number: int, site: SiteName) -> Plan:
        return Plan() if round_number < 3 else super().plan(round_number, site)


def terms() -> Terms:
    return make_terms(aggregation=AggregationTerms(strategy="one_factor"), gate=GateTerms(metric=GateMetric.NONE))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


def one_factor_bytes(world: World, uploaded: FactorSet, seed: int) -> bytes:
    """A file of those factors only, as a site writes what its assignment asks for."""
    spec, path = world.spec(), world.root / "one-factor.safetensors"
    weights = random_weights(spec, seed)
    write_weights(path, {tensor.name: weights[tensor.name] for tensor in spec.tensors_of(uploaded)}, spec.dtype)
    return path.read_bytes()


@pytest.mark.parametrize("uploaded", [FactorSet.A_ONLY, FactorSet.B_ONLY])
async def test_a_strategy_that_sends_one_factor_goes_from_its_plan_to_a_published_adapter(
    world: World, monkeypatch: pytest.MonkeyPatch, uploaded: FactorSet
) -> None:
    monkeypatch.setitem(STRATEGIES, "one_factor", lambda _terms: OneFactor(uploaded))
    await world.training(terms())
    given = world.assignment(ANNA)
    assert given.plan == Plan(trained=uploaded, uploaded=uploaded)
    before = read_float64(world.blobs.adapter_path(world.base()).read_bytes())
    updates = [one_factor_bytes(world, uploaded, seed) for seed in range(len(SITES))]
    published = await world.commit_round(updates)
    sent = [read_float64(content) for content in updates]
    for tensor in world.spec().tensors:
        travelled = tensor in world.spec().tensors_of(uploaded)
        expected = np.mean([each[tensor.name] for each in sent], axis=0) if travelled else before[tensor.name]
        np.testing.assert_allclose(published[tensor.name], expected, rtol=2**-8 if travelled else 0)


async def test_a_factor_that_was_not_asked_for_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "one_factor", lambda _terms: OneFactor(FactorSet.B_ONLY))
    await world.training(terms())
    with pytest.raises(UpdateRefusedError) as refused:
        await world.send(ANNA, world.honest_bytes(1))
    assert refused.value.reason in (Reason.UPDATE_TENSORS_DIFFER, Reason.UPDATE_TOO_LARGE)
    assert world.entry(ANNA).outcome is SiteOutcome.REFUSED


@pytest.mark.parametrize("name", STRATEGIES)
async def test_every_strategy_that_is_there_carries_a_run_to_its_published_adapter(world: World, name: str) -> None:
    gate = GateTerms(metric=GateMetric.NONE)
    await world.training(make_terms(aggregation=aggregation_of(name), rounds=make_round_terms(quorum=3), gate=gate))
    for round_number in (1, 2):
        plan = world.assignment(ANNA).plan
        assert plan is not None
        for number, site in enumerate(SITES):
            await world.send(site, one_factor_bytes(world, plan.uploaded, seed=10 * round_number + number))
        while isinstance(given := live_assignment(world.driver.runs, evaluator()), Assignment):
            await world.answers.take_scores(evaluator(), given.assignment_id, update_scores())
        await world.perform_pending()
        await world.invite()
    assert [past.phase for past in world.run.rounds] == [Phase.COMMITTED] * 2
    assert world.run.served is not None and world.run.served.version == 2
    for past in world.run.rounds:
        assert all(entry.outcome is SiteOutcome.ACCEPTED for entry in past.roster)
        assert 0 < sum(entry.weight for entry in past.roster) <= 1 + 1e-12


def test_a_quorum_that_is_too_small_for_a_strategy_is_refused_with_what_it_needs() -> None:
    parameters = KrumTerms(byzantine_count=1)
    terms = make_terms(
        aggregation=AggregationTerms(strategy="krum", krum=parameters), rounds=make_round_terms(quorum=3)
    )
    with pytest.raises(InputInvalidError, match="quorum: expected at least 5, which krum needs") as refused:
        check_needs(strategy_of(terms), terms)
    assert refused.value.reason is Reason.TERMS_INVALID


def test_a_strategy_that_has_updates_scored_sends_both_factors_in_every_round_of_the_run() -> None:
    strategy = FewerLater(FactorSet.B_ONLY, frozenset({Need.UPDATE_SCORES, Need.EQUAL_RANKS}))
    check_needs(strategy, make_terms(rounds=make_round_terms(count=2)))
    with pytest.raises(InputInvalidError, match="one_factor has updates scored, which takes both factors") as refused:
        check_needs(strategy, make_terms(rounds=make_round_terms(count=3)))
    assert refused.value.reason is Reason.TERMS_INVALID
    check_needs(FewerLater(FactorSet.B_ONLY), make_terms(rounds=make_round_terms(count=3)))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_has_moments_exactly_if_it_declares_a_state_of_its_own(name: str) -> None:
    strategy = strategy_of(make_terms(aggregation=aggregation_of(name)))
    assert (Need.OWN_STATE in strategy.needs) == isinstance(strategy, StatefulStrategy)
