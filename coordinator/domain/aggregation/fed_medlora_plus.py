"""Fed-MedLoRA+: Fed-MedLoRA weighted by each update's loss on the consortium's validation set (arXiv 2601.22124)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import mean_of_factors, size_weights, sizes
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class FedMedLoraPlus:
    """w_k ~ n_k^beta exp(-L_k / T), normalised; then A = sum_k w_k A_k, B = sum_k w_k B_k (arXiv 2601.22124).

    L_k is the mean token cross-entropy (nats) of site k's adapter on the validation set. beta = 0 and T = 1 are what
    the paper's code computes, beta = 1 and T = 1 what its text says; with beta = 1 it nears Fed-MedLoRA as T grows.

    As Fed-MedLoRA it averages the *factors*, not the products; equal updates give themselves; the order of sites is
    irrelevant; weights sum to one. A worse update never weighs more than a better one of the same size, but at the
    paper's T it still weighs: with losses of 0.1 to 1 the largest is at most 2.5 times the smallest. It limits a bad
    site; to bound one is admission's part.
    """

    terms: Terms
    name: ClassVar[str] = "fed_medlora_plus"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.UPDATE_SCORES, Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """w_k in float64. When an update was not scored, all have the weights of Fed-MedLoRA."""
        parameters = self.terms.aggregation.fed_medlora_plus
        assert parameters is not None, "checked with the terms"
        losses = [contribution.validation_loss for contribution in contributions]
        scored = [loss for loss in losses if loss is not None]
        if len(scored) < len(losses):
            return size_weights(self.terms, contributions)
        logs = [
            parameters.size_exponent * math.log(size) - loss / parameters.temperature
            for size, loss in zip(sizes(self.terms, contributions), scored, strict=True)
        ]
        greatest = max(logs)  # taken off, so that the exponential of a large loss is not 0 for every site
        shares = [math.exp(log - greatest) for log in logs]
        total = math.fsum(shares)
        return tuple(share / total for share in shares)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of each factor; the global adapter's own factors do not enter."""
        return mean_of_factors(updates, weights)
