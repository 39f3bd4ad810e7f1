"""FlexLoRA: the mean of the products, cut to the run's rank by an SVD (arXiv 2402.11505)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import size_weights
from coordinator.domain.aggregation.ranks import padded
from coordinator.domain.aggregation.side_by_side import times, triangle
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
    B = Q_B U sqrt(S), A = sqrt(S) V^T Q_A^T. The Qs are as large as all updates, so they are not formed either, only
    what is taken of them. Equal updates give a pair with their product, in another basis; the order of sites is
    irrelevant up to rounding; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "flexlora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = False

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
    a, b = [update.a.T for update in updates], [update.b for update in updates]
    roots = np.repeat(np.sqrt(weights), [len(update.a) for update in updates])
    b_split, a_split = (_split(triangle(factors) * roots) for factors in (b, a))
    left, values, right = np.linalg.svd(b_split.rest @ a_split.rest.T, full_matrices=False)
    rank = lora_rank or current.a.shape[0]
    kept = min(rank, int(np.sum(values > _UNUSED * values.max(initial=0.0))))
    scale = np.sqrt(values[:kept])
    pair = padded(Factors(a=current.a.astype(np.float64), b=np.zeros(current.b.shape)), rank)
    pair.a[:kept] = times(a, roots[:, None] * (a_split.to_basis @ right[:kept].T * scale)).T
    pair.b[:, :kept] = times(b, roots[:, None] * (b_split.to_basis @ left[:, :kept] * scale))
    return pair


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """X = Q R of an X of which only a triangle T with T^T T = X^T X is known.

    Attributes:
        to_basis: ``(columns, rank)``: X by it is Q, whose columns are orthonormal.
        rest: R, ``(rank, columns)``.
    """

    to_basis: NDArray[np.float64]
    rest: NDArray[np.float64]


def _split(triangle_of: NDArray[np.float64]) -> _Split:
    """From T = W S V^T: Q = X V S^-1 and R = S V^T, without the directions that X does not have."""
    _, values, right = np.linalg.svd(triangle_of, full_matrices=False)
    is_used = values > np.finfo(np.float64).eps * values[0]
    values, right = values[is_used], right[is_used]
    return _Split(to_basis=right.T / values, rest=values[:, None] * right)
