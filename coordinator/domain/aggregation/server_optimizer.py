"""The step of a server that takes the sites' mean move for a gradient (arXiv 2003.00295, algorithm 2). No strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.strategy_terms import FedAdagradTerms, FedAdamTerms, FedYogiTerms
from coordinator.domain.aggregation.strategy import Matrix

ADAPTIVE_MOMENTS = ("first", "second")

Follow = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def move_of(aggregate: Matrix, current: Matrix) -> NDArray[np.float64]:
    """D = aggregate - global adapter, in float64: what stands in for a gradient."""
    move: NDArray[np.float64] = np.subtract(aggregate, current, dtype=np.float64)
    return move


def adaptive_step(
    move: NDArray[np.float64],
    current: Matrix,
    moments: Sequence[Matrix] | None,
    parameters: FedAdagradTerms | FedAdamTerms | FedYogiTerms,
    follow: Follow,
) -> tuple[Matrix, tuple[Matrix, ...]]:
    """Gives x + learning_rate m / (sqrt(v) + tau), with m = beta1 m + (1 - beta1) D and v = follow(v, D^2).

    As in the paper m begins as 0 and v as tau^2, and neither is corrected for that: tau, not a count of rounds, says
    how far the first steps go. It is D that is squared, not m.
    """
    first, second = moments or (np.zeros(move.shape), np.full(move.shape, parameters.tau**2))
    first = parameters.beta1 * first.astype(np.float64) + (1 - parameters.beta1) * move
    second = follow(second.astype(np.float64), np.square(move))
    step = parameters.learning_rate * first / (np.sqrt(second) + parameters.tau)
    return current + step, (first, second)
