"""Fed-MedLoRA+: Fed-MedLoRA weighted by each update's loss on the consortium's validation set (arXiv 2601.22124)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from common.ids import SiteName
from common.strategy_terms import FedMedLoraPlusTerms
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import mean_of_factors, size_weights, sizes
from coordinator.domain.aggregation.strategy import (
    Contribution,
    Factors,
    Geometry,
    Need,
    Plan,
    TaskContribution,
)


@dataclass(frozen=True, slots=True)
class FedMedLoraPlus:
    """w_k ~ n_k^beta exp(-L_k / T), normalised; then A = sum_k w_k A_k, B = sum_k w_k B_k (arXiv 2601.22124).

    L_k is the mean token cross-entropy (nats) of site k's adapter on the validation set. beta = 0 and T = 1 are what
    the paper's code computes, beta = 1 and T = 1 what its text says; with beta = 1 it nears Fed-MedLoRA as T grows.

    In a run of several tasks a loss over all of them would weigh a site that has one by how much the validation set
    holds of that: a set of entities alone would starve the sites that have relations alone. So each task t is weighed
    by itself, among the sites K_t that have examples of it, and the tasks are combined by their share:

        w_kt ~ n_kt^beta exp(-L_kt / T), normalised over K_t;    w_k = sum_t s_t w_kt;    s_t ~ sum_{k in K_t} n_kt^beta

    with n_kt and L_kt those of task t alone. The share has no loss in it: a task that is harder, or of which the
    validation set holds little, loses no weight to another. It is the share at which losses that are all equal (or a
    large T) give what beta says of sizes: Fed-MedLoRA at beta = 1; at beta = 0 each site by how many of the tasks it
    has. Of a task that the validation set has no example of, w_kt ~ n_kt^beta. With one task this is the rule above.

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
    is_elementwise: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """w_k in float64. When an update was not scored, all have the weights of Fed-MedLoRA."""
        if any(contribution.validation_loss is None for contribution in contributions):
            return size_weights(self.terms, contributions)
        parameters = self.terms.aggregation.fed_medlora_plus
        assert parameters is not None, "checked with the terms"
        parts = _by_task(self.terms, contributions)
        counts = [sizes(self.terms, [each for _, each in part]) for part in parts]
        masses = [math.fsum(count**parameters.size_exponent for count in those) for those in counts]
        weights = [0.0] * len(contributions)
        for part, those, mass in zip(parts, counts, masses, strict=True):
            share = mass / math.fsum(masses)
            losses = [each.validation_loss for _, each in part]
            for (site, _), weight in zip(part, _weights_in_task(those, losses, parameters), strict=True):
                weights[site] += share * weight
        return tuple(weights)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of each factor; the global adapter's own factors do not enter."""
        return mean_of_factors(updates, weights)


# The parts of contributions that are of one task, each with the index of its contribution.
_Part = list[tuple[int, Contribution | TaskContribution]]


def _by_task(terms: Terms, contributions: Sequence[Contribution]) -> list[_Part]:
    """One part for each task that a site has examples of; a run of one task needs no counts task by task."""
    numbered = list(enumerate(contributions))
    if len(terms.task.tasks) == 1:
        return [[*numbered]]
    parts: list[_Part] = [
        [(site, each) for site, one in numbered for each in one.tasks if each.task is task] for task in terms.task.tasks
    ]
    return [part for part in parts if part]


def _weights_in_task(
    counts: Sequence[int], losses: Sequence[float | None], parameters: FedMedLoraPlusTerms
) -> list[float]:
    """w_kt; without the losses when there is none, or not for every site."""
    known = [loss for loss in losses if loss is not None]
    used = known if len(known) == len(counts) else [0.0] * len(counts)
    logs = [
        parameters.size_exponent * math.log(count) - loss / parameters.temperature
        for count, loss in zip(counts, used, strict=True)
    ]
    greatest = max(logs)  # taken off, so that the exponential of a large loss is not 0 for every site
    shares = [math.exp(log - greatest) for log in logs]
    total = math.fsum(shares)
    return [share / total for share in shares]
