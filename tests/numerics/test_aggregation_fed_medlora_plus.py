"""Fed-MedLoRA+: its weights against exact arithmetic, and what they keep whatever the losses are."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.strategy_terms import FedMedLoraPlusTerms
from common.terms import AggregationTerms, WeightBy
from coordinator.domain.aggregation.fed_medlora import FedMedLora
from coordinator.domain.aggregation.fed_medlora_plus import FedMedLoraPlus
from coordinator.domain.aggregation.strategy import Contribution, Factors
from tests.fakes.coordinator_values import make_terms

LOSSES = st.floats(0, 50)
SIZES = st.integers(1, 10**10)
BETAS, TEMPERATURES = st.floats(0, 10), st.floats(1e-3, 1e6)
SITES = st.lists(st.tuples(SIZES, LOSSES), min_size=1, max_size=10)

Site = tuple[int, float | None]


def weigh(
    sites: list[Site] | list[tuple[int, float]],
    beta: float = 0.0,
    temperature: float = 1.0,
    weight_by: WeightBy = WeightBy.LABEL_TOKENS,
) -> tuple[float, ...]:
    parameters = FedMedLoraPlusTerms(size_exponent=beta, temperature=temperature)
    terms = AggregationTerms(strategy="fed_medlora_plus", weight_by=weight_by, fed_medlora_plus=parameters)
    return FedMedLoraPlus(make_terms(aggregation=terms)).weigh(contributions_of(sites), None)


def contributions_of(sites: list[Site] | list[tuple[int, float]]) -> list[Contribution]:
    return [Contribution(num_examples=size, num_label_tokens=size, validation_loss=loss) for size, loss in sites]


def exact(sites: list[tuple[int, float]], beta: float, temperature: float) -> list[float]:
    """n^beta exp(-L/T), normalised, to 60 digits."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -(10**12), 10**12
        shares = [
            (Decimal(beta) * Decimal(size).ln() - Decimal(loss) / Decimal(temperature)).exp() for size, loss in sites
        ]
        return [float(share / sum(shares)) for share in shares]


@given(SITES, BETAS, TEMPERATURES)
def test_weights_are_those_of_exact_arithmetic(sites: list[tuple[int, float]], beta: float, temperature: float) -> None:
    # An exponent of up to 5e4 (50 nats at the least temperature) is known to 1e-16 of itself, and so is its power.
    expected = exact(sites, beta, temperature)
    assert weigh(sites, beta, temperature) == pytest.approx(expected, rel=1e-10, abs=1e-300)


@given(SITES, BETAS, TEMPERATURES)
def test_weights_sum_to_one(sites: list[tuple[int, float]], beta: float, temperature: float) -> None:
    assert math.fsum(weigh(sites, beta, temperature)) == pytest.approx(1, abs=1e-14)


@given(st.lists(LOSSES, min_size=1, max_size=10))
def test_with_the_papers_settings_a_weight_is_exp_of_one_minus_the_loss_normalised(losses: list[float]) -> None:
    shares = [math.exp(1 - loss) for loss in losses]
    expected = [share / math.fsum(shares) for share in shares]
    assert weigh([(7, loss) for loss in losses]) == pytest.approx(expected, rel=1e-9)


@given(SIZES, LOSSES, LOSSES, BETAS, TEMPERATURES)
def test_of_two_updates_of_one_size_the_worse_never_weighs_more(
    size: int, low: float, high: float, beta: float, temperature: float
) -> None:
    assume(low < high)
    better, worse = weigh([(size, low), (size, high)], beta, temperature)
    assert better >= worse


def test_a_high_loss_is_not_rewarded() -> None:
    better, worse = weigh([(100, 0.4), (100, 1.4)])
    assert better / worse == pytest.approx(math.e)


def test_at_the_papers_temperature_losses_of_a_tenth_to_one_differ_by_less_than_two_and_a_half_times() -> None:
    better, worse = weigh([(100, 0.1), (100, 1.0)])
    assert 2.4 < better / worse < 2.5


@given(SITES, st.sampled_from(WeightBy))
def test_a_high_temperature_leaves_the_weights_of_sizes(sites: list[tuple[int, float]], weight_by: WeightBy) -> None:
    by_size = FedMedLora(make_terms(aggregation=AggregationTerms(weight_by=weight_by))).weigh(
        contributions_of(sites), None
    )
    # 50 nats over 1e6 move a weight by 5e-5 of itself.
    assert weigh(sites, 1.0, 1e6, weight_by) == pytest.approx(by_size, rel=1e-4)


@given(SITES, st.sampled_from(WeightBy), st.data())
def test_when_one_update_was_not_scored_all_have_the_weights_of_their_sizes(
    sites: list[tuple[int, float]], weight_by: WeightBy, data: st.DataObject
) -> None:
    unscored = data.draw(st.integers(0, len(sites) - 1))
    some: list[Site] = [(size, None if number == unscored else loss) for number, (size, loss) in enumerate(sites)]
    by_size = FedMedLora(make_terms(aggregation=AggregationTerms(weight_by=weight_by))).weigh(
        contributions_of(sites), None
    )
    assert weigh(some, weight_by=weight_by) == by_size


@given(SITES, BETAS, TEMPERATURES)
def test_the_order_of_sites_is_irrelevant(sites: list[tuple[int, float]], beta: float, temperature: float) -> None:
    order = np.random.default_rng(len(sites)).permutation(len(sites))
    weights = weigh(sites, beta, temperature)
    assert weigh([sites[index] for index in order], beta, temperature) == tuple(weights[index] for index in order)


def test_absurd_losses_give_weights_that_are_numbers() -> None:
    assert weigh([(1, 1e300), (1, 1e300)]) == (0.5, 0.5)
    assert weigh([(1, 0.0), (1, 1e300)], temperature=1e-3) == (1.0, 0.0)


def test_equal_updates_give_themselves_and_factors_are_averaged_apart() -> None:
    one = Factors(a=np.full((2, 3), 0.5, np.float32), b=np.full((3, 2), -2.0, np.float32))
    other = Factors(a=np.full((2, 3), 1.5, np.float32), b=np.full((3, 2), 2.0, np.float32))
    weights = weigh([(10, 0.2), (10, 0.9)])
    same, mixed = (
        FedMedLoraPlus(make_terms()).combine(updates, weights, one) for updates in ([one, one], [one, other])
    )
    np.testing.assert_allclose(same.a, one.a, rtol=1e-15)
    np.testing.assert_allclose(mixed.a, 0.5 * weights[0] + 1.5 * weights[1], rtol=1e-15)
    np.testing.assert_allclose(mixed.b, -2.0 * weights[0] + 2.0 * weights[1], rtol=1e-15)
