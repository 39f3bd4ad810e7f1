"""FlexLoRA: the mean of the products, cut to the run's rank by an SVD (arXiv 2402.11505)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import size_weights
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class FlexLora:
    """B A = the matrix of rank lora_rank that is nearest (in the Frobenius norm) to sum_k p_k B_k A_k.

    It averages the *products*. No dense (out_features, in_features) matrix is formed: with [sqrt(p_k) B_k] = Q_B R_B
    and [sqrt(p_k) A_k^T] = Q_A R_A, the sum is Q_B (R_B R_A^T) Q_A^T, and the SVD U S V^T of the small core gives
    B = Q_B U sqrt(S), A = sqrt(S) V^T Q_A^T. Equal updates give a pair with their product, in another basis; the order
    of sites is irrelevant up to rounding; weights sum to one.
    """

    terms: Terms
    name: ClassVar[str] = "flexlora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """By size, as Fed-MedLoRA."""
        return size_weights(self.terms, contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """The nearest pair of the run's rank, in float64."""
        roots = np.sqrt(weights)
        b = np.concatenate([root * update.b.astype(np.float64) for root, update in zip(roots, updates, strict=True)], 1)
        a = np.concatenate([root * update.a.astype(np.float64) for root, update in zip(roots, updates, strict=True)])
        b_basis, b_rest = np.linalg.qr(b)
        a_basis, a_rest = np.linalg.qr(a.T)
        left, values, right = np.linalg.svd(b_rest @ a_rest.T, full_matrices=False)
        kept = current.a.shape[0]
        scale = np.sqrt(values[:kept])
        return Factors(
            a=_with_rows(scale[:, None] * (right[:kept] @ a_basis.T), kept),
            b=_with_rows((b_basis @ left[:, :kept] * scale).T, kept).T,
        )


def _with_rows(matrix: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Zeros below, where a module has fewer dimensions than the run's rank."""
    return np.pad(matrix, ((0, count - len(matrix)), (0, 0)))
