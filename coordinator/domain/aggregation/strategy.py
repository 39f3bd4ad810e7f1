"""The seam of strategies: what one needs, what it asks of a site, how it weighs and combines. Holds no rule itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.adapter import FactorSet
from common.ids import SiteName
from common.terms import AggregationTerms

Matrix = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What must be there for a strategy to work; checked when a run is created.

    Attributes:
        clear_updates: It reads single updates, so it cannot be had together with secure aggregation.
        update_scores: Each update must be scored by an evaluator first (the SCORING phase).
        equal_ranks: All sites train at the run's rank.
        own_state: It keeps state from round to round.
    """

    clear_updates: bool
    update_scores: bool
    equal_ranks: bool
    own_state: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a site is asked for in one round.

    Attributes:
        trained: The factors that training may change.
        uploaded: The factors that travel up.
        proximal_mu: mu of FedProx's term mu/2 ||x - x_global||^2 (arXiv 1812.06127); 0 for none.
    """

    trained: FactorSet = FactorSet.A_AND_B
    uploaded: FactorSet = FactorSet.A_AND_B
    proximal_mu: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One accepted update without its weights: who sent it, and the counts that came with it."""

    site: SiteName
    num_examples: int
    num_label_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """One module's pair: ``a`` of shape ``(lora_rank, in_features)``, ``b`` of shape ``(out_features, lora_rank)``."""

    a: Matrix
    b: Matrix


class Strategy(Protocol):
    """A named aggregation rule. Contributions and updates come sorted by site, so arrival order cannot matter."""

    @property
    def name(self) -> str:
        """As the terms name it."""

    @property
    def needs(self) -> Needs:
        """What must be there for it to work."""

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """What ``site`` is asked for in round ``round_number``."""

    def weigh(self, terms: AggregationTerms, contributions: Sequence[Contribution]) -> tuple[float, ...]:
        """Each contribution's weight, in the order given; they sum to one."""

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """One module of the candidate, from the sites' factors and the global adapter's."""
