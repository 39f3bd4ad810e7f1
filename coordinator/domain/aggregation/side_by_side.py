"""Matrices side by side as one tall matrix X that is never formed: X^T X, the triangle of its QR, X by a small matrix.

By blocks of rows, which are brought to float64 one at a time: what is held is small, and fits the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from coordinator.domain.aggregation.strategy import Matrix

_ROWS = 1024


def gram(factors: Sequence[Matrix]) -> NDArray[np.float64]:
    """X^T X for X = ``factors`` side by side, each ``(features, its rank)``; ``(all ranks, all ranks)``."""
    ranks = sum(factor.shape[1] for factor in factors)
    total = np.zeros((ranks, ranks))
    for _, rows in _blocks(factors):
        total += rows.T @ rows
    return total


def triangle(factors: Sequence[Matrix]) -> NDArray[np.float64]:
    """R of X = Q R for X = ``factors`` side by side, each ``(features, its rank)``; ``(all ranks, all ranks)`` at most.

    Of the triangle so far and the next rows, again and again. It takes three times as long as X^T X, of which it is a
    root, but loses nothing of a small direction beside a large one, as squares do.
    """
    rest = np.zeros((0, sum(factor.shape[1] for factor in factors)))
    for _, rows in _blocks(factors):
        rest = cast(NDArray[np.float64], np.linalg.qr(np.concatenate([rest, rows]), mode="r"))
    return rest


def times(factors: Sequence[Matrix], small: NDArray[np.float64]) -> NDArray[np.float64]:
    """X ``small`` for X = ``factors`` side by side; ``(features, columns)`` for a ``small`` of (all ranks, columns)."""
    product = np.empty((len(factors[0]), small.shape[1]))
    for start, rows in _blocks(factors):
        product[start : start + _ROWS] = rows @ small
    return product


def _blocks(factors: Sequence[Matrix]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for start in range(0, len(factors[0]), _ROWS):
        rows = [factor[start : start + _ROWS] for factor in factors]
        yield start, np.concatenate(rows, axis=1, dtype=np.float64)
