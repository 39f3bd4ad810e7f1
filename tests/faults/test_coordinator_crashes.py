"""A coordinator that dies at any change of its disk, and before any answer leaves it, ends as if it had not died."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.coordinator_bucket import opened_bucket, until_what_was_put_is_older
from tests.fakes.coordinator_strategies import aggregation_of
from tests.fakes.coordinator_values import ANNA, RANK, SITES, make_terms
from tests.fakes.crashes import Fuse
from tests.faults.lives import PlayedAgents, live, outcome_of, sent_files, undisturbed
from tests.faults.long_form import IS_LONG
from tests.seaweed import SeaweedServer

# So many places to die are drawn from all of them; the long form takes every one.
DRAWN = 40
DRAWN_OF_OTHERS = 12
DRAWN_WITH_BUCKET = 5


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return sent_files(tmp_path_factory.mktemp("sent"))


def drawn(count: int, seed: int, drawn: int = DRAWN) -> list[int]:
    everything = range(1, count + 1)
    if IS_LONG:
        return list(everything)
    return sorted(random.Random(seed).sample(everything, min(drawn, count)))


async def test_a_coordinator_that_dies_once_anywhere_ends_as_if_it_had_not(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    wanted, count = await undisturbed(tmp_path / "undisturbed", files)
    assert count > 100
    for place in drawn(count, seed=1):
        root, agents = tmp_path / f"dies-at-{place}", PlayedAgents(files=files)
        assert not await live(root, agents, Fuse(place)), f"change {place} of {count} was never reached"
        assert await live(root, agents, Fuse()), f"killed at change {place} of {count}"
        assert await outcome_of(root) == wanted, f"killed at change {place} of {count}"


@pytest.mark.parametrize("name", ["fedadam", "fedex_lora", "hetlora"])
async def test_states_and_parts_of_adapters_outlive_a_death_anywhere(name: str, tmp_path: Path) -> None:
    """A server optimiser keeps a state; sites of several ranks are handed parts of the global adapter."""
    terms, ranks = make_terms(aggregation=aggregation_of(name)), dict.fromkeys(SITES, RANK)
    if name != "fedadam":
        terms, ranks = replace(terms, lora=replace(terms.lora, least_lora_rank=1)), {**ranks, ANNA: 1}
    files = sent_files(tmp_path, ranks)

    def agents() -> PlayedAgents:
        return PlayedAgents(files=files, terms=terms, max_lora_ranks=ranks)

    wanted, count = await undisturbed(tmp_path / "undisturbed", files, agents())
    assert wanted.updates == []
    for place in drawn(count, seed=5, drawn=DRAWN_OF_OTHERS):
        root, played = tmp_path / f"dies-at-{place}", agents()
        assert not await live(root, played, Fuse(place)), f"change {place} of {count} was never reached"
        assert await live(root, played, Fuse()), f"killed at change {place} of {count}"
        assert await outcome_of(root) == wanted, f"killed at change {place} of {count}"


async def test_a_coordinator_that_dies_again_and_again_ends_as_if_it_had_not(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    wanted, count = await undisturbed(tmp_path / "undisturbed", files)
    for seed in range(count if IS_LONG else 5):
        root, agents = tmp_path / f"seed-{seed}", PlayedAgents(files=files)
        dies = random.Random(seed)
        lives = 1
        # Each life gets a little further at least, since what it did is kept: it ends.
        while not await live(root, agents, Fuse(dies.randint(10, count // 2))):
            lives += 1
        assert lives > 1
        assert await outcome_of(root) == wanted, f"seed {seed}, {lives} lives"


async def test_a_coordinator_on_a_bucket_that_dies_once_anywhere_and_loses_its_files_ends_as_if_it_had_not(
    files: dict[str, bytes], seaweed: SeaweedServer, tmp_path: Path
) -> None:
    async def lived(root: Path, agents: PlayedAgents, fuse: Fuse) -> bool:
        return await live(root, agents, fuse, opened_bucket(seaweed, tmp_path, f"{root.name}/"))

    wanted, _ = await undisturbed(tmp_path / "folder", files)
    counting, whole = Fuse(), tmp_path / "undisturbed"
    assert await lived(whole, PlayedAgents(files=files), counting)
    assert await outcome_of(whole) == wanted
    for place in drawn(counting.count, seed=3, drawn=DRAWN_WITH_BUCKET):
        root, agents = tmp_path / f"dies-at-{place}", PlayedAgents(files=files)
        assert not await lived(root, agents, Fuse(place)), f"change {place} of {counting.count} was never reached"
        for folder in ("updates", "adapters"):
            shutil.rmtree(root / folder, ignore_errors=True)
        await until_what_was_put_is_older()
        assert await lived(root, agents, Fuse()), f"killed at change {place} of {counting.count}"
        assert await outcome_of(root) == wanted, f"killed at change {place} of {counting.count}"
        assert seaweed.keys(seaweed.bucket(tmp_path), f"{root.name}/updates/") == [], f"killed at change {place}"
