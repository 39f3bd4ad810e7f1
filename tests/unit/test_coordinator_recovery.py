"""What a start after a crash finds, keeps, and sweeps away."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import FedMedError
from common.terms import GateMetric, GateTerms
from common.tls import Role
from coordinator.app.create_run import create
from coordinator.app.recovery import needed_adapters
from coordinator.app.update_intake import UploadClaim
from coordinator.domain import assignments
from coordinator.domain.values import Phase, SiteOutcome
from tests.fakes.coordinator_updates import chunks_of, digest_bytes, trained_claim, update_bytes
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, EVALUATOR, SITES, digest, make_spec, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator, site_caller


async def half_upload(world: World, content: bytes) -> UploadClaim:
    """Let clara's stream break off after 100 bytes."""
    claim = world.claim(CLARA, content)
    with pytest.raises(FedMedError):
        await world.intake.receive(site_caller(CLARA), claim, chunks_of(content[:100]))
    return claim


async def test_accepted_updates_and_half_uploads_of_an_open_round_are_kept(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        await world.answer(ANNA)
        await half_upload(world, world.honest_bytes(2))
        before = world.update_files()
    async with coordinator(tmp_path) as world:
        assert (world.swept, world.update_files()) == (0, before)


async def test_updates_of_a_round_that_is_being_aggregated_are_kept(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        await world.answer(*SITES)
    async with coordinator(tmp_path) as world:
        assert (world.swept, len(world.update_files())) == (0, 3)
        await world.perform_pending()
        assert world.round.phase is Phase.EVALUATING


async def test_a_file_that_was_kept_but_never_accepted_is_swept_and_may_be_sent_again(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        content, wanted = world.honest_bytes(1), world.assignment(ANNA).assignment_id
        world.blobs.update_path(wanted).write_bytes(content)  # as after a crash between the rename and the event
    async with coordinator(tmp_path) as world:
        assert (world.swept, world.update_files()) == (1, [])
        await world.send(ANNA, content)
        assert world.round.roster[0].outcome is SiteOutcome.ACCEPTED


async def test_an_adapter_that_no_run_knows_is_swept_and_those_of_runs_stay(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        await world.answer(*SITES)
        await world.perform_pending()
        before = world.adapter_files()
        world.blobs.adapter_path(digest("no run's")).write_bytes(b"kept, and forestalled before its event")
    async with coordinator(tmp_path) as world:
        assert (world.swept, world.adapter_files()) == (1, before)
        assert len(before) == 2


async def test_a_half_upload_of_a_closed_round_is_swept(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        await half_upload(world, world.honest_bytes(2))
        await world.abort()
    async with coordinator(tmp_path) as world:
        assert (world.swept, world.update_files()) == (1, [])


async def test_a_half_upload_of_a_straggler_is_swept(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        await half_upload(world, world.honest_bytes(2))
        await world.answer(ANNA, BERTA)
        world.clock.advance(100)
        await world.driver.fire_deadlines()
        assert world.round.phase is Phase.AGGREGATING
    async with coordinator(tmp_path) as world:
        assert (world.swept, len(world.update_files())) == (1, 2)


async def test_a_half_first_adapter_is_kept(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        run = await create(world.driver, world.clock, make_terms())
        await world.store.remember_site(EVALUATOR, Role.EVALUATOR, world.clock.now())
        given = assignments.for_evaluator(run, EVALUATOR)
        assert given is not None
        content = update_bytes(tmp_path, make_spec(), 1)
        claim = UploadClaim(
            assignment_id=given.assignment_id,
            digest=digest_bytes(content),
            size_bytes=len(content),
            first_spec=make_spec(),
        )
        with pytest.raises(FedMedError):
            await world.intake.receive(evaluator(), claim, chunks_of(content[:100]))
    async with coordinator(tmp_path) as world:
        assert world.swept == 0
        assert (await world.intake.state(evaluator(), claim.assignment_id, claim.digest)).offset == 100


async def test_a_run_that_was_created_before_a_crash_is_created_once(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        first = await create(world.driver, world.clock, make_terms())
    async with coordinator(tmp_path) as world:
        assert await create(world.driver, world.clock, make_terms()) == first == world.run


async def test_a_candidate_is_the_same_whether_or_not_there_were_restarts(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "undisturbed") as world:
        await world.training()
        await world.answer(*SITES)
        await world.perform_pending()
        undisturbed = world.candidate_bytes()
    async with coordinator(tmp_path / "restarted") as world:
        await world.training()
    for site in SITES:
        async with coordinator(tmp_path / "restarted") as world:
            await world.answer(site)
    async with coordinator(tmp_path / "restarted") as world:
        await world.perform_pending()
        assert world.candidate_bytes() == undisturbed


async def test_the_next_life_knows_who_was_there_but_not_who_is(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.begin()
        await world.invite((ANNA,))
    async with coordinator(tmp_path) as world:
        assert [site.name for site in await world.store.known_sites()] == [ANNA]
        assert world.presence.present() == frozenset()


async def test_an_update_of_an_earlier_life_is_trained_from_the_same_adapter(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        base, wanted = world.base(), world.assignment(ANNA).assignment_id
    async with coordinator(tmp_path) as world:
        assert (world.base(), world.assignment(ANNA).assignment_id) == (base, wanted)
        content = world.honest_bytes(1)
        await world.intake.receive(site_caller(ANNA), trained_claim(wanted, content, base), chunks_of(content))
        assert world.round.roster[0].outcome is SiteOutcome.ACCEPTED


async def test_needed_are_the_adapters_of_an_open_runs_last_two_rounds_and_none_of_one_that_has_ended(
    tmp_path: Path,
) -> None:
    async with coordinator(tmp_path) as world:
        assert needed_adapters(world.driver.runs) == set()
        await world.training(make_terms(gate=GateTerms(metric=GateMetric.NONE)))
        assert needed_adapters(world.driver.runs) == {world.base()}
        await world.answer(*SITES)
        await world.perform_pending()
        first, second = world.run.rounds
        assert needed_adapters(world.driver.runs) == {first.global_adapter.digest, second.global_adapter.digest}
        await world.abort()
        assert needed_adapters(world.driver.runs) == set()
