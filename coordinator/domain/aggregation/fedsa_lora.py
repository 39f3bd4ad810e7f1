"""FedSA-LoRA: A is averaged, each site keeps a B of its own, until a last round averages both (arXiv 2410.01463)."""

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
class FedSaLora:
    """A = sum_k p_k A_k; B_k stays at its site, until in the last consolidation_rounds B = sum_k p_k B_k as well.

    A site starts each round from the shared A and the B that it kept: B_k A is its personal adapter. One that joins
    late, or has lost its B, starts from the global adapter's, which is the first adapter's. Until the consolidation the
    global adapter has no B of its own, so candidates are neither scored nor served; the paper ends there. The
    consolidation averages full adapters as Fed-MedLoRA does: *factors*, not products. Its first round starts from the
    sites' own B, later ones from the global one.

    Equal updates give themselves; the order of sites is irrelevant; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "fedsa_lora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Both factors are trained; A travels, and in a consolidation both do."""
        parameters = self.terms.aggregation.fedsa_lora
        assert parameters is not None, "checked with the terms"
        first_consolidation = self.terms.rounds.count - parameters.consolidation_rounds + 1
        if round_number > first_consolidation:
            return Plan()
        uploaded = FactorSet.A_AND_B if round_number == first_consolidation else FactorSet.A_ONLY
        return Plan(uploaded=uploaded, own=FactorSet.B_ONLY)

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of what travelled; a B that did not stays bit for bit."""
        return Factors(
            a=mean_or_same([update.a for update in updates], weights, current.a),
            b=mean_or_same([update.b for update in updates], weights, current.b),
        )
