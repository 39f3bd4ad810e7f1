"""Pairs of several ranks: brought to one scale, filled up with zeros, cut. Combines nothing.

An adapter of rank r has the scale lora_alpha / r, with one lora_alpha for all ranks of a run. A pair of another rank is
brought to that scale by a factor on B alone: on both, it would count twice.
"""

from __future__ import annotations

import numpy as np

from coordinator.domain.aggregation.strategy import Factors


def at_scale_of(pair: Factors, lora_rank: int, scale_rank: int) -> Factors:
    """A pair that is scaled as rank ``lora_rank``, written so that the scale of ``scale_rank`` gives the same.

    (lora_alpha / lora_rank) B A = (lora_alpha / scale_rank) (scale_rank / lora_rank) B A; of equal ranks, the pair
    itself, bit for bit.
    """
    if lora_rank == scale_rank:
        return pair
    return Factors(a=pair.a, b=np.multiply(pair.b, scale_rank / lora_rank, dtype=np.float64))


def padded(pair: Factors, lora_rank: int) -> Factors:
    """The pair with rows of A and columns of B that are zero, up to ``lora_rank``; its product is the same."""
    missing = lora_rank - pair.a.shape[0]
    if missing == 0:
        return pair
    rows, columns = np.zeros((missing, pair.a.shape[1]), np.float32), np.zeros((pair.b.shape[0], missing), np.float32)
    return joined(pair, Factors(a=rows, b=columns))


def cut(pair: Factors, start: int, stop: int) -> Factors:
    """Its ranks ``start`` to ``stop``.

    The first ones of a pair out of an SVD (`flexlora.nearest_pair`) are the nearest of that rank to all of it.
    """
    return Factors(a=pair.a[start:stop], b=pair.b[:, start:stop])


def joined(first: Factors, second: Factors) -> Factors:
    """The ranks of both; its product is the sum of theirs."""
    return Factors(a=np.concatenate([first.a, second.a]), b=np.concatenate([first.b, second.b], axis=1))
