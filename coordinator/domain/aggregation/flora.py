"""FLoRA: what the sites' fresh adapters add is stacked, and kept beside the base model (arXiv 2409.05976)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import size_weights
from coordinator.domain.aggregation.flexlora import nearest_pair
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class Flora:
    """B A = the matrix of rank published_rank that is nearest to B_0 A_0 + sum_k p_k s_k B_k A_k.

    (B_0, A_0) is the global adapter. Each round every site starts a fresh pair of its own rank, B zero, on top of the
    global adapter, which it adds and leaves as it is. The stack of all pairs, [A_1; A_2; ...] and [p_1 B_1, p_2 B_2,
    ...], is the mean of the *products* exactly; shares and scales stand on B alone. Where the paper folds the stack
    into the base model, which never changes here, the global adapter takes it up: exactly as long as published_rank is
    at least the ranks of all updates so far, and else as nearly as that rank allows.

    Equal updates add their own product to the global adapter's; the order of sites is irrelevant up to rounding;
    weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "flora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = False

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains a fresh pair beside the global adapter."""
        return Plan(starts_fresh=True, keeps_rest=True)

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The stack and the global adapter, pressed into the published rank."""
        return nearest_pair([current, *updates], [1.0, *weights], current, self.terms.published_rank)
