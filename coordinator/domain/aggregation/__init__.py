"""Rules for combining LoRA updates: one file a strategy, chosen by name in the terms. Pure numpy, no files."""

from __future__ import annotations

from collections.abc import Callable

from common.errors import InputInvalidError, Reason
from common.terms import Terms
from coordinator.domain.aggregation.coordinate_median import CoordinateMedian
from coordinator.domain.aggregation.fed_medlora import FedMedLora
from coordinator.domain.aggregation.fed_medlora_plus import FedMedLoraPlus
from coordinator.domain.aggregation.ffa_lora import FfaLora
from coordinator.domain.aggregation.flexlora import FlexLora
from coordinator.domain.aggregation.geometric_median import GeometricMedian
from coordinator.domain.aggregation.krum import Krum
from coordinator.domain.aggregation.lora_fair import LoraFair
from coordinator.domain.aggregation.norm_bound import NormBound
from coordinator.domain.aggregation.rolora import RoLora
from coordinator.domain.aggregation.strategy import OFFERED, Strategy
from coordinator.domain.aggregation.trimmed_mean import TrimmedMean

STRATEGIES: dict[str, Callable[[Terms], Strategy]] = {
    CoordinateMedian.name: CoordinateMedian,
    FedMedLora.name: FedMedLora,
    FedMedLoraPlus.name: FedMedLoraPlus,
    FfaLora.name: FfaLora,
    FlexLora.name: FlexLora,
    GeometricMedian.name: GeometricMedian,
    Krum.name: Krum,
    LoraFair.name: LoraFair,
    NormBound.name: NormBound,
    RoLora.name: RoLora,
    TrimmedMean.name: TrimmedMean,
}


def strategy_of(terms: Terms) -> Strategy:
    """The strategy that ``terms`` name, with their parameters.

    Raises:
        InputInvalidError: TERMS_INVALID, with the names that exist.
    """
    name = terms.aggregation.strategy
    if name not in STRATEGIES:
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"aggregation.strategy: expected one of {', '.join(sorted(STRATEGIES))}, got {name[:80]!r}",
        )
    return STRATEGIES[name](terms)


def check_needs(strategy: Strategy, terms: Terms) -> None:
    """Check that a round gives all that ``strategy`` needs, and that the quorum is enough to combine.

    Raises:
        InputInvalidError: TERMS_INVALID, with what is missing.
    """
    if missing := sorted(strategy.needs - OFFERED):
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"aggregation.strategy: {strategy.name} needs {', '.join(missing)}, which this coordinator does not offer",
        )
    if terms.rounds.quorum < strategy.least_updates:
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"rounds.quorum: expected at least {strategy.least_updates}, which {strategy.name} needs with these "
            f"parameters, got {terms.rounds.quorum}",
        )
