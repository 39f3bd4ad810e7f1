"""FedEx-LoRA: the mean of factors, and what it lacks of the mean of products kept beside it (arXiv 2410.09432)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import mean_of_factors, size_weights
from coordinator.domain.aggregation.flexlora import nearest_pair
from coordinator.domain.aggregation.ranks import cut, joined
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class FedExLora:
    """A = sum_k p_k A_k, B = sum_k p_k B_k, and a residual R <- R + sum_k p_k B_k A_k - B A beside them.

    The global adapter has both: its first lora_rank ranks are (A, B), which sites train; the other ones, up to
    published_rank, are R, which they add and leave as it is, for the base model never changes. Together they are the
    mean of the *products* exactly, as long as the rank of R allows, and else as nearly as it does. The residual is
    worked out as sum_k p_k (B_k - B)(A_k - A), which is the same without taking large numbers off each other.

    A site of a lower rank trains the first of these ranks and adds all others, so nothing is lost to it. Equal updates
    give themselves; the order of sites is irrelevant up to rounding; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "fedex_lora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = False

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of its first ranks, beside the rest."""
        return Plan(keeps_rest=True)

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The mean of each factor, and the residual pressed into the rank that is left for it."""
        lora_rank = self.terms.lora.lora_rank
        whole = [joined(update, cut(current, update.a.shape[0], lora_rank)) for update in updates]
        mean = mean_of_factors(whole, weights)
        before = cut(current, lora_rank, current.a.shape[0])
        deviations = [Factors(a=np.subtract(each.a, mean.a), b=np.subtract(each.b, mean.b)) for each in whole]
        residual = nearest_pair([before, *deviations], [1.0, *weights], before, self.terms.published_rank - lora_rank)
        return joined(mean, residual)
