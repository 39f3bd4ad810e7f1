"""HetLoRA: sites of several ranks, filled up with zeros and weighted by what they add (arXiv 2401.06432)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import mean_of_factors, size_weights, sizes
from coordinator.domain.aggregation.ranks import padded
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class HetLora:
    """A = sum_k w_k A_k, B = sum_k w_k B_k of pairs filled with zeros; w_k ~ n_k^size_exponent |B_k A_k|^norm_exponent.

    The norm is that of all modules' products together (Frobenius). 0 and 1 for the exponents are the paper's weights; 1
    and 0 are the mean of factors by size, filled up. A site of a lower rank is handed the first ranks of the global
    adapter. The paper's own pruning of ranks at the sites is not part of it.

    It averages the *factors*, not the products, and what few sites have of the upper ranks is averaged with zeros.
    Equal updates of the run's rank give themselves; the order of sites is irrelevant; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "hetlora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.GEOMETRY})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = True
    is_elementwise: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """w_k in float64; by size alone when nobody adds anything."""
        parameters = self.terms.aggregation.hetlora
        assert parameters is not None and geometry is not None, "checked with the terms; declared as needed"
        norms = [max(0.0, square) ** 0.5 for square in geometry.norms.tolist()]
        greatest, largest = max(norms), max(sizes(self.terms, contributions))
        if greatest == 0:
            return size_weights(self.terms, contributions)
        shares = [
            (size / largest) ** parameters.size_exponent * (norm / greatest) ** parameters.norm_exponent
            for size, norm in zip(sizes(self.terms, contributions), norms, strict=True)
        ]
        return tuple(share / sum(shares) for share in shares)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of each factor; the global adapter's own factors do not enter."""
        lora_rank = current.a.shape[0]
        return mean_of_factors([padded(update, lora_rank) for update in updates], weights)
