"""Server momentum against a float64 oracle, over real rounds and alone (FedAvgM, arXiv 1909.06335, section 4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.bfloat16 import decode_bf16, encode_bf16
from common.ids import SiteName
from common.terms import AggregationTerms, GateMetric, GateTerms, Terms
from coordinator.domain.aggregation.server_momentum import carry_on
from coordinator.domain.aggregation.strategy import Factors
from coordinator.domain.values import AdapterFile
from tests.fakes.coordinator_updates import read_float64
from tests.fakes.coordinator_values import SITES, make_round_terms, make_terms
from tests.fakes.coordinator_world import World, coordinator

ROUNDS = 3
Tensors = dict[str, NDArray[np.float64]]


def terms_of(server_momentum: float) -> Terms:
    return make_terms(
        rounds=make_round_terms(count=ROUNDS),
        gate=GateTerms(metric=GateMetric.NONE),
        aggregation=AggregationTerms(server_momentum=server_momentum),
    )


async def play_round(world: World, number: int) -> list[tuple[int, Tensors]]:
    """Let every site answer, and the round close; returns each upload with its label tokens."""
    uploads = []
    await world.invite()
    for order, site in enumerate(SITES):
        content, tokens = world.honest_bytes(10 * number + order), 100 * (order + 1)
        await world.send(SiteName(site), content, tokens)
        uploads.append((tokens, read_float64(content)))
    await world.perform_pending()
    return uploads


def tensors_of(world: World, file: AdapterFile | None) -> Tensors:
    assert file is not None
    return read_float64(world.blobs.adapter_path(file.digest).read_bytes())


def mean_of(uploads: list[tuple[int, Tensors]]) -> Tensors:
    total = sum(tokens for tokens, _ in uploads)
    names = uploads[0][1]
    return {name: sum((tokens / total * each[name] for tokens, each in uploads), np.zeros(1)) for name in names}


async def test_each_candidate_is_the_mean_and_the_last_move_carried_on(tmp_path: Path) -> None:
    momentum = 0.7
    async with coordinator(tmp_path) as world:
        await world.begin(terms_of(momentum))
        adapters = [tensors_of(world, world.run.first_adapter)]
        for number in range(1, ROUNDS + 1):
            mean = mean_of(await play_round(world, number))
            candidate = tensors_of(world, world.run.rounds[number - 1].candidate)
            for name, values in mean.items():
                move = adapters[-1][name] - adapters[-2][name] if number > 1 else 0.0
                rounded = decode_bf16(encode_bf16(values + momentum * move))
                np.testing.assert_allclose(candidate[name], rounded, rtol=1e-6)
                if number > 1:  # it is no small thing that is tested
                    assert np.abs(momentum * move).max() > 0.1 * np.abs(values).max()
            adapters.append(candidate)


async def test_without_momentum_a_candidate_is_the_mean_alone(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.begin(terms_of(0.0))
        for number in range(1, ROUNDS + 1):
            mean = mean_of(await play_round(world, number))
            candidate = tensors_of(world, world.run.rounds[number - 1].candidate)
            for name, values in mean.items():
                np.testing.assert_allclose(candidate[name], values, rtol=2**-8)


async def test_a_coordinator_that_starts_again_gives_the_same_candidates(tmp_path: Path) -> None:
    candidates = []
    for lives, root in ((1, tmp_path / "one"), (ROUNDS, tmp_path / "many")):
        for life in range(lives):
            async with coordinator(root) as world:
                if life == 0:
                    await world.begin(terms_of(0.5))
                for number in range(ROUNDS * life // lives + 1, ROUNDS * (life + 1) // lives + 1):
                    await play_round(world, number)
                closed = [past.candidate for past in world.run.rounds]
        candidates.append(closed)
    assert candidates[0] == candidates[1]
    assert len(set(candidates[0])) == ROUNDS


values = st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6)


def factors(numbers: list[float]) -> Factors:
    flat = np.array(numbers, np.float32)
    return Factors(a=flat.reshape(2, 3), b=flat[::-1].reshape(3, 2))


@given(values, values, st.floats(0, 0.99))
def test_where_nothing_moved_there_is_nothing_to_carry_on(combined: list[float], still: list[float], m: float) -> None:
    carried = carry_on(factors(combined), factors(still), factors(still), m)
    assert (carried.a == factors(combined).a).all() and (carried.b == factors(combined).b).all()


@given(values, values, values, st.floats(0, 0.99))
def test_momentum_moves_every_number_by_its_share_of_the_last_move(
    combined: list[float], current: list[float], previous: list[float], m: float
) -> None:
    carried = carry_on(factors(combined), factors(current), factors(previous), m)
    expected = [c + m * (now - before) for c, now, before in zip(combined, current, previous, strict=True)]
    np.testing.assert_allclose(carried.a.reshape(-1), expected, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(carried.b.reshape(-1), expected[::-1], rtol=1e-12, atol=1e-10)
