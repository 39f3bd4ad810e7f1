"""The median of every number of every factor (arXiv 1803.01498)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from common.bfloat16 import BLOCK
from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Matrix, Need, Plan


@dataclass(frozen=True, slots=True)
class CoordinateMedian:
    """A and B of medians, number by number; the mean of the middle two for an even count.

    It takes medians of the *factors*, which are comparable because all sites begin from the same pair. Fewer than half
    of the sites cannot move a number beyond the others' range. Sizes do not count. Equal updates give themselves; the
    order of sites is irrelevant; the weights that the roster shows are equal.
    """

    terms: Terms
    name: ClassVar[str] = "coordinate_median"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAR_UPDATES, Need.EQUAL_RANKS})
    least_updates: ClassVar[int] = 1
    allows_momentum: ClassVar[bool] = True
    is_elementwise: ClassVar[bool] = True

    def plan(self, round_number: int, site: SiteName) -> Plan:
        """Every site trains both factors of every module, in every round."""
        return Plan()

    def weigh(self, contributions: Sequence[Contribution], geometry: Geometry | None) -> tuple[float, ...]:
        """The same for every site."""
        return (1 / len(contributions),) * len(contributions)

    def combine(self, updates: Sequence[Factors], weights: Sequence[float], current: Factors) -> Factors:
        """Medians, in float64; the global adapter's own factors do not enter."""
        return Factors(
            a=by_number([update.a for update in updates], partial(np.median, axis=0)),
            b=by_number([update.b for update in updates], partial(np.median, axis=0)),
        )


def by_number(
    matrices: Sequence[Matrix], combine: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """``combine`` of all values of every number, ``(K, some)`` to ``(some,)``; by blocks, which hold few at once."""
    flat = [matrix.reshape(-1) for matrix in matrices]
    combined = np.empty(flat[0].size)
    for start in range(0, combined.size, BLOCK):
        values = np.stack([each[start : start + BLOCK] for each in flat]).astype(np.float64)
        combined[start : start + BLOCK] = combine(values)
    return combined.reshape(matrices[0].shape)
