"""FFA-LoRA: A is random, shared and fixed for ever; B is averaged (arXiv 2403.12313)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from common.adapter import FactorSet
from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import size_weights, weighted_mean
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class FfaLora:
    """B = sum_k p_k B_k, A as it was.

    Since all A_k are equal it averages the *products* exactly, B A = sum_k p_k B_k A_k, and half of an adapter travels
    up. The price is that only B learns. Equal updates give themselves; the order of sites is irrelevant; weights sum to
    one.
    """

    terms: Terms
    name: ClassVar[str] = "ffa_lora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = True
    is_elementwise: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains B and sends B, in every round."""
        return Plan(trained=FactorSet.B_ONLY, uploaded=FactorSet.B_ONLY)

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of B beside the global adapter's A, which stays bit for bit."""
        return Factors(a=current.a, b=weighted_mean([update.b for update in updates], weights))
