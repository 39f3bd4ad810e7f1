"""Parameters of the strategies that have any, one value each; `common.terms` holds those of the strategy it names.

A field of ``AggregationTerms`` has the strategy's name, and so have its message and its table in a terms file. What the
parameters do is said, and done, in the strategy's own file under `coordinator/domain/aggregation/`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.adapter import MAX_LORA_RANK


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgMTerms:
    """How far the server goes along its momentum, and how much of that it keeps (`fedavgm.py`)."""

    learning_rate: float = 1.0
    momentum: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdamTerms:
    """The server's step, its two decays, and what is added to the root of the second moment (`fedadam.py`).

    With these, the first step is half of the mean move where that is far below ``tau``, and 0.01 at most.
    """

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogiTerms:
    """As those of FedAdam (`fedyogi.py`)."""

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagradTerms:
    """As those of FedAdam, whose second moment never decays (`fedadagrad.py`)."""

    learning_rate: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FedExLoraTerms:
    """The rank of the global adapter: what sites train, and beside it a residual of the rest (`fedex_lora.py`)."""

    published_rank: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FloraTerms:
    """The rank of the global adapter, into which all rounds' updates are pressed (`flora.py`)."""

    published_rank: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FedSaLoraTerms:
    """In how many rounds at the end B travels and is averaged, too (`fedsa_lora.py`)."""

    consolidation_rounds: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HetLoraTerms:
    """w_k ~ n_k^size_exponent |B_k A_k|^norm_exponent (`hetlora.py`); 1 and 0 weigh by size alone."""

    size_exponent: float = 0.0
    norm_exponent: float = 1.0


# (strategy, field, least, greatest): every number of the parameters, with the bounds it must keep.
PARAMETER_BOUNDS: tuple[tuple[str, str, float, float], ...] = (
    ("fed_medlora_plus", "size_exponent", 0, 10),
    ("fed_medlora_plus", "temperature", 1e-3, 1e6),
    ("fedadagrad", "learning_rate", 1e-9, 1e3),
    ("fedadagrad", "beta1", 0, 0.999),
    ("fedadagrad", "tau", 1e-9, 1e3),
    ("fedadam", "learning_rate", 1e-9, 1e3),
    ("fedadam", "beta1", 0, 0.999),
    ("fedadam", "beta2", 0, 0.9999),
    ("fedadam", "tau", 1e-9, 1e3),
    ("fedavgm", "learning_rate", 1e-9, 1e3),
    ("fedavgm", "momentum", 0, 0.999),
    ("fedex_lora", "published_rank", 1, MAX_LORA_RANK),
    ("fedsa_lora", "consolidation_rounds", 1, 10_000),
    ("fedyogi", "learning_rate", 1e-9, 1e3),
    ("fedyogi", "beta1", 0, 0.999),
    ("fedyogi", "beta2", 0, 0.9999),
    ("fedyogi", "tau", 1e-9, 1e3),
    ("flora", "published_rank", 1, MAX_LORA_RANK),
    ("hetlora", "norm_exponent", 0, 10),
    ("hetlora", "size_exponent", 0, 10),
    ("krum", "byzantine_count", 0, 1000),
    ("krum", "selected_count", 1, 1000),
    ("lora_fair", "penalty", 1e-9, 1e9),
    ("norm_bound", "max_norm", 1e-9, 1e9),
    ("trimmed_mean", "trimmed_count", 0, 1000),
)


def parameter_problems(parameters: object, lora_rank: int, rounds: int) -> list[str]:
    """What is wrong with a strategy's parameters beside the terms of ``lora_rank`` and so many rounds."""
    match parameters:
        case FedExLoraTerms(published_rank=rank) | FloraTerms(published_rank=rank) if rank < lora_rank:
            return [f"aggregation: expected a published_rank of at least lora_rank, {lora_rank}, got {rank}"]
        case FedSaLoraTerms(consolidation_rounds=count) if count > rounds:
            return [f"aggregation: expected consolidation_rounds of at most rounds.count, {rounds}, got {count}"]
    return []
