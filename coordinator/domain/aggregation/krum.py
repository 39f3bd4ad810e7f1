"""Krum and Multi-Krum: the updates that lie nearest to the others, and no others (arXiv 1703.02757)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.ids import SiteName
from common.strategy_terms import KrumTerms
from common.terms import Terms
from coordinator.domain.aggregation.flexlora import nearest_pair
from coordinator.domain.aggregation.geometry import squared_distances
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class Krum:
    """The mean of the ``selected_count`` updates with the least scores; one is Krum, more are Multi-Krum.

    An update's score is the sum of its squared distances to the n - byzantine_count - 2 nearest others, for n updates,
    of which n >= 2 byzantine_count + 3 are asked for. Distances are those of the *products*, in which a change of basis
    at a site does not show, and so is the mean of those selected, cut to the run's rank as FlexLoRA does. Equal updates
    give a pair with their product; of equal scores the first site's counts, so the order of arrival is irrelevant;
    weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "krum"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.GEOMETRY, Need.EQUAL_RANKS})
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = False

    @property
    def least_updates(self) -> int:
        """2 f + 3 for f that may be anything; and more than are selected by f + 2, of whom none need be taken."""
        bad, selected = self._parameters.byzantine_count, self._parameters.selected_count
        return max(2 * bad + 3, selected + bad + 2)

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """The same for all that are selected, 0 for the others."""
        assert geometry is not None, "declared as needed"
        nearest = len(contributions) - self._parameters.byzantine_count - 2
        distances = np.sort(squared_distances(geometry), axis=1)[:, 1:]  # each is at 0 from itself
        scores = distances[:, :nearest].sum(axis=1)
        selected = set(np.argsort(scores, kind="stable")[: self._parameters.selected_count].tolist())
        return tuple(1 / len(selected) if k in selected else 0.0 for k in range(len(contributions)))

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The pair nearest to the mean product of those selected; what is not selected is not touched."""
        chosen = [(update, weight) for update, weight in zip(updates, weights, strict=True) if weight > 0]
        return nearest_pair([update for update, _ in chosen], [weight for _, weight in chosen], current)

    @property
    def _parameters(self) -> KrumTerms:
        parameters = self.terms.aggregation.krum
        assert parameters is not None, "checked with the terms"
        return parameters
