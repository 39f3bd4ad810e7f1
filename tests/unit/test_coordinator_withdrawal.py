"""A site withdraws while a round is combined, or after: the round ends as it stood, and nothing of the site is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.ids import AssignmentId
from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE
from coordinator.app import perform_commands
from coordinator.app.aggregate_round import aggregate
from coordinator.app.members import Members
from coordinator.app.ports import BlobStore
from coordinator.app.verify_release import verify_release
from coordinator.cli import app
from coordinator.domain.cohort import kept_updates
from coordinator.domain.enrolment import Standing
from coordinator.domain.values import Phase
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, SITES
from tests.fakes.coordinator_world import World, coordinator, site_caller
from tests.fakes.releases import OPERATOR, manifest_of, play, release_terms, write_release
from tests.fakes.signing import Signers
from tests.fakes.site import until

KEEPING = release_terms(count=2)


def members_of(world: World) -> Members:
    return Members(world.members, world.standings, world.driver, world.kept, world.clock)


@asynccontextmanager
async def combining(folder: Path, *, keeps: bool = True) -> AsyncIterator[World]:
    """A round whose updates are all in, and whose combining is asked for and has not begun."""
    async with coordinator(folder) as world:
        await world.training(release_terms(count=2, keeps=keeps))
        await world.answer(*SITES)
        assert world.round.phase is Phase.AGGREGATING
        yield world


async def candidate_of_all(folder: Path) -> str:
    async with combining(folder) as world:
        await world.perform_pending()
        candidate = world.run.rounds[0].candidate
        assert candidate is not None
        return candidate.digest


def kept(world: World) -> list[str]:
    """Whose updates the first round keeps, after the record, which must be what lies on the disk."""
    entries = kept_updates(world.run, world.run.rounds[0])
    assert sorted(f"{entry.assignment_id}.safetensors" for entry in entries) == world.update_files()
    return [entry.site for entry in entries]


@pytest.mark.parametrize("how_far", ["not begun", "half-way", "ended"])
async def test_a_round_that_is_combined_while_a_site_withdraws_ends_as_it_stood_and_keeps_nothing_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how_far: str
) -> None:
    expected = await candidate_of_all(tmp_path / "undisturbed")
    begun, goes_on = threading.Event(), threading.Event()

    def held(*arguments: Any) -> object:
        begun.set()
        assert goes_on.wait(60)
        return aggregate(*arguments)

    monkeypatch.setattr(perform_commands, "aggregate", held)
    async with combining(tmp_path / "state") as world:
        if how_far == "ended":
            goes_on.set()
            await world.perform_pending()
            await members_of(world).withdraw(site_caller(ANNA))
        else:
            work = asyncio.ensure_future(world.perform_pending()) if how_far == "half-way" else None
            if work is not None:
                assert await asyncio.to_thread(begun.wait, 60)
            await members_of(world).withdraw(site_caller(ANNA))
            goes_on.set()
            await (work or world.perform_pending())
        first = world.run.rounds[0]
        assert (first.phase, first.candidate and first.candidate.digest) == (Phase.COMMITTED, expected)
        assert [entry.site for entry in first.roster if entry.weight > 0] == [ANNA, BERTA, CLARA]
        assert kept(world) == [BERTA, CLARA]
        await world.driver.observe_presence()
        assert ANNA not in {entry.site for entry in world.round.roster}


async def test_a_round_that_is_combined_in_the_next_life_of_the_coordinator_needs_the_update_and_gives_it_up_then(
    tmp_path: Path,
) -> None:
    expected = await candidate_of_all(tmp_path / "undisturbed")
    async with combining(tmp_path / "state") as world:
        await members_of(world).withdraw(site_caller(ANNA))
    async with coordinator(tmp_path / "state") as world:
        await members_of(world).finish()
        await world.perform_pending()
        candidate = world.run.rounds[0].candidate
        assert candidate is not None and candidate.digest == expected
        assert kept(world) == [BERTA, CLARA]


class SlowToDelete:
    """A store of files that deletes nothing until it may; everything else is the store's own."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.asked, self.may_end = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def delete_updates(self, assignment_ids: Sequence[AssignmentId]) -> None:
        self.asked.set()
        await self.may_end.wait()
        await self._blobs.delete_updates(assignment_ids)


async def test_a_store_that_is_slow_to_delete_holds_no_other_decision_up_and_deletes_though_the_caller_hung_up(
    tmp_path: Path,
) -> None:
    async with combining(tmp_path) as world:
        await world.perform_pending()
        slow = SlowToDelete(world.kept)
        members = Members(world.members, world.standings, world.driver, slow, world.clock)
        withdrawal = asyncio.ensure_future(members.withdraw(site_caller(ANNA)))
        await slow.asked.wait()
        await asyncio.wait_for(members.ban(OPERATOR, BERTA), 30)
        withdrawal.cancel()
        slow.may_end.set()
        await until(lambda: len(world.update_files()) == 2)
        assert kept(world) == [BERTA, CLARA]


async def test_where_no_updates_are_kept_a_withdrawal_has_nothing_to_note(tmp_path: Path) -> None:
    async with combining(tmp_path, keeps=False) as world:
        await members_of(world).withdraw(site_caller(ANNA))
        await world.perform_pending()
        assert world.update_files() == []
        assert not any(entry.is_withdrawn for entry in world.run.rounds[0].roster)


async def test_a_site_that_comes_back_does_not_bring_back_what_was_deleted(tmp_path: Path) -> None:
    async with combining(tmp_path) as world:
        await world.perform_pending()
        await members_of(world).withdraw(site_caller(ANNA))
        member = world.standings.member(ANNA)
        assert member is not None
        await world.members.save_member(replace(member, standing=Standing.MEMBER))
    async with coordinator(tmp_path) as world:
        await members_of(world).finish()
        assert not world.standings.is_out(ANNA)
        assert kept(world) == [BERTA, CLARA]


async def test_a_release_after_a_withdrawal_lists_what_is_there_and_says_what_was_deleted(tmp_path: Path) -> None:
    signers = Signers(tmp_path / "signers")
    async with coordinator(tmp_path / "state", keys=signers.known) as world:
        await play(world, KEEPING, signers)
        await members_of(world).withdraw(site_caller(ANNA))
        folder = await write_release(world, signers, tmp_path / "release")
    listed = {file.path for file in manifest_of(folder).files if file.path.startswith("updates/")}
    assert listed == {f"updates/round-000{number}/{site}.safetensors" for number in (1, 2) for site in (BERTA, CLARA)}
    (tmp_path / "scratch").mkdir()
    found = verify_release(folder, signers.root, tmp_path / "scratch")
    assert (found.findings, found.signed_updates, found.recomputed) == ((), 6, ())
    root = str(signers.folder / "ca" / CA_CERTIFICATE_FILE)
    said = CliRunner().invoke(app, ["verify", str(folder), "--ca", root])
    assert (said.exit_code, said.output.splitlines()[-3:]) == (
        0,
        [
            "rounds computed again from their updates: none, for their updates are not in the release",
            "update deleted on withdrawal: round 1, anna",
            "update deleted on withdrawal: round 2, anna",
        ],
    )
