"""FedAvgM: the mean of the moves feeds a momentum at the server (arXiv 1909.06335)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.ids import SiteName
from common.strategy_terms import FedAvgMTerms
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import mean_of_factors, size_weights
from coordinator.domain.aggregation.server_optimizer import move_of
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Matrix, Need, Plan


@dataclass(frozen=True, slots=True)
class FedAvgM:
    """x <- x + learning_rate m, m = momentum m + D.

    D = sum_k p_k (x_k - x) is the mean move of the *factors*, number by number: as Fed-MedLoRA it does not average
    products. With a learning rate of one it is what `server_momentum` adds to `fed_medlora`, but for the rounding of
    the adapters that travel: there the momentum is read off two of them, here it is kept. Without momentum it is
    Fed-MedLoRA. Equal updates give themselves in a first round; the order of sites is irrelevant; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "fedavgm"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EQUAL_RANKS, Need.OWN_STATE})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = True
    moments: ClassVar[tuple[str, ...]] = ("momentum",)

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of each factor, from which ``advance`` takes the move."""
        return mean_of_factors(updates, weights)

    def advance(
        self, aggregate: Matrix, current: Matrix, moments: Sequence[Matrix] | None
    ) -> tuple[Matrix, tuple[Matrix, ...]]:
        """One step of the heavy ball."""
        momentum = move_of(aggregate, current)
        if moments is not None:
            momentum += self._parameters.momentum * moments[0].astype(np.float64)
        return current + self._parameters.learning_rate * momentum, (momentum,)

    @property
    def _parameters(self) -> FedAvgMTerms:
        parameters = self.terms.aggregation.fedavgm
        assert parameters is not None, "checked with the terms"
        return parameters
