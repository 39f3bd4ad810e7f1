"""Server momentum: each move of the global adapter is carried on into the next one (FedAvgM, arXiv 1909.06335)."""

from __future__ import annotations

import numpy as np

from coordinator.domain.aggregation.strategy import Factors, Matrix


def carry_on(combined: Factors, current: Factors, previous: Factors, momentum: float) -> Factors:
    """``combined`` + momentum * (``current`` - ``previous``), factor by factor, in float64.

    The heavy ball of FedAvgM with a server step of one, written over adapters: what a strategy made of the updates, and
    the global adapters of this round and the one before. It needs no state of its own, so a third party that has the
    three files can compute it again. A round that moved nothing leaves nothing to carry on.
    """
    return Factors(
        a=_carried(combined.a, current.a, previous.a, momentum), b=_carried(combined.b, current.b, previous.b, momentum)
    )


def _carried(combined: Matrix, current: Matrix, previous: Matrix, momentum: float) -> Matrix:
    move = np.subtract(current, previous, dtype=np.float64)
    move *= momentum
    move += combined
    return move
