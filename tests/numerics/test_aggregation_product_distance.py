"""How far two pairs' products are apart, without forming one: against the dense products, and where little is left."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.domain.aggregation.geometry import product_distance, product_norm
from coordinator.domain.aggregation.strategy import Factors
from tests.fakes.coordinator_strategies import RANK, near, product, random_pair


@pytest.mark.parametrize("seed", range(5))
def test_norm_and_distance_are_those_of_the_dense_products(seed: int) -> None:
    one, other = random_pair(seed), near(random_pair(seed), seed + 100)
    assert product_norm(one) == pytest.approx(np.linalg.norm(product(one)), rel=1e-12)
    assert product_distance(one, other) == pytest.approx(np.linalg.norm(product(one) - product(other)), rel=1e-9)


def test_a_millionth_is_told_from_nothing() -> None:
    """As a trace of squares it would drown: what is a millionth of the product is 1e-12 of its square."""
    one = random_pair(1)
    other = Factors(a=one.a.astype(np.float64) * (1 + 1e-7), b=one.b)
    assert product_distance(one, other) / product_norm(one) == pytest.approx(1e-7, rel=1e-4)


def test_another_basis_is_no_distance() -> None:
    one, turn = random_pair(2), np.random.default_rng(3).standard_normal((RANK, RANK))
    other = Factors(a=np.linalg.inv(turn) @ one.a, b=one.b @ turn)
    assert product_distance(one, other) / product_norm(one) < 1e-12
