"""RoLoRA: the factors take turns; one round trains and averages B, the next one A (arXiv 2502.01755)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from common.adapter import FactorSet
from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import mean_or_same, size_weights
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class RoLora:
    """In odd rounds B = sum_k p_k B_k and A as it was; in even rounds A = sum_k p_k A_k and B as it was.

    One factor is the same at all sites in every round, so it averages the *products* exactly, half of an adapter
    travels up, and both factors learn. B comes first: it begins as zero, and while it is, A has no gradient. Equal
    updates give themselves; the order of sites is irrelevant; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "rolora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains the factor whose turn it is, and sends it."""
        factors = FactorSet.B_ONLY if round_number % 2 else FactorSet.A_ONLY
        return Plan(trained=factors, uploaded=factors)

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of the factor that travelled; the other one stays bit for bit."""
        return Factors(
            a=mean_or_same([update.a for update in updates], weights, current.a),
            b=mean_or_same([update.b for update in updates], weights, current.b),
        )
