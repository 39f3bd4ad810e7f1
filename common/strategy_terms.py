"""Parameters of the strategies that have any, one value each; `common.terms` holds those of the strategy it names.

A field of ``AggregationTerms`` has the strategy's name, and so have its message and its table in a terms file. What the
parameters do is said, and done, in the strategy's own file under `coordinator/domain/aggregation/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.adapter import MAX_LORA_RANK


def parameter(default: float, least: float, greatest: float, words: str) -> Any:
    """A number of a strategy: the bounds it must keep, and what it says to a person at a hospital, ``{}`` its value."""
    return field(default=default, metadata={"least": least, "greatest": greatest, "words": words})


@dataclass(frozen=True, slots=True, kw_only=True)
class FedMedLoraPlusTerms:
    """w_k ~ n_k^size_exponent exp(-L_k / temperature), L_k in nats (`fed_medlora_plus.py`)."""

    size_exponent: float = parameter(0.0, 0, 10, "A site's size counts with the exponent {}.")
    temperature: float = parameter(1.0, 1e-3, 1e6, "An update's loss counts at the temperature {}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFairTerms:
    """What the square of B's correction costs (`lora_fair.py`); the paper's best is 0.01."""

    penalty: float = parameter(0.01, 1e-9, 1e9, "The correction of factor B costs {}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMeanTerms:
    """How many values are left out on either side (`trimmed_mean.py`)."""

    trimmed_count: int = parameter(1, 0, 1000, "{} values are left out on either side.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormBoundTerms:
    """How far one update may move the factors of all modules together, Frobenius norm (`norm_bound.py`)."""

    max_norm: float = parameter(1.0, 1e-9, 1e9, "An update counts up to norm {}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class KrumTerms:
    """How many updates may be anything, and how many are averaged (`krum.py`)."""

    byzantine_count: int = parameter(1, 0, 1000, "{} updates may be anything.")
    selected_count: int = parameter(1, 1, 1000, "{} updates are averaged; the others are left out.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgMTerms:
    """How far the server goes along its momentum, and how much of that it keeps (`fedavgm.py`)."""

    learning_rate: float = parameter(1.0, 1e-9, 1e3, "The server's step is {}.")
    momentum: float = parameter(0.9, 0, 0.999, "It keeps a share of {} of its momentum.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdamTerms:
    """The server's step, its two decays, and what is added to the root of the second moment (`fedadam.py`).

    With these, the first step is half of the mean move where that is far below ``tau``, and 0.01 at most.
    """

    learning_rate: float = parameter(0.01, 1e-9, 1e3, "The server's step is {}.")
    beta1: float = parameter(0.9, 0, 0.999, "Its first moment decays by {}.")
    beta2: float = parameter(0.99, 0, 0.9999, "Its second moment decays by {}.")
    tau: float = parameter(1e-3, 1e-9, 1e3, "{} is added to the root of its second moment.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogiTerms:
    """As those of FedAdam (`fedyogi.py`)."""

    learning_rate: float = parameter(0.01, 1e-9, 1e3, "The server's step is {}.")
    beta1: float = parameter(0.9, 0, 0.999, "Its first moment decays by {}.")
    beta2: float = parameter(0.99, 0, 0.9999, "Its second moment decays by {}.")
    tau: float = parameter(1e-3, 1e-9, 1e3, "{} is added to the root of its second moment.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagradTerms:
    """As those of FedAdam, whose second moment never decays (`fedadagrad.py`)."""

    learning_rate: float = parameter(0.01, 1e-9, 1e3, "The server's step is {}.")
    beta1: float = parameter(0.0, 0, 0.999, "Its first moment decays by {}.")
    tau: float = parameter(1e-3, 1e-9, 1e3, "{} is added to the root of its second moment.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FedExLoraTerms:
    """The rank of the global adapter: what sites train, and beside it a residual of the rest (`fedex_lora.py`)."""

    published_rank: int = parameter(64, 1, MAX_LORA_RANK, "The published adapter has rank {}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FloraTerms:
    """The rank of the global adapter, into which all rounds' updates are pressed (`flora.py`)."""

    published_rank: int = parameter(64, 1, MAX_LORA_RANK, "The published adapter has rank {}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FedSaLoraTerms:
    """In how many rounds at the end B travels and is averaged, too (`fedsa_lora.py`)."""

    consolidation_rounds: int = parameter(1, 1, 10_000, "In its last {} rounds full adapters are averaged.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HetLoraTerms:
    """w_k ~ n_k^size_exponent |B_k A_k|^norm_exponent (`hetlora.py`); 1 and 0 weigh by size alone."""

    size_exponent: float = parameter(0.0, 0, 10, "A site's size counts with the exponent {}.")
    norm_exponent: float = parameter(1.0, 0, 10, "An update's norm counts with the exponent {}.")


def parameter_problems(parameters: object, lora_rank: int, rounds: int) -> list[str]:
    """What is wrong with a strategy's parameters beside the terms of ``lora_rank`` and so many rounds."""
    match parameters:
        case FedExLoraTerms(published_rank=rank) | FloraTerms(published_rank=rank) if rank < lora_rank:
            return [f"aggregation: expected a published_rank of at least lora_rank, {lora_rank}, got {rank}"]
        case FedSaLoraTerms(consolidation_rounds=count) if count > rounds:
            return [f"aggregation: expected consolidation_rounds of at most rounds.count, {rounds}, got {count}"]
    return []
