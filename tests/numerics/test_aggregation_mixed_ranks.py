"""Sites of several ranks: one scale, parts of adapters, and each rule against dense products in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.adapter import A_SUFFIX, B_SUFFIX, AdapterSpec, WireDtype
from common.strategy_terms import FedExLoraTerms, FloraTerms, HetLoraTerms
from common.terms import LoraTerms, Terms
from common.weights_io import WeightsReader, write_weights
from coordinator.app.aggregate_round import RoundFiles, aggregate
from coordinator.app.cut_parts import write_part
from coordinator.domain.adapter_parts import Cut
from coordinator.domain.aggregation.geometry import geometry_of_module
from coordinator.domain.aggregation.ranks import cut, padded
from coordinator.domain.aggregation.strategy import Factors
from coordinator.domain.cohort import invite
from coordinator.domain.values import AdapterFile, Run
from tests.fakes.coordinator_strategies import (
    IN,
    OUT,
    aggregation_of,
    combined,
    contributions_of,
    product,
    strategy_named,
)
from tests.fakes.coordinator_updates import random_weights
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, make_spec, make_terms, make_update, selecting_run

RANKS, RANK, ALPHA = (1, 2, 4), 4, 8
SHARES = (1 / 6, 2 / 6, 3 / 6)
SEEDS = st.integers(0, 2**32 - 1)
Dense = NDArray[np.float64]


def pair_of(rank: int, seed: int) -> Factors:
    generator = np.random.default_rng(seed)
    return Factors(
        a=generator.standard_normal((rank, IN)).astype(np.float32),
        b=generator.standard_normal((OUT, rank)).astype(np.float32),
    )


def terms_of(name: str, parameters: object | None = None) -> Terms:
    lora = LoraTerms(lora_rank=RANK, lora_alpha=ALPHA, target_modules=("q_proj", "v_proj"), least_lora_rank=1)
    aggregation = replace(aggregation_of(name, parameters), wire_dtype=WireDtype.F32)
    return replace(make_terms(aggregation=aggregation), lora=lora)


# Each rule on one module


@given(seed=SEEDS)
def test_hetlora_is_the_mean_of_pairs_filled_with_zeros_weighted_by_their_products(seed: int) -> None:
    current, updates = pair_of(RANK, seed), [pair_of(rank, seed + 1 + rank) for rank in RANKS]
    pair, weights = combined(strategy_named("hetlora"), updates, current, contributions_of((100, 200, 300)))
    norms = [float(np.linalg.norm(product(update))) for update in updates]
    assert weights == pytest.approx([norm / sum(norms) for norm in norms], rel=1e-6)
    a, b = np.zeros((RANK, IN)), np.zeros((OUT, RANK))
    for rank, update, weight in zip(RANKS, updates, weights, strict=True):
        a[:rank] += weight * update.a.astype(np.float64)
        b[:, :rank] += weight * update.b.astype(np.float64)
    np.testing.assert_allclose(pair.a, a, atol=1e-12)
    np.testing.assert_allclose(pair.b, b, atol=1e-12)


@given(seed=SEEDS)
def test_hetlora_by_size_alone_is_the_mean_of_factors(seed: int) -> None:
    current, updates = pair_of(RANK, seed), [pair_of(rank, seed + 1 + rank) for rank in RANKS]
    strategy = strategy_named("hetlora", HetLoraTerms(size_exponent=1.0, norm_exponent=0.0))
    _, weights = combined(strategy, updates, current, contributions_of((100, 200, 300)))
    assert weights == pytest.approx(SHARES)


def test_hetlora_weighs_by_size_when_nobody_adds_anything() -> None:
    updates = [Factors(a=pair_of(rank, 1).a, b=np.zeros((OUT, rank), np.float32)) for rank in RANKS]
    _, weights = combined(strategy_named("hetlora"), updates, pair_of(RANK, 0), contributions_of((100, 200, 300)))
    assert weights == pytest.approx(SHARES)


@given(seed=SEEDS)
def test_norms_and_inner_products_are_those_of_dense_products_at_several_ranks(seed: int) -> None:
    current, updates = pair_of(RANK, seed), [pair_of(rank, seed + 1 + rank) for rank in RANKS]
    geometry = geometry_of_module(updates, current)
    moves = [(product(update) - product(current)).ravel() for update in updates]
    np.testing.assert_allclose(geometry.products, [[x @ y for y in moves] for x in moves], atol=1e-9)
    np.testing.assert_allclose(geometry.norms, [(product(each) ** 2).sum() for each in updates], rtol=1e-9)


@given(seed=SEEDS, rank=st.integers(1, RANK))
def test_parts_of_a_pair_add_up_to_it_and_zeros_add_nothing(seed: int, rank: int) -> None:
    pair = pair_of(RANK, seed)
    parts = product(cut(pair, 0, rank)) + product(cut(pair, rank, RANK))
    np.testing.assert_allclose(parts, product(pair), atol=1e-12)
    assert np.array_equal(product(padded(pair, RANK + 3)), product(pair))


# Whole rounds, in float32 on the wire: what a model computes, scale included


def effect(path: Path, module: str, spec: AdapterSpec, rank: int) -> Dense:
    """(lora_alpha / rank) B A of a file, as peft adds it."""
    with WeightsReader(path) as reader:
        a, b = reader.tensor(module + A_SUFFIX), reader.tensor(module + B_SUFFIX)
    assert a.shape[0] == b.shape[1] == rank
    dense: Dense = spec.lora_alpha / rank * (b.astype(np.float64) @ a.astype(np.float64))
    return dense


def write(path: Path, spec: AdapterSpec, seed: int) -> AdapterFile:
    digest = write_weights(path, random_weights(spec, seed), spec.dtype)
    return AdapterFile(digest=digest, size_bytes=path.stat().st_size)


class Played:
    """A round of three sites of the ranks 1, 2 and 4, aggregated from a global adapter of ``global_rank``."""

    def __init__(self, folder: Path, terms: Terms, global_rank: int) -> None:
        self.spec = replace(make_spec(dtype=WireDtype.F32), lora_alpha=ALPHA).at_rank(RANK)
        self.module = self.spec.modules[0]
        current = write(folder / "current", self.spec.at_rank(global_rank), 99)
        self.run: Run = replace(selecting_run(terms), spec=self.spec, first_adapter=current)
        self.paths = [folder / str(rank) for rank in RANKS]
        for rank, path in zip(RANKS, self.paths, strict=True):
            write(path, self.spec.at_rank(rank), rank)
        self.current, self.out = folder / "current", folder / "candidate"
        self.before = effect(self.current, self.module, self.spec, global_rank)
        roster = invite(self.run.run_id, 1, frozenset((ANNA, BERTA, CLARA)))
        accepted = [
            replace(entry, update=make_update(num_label_tokens=100 * (number + 1)))
            for number, entry in enumerate(roster)
        ]
        aggregate(self.run, accepted, RoundFiles(updates=self.paths, current=self.current), self.out)

    @property
    def effects(self) -> list[Dense]:
        return [effect(path, self.module, self.spec, r) for r, path in zip(RANKS, self.paths, strict=True)]

    @property
    def candidate(self) -> Dense:
        return effect(self.out, self.module, self.spec, self.run.terms.published_rank)


def mean(effects: Sequence[Dense]) -> Dense:
    total: Dense = np.sum([share * each for share, each in zip(SHARES, effects, strict=True)], axis=0)
    return total


def nearest(dense: Dense, rank: int) -> Dense:
    left, values, right = np.linalg.svd(dense)
    found: Dense = left[:, :rank] * values[:rank] @ right[:rank]
    return found


def assert_same(got: Dense, expected: Dense) -> None:
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


def test_flexlora_gives_the_nearest_adapter_to_the_mean_of_what_sites_add(tmp_path: Path) -> None:
    played = Played(tmp_path, terms_of("flexlora"), RANK)
    assert_same(played.candidate, nearest(mean(played.effects), RANK))


@pytest.mark.parametrize("global_rank", [RANK, 16])
def test_flora_adds_the_mean_of_what_sites_add_to_the_global_adapter(tmp_path: Path, global_rank: int) -> None:
    played = Played(tmp_path, terms_of("flora", FloraTerms(published_rank=16)), global_rank)
    assert_same(played.candidate, played.before + mean(played.effects))


def test_flora_presses_what_does_not_fit_into_the_published_rank(tmp_path: Path) -> None:
    played = Played(tmp_path, terms_of("flora", FloraTerms(published_rank=RANK)), RANK)
    assert_same(played.candidate, nearest(played.before + mean(played.effects), RANK))


@pytest.mark.parametrize("global_rank", [RANK, 24])
def test_fedex_is_the_mean_of_what_the_sites_have_trained_and_added(tmp_path: Path, global_rank: int) -> None:
    """A site has trained its first ranks, and added all others of the global adapter as they are."""
    played = Played(tmp_path, terms_of("fedex_lora", FedExLoraTerms(published_rank=24)), global_rank)
    with WeightsReader(played.current) as reader:
        a, b = reader.tensor(played.module + A_SUFFIX), reader.tensor(played.module + B_SUFFIX)
    rest = [ALPHA / global_rank * (b[:, r:].astype(np.float64) @ a[r:].astype(np.float64)) for r in RANKS]
    assert_same(played.candidate, mean([x + y for x, y in zip(played.effects, rest, strict=True)]))


def test_fedex_publishes_the_mean_of_factors_first(tmp_path: Path) -> None:
    played = Played(tmp_path, terms_of("fedex_lora", FedExLoraTerms(published_rank=24)), RANK)
    plain = Played(tmp_path, terms_of("fedex_lora", FedExLoraTerms(published_rank=RANK)), RANK)
    with WeightsReader(played.out) as wide, WeightsReader(plain.out) as narrow:
        a = wide.tensor(played.module + A_SUFFIX), narrow.tensor(played.module + A_SUFFIX)
    np.testing.assert_array_equal(a[0][:RANK], a[1])


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 3), (1, 4), (2, 3)])
def test_a_part_adds_to_the_model_what_its_ranks_added_in_the_whole(tmp_path: Path, start: int, stop: int) -> None:
    spec = replace(make_spec(dtype=WireDtype.F32), lora_alpha=ALPHA).at_rank(RANK)
    source = write(tmp_path / "whole", spec, 1)
    file = write_part(tmp_path / "whole", Cut(source=source, spec=spec, start=start, stop=stop), tmp_path / "part")
    assert file.size_bytes == (tmp_path / "part").stat().st_size
    for module in spec.modules:
        with WeightsReader(tmp_path / "whole") as reader:
            a, b = reader.tensor(module + A_SUFFIX), reader.tensor(module + B_SUFFIX)
        expected = ALPHA / RANK * (b[:, start:stop].astype(np.float64) @ a[start:stop].astype(np.float64))
        assert_same(effect(tmp_path / "part", module, spec, stop - start), expected)
