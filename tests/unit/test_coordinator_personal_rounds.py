"""FedSA-LoRA over real rounds: what sites are asked for, rounds without a whole candidate, and the consolidation."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from common.adapter import FactorSet
from common.errors import InputInvalidError, Reason
from common.peft_folder import LINEAGE_FILE
from common.strategy_terms import FedSaLoraTerms
from common.terms import GateMetric, GateTerms, OnRejection, Terms
from common.weights_io import write_weights
from coordinator.adapters.rpc.reports import adapter_versions, run_report
from coordinator.app.create_run import create
from coordinator.app.poll import live_assignment
from coordinator.cli_text import round_table, story
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.assignments import Assignment
from coordinator.domain.values import Phase, RunState
from tests.fakes.coordinator_rounds import update_scores
from tests.fakes.coordinator_strategies import aggregation_of
from tests.fakes.coordinator_updates import random_weights, read_float64
from tests.fakes.coordinator_values import ANNA, SITES, START, make_round_terms, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator

ROUNDS = 3


def terms(consolidation_rounds: int = 1, gate: GateMetric = GateMetric.LOSS) -> Terms:
    return make_terms(
        aggregation=aggregation_of("fedsa_lora", FedSaLoraTerms(consolidation_rounds=consolidation_rounds)),
        rounds=make_round_terms(count=ROUNDS),
        gate=GateTerms(metric=gate, on_rejection=OnRejection.REVERT),
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


async def play_round(world: World, number: int) -> None:
    await world.invite()
    for order, site in enumerate(SITES):
        plan = world.assignment(site).plan
        assert plan is not None
        weights, path = random_weights(world.spec(), 10 * number + order), world.root / "sent.safetensors"
        wanted = {tensor.name: weights[tensor.name] for tensor in world.spec().tensors_of(plan.uploaded)}
        write_weights(path, wanted, world.spec().dtype)
        await world.send(site, path.read_bytes())
    await world.perform_pending()


@pytest.mark.parametrize(("consolidation_rounds", "own"), [(1, 3), (2, 2), (3, 1)])
def test_b_stays_until_the_consolidation_which_starts_from_the_sites_own(consolidation_rounds: int, own: int) -> None:
    strategy = strategy_of(terms(consolidation_rounds))
    plans = [strategy.plan(number, ANNA) for number in range(1, ROUNDS + 1)]
    assert all(plan.trained is FactorSet.A_AND_B for plan in plans)
    shared = [FactorSet.A_ONLY] * (ROUNDS - consolidation_rounds) + [FactorSet.A_AND_B] * consolidation_rounds
    assert [plan.uploaded for plan in plans] == shared
    assert [plan.own for plan in plans] == [FactorSet.B_ONLY] * own + [None] * (ROUNDS - own)


async def test_candidates_without_b_are_neither_scored_nor_served_and_the_next_round_starts_from_them(
    world: World,
) -> None:
    await world.begin(terms())
    for number in (1, 2):
        await play_round(world, number)
        closed = world.run.rounds[number - 1]
        assert (closed.phase, closed.is_partial, closed.is_promoted, closed.scores) == (
            Phase.COMMITTED,
            True,
            False,
            None,
        )
        assert world.run.served is None and not (world.registry / "trial" / "served").exists()
        assert world.round.global_adapter == closed.candidate
        assert not any(version.is_promoted for version in adapter_versions(world.run))
        first, now = (
            read_float64(world.blobs.adapter_path(file.digest).read_bytes())
            for file in (world.run.first_adapter, closed.candidate)
            if file is not None
        )
        for name in first:
            assert np.array_equal(first[name], now[name]) is ("lora_B" in name)
    lineage = json.loads((world.registry / "trial" / "v0002" / LINEAGE_FILE).read_bytes())
    assert lineage["is_partial"] is True
    page = io.StringIO()
    report = run_report(world.run, {}, lambda _: None, START)
    Console(file=page, width=120).print(round_table(report.rounds[1]))
    assert "part of each adapter stays at its site: nothing to promote" in " ".join(page.getvalue().split())
    assert "part of each adapter stays at its site" in story(report)[2]


async def test_the_consolidation_averages_full_adapters_and_passes_the_gate(world: World) -> None:
    await world.begin(terms())
    for number in range(1, ROUNDS + 1):
        await play_round(world, number)
    given = live_assignment(world.driver.runs, evaluator())
    assert isinstance(given, Assignment) and given.round_number == ROUNDS
    await world.answers.take_scores(evaluator(), given.assignment_id, update_scores())
    await world.perform_pending()
    last = world.run.rounds[-1]
    assert (last.phase, last.is_partial, world.run.state) == (Phase.COMMITTED, False, RunState.COMPLETED)
    assert world.run.served is not None and world.run.served.version == ROUNDS
    assert last.candidate is not None
    got = read_float64(world.blobs.adapter_path(last.candidate.digest).read_bytes())
    sent = [random_weights(world.run.spec, 10 * ROUNDS + order) for order in range(len(SITES))]  # type: ignore[arg-type]
    for name, values in got.items():
        np.testing.assert_allclose(values, np.mean([each[name] for each in sent], axis=0), rtol=2**-7, atol=1e-3)


async def test_a_run_cannot_have_more_consolidation_rounds_than_rounds(world: World) -> None:
    with pytest.raises(InputInvalidError, match=r"consolidation_rounds of at most rounds\.count, 3, got 4") as refused:
        await create(world.driver, world.clock, terms(ROUNDS + 1))
    assert refused.value.reason is Reason.TERMS_INVALID


async def test_a_strategy_that_shares_all_leaves_no_round_partial(world: World) -> None:
    await world.begin(replace(terms(), aggregation=aggregation_of("ffa_lora"), gate=GateTerms(metric=GateMetric.NONE)))
    await play_round(world, 1)
    assert world.run.rounds[0].is_promoted and world.run.served is not None
