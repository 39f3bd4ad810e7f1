"""LoRA-FAIR: the mean of factors, with B corrected towards the mean of products (arXiv 2411.14961)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import mean_of_factors, size_weights
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class LoraFair:
    """A = sum_k p_k A_k, B = sum_k p_k B_k + D, where D least squares the error of the product, kept small.

    D = R A^T (A A^T + penalty I)^-1 with R = sum_k p_k B_k A_k - (sum_k p_k B_k) A is what minimises
    |R - D A|^2 + penalty |D|^2 (Frobenius norms), where the paper descends a loss of its own. R itself is never formed:
    R A^T = sum_k p_k B_k (A_k A^T) - B (A A^T). It comes nearer to the mean of *products* than Fed-MedLoRA does, and
    never moves away from it. Equal updates give themselves; the order of sites is irrelevant; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "lora_fair"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = True
    is_elementwise: ClassVar[bool] = False

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of A, and that of B corrected; in float64."""
        parameters = self.terms.aggregation.lora_fair
        assert parameters is not None, "checked with the terms"
        mean = mean_of_factors(updates, weights)
        square = mean.a @ mean.a.T
        rest = -mean.b @ square
        for update, weight in zip(updates, weights, strict=True):
            rest += weight * (update.b.astype(np.float64) @ (update.a.astype(np.float64) @ mean.a.T))
        lora_rank = len(square)
        correction = np.linalg.solve(square + parameters.penalty * np.eye(lora_rank), rest.T).T
        return Factors(a=mean.a, b=mean.b + correction)
