"""How updates lie to each other, module by module: what robust rules weigh by. Weighs nothing itself.

A LoRA update is known up to a change of basis: (B M, M^-1 A) is the same change of the model for every M. So distances
between sites are taken between products, without ever forming one: with X = B_i A_i and Y = B_j A_j,
<X, Y> = tr((B_i^T B_j)(A_j A_i^T)) = sum((B_i^T B_j) * (A_i A_j^T)), two matrices of (lora_rank, lora_rank).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.domain.aggregation.ranks import joined, padded
from coordinator.domain.aggregation.side_by_side import gram, triangle
from coordinator.domain.aggregation.strategy import Factors, Geometry


def geometry_of_module(updates: Sequence[Factors], current: Factors) -> Geometry:
    """That of one module; those of all modules add up. In float64; pairs of lower ranks count as filled with zeros."""
    lora_rank = max(pair.a.shape[0] for pair in (*updates, current))
    *updates, current = pairs = [padded(pair, lora_rank) for pair in (*updates, current)]
    square = gram([pair.a.T for pair in pairs])
    square *= gram([pair.b for pair in pairs])
    blocks = square.reshape(len(pairs), lora_rank, len(pairs), lora_rank)
    inner = blocks.sum(axis=(1, 3))
    moves = inner[:-1, :-1] - inner[:-1, -1:] - inner[-1:, :-1] + inner[-1, -1]
    factors = [_squared(update.a, current.a) + _squared(update.b, current.b) for update in updates]
    return Geometry(products=moves, norms=np.diag(inner)[:-1].copy(), factors=np.array(factors))


def added(first: Geometry, second: Geometry) -> Geometry:
    """That of both together."""
    return Geometry(
        products=first.products + second.products,
        norms=first.norms + second.norms,
        factors=first.factors + second.factors,
    )


def squared_distances(geometry: Geometry) -> NDArray[np.float64]:
    """``(K, K)``: between the products of every two updates; never below 0, which rounding could bring about."""
    norms = np.diag(geometry.products)
    return np.maximum(norms[:, None] + norms[None, :] - 2 * geometry.products, 0.0)


def product_norm(pair: Factors) -> float:
    """Frobenius norm of B A. With B = Q_B R_B and A^T = Q_A R_A it is that of R_B R_A^T, of (lora_rank, lora_rank).

    Through QR and not through X^T X, which would square what is small against the rest and lose half of its digits.
    """
    return float(np.linalg.norm(triangle([pair.b]) @ triangle([pair.a.T]).T))


def product_distance(one: Factors, other: Factors) -> float:
    """Frobenius norm of B_1 A_1 - B_2 A_2, which is the product of their ranks together, those of one side negated."""
    return product_norm(joined(one, Factors(a=other.a, b=-other.b)))


def _squared(factor: NDArray[np.floating], before: NDArray[np.floating]) -> float:
    move = np.subtract(factor, before, dtype=np.float64).reshape(-1)
    return float(move @ move)
