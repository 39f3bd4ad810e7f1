"""Parameters of the strategies that have any, one value each; `common.terms` holds those of the strategy it names.

A field of ``AggregationTerms`` has the strategy's name, and so have its message and its table in a terms file. What the
parameters do is said, and done, in the strategy's own file under `coordinator/domain/aggregation/`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FedMedLoraPlusTerms:
    """w_k ~ n_k^size_exponent exp(-L_k / temperature), L_k in nats (`fed_medlora_plus.py`)."""

    size_exponent: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFairTerms:
    """What the square of B's correction costs (`lora_fair.py`); the paper's best is 0.01."""

    penalty: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMeanTerms:
    """How many values are left out on either side (`trimmed_mean.py`)."""

    trimmed_count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NormBoundTerms:
    """How far one update may move the factors of all modules together, Frobenius norm (`norm_bound.py`)."""

    max_norm: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KrumTerms:
    """How many updates may be anything, and how many are averaged (`krum.py`)."""

    byzantine_count: int = 1
    selected_count: int = 1
