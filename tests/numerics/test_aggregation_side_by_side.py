"""Tall matrices that are never formed: what is said of them by blocks of rows is what the whole matrix says."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.domain.aggregation.flexlora import nearest_pair
from coordinator.domain.aggregation.side_by_side import gram, times, triangle
from coordinator.domain.aggregation.strategy import Factors
from tests.fakes.coordinator_strategies import product

# Fewer rows than columns, one block, and where a block ends.
ROWS = st.sampled_from([1, 3, 40, 1023, 1024, 1025, 2500])
RANKS = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def matrices(rows: int, ranks: list[int], seed: int) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((rows, rank)).astype(np.float32) for rank in ranks]


@given(rows=ROWS, ranks=RANKS, seed=st.integers(0, 10_000))
def test_squares_triangles_and_products_are_those_of_the_whole_matrix(rows: int, ranks: list[int], seed: int) -> None:
    factors = matrices(rows, ranks, seed)
    whole = np.concatenate(factors, axis=1, dtype=np.float64)
    small = np.random.default_rng(seed + 1).standard_normal((sum(ranks), 2))
    root = triangle(factors)
    assert np.array_equal(root, np.triu(root))
    np.testing.assert_allclose(gram(factors), whole.T @ whole, atol=1e-9)
    np.testing.assert_allclose(root.T @ root, whole.T @ whole, atol=1e-9)
    np.testing.assert_allclose(times(factors, small), whole @ small, atol=1e-10)


def test_a_small_direction_beside_a_large_one_is_not_lost() -> None:
    """As it would be in squares: (1e-9)^2 is below the rounding of 1."""
    large, small = np.eye(8, 1), 1e-9 * np.eye(8, 1, -1)
    mean = nearest_pair(
        [Factors(a=np.eye(1, 6), b=large), Factors(a=np.eye(1, 6, 1), b=small)],
        [1.0, 1.0],
        Factors(a=np.zeros((2, 6)), b=np.zeros((8, 2))),
    )
    expected = np.zeros((8, 6))
    expected[0, 0], expected[1, 1] = 1.0, 1e-9
    np.testing.assert_allclose(product(mean), expected, rtol=1e-6, atol=1e-15)


@given(seed=st.integers(0, 10_000), spread=st.floats(0, 12))
def test_the_nearest_pair_of_features_in_several_blocks_is_the_dense_svd(seed: int, spread: float) -> None:
    generator = np.random.default_rng(seed)
    scales = 10.0 ** -np.linspace(0, spread, 4)
    updates = [
        Factors(a=generator.standard_normal((2, 30)) * scale, b=generator.standard_normal((1500, 2)))
        for scale in scales
    ]
    weights = [0.4, 0.3, 0.2, 0.1]
    dense = sum(weight * product(update) for weight, update in zip(weights, updates, strict=True))
    left, values, right = np.linalg.svd(dense, full_matrices=False)
    pair = nearest_pair(updates, weights, Factors(a=np.zeros((3, 30)), b=np.zeros((1500, 3))))
    expected = left[:, :3] * values[:3] @ right[:3]
    assert np.linalg.norm(product(pair) - expected) < 1e-9 * np.linalg.norm(dense)
