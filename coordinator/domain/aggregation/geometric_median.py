"""The geometric median of the updates: weights that fall with the distance from it (RFA, arXiv 1912.13445)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import size_weights
from coordinator.domain.aggregation.flexlora import nearest_pair
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan

# Weiszfeld's iteration ends when no weight moves by more, or after so many steps (the paper takes 3 to 5).
_TOLERANCE, _MOST_STEPS = 1e-12, 1000
# Of the least distance above 0: what a distance counts at least, lest an update at the median weigh infinity. Not
# of a mean, which somebody far away could raise until all others count alike.
_SMOOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class GeometricMedian:
    """w_k ~ p_k / |M_k - z|, z = sum_k w_k M_k: z minimises sum_k p_k |M_k - z|.

    M_k = B_k A_k - B A are the moves of the *products*, in which a change of basis at a site does not show; all of it
    is worked out from their inner products. The mean of products by these weights is then cut to the run's rank, as
    FlexLoRA does: a mean of factors would show the basis again. Sites whose shares p_k are less than half together
    (what they say of themselves, unless `weight_by` is uniform) cannot carry it away. Equal updates give a pair with
    their product; the order of sites is irrelevant up to rounding; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "geometric_median"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.GEOMETRY, Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = False

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """The weights of the geometric median, by Weiszfeld's iteration from the mean."""
        assert geometry is not None, "declared as needed"
        shares = np.array(size_weights(self.terms, contributions))
        weights = shares
        for _ in range(_MOST_STEPS):
            distances = _distances(geometry.products, weights)
            apart = distances[distances > 0]
            if apart.size == 0:  # all are equal
                break
            pulled = shares / np.maximum(distances, _SMOOTHING * apart.min())
            pulled /= pulled.sum()
            has_settled = bool(np.abs(pulled - weights).max() < _TOLERANCE)
            weights = pulled
            if has_settled:
                break
        return tuple(weights.tolist())

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The pair nearest to the weighted mean of products, in float64."""
        return nearest_pair(updates, weights, current)


def _distances(products: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """|M_k - z| of each update, from the moves' inner products; rounding may bring a square below 0."""
    pulls = products @ weights
    return np.sqrt(np.maximum(np.diag(products) - 2 * pulls + weights @ pulls, 0.0))
