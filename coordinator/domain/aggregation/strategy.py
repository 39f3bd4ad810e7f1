"""The seam of strategies: what one needs, what it asks of a site, how it weighs and combines. Holds no rule itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from common.adapter import FactorSet
from common.ids import SiteName
from common.terms import Task

Matrix = NDArray[np.float32] | NDArray[np.float64]


class Need(StrEnum):
    """What a strategy needs of a round; what the terms must say for it is checked when a run is created."""

    CLEAR_UPDATES = "clear_updates"  # it reads single updates: masked aggregation, when there is one, refuses it
    UPDATE_SCORES = "update_scores"  # each update, with all factors, is scored by an evaluator first (SCORING)
    GEOMETRY = "geometry"  # it weighs by how updates lie to each other, so all modules are read once before the first
    EQUAL_RANKS = "equal_ranks"  # all sites train at the run's rank, so `lora.least_lora_rank` is 0
    OWN_STATE = "own_state"  # it keeps state from round to round: it is a `StatefulStrategy`


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a site is asked for in one round.

    Attributes:
        trained: The factors that training may change.
        uploaded: The factors that travel up; for the other ones ``combine`` is given the global adapter's.
        starts_fresh: Training starts from the run's first adapter, whose B is zero, instead of the global one.
        own: Factors that each site keeps, and starts from as it kept them; None: it keeps nothing.
        keeps_rest: What of the global adapter is not trained (all of it, of a fresh start) is added while training.
    """

    trained: FactorSet = FactorSet.A_AND_B
    uploaded: FactorSet = FactorSet.A_AND_B
    starts_fresh: bool = False
    keeps_rest: bool = False
    own: FactorSet | None = None

    @property
    def is_partial(self) -> bool:
        """Whether something that is trained stays at the sites, so that the candidate is no whole adapter."""
        return self.trained is not self.uploaded


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContribution:
    """The part of a contribution that is of one task.

    Attributes:
        validation_loss: In this task; None where it was not scored, or the validation set has no example of it.
    """

    task: Task
    num_examples: int
    num_label_tokens: int
    validation_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One accepted update without its tensors: the counts that came with it, and its loss where it was scored.

    Attributes:
        validation_loss: Mean token cross-entropy (nats) on the consortium's validation set.
        tasks: Its parts, one for each task that the site has examples of; there are some in a run of several tasks.
    """

    num_examples: int
    num_label_tokens: int
    validation_loss: float | None = None
    tasks: tuple[TaskContribution, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """One module's pair: ``a`` of shape ``(lora_rank, in_features)``, ``b`` of shape ``(out_features, lora_rank)``.

    Whatever its rank, its scale is that of the run's (`coordinator.domain.aggregation.ranks.at_scale_of`): the products
    of pairs of several ranks add up as they are.
    """

    a: Matrix
    b: Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How K updates lie to each other, over all modules; see `coordinator.domain.aggregation.geometry`.

    Attributes:
        products: ``(K, K)``, inner products of the moves B_k A_k - B A.
        norms: ``(K,)``, squared norms of the products B_k A_k themselves.
        factors: ``(K,)``, squared norms of the moves of the factors themselves, (A_k - A, B_k - B).
    """

    products: NDArray[np.float64]
    norms: NDArray[np.float64]
    factors: NDArray[np.float64]


class Strategy(Protocol):
    """A named aggregation rule, made of a run's terms.

    Contributions and updates come sorted by site, so the order in which they arrived cannot matter.
    """

    @property
    def name(self) -> str:
        """As the terms name it."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be there for it to work."""

    @property
    def least_updates(self) -> int:
        """The fewest updates that it can combine; the quorum is not below."""

    @property
    def allows_momentum(self) -> bool:
        """Whether the last move may be added to what it combined: not in another basis, nor beyond what it promises."""

    @property
    def is_elementwise(self) -> bool:
        """Whether, by given weights, it combines to the same bits on every machine: not through BLAS or LAPACK."""

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """What ``site`` is asked for in round ``round_number``."""

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """Each contribution's weight, in the order given: what the roster says of it, and ``combine`` is given.

        ``geometry`` is there for a strategy that needs it.
        """

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """One module of the candidate, from the sites' factors and the global adapter's."""


@runtime_checkable
class StatefulStrategy(Strategy, Protocol):
    """A strategy that keeps numbers from round to round, beside each number of the adapter.

    They belong to the adapter that was made with them: a round goes on with those of the adapter it starts from.
    """

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of what it keeps, each as large as the adapter."""

    def advance(
        self, aggregate: Matrix, current: Matrix, moments: Sequence[Matrix] | None
    ) -> tuple[Matrix, tuple[Matrix, ...]]:
        """One factor of the candidate and its new moments, in float64.

        ``aggregate`` is what ``combine`` gave, ``current`` the global adapter's; without ``moments`` they begin.
        """
