"""Sites that train at ranks of their own: what each is handed, what is taken from it, and what comes out."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from common.errors import InputInvalidError, Reason, UpdateRefusedError
from common.ids import RunId, SiteName
from common.peft_folder import CONFIG_FILE
from common.strategy_terms import FedExLoraTerms, FloraTerms
from common.terms import GateMetric, GateTerms, LoraTerms, Terms
from common.weights_io import WeightsReader, file_digest
from coordinator.adapters.rpc.reports import run_report
from coordinator.app.create_run import create
from coordinator.app.recovery import needed_adapters
from coordinator.cli_text import round_table
from coordinator.domain.aggregation import STRATEGIES
from coordinator.domain.aggregation.strategy import Need
from coordinator.domain.cohort import invite, with_ranks
from coordinator.domain.values import Phase, SiteOutcome
from tests.fakes.coordinator_strategies import aggregation_of, strategy_named
from tests.fakes.coordinator_updates import update_bytes
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, SITES, START, make_round_terms, make_spec, make_terms
from tests.fakes.coordinator_world import World, coordinator

RANK = 4
SPEC = make_spec().at_rank(RANK)
MIXED = {ANNA: 1, BERTA: 3, CLARA: 0}


def terms(name: str, parameters: object | None = None, least: int = 1) -> Terms:
    made = make_terms(
        aggregation=aggregation_of(name, parameters),
        rounds=make_round_terms(count=2, quorum=3),
        gate=GateTerms(metric=GateMetric.NONE),
    )
    lora = LoraTerms(lora_rank=RANK, lora_alpha=8, target_modules=("q_proj", "v_proj"), least_lora_rank=least)
    return replace(made, lora=lora)


async def begin(world: World, given: Terms) -> None:
    await world.begin(given, SPEC)
    await world.invite(max_lora_ranks=MIXED)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


async def send(world: World, site: SiteName, seed: int, rank: int | None = None) -> None:
    spec = world.assignment(site).adapter_spec
    assert spec is not None
    await world.send(site, update_bytes(world.root, spec if rank is None else spec.at_rank(rank), seed))


async def test_each_site_is_handed_the_first_ranks_of_the_global_adapter_as_far_as_it_goes(world: World) -> None:
    await begin(world, terms("hetlora"))
    for site, rank in ((ANNA, 1), (BERTA, 3), (CLARA, RANK)):
        given = world.assignment(site)
        assert given.adapter is not None and given.adapter_spec == SPEC.at_rank(rank)
        kept_under = dict(given.kept_under).get(given.adapter.digest)
        path = world.blobs.adapter_path(given.adapter.digest) if rank == RANK else None
        path = path or world.blobs.update_path(kept_under)  # type: ignore[arg-type]
        assert file_digest(path) == given.adapter.digest
        with WeightsReader(path) as reader:
            assert {slot.name: slot.shape for slot in reader.layout.tensors} == {
                tensor.name: tensor.shape for tensor in SPEC.at_rank(rank).tensors
            }


async def test_the_roster_says_at_which_rank_each_site_trains(world: World) -> None:
    await begin(world, terms("hetlora"))
    (report,) = run_report(world.run, {}, lambda _: None, START).rounds
    assert {entry.site: entry.lora_rank for entry in report.roster} == {ANNA: 1, BERTA: 3, CLARA: RANK}
    page = io.StringIO()
    Console(file=page, width=120).print(round_table(report))
    assert ["site", "rank", "outcome"] in [line.split()[:3] for line in page.getvalue().splitlines()]


async def test_an_update_of_another_rank_than_the_sites_own_is_refused(world: World) -> None:
    await begin(world, terms("hetlora"))
    with pytest.raises(UpdateRefusedError) as refused:
        await send(world, BERTA, seed=1, rank=2)
    assert refused.value.reason is Reason.UPDATE_SHAPE_DIFFERS


def test_a_site_trains_as_far_as_it_says_and_one_that_has_said_nothing_at_the_least_rank() -> None:
    dora = SiteName("dora")
    roster = invite(RunId("0" * 32), 1, frozenset((*SITES, dora)))
    lora = terms("hetlora", least=2).lora
    ranks = {entry.site: entry.lora_rank for entry in with_ranks(roster, lora, {ANNA: 1, BERTA: 3, CLARA: 0})}
    assert ranks == {ANNA: 2, BERTA: 3, CLARA: RANK, dora: 2}
    assert with_ranks(roster, replace(lora, least_lora_rank=0), {ANNA: 1}) == roster


@pytest.mark.parametrize("name", ["hetlora", "flexlora", "flora", "fedex_lora"])
async def test_a_run_of_several_ranks_goes_to_its_published_adapter_and_leaves_no_part_behind(
    world: World, name: str
) -> None:
    parameters = {"flora": FloraTerms(published_rank=10), "fedex_lora": FedExLoraTerms(published_rank=10)}.get(name)
    await begin(world, terms(name, parameters))
    for round_number in (1, 2):
        for number, site in enumerate(SITES):
            await send(world, site, 10 * round_number + number)
        await world.perform_pending()
        assert world.run.rounds[round_number - 1].phase is Phase.COMMITTED
        assert world.update_files() == []
        await world.invite(max_lora_ranks=MIXED)
    wide = 10 if parameters else RANK
    folder = world.registry / "trial" / "served"
    assert json.loads((folder / CONFIG_FILE).read_bytes())["r"] == wide
    candidate = world.run.rounds[-1].candidate
    assert candidate is not None
    with WeightsReader(world.blobs.adapter_path(candidate.digest)) as reader:
        shapes = {slot.name: slot.shape for slot in reader.layout.tensors}
    assert shapes == {tensor.name: tensor.shape for tensor in SPEC.at_rank(wide).tensors}


@pytest.mark.parametrize(("name", "beside"), [("flora", (10, 10, 10)), ("fedex_lora", (9, 7, 6))])
async def test_what_a_site_does_not_train_of_the_global_adapter_it_is_handed_beside(
    world: World, name: str, beside: tuple[int, ...]
) -> None:
    wide = {"flora": FloraTerms(published_rank=10), "fedex_lora": FedExLoraTerms(published_rank=10)}[name]
    await begin(world, terms(name, wide))
    for number, site in enumerate(SITES):
        await send(world, site, number)
    await world.perform_pending()
    await world.invite(max_lora_ranks=MIXED)
    for site, rank in zip(SITES, beside, strict=True):
        side = world.assignment(site).side
        assert side is not None and side[1] == SPEC.at_rank(rank)
    if name == "flora":  # each round starts from a fresh pair
        assert world.run.first_adapter == world.assignment(CLARA).adapter
        assert world.assignment(CLARA).side == (world.round.global_adapter, SPEC.at_rank(10))


async def test_the_first_adapter_stays_at_hand_while_sites_train_from_it(world: World) -> None:
    given = terms("flora", FloraTerms(published_rank=10))
    await begin(world, replace(given, rounds=replace(given.rounds, count=3)))
    for round_number in (1, 2):
        for number, site in enumerate(SITES):
            await send(world, site, 10 * round_number + number)
        await world.perform_pending()
        await world.invite(max_lora_ranks=MIXED)
    assert world.round.number == 3 and world.run.first_adapter is not None
    assert world.run.first_adapter.digest in needed_adapters(world.driver.runs)


async def test_a_coordinator_that_starts_again_hands_out_the_same_parts(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await begin(world, terms("hetlora"))
        before = [world.assignment(site).adapter for site in SITES]
        files = world.update_files()
    async with coordinator(tmp_path) as world:
        assert [world.assignment(site).adapter for site in SITES] == before
        assert world.update_files() == files != []


async def test_a_crash_before_the_parts_are_known_cuts_them_again_the_same(tmp_path: Path) -> None:
    files = []
    for root, dies in ((tmp_path / "one", False), (tmp_path / "two", True)):
        async with coordinator(root) as world:
            await world.begin(terms("hetlora"), SPEC)
            for name in SITES:
                world.presence.enter(name, MIXED[name])
                await world.store.remember_site(name, "site", world.clock.now())  # type: ignore[arg-type]
            await world.driver.observe_presence()
            if not dies:
                await world.perform_pending()
                files.append([world.assignment(site).adapter for site in SITES])
        if dies:
            async with coordinator(root) as world:
                await world.perform_pending()
                files.append([world.assignment(site).adapter for site in SITES])
    assert files[0] == files[1]


@pytest.mark.parametrize("name", STRATEGIES)
async def test_a_run_of_several_ranks_is_refused_for_a_strategy_that_needs_one(world: World, name: str) -> None:
    given = replace(terms(name), rounds=make_round_terms(quorum=3))
    if Need.EQUAL_RANKS not in strategy_named(name).needs:
        await create(world.driver, world.clock, given)
        return
    with pytest.raises(InputInvalidError, match=f"least_lora_rank: expected 0 with {name}, for which") as refused:
        await create(world.driver, world.clock, given)
    assert refused.value.reason is Reason.TERMS_INVALID


async def test_the_least_rank_is_not_above_the_runs_and_the_published_one_not_below(world: World) -> None:
    with pytest.raises(InputInvalidError, match=r"lora\.least_lora_rank: expected at most lora_rank, got 5"):
        await create(world.driver, world.clock, terms("hetlora", least=5))
    with pytest.raises(InputInvalidError, match="published_rank of at least lora_rank, 4, got 3"):
        await create(world.driver, world.clock, terms("flora", FloraTerms(published_rank=3)))


async def test_sites_of_the_runs_rank_get_the_global_adapter_itself(world: World) -> None:
    await world.begin(terms("hetlora"), SPEC)
    await world.invite()
    for site in SITES:
        assert world.assignment(site).adapter == world.round.global_adapter
        assert world.entry(site).outcome is SiteOutcome.INVITED
    assert world.update_files() == []
