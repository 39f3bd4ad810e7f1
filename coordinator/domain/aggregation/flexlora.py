"""FlexLoRA: the mean of the products, cut to the run's rank by an SVD (arXiv 2402.11505)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import size_weights
from coordinator.domain.aggregation.ranks import padded
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan

# Of the greatest singular value: below it lies rounding alone.
_UNUSED = 1e-12


@dataclass(frozen=True, slots=True)
class FlexLora:
    """B A = the matrix of rank lora_rank that is nearest (in the Frobenius norm) to sum_k p_k s_k B_k A_k.

    s_k = lora_alpha / r_k is the scale of a site's own rank, over the run's: a site of a lower rank is handed the first
    ranks of the global adapter, which are the nearest of that rank to all of it, since an SVD gives the greatest first.

    It averages the *products*. No dense (out_features, in_features) matrix is formed: with [sqrt(p_k) B_k] = Q_B R_B
    and [sqrt(p_k) A_k^T] = Q_A R_A, the sum is Q_B (R_B R_A^T) Q_A^T, and the SVD U S V^T of the small core gives
    B = Q_B U sqrt(S), A = sqrt(S) V^T Q_A^T. Equal updates give a pair with their product, in another basis; the order
    of sites is irrelevant up to rounding; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "flexlora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The nearest pair of the run's rank."""
        return nearest_pair(updates, weights, current)


def nearest_pair(
    updates: Sequence[Factors], weights: Sequence[float], current: Factors, lora_rank: int | None = None
) -> Factors:
    """The pair whose product is nearest to sum_k weights[k] B_k A_k, in float64.

    Its rank is ``current``'s, or ``lora_rank``, which is not below that.
    A direction that the sum does not use (all of them, while B is zero) keeps the global adapter's A beside a B of
    zero: of two zeros neither would ever have a gradient again.
    """
    roots = np.sqrt(weights)
    b = np.concatenate([root * update.b.astype(np.float64) for root, update in zip(roots, updates, strict=True)], 1)
    a = np.concatenate([root * update.a.astype(np.float64) for root, update in zip(roots, updates, strict=True)])
    b_basis, b_rest = np.linalg.qr(b)
    a_basis, a_rest = np.linalg.qr(a.T)
    left, values, right = np.linalg.svd(b_rest @ a_rest.T, full_matrices=False)
    rank = lora_rank or current.a.shape[0]
    kept = min(rank, int(np.sum(values > _UNUSED * values[0])))
    scale = np.sqrt(values[:kept])
    pair = padded(Factors(a=current.a.astype(np.float64), b=np.zeros(current.b.shape)), rank)
    pair.a[:kept] = scale[:, None] * (right[:kept] @ a_basis.T)
    pair.b[:, :kept] = b_basis @ left[:, :kept] * scale
    return pair
