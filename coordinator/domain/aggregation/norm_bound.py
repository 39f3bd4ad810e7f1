"""Fed-MedLoRA of updates that may move the adapter only so far (arXiv 1911.07963)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import size_weights, weighted_mean
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Matrix, Need, Plan


@dataclass(frozen=True, slots=True)
class NormBound:
    """A = A_0 + sum_k p_k c_k (A_k - A_0), B likewise, with c_k = min(1, max_norm / |(A_k - A_0, B_k - B_0)|).

    (A_0, B_0) is the global adapter. The norm is that of all modules' *factors*, which are comparable because all sites
    begin from the same pair: so the adapter itself moves by max_norm at most, whatever a site sends. With a bound that
    nobody reaches it is Fed-MedLoRA. Equal updates within the bound give themselves; the order of sites is irrelevant;
    weights sum to one, or to less when an update was cut: the rest stays on the global adapter.
    """

    terms: Terms
    name: ClassVar[str] = "norm_bound"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.GEOMETRY, Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """p_k c_k: what is left of a site's size once its move is cut."""
        parameters = self.terms.aggregation.norm_bound
        assert parameters is not None and geometry is not None, "checked with the terms; declared as needed"
        norms = np.sqrt(geometry.factors)
        cuts = [min(1.0, parameters.max_norm / norm) if norm > 0 else 1.0 for norm in norms.tolist()]
        return tuple(p * cut for p, cut in zip(size_weights(self.terms, contributions), cuts, strict=True))

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The global adapter and the weighted moves, in float64."""
        return Factors(
            a=_moved(current.a, [update.a for update in updates], weights),
            b=_moved(current.b, [update.b for update in updates], weights),
        )


def _moved(before: Matrix, matrices: Sequence[Matrix], weights: Sequence[float]) -> Matrix:
    """sum_k w_k X_k + (1 - sum_k w_k) X_0."""
    return weighted_mean([*matrices, before], [*weights, max(0.0, 1 - sum(weights))])
