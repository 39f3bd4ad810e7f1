"""The mean of every number without its least and greatest values (arXiv 1803.01498)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.coordinate_median import by_number
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need, Plan


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """A and B of means, number by number, each without its ``trimmed_count`` least and as many greatest values.

    It averages the *factors*, which are comparable because all sites begin from the same pair. So many sites as are
    trimmed on a side cannot move a number beyond the others' range. Sizes do not count. Equal updates give themselves;
    the order of sites is irrelevant; the weights that the roster shows are equal.
    """

    terms: Terms
    name: ClassVar[str] = "trimmed_mean"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.EQUAL_RANKS})
    allows_momentum: ClassVar[bool] = True
    is_elementwise: ClassVar[bool] = True

    @property
    def least_updates(self) -> int:
        """One more than are left out."""
        return 2 * self._trimmed_count + 1

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """The same for every site."""
        return (1 / len(contributions),) * len(contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """Trimmed means, in float64; the global adapter's own factors do not enter."""
        return Factors(
            a=by_number([update.a for update in updates], self._trimmed_mean),
            b=by_number([update.b for update in updates], self._trimmed_mean),
        )

    @property
    def _trimmed_count(self) -> int:
        parameters = self.terms.aggregation.trimmed_mean
        assert parameters is not None, "checked with the terms"
        return parameters.trimmed_count

    def _trimmed_mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        ordered = np.sort(values, axis=0)
        mean: NDArray[np.float64] = ordered[self._trimmed_count : len(values) - self._trimmed_count].mean(axis=0)
        return mean
