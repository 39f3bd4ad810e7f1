"""What every strategy keeps, and each one against an oracle that forms the dense products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.adapter import FactorSet
from common.errors import InputInvalidError, Reason
from common.strategy_terms import KrumTerms, LoraFairTerms, NormBoundTerms, TrimmedMeanTerms
from coordinator.domain.aggregation import STRATEGIES, check_needs, strategy_of
from coordinator.domain.aggregation.geometry import added, geometry_of_module, squared_distances
from coordinator.domain.aggregation.strategy import Factors, Geometry, Need
from tests.fakes.coordinator_strategies import (
    ADDING,
    COUNTS,
    IN,
    OUT,
    RANK,
    SHARES,
    aggregation_of,
    combined,
    contributions_of,
    mean_product,
    near,
    planned,
    product,
    random_pair,
    scene,
    strategy_named,
)
from tests.fakes.coordinator_values import ANNA, make_round_terms, make_terms

EACH = pytest.mark.parametrize("name", STRATEGIES)
SEEDS = st.integers(0, 2**32 - 1)
# Those whose weights are cut, so that they sum to less than one.
CUTTING = {"norm_bound"}


def assert_close(got: NDArray[np.floating], expected: NDArray[np.floating], tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))


# All of them


@EACH
@given(seed=SEEDS)
def test_one_that_says_it_is_elementwise_makes_no_number_of_another(name: str, seed: int) -> None:
    strategy = strategy_named(name)
    current, updates = scene(seed)
    other = replace(updates[0], a=updates[0].a + np.eye(RANK, IN, dtype=np.float32))

    before, after = (
        strategy.combine(planned(name, [first, *updates[1:]], current), SHARES, current)
        for first in (updates[0], other)
    )

    if strategy.is_elementwise:
        apart = ~np.eye(RANK, IN, dtype=bool)
        np.testing.assert_array_equal(after.a[apart], before.a[apart])
        np.testing.assert_array_equal(after.b, before.b)


@EACH
@given(seed=SEEDS)
def test_equal_updates_give_their_own_product(name: str, seed: int) -> None:
    current = random_pair(seed)
    update = near(current, seed + 1, step=1e-3)  # within every bound
    updates = planned(name, [update] * 5, current)
    pair, _ = combined(strategy_named(name), updates, current, contributions_of(COUNTS))
    expected = product(updates[0]) + (product(current) if name in ADDING else 0.0)
    assert_close(product(pair), expected)


@EACH
@given(seed=SEEDS, order=st.permutations(range(5)))
def test_the_order_of_sites_is_irrelevant(name: str, seed: int, order: list[int]) -> None:
    current, updates = scene(seed)
    updates, contributions = planned(name, updates, current), contributions_of(COUNTS)
    strategy = strategy_named(name)
    pair, weights = combined(strategy, updates, current, contributions)
    other, other_weights = combined(
        strategy, [updates[index] for index in order], current, [contributions[index] for index in order]
    )
    assert other_weights == pytest.approx([weights[index] for index in order], rel=1e-9, abs=1e-7)
    assert_close(product(other), product(pair))


@EACH
@given(seed=SEEDS, counts=st.lists(st.integers(1, 10**9), min_size=5, max_size=5))
def test_weights_are_shares(name: str, seed: int, counts: list[int]) -> None:
    current, updates = scene(seed)
    _, weights = combined(strategy_named(name), planned(name, updates, current), current, contributions_of(counts))
    assert all(0 <= weight <= 1 for weight in weights)
    assert sum(weights) <= 1 + 1e-12
    assert name in CUTTING or sum(weights) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - {"krum"}))  # which is there to leave some out
def test_every_site_counts_although_all_are_of_one_size(name: str) -> None:
    """Seen elsewhere: equal sites collapsing in a set, or the first one alone being kept."""
    current, updates = scene(1)
    contributions = [contributions_of(COUNTS)[0]] * 5
    base, _ = combined(strategy_named(name), planned(name, updates, current), current, contributions)
    for number in range(5):
        changed = [near(each, 77) if index == number else each for index, each in enumerate(updates)]
        pair, _ = combined(strategy_named(name), planned(name, changed, current), current, contributions)
        assert not np.array_equal(product(pair), product(base))


@EACH
def test_an_adapter_is_combined_in_more_than_single_precision(name: str) -> None:
    current, updates = scene(3)
    pair, _ = combined(strategy_named(name), planned(name, updates, current), current, contributions_of(COUNTS))
    kept = {"ffa_lora": (pair.b,), "rolora": (pair.b,), "fedsa_lora": (pair.a,)}.get(name, (pair.a, pair.b))
    assert all(factor.dtype == np.float64 for factor in kept)


@EACH
def test_what_a_strategy_declares_is_what_it_asks_for(name: str) -> None:
    strategy = strategy_named(name)
    assert strategy.name == name
    current, updates = scene(5)
    contributions = contributions_of(COUNTS)
    if Need.GEOMETRY in strategy.needs:
        with pytest.raises(AssertionError):
            strategy.weigh(contributions, None)
    else:
        assert strategy.weigh(contributions, None) == strategy.weigh(
            contributions, geometry_of_module(updates, current)
        )


def test_strategies_that_read_single_updates_say_so() -> None:
    """The others need sums alone, so that secure aggregation could hide the rest."""
    sums = {name for name in STRATEGIES if Need.CLEAR_UPDATES not in strategy_named(name).needs}
    assert sums == {"fed_medlora", "ffa_lora", "rolora", "fedsa_lora", "fedadagrad", "fedadam", "fedavgm", "fedyogi"}


@EACH
def test_momentum_goes_with_a_strategy_whose_factors_stay_comparable_and_with_no_other(name: str) -> None:
    aggregation = replace(aggregation_of(name), server_momentum=0.5)
    terms = make_terms(aggregation=aggregation, rounds=make_round_terms(quorum=3))
    strategy = strategy_of(terms)
    if strategy.allows_momentum:
        return check_needs(strategy, terms)
    with pytest.raises(InputInvalidError, match=f"server_momentum: expected 0 with {name}") as refused:
        check_needs(strategy, terms)
    assert refused.value.reason is Reason.TERMS_INVALID


# The mean of products, exactly


@pytest.mark.parametrize(("name", "round_number"), [("ffa_lora", 1), ("ffa_lora", 2), ("rolora", 1), ("rolora", 2)])
@given(seed=SEEDS)
def test_with_one_factor_shared_the_product_is_the_mean_of_products(name: str, round_number: int, seed: int) -> None:
    current, updates = scene(seed)
    updates = planned(name, updates, current, round_number)
    pair, _ = combined(strategy_named(name), updates, current, contributions_of(COUNTS))
    assert_close(product(pair), mean_product(updates), 1e-12)
    kept = "b" if (name, round_number) == ("rolora", 2) else "a"
    assert np.array_equal(getattr(pair, kept), getattr(current, kept))


def test_rolora_begins_with_b_and_takes_turns() -> None:
    plans = [strategy_named("rolora").plan(number, ANNA) for number in (1, 2, 3, 4)]
    assert [plan.trained for plan in plans] == [FactorSet.B_ONLY, FactorSet.A_ONLY] * 2
    assert all(plan.trained is plan.uploaded for plan in plans)


@given(seed=SEEDS)
def test_flexlora_gives_the_nearest_matrix_of_the_rank_to_the_mean_of_products(seed: int) -> None:
    current, updates = scene(seed)
    pair, _ = combined(strategy_named("flexlora"), updates, current, contributions_of(COUNTS))
    left, values, right = np.linalg.svd(mean_product(updates))
    assert_close(product(pair), left[:, :RANK] * values[:RANK] @ right[:RANK])
    assert (pair.a.shape, pair.b.shape) == ((RANK, IN), (OUT, RANK))


@pytest.mark.parametrize("name", ["flexlora", "geometric_median", "krum"])
def test_a_module_of_which_no_site_has_moved_b_can_still_learn(name: str) -> None:
    current = Factors(a=random_pair(0).a, b=np.zeros((OUT, RANK), np.float32))
    updates = [Factors(a=near(current, seed).a, b=current.b) for seed in range(5)]
    pair, _ = combined(strategy_named(name), updates, current, contributions_of(COUNTS))
    assert not pair.b.any()
    assert np.array_equal(pair.a, current.a)


def test_flexlora_fits_a_module_that_is_smaller_than_the_rank() -> None:
    generator = np.random.default_rng(0)
    current, *updates = (
        Factors(a=generator.standard_normal((4, 3)), b=generator.standard_normal((2, 4))) for _ in range(3)
    )
    pair = strategy_named("flexlora").combine(updates, (0.5, 0.5), current)
    assert (pair.a.shape, pair.b.shape) == ((4, 3), (2, 4))
    assert_close(product(pair), 0.5 * product(updates[0]) + 0.5 * product(updates[1]))


@given(seed=SEEDS, penalty=st.floats(1e-6, 1e3))
def test_lora_fair_corrects_b_by_least_squares(seed: int, penalty: float) -> None:
    current, updates = scene(seed)
    strategy = strategy_named("lora_fair", LoraFairTerms(penalty=penalty))
    pair, _ = combined(strategy, updates, current, contributions_of(COUNTS))
    mean, _ = combined(strategy_named("fed_medlora"), updates, current, contributions_of(COUNTS))
    error = mean_product(updates) - product(mean)
    # |R - D A|^2 + penalty |D|^2 as one least-squares problem in D^T.
    system = np.concatenate([mean.a.T, np.sqrt(penalty) * np.eye(RANK)])
    wanted = np.concatenate([error.T, np.zeros((RANK, OUT))])
    expected = mean.b + np.linalg.lstsq(system, wanted, rcond=None)[0].T
    assert_close(pair.b, expected, 1e-7)
    assert np.array_equal(pair.a, mean.a)
    assert np.linalg.norm(mean_product(updates) - product(pair)) <= np.linalg.norm(error) * (1 + 1e-9)


# Rules that bound what a site can do


@given(seed=SEEDS, worst=st.floats(-(2.0**99), 2.0**99, width=32))
def test_a_median_stays_among_the_honest_whatever_two_of_five_send(seed: int, worst: float) -> None:
    current, honest = scene(seed, 3)
    bad = Factors(a=np.full((RANK, IN), worst, np.float32), b=np.full((OUT, RANK), -worst, np.float32))
    for name, sent in (("coordinate_median", [*honest, bad, bad]), ("trimmed_mean", [*honest, bad])):
        pair, _ = combined(strategy_named(name), sent, current, contributions_of(COUNTS[: len(sent)]))
        for factor in ("a", "b"):
            values = np.stack([getattr(each, factor) for each in honest])
            assert (getattr(pair, factor) >= values.min(axis=0)).all()
            assert (getattr(pair, factor) <= values.max(axis=0)).all()


@pytest.mark.parametrize(("count", "trimmed"), [(1, 0), (3, 1), (4, 1), (5, 2), (5, 1)])
def test_medians_and_trimmed_means_are_those_of_every_number_by_itself(count: int, trimmed: int) -> None:
    current, updates = scene(11, count)
    median, _ = combined(strategy_named("coordinate_median"), updates, current, contributions_of(COUNTS[:count]))
    strategy = strategy_named("trimmed_mean", TrimmedMeanTerms(trimmed_count=trimmed))
    mean, _ = combined(strategy, updates, current, contributions_of(COUNTS[:count]))
    assert strategy.least_updates == 2 * trimmed + 1
    for row in range(RANK):
        for column in range(IN):
            values = sorted(float(update.a[row, column]) for update in updates)
            middle = (values[(count - 1) // 2] + values[count // 2]) / 2
            kept = values[trimmed : count - trimmed]
            assert median.a[row, column] == pytest.approx(middle, rel=1e-12)
            assert mean.a[row, column] == pytest.approx(sum(kept) / len(kept), rel=1e-12)


def moved_by(pair: Factors, current: Factors) -> float:
    a, b = pair.a.astype(np.float64) - current.a, pair.b.astype(np.float64) - current.b
    return float(np.sqrt((a**2).sum() + (b**2).sum()))


@given(seed=SEEDS, max_norm=st.floats(1e-3, 10), size=st.floats(0.1, 1e6))
def test_a_norm_bound_is_how_far_the_adapter_moves_at_most(seed: int, max_norm: float, size: float) -> None:
    current, updates = scene(seed, 4)
    updates.append(near(current, seed + 99, step=size))
    strategy = strategy_named("norm_bound", NormBoundTerms(max_norm=max_norm))
    pair, weights = combined(strategy, updates, current, contributions_of(COUNTS))
    assert moved_by(pair, current) <= max_norm * (1 + 1e-9)
    cuts = [min(1.0, max_norm / moved_by(update, current)) for update in updates]
    assert weights == pytest.approx([share * cut for share, cut in zip(SHARES, cuts, strict=True)], rel=1e-9)


@given(seed=SEEDS)
def test_a_norm_bound_that_nobody_reaches_is_fed_medlora(seed: int) -> None:
    current, updates = scene(seed)
    pairs = [
        combined(strategy, updates, current, contributions_of(COUNTS))[0]
        for strategy in (strategy_named("norm_bound", NormBoundTerms(max_norm=1e9)), strategy_named("fed_medlora"))
    ]
    assert_close(pairs[0].a, pairs[1].a, 1e-12)
    assert_close(pairs[0].b, pairs[1].b, 1e-12)


def moves_of(updates: Sequence[Factors], current: Factors) -> list[NDArray[np.float64]]:
    return [product(update) - product(current) for update in updates]


@given(seed=SEEDS)
def test_the_geometric_median_is_where_the_pulls_of_all_sites_cancel(seed: int) -> None:
    current, updates = scene(seed)
    _, weights = combined(strategy_named("geometric_median"), updates, current, contributions_of(COUNTS))
    moves = moves_of(updates, current)
    centre = np.sum([weight * move for weight, move in zip(weights, moves, strict=True)], axis=0)
    ways = [move - centre for move in moves]
    distances = [float(np.linalg.norm(way)) for way in ways]
    pull = np.sum([share * way / d for share, way, d in zip(SHARES, ways, distances, strict=True)], axis=0)
    nearest = min(range(5), key=distances.__getitem__)
    # Zero, or no more than the share of the site at which it lies.
    assert np.linalg.norm(pull) < 1e-4 or distances[nearest] < 1e-3 * max(distances)


@given(seed=SEEDS, size=st.floats(10, 1e4))
def test_a_minority_far_away_hardly_weighs_in_the_geometric_median(seed: int, size: float) -> None:
    current, updates = scene(seed, 4)
    updates.append(near(current, seed + 99, step=size))
    pair, weights = combined(strategy_named("geometric_median"), updates, current, contributions_of(COUNTS))
    honest = max(float(np.linalg.norm(move)) for move in moves_of(updates[:4], current))
    far = float(np.linalg.norm(moves_of(updates, current)[4]))
    assert weights[4] * far < 10 * honest
    assert np.linalg.norm(product(pair) - product(current)) < 20 * honest


@pytest.mark.parametrize(
    ("name", "parameters"), [("geometric_median", None), ("krum", KrumTerms(byzantine_count=1, selected_count=2))]
)
@given(seed=SEEDS, turn=st.floats(1e3, 1e6))
def test_an_honest_product_in_an_absurd_basis_harms_nobody(
    name: str, parameters: object, seed: int, turn: float
) -> None:
    current, updates = scene(seed)
    turned = [*updates[:4], Factors(a=updates[4].a * turn, b=updates[4].b.astype(np.float64) / turn)]
    plain, odd = (
        combined(strategy_named(name, parameters), each, current, contributions_of(COUNTS))[0]
        for each in (updates, turned)
    )
    assert_close(product(odd), product(plain), 1e-5)
    assert float(np.abs(odd.a).max()) < 1e3


@pytest.mark.parametrize(("byzantine", "selected"), [(0, 1), (1, 1), (1, 2), (0, 3)])
@given(seed=SEEDS)
def test_krum_selects_by_squared_distances_of_products(byzantine: int, selected: int, seed: int) -> None:
    current, updates = scene(seed)
    strategy = strategy_named("krum", KrumTerms(byzantine_count=byzantine, selected_count=selected))
    _, weights = combined(strategy, updates, current, contributions_of(COUNTS))
    moves = moves_of(updates, current)
    scores = []
    for number in range(5):
        others = sorted(float(((moves[number] - moves[k]) ** 2).sum()) for k in range(5) if k != number)
        scores.append(sum(others[: 5 - byzantine - 2]))
    best = sorted(range(5), key=scores.__getitem__)[:selected]
    assert [k for k, weight in enumerate(weights) if weight > 0] == sorted(best)
    assert strategy.least_updates == max(2 * byzantine + 3, selected + byzantine + 2) <= 5
    assert strategy_named("krum", KrumTerms(byzantine_count=1, selected_count=9)).least_updates == 12


def test_krum_does_not_touch_what_it_left_out() -> None:
    current, updates = scene(7, 4)
    updates.append(Factors(a=np.full((RANK, IN), 3e38, np.float32), b=np.full((OUT, RANK), 3e38, np.float32)))
    strategy = strategy_named("krum", KrumTerms(byzantine_count=1, selected_count=2))
    pair, weights = combined(strategy, updates, current, contributions_of(COUNTS))
    assert weights[4] == 0
    assert np.isfinite(pair.a).all() and float(np.abs(pair.a).max()) < 10


# The geometry that they weigh by


@given(seed=SEEDS)
def test_inner_products_are_those_of_dense_moves_and_modules_add_up(seed: int) -> None:
    scenes = [scene(seed), scene(seed + 1000)]
    total: Geometry = added(*(geometry_of_module(updates, current) for current, updates in scenes))
    flat = [np.concatenate([moves_of(updates, current)[k].ravel() for current, updates in scenes]) for k in range(5)]
    assert_close(total.products, np.array([[x @ y for y in flat] for x in flat]))
    for k in range(5):
        expected = sum(moved_by(updates[k], current) ** 2 for current, updates in scenes)
        assert total.factors[k] == pytest.approx(expected, rel=1e-6)


@given(seed=SEEDS)
def test_a_change_of_basis_at_a_site_does_not_show_in_the_products(seed: int) -> None:
    current, updates = scene(seed)
    generator = np.random.default_rng(seed)
    basis = np.eye(RANK) + 0.3 * generator.standard_normal((RANK, RANK))
    turned = Factors(a=np.linalg.inv(basis) @ updates[0].a, b=updates[0].b @ basis)
    same, other = (geometry_of_module([first, *updates[1:]], current) for first in (updates[0], turned))
    scale = float(np.abs(same.products).max()) * np.linalg.cond(basis)
    assert np.abs(other.products - same.products).max() < 1e-9 * max(1.0, scale)


def test_distances_are_symmetric_and_none_is_below_zero() -> None:
    current, updates = scene(13)
    for order in list(permutations(range(5)))[:10]:
        distances = squared_distances(geometry_of_module([updates[index] for index in order], current))
        assert (distances >= 0).all() and np.allclose(distances, distances.T) and (np.diag(distances) < 1e-12).all()
