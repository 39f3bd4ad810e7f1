"""The order in which updates arrive, over the whole way from upload to candidate, does not move a byte."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

from common.ids import SiteName
from coordinator.domain.values import AdapterFile
from tests.fakes.coordinator_updates import digest_bytes
from tests.fakes.coordinator_values import SITES
from tests.fakes.coordinator_world import coordinator


async def candidate_of(root: Path, order: tuple[SiteName, ...]) -> bytes:
    """Play a round in which updates arrive in ``order``."""
    async with coordinator(root) as world:
        await world.training()
        await world.answer(*order)
        await world.perform_pending()
        content = world.candidate_bytes()
        assert world.round.candidate == AdapterFile(digest=digest_bytes(content), size_bytes=len(content))
        return content


async def test_every_order_of_arrival_gives_the_same_candidate_byte_for_byte(tmp_path: Path) -> None:
    candidates = {await candidate_of(tmp_path / str(number), order) for number, order in enumerate(permutations(SITES))}
    assert len(candidates) == 1
