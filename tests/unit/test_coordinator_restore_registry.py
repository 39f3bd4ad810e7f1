"""A registry that lost versions: which are published again, and what becomes of the others."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from common.terms import GateMetric, GateTerms
from coordinator.app.restore_registry import lost_versions, restore
from tests.fakes.coordinator_values import SITES, make_terms
from tests.fakes.coordinator_world import World, coordinator


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A run without a gate whose two rounds are over; the second version is not published yet."""
    async with coordinator(tmp_path) as world:
        await world.training(make_terms(gate=GateTerms(metric=GateMetric.NONE)))
        await world.answer(*SITES)
        await world.perform_pending()
        await world.driver.observe_presence()
        for number, site in enumerate(SITES):
            await world.send(site, world.honest_bytes(10 + number))
        (aggregate,) = await world.store.pending_commands()
        await world.performer.perform(aggregate)
        await world.store.complete(aggregate)
        yield world


def content_of(registry: Path) -> dict[str, bytes]:
    return {str(path.relative_to(registry)): path.read_bytes() for path in registry.rglob("*") if path.is_file()}


async def restored(world: World) -> list[str]:
    """Publish again what is lost; what the log is told."""
    log = CapturingLogger()
    lost = lost_versions(world.registry, world.driver.runs, await world.store.pending_commands())
    await restore(lost, world.kept, world.registry, log)
    return [call.args[0] for call in log.calls]


async def test_a_registry_that_is_whole_is_left_as_it_is(world: World) -> None:
    assert await restored(world) == []


async def test_lost_versions_are_published_again_the_same_and_those_to_come_are_left_to_their_command(
    world: World,
) -> None:
    before, served = content_of(world.registry), (world.registry / "trial" / "served").resolve()
    shutil.rmtree(world.registry)
    assert await restored(world) == ["version_restored"]
    assert content_of(world.registry) == before
    await world.perform_pending()
    assert await restored(world) == []
    whole = content_of(world.registry)
    shutil.rmtree(world.registry)
    assert await restored(world) == ["version_restored", "version_restored"]
    assert content_of(world.registry) == whole
    assert (served.name, (world.registry / "trial" / "served").resolve().name) == ("v0001", "v0002")


async def test_a_version_whose_adapter_is_gone_is_told_of_and_keeps_no_other_from_coming_back(world: World) -> None:
    await world.perform_pending()
    first = world.run.rounds[0].candidate
    assert first is not None
    shutil.rmtree(world.registry)
    world.blobs.adapter_path(first.digest).unlink()
    assert await restored(world) == ["version_not_restored", "version_restored"]
    assert [path.parent.name for path in world.registry.rglob("README.md")] == ["v0002"]


async def test_a_coordinator_that_died_before_it_pointed_at_the_version_does_so_at_its_next_start(world: World) -> None:
    await world.perform_pending()
    link = world.registry / "trial" / "served"
    link.unlink()
    assert await restored(world) == ["version_restored"]
    assert link.resolve().name == "v0002"
    assert await restored(world) == []


async def test_a_version_that_comes_back_late_does_not_turn_the_served_one_back(world: World) -> None:
    shutil.rmtree(world.registry)
    lost = lost_versions(world.registry, world.driver.runs, await world.store.pending_commands())
    await world.perform_pending()  # the second version is published before the first one has come back
    await restore(lost, world.kept, world.registry, CapturingLogger())
    assert (world.registry / "trial" / "served").resolve().name == "v0002"
    assert sorted(path.name for path in (world.registry / "trial").iterdir()) == ["served", "v0001", "v0002"]
