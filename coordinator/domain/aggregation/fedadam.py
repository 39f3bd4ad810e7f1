"""FedAdam: the mean of the moves is a gradient to Adam at the server (arXiv 2003.00295)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.ids import SiteName
from common.strategy_terms import FedAdamTerms
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import mean_of_factors, size_weights
from coordinator.domain.aggregation.server_optimizer import ADAPTIVE_MOMENTS, adaptive_step, move_of
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Matrix, Need, Plan


@dataclass(frozen=True, slots=True)
class FedAdam:
    """x <- x + learning_rate m / (sqrt(v) + tau), m = beta1 m + (1 - beta1) D, v = beta2 v + (1 - beta2) D^2.

    D = sum_k p_k (x_k - x) is the mean move of the *factors*, number by number: as Fed-MedLoRA it does not average
    products. Equal updates do not give themselves, because steps have a length of their own; no move at all leaves the
    adapter once the first moment has died away. The order of sites is irrelevant; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "fedadam"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EQUAL_RANKS, Need.OWN_STATE})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = True
    moments: ClassVar[tuple[str, ...]] = ADAPTIVE_MOMENTS

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
        """One step of Adam without correction of its beginning, as in the paper."""
        return adaptive_step(move_of(aggregate, current), current, moments, self._parameters, self._follow)

    def _follow(self, second: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
        beta2 = self._parameters.beta2
        return beta2 * second + (1 - beta2) * square

    @property
    def _parameters(self) -> FedAdamTerms:
        parameters = self.terms.aggregation.fedadam
        assert parameters is not None, "checked with the terms"
        return parameters
