"""Fed-MedLoRA: the weighted mean of A and the weighted mean of B (arXiv 2601.22124; FedIT, arXiv 2305.05644)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from common.bfloat16 import BLOCK
from common.ids import SiteName
from common.terms import Terms, WeightBy
from coordinator.domain.aggregation.strategy import (
    Contribution,
    Factors,
    Geometry,
    Matrix,
    Need,
    Plan,
    TaskContribution,
)


@dataclass(frozen=True, slots=True)
class FedMedLora:
    """A = sum_k p_k A_k, B = sum_k p_k B_k with p_k = n_k / sum n.

    It averages the *factors*: B A is not the mean of the products B_k A_k, unless all A_k or all B_k are equal.
    Equal updates give themselves; the order of sites is irrelevant; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "fed_medlora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = True
    is_elementwise: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """p_k in float64, n_k as the terms say; the paper's code counts label tokens."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The weighted mean of each factor; the global adapter's own factors do not enter."""
        return mean_of_factors(updates, weights)


def sizes(terms: Terms, contributions: Sequence[Contribution | TaskContribution]) -> list[int]:
    """n_k of each contribution: what ``weight_by`` says."""
    match terms.aggregation.weight_by:
        case WeightBy.LABEL_TOKENS:
            return [contribution.num_label_tokens for contribution in contributions]
        case WeightBy.EXAMPLES:
            return [contribution.num_examples for contribution in contributions]
        case WeightBy.UNIFORM:
            return [1] * len(contributions)


def size_weights(terms: Terms, contributions: Sequence[Contribution]) -> tuple[float, ...]:
    """n_k / sum n."""
    counts = sizes(terms, contributions)
    total = sum(counts)
    return tuple(count / total for count in counts)


def mean_of_factors(updates: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The weighted mean of A and that of B."""
    return Factors(
        a=weighted_mean([update.a for update in updates], weights),
        b=weighted_mean([update.b for update in updates], weights),
    )


def weighted_mean(matrices: Sequence[Matrix], weights: Sequence[float]) -> Matrix:
    """sum_k weights[k] * matrices[k], accumulated in the order given, in float64.

    Float64, because the sum then differs from the exact one by far less than the rounding of the dtype that travels,
    and because a module at a time is small: the cost is arithmetic, not memory.
    """
    flat = [matrix.reshape(-1) for matrix in matrices]
    total = np.zeros(flat[0].size, dtype=np.float64)
    for start in range(0, total.size, BLOCK):
        block = total[start : start + BLOCK]
        for matrix, weight in zip(flat, weights, strict=True):
            block += np.multiply(matrix[start : start + BLOCK], weight, dtype=np.float64)
    return total.reshape(matrices[0].shape)


def mean_or_same(matrices: Sequence[Matrix], weights: Sequence[float], before: Matrix) -> Matrix:
    """The weighted mean, or ``before`` itself where every site has that.

    Weights sum to one but for rounding: a factor that nobody trained must not move by that.
    """
    if all(matrix is before or np.array_equal(matrix, before) for matrix in matrices):
        return before
    return weighted_mean(matrices, weights)
