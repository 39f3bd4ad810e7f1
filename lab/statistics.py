"""F1 with bootstrap intervals by document, and paired differences. Pure functions over stored counts.

A *score* is a mean of F1s, each of some test set (a model on all test sets, or all single-site models on all other
sites' notes) or of several pooled. Of several scores the same documents are drawn at once, so that their difference is
paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One F1 of a score, or a part of one.

    Attributes:
        test_set: Parts of the same test set have the same documents in the same order, so the same gold.
        counts: ``(documents, 3)``: true positives, predicted, gold.
        pool: Parts of one pool are added up before their F1 is taken; None: the part is an F1 by itself.
    """

    test_set: str
    counts: NDArray[np.int64]
    pool: int | None = None


Score = Sequence[Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_apart_from_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def f1_of(counts: NDArray[np.int64]) -> float:
    """Micro F1 over documents; 0 where nothing was to be found and nothing predicted."""
    matched, predicted, gold = counts.sum(axis=0).tolist()
    return float(2 * matched / (predicted + gold)) if predicted + gold else 0.0


def value_of(score: Score) -> float:
    """The mean of its F1s."""
    return float(np.mean([f1_of(np.concatenate([part.counts for part in pool])) for pool in _pools(score)]))


def _pools(score: Score) -> Iterator[Score]:
    """The parts that an F1 is taken of, F1 by F1."""
    pools: dict[int, list[Part]] = {}
    for part in score:
        if part.pool is None:
            yield [part]
        else:
            pools.setdefault(part.pool, []).append(part)
    yield from pools.values()


def estimate(score: Score, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """A score with its percentile interval over draws of documents, within each test set (Efron 1979)."""
    draws = _draws([score], seed, resamples)
    return _estimate(value_of(score), _resampled(score, draws))


def difference(left: Score, right: Score, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """``left - right``, both on the same draws of documents."""
    draws = _draws([left, right], seed, resamples)
    return _estimate(value_of(left) - value_of(right), _resampled(left, draws) - _resampled(right, draws))


def _estimate(value: float, resampled: NDArray[np.float64]) -> Estimate:
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Estimate(value=value, low=float(low), high=float(high))


def _draws(scores: Sequence[Score], seed: int, resamples: int) -> Mapping[str, NDArray[np.int64]]:
    """How often each document is drawn, ``(resamples, documents)``, for each test set."""
    gold: dict[str, NDArray[np.int64]] = {}
    for part in (part for score in scores for part in score):
        known, documents = gold.setdefault(part.test_set, part.counts[:, 2]), len(part.counts)
        if len(known) != documents or not documents:
            raise ValueError(f"{part.test_set}: expected the same documents in every part, got {documents}")
        if other := np.count_nonzero(known != part.counts[:, 2]):
            raise ValueError(f"{part.test_set}: expected the same gold in every part, got another in {other} documents")
    random = np.random.default_rng(seed)
    sizes = {name: len(gold[name]) for name in sorted(gold)}
    return {name: random.multinomial(size, np.full(size, 1 / size), size=resamples) for name, size in sizes.items()}


def _resampled(score: Score, draws: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    """The score of each resample, ``(resamples,)``."""
    scores = []
    for pool in _pools(score):
        drawn = [draws[part.test_set] @ part.counts for part in pool]
        matched, predicted, gold = np.sum(drawn, axis=0).T.astype(np.float64)
        total = predicted + gold
        scores.append(np.divide(2 * matched, total, out=np.zeros_like(total), where=total > 0))
    mean: NDArray[np.float64] = np.mean(scores, axis=0, dtype=np.float64)
    return mean
