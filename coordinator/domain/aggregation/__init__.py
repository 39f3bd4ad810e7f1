"""Rules for combining LoRA updates: one file a strategy, chosen by name in the terms. Pure numpy, no files."""

from __future__ import annotations

from collections.abc import Callable

from common.adapter import FactorSet
from common.errors import InputInvalidError, Reason
from common.ids import SiteName
from common.terms import Terms
from coordinator.domain.aggregation.coordinate_median import CoordinateMedian
from coordinator.domain.aggregation.fed_medlora import FedMedLora
from coordinator.domain.aggregation.fed_medlora_plus import FedMedLoraPlus
from coordinator.domain.aggregation.fedadagrad import FedAdagrad
from coordinator.domain.aggregation.fedadam import FedAdam
from coordinator.domain.aggregation.fedavgm import FedAvgM
from coordinator.domain.aggregation.fedex_lora import FedExLora
from coordinator.domain.aggregation.fedsa_lora import FedSaLora
from coordinator.domain.aggregation.fedyogi import FedYogi
from coordinator.domain.aggregation.ffa_lora import FfaLora
from coordinator.domain.aggregation.flexlora import FlexLora
from coordinator.domain.aggregation.flora import Flora
from coordinator.domain.aggregation.geometric_median import GeometricMedian
from coordinator.domain.aggregation.hetlora import HetLora
from coordinator.domain.aggregation.krum import Krum
from coordinator.domain.aggregation.lora_fair import LoraFair
from coordinator.domain.aggregation.norm_bound import NormBound
from coordinator.domain.aggregation.rolora import RoLora
from coordinator.domain.aggregation.strategy import Need, Strategy
from coordinator.domain.aggregation.trimmed_mean import TrimmedMean

STRATEGIES: dict[str, Callable[[Terms], Strategy]] = {
    CoordinateMedian.name: CoordinateMedian,
    FedAdagrad.name: FedAdagrad,
    FedAdam.name: FedAdam,
    FedAvgM.name: FedAvgM,
    FedExLora.name: FedExLora,
    FedMedLora.name: FedMedLora,
    FedMedLoraPlus.name: FedMedLoraPlus,
    FedSaLora.name: FedSaLora,
    FedYogi.name: FedYogi,
    FfaLora.name: FfaLora,
    FlexLora.name: FlexLora,
    Flora.name: Flora,
    GeometricMedian.name: GeometricMedian,
    HetLora.name: HetLora,
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
    """Check that ``strategy`` goes with the other terms.

    Raises:
        InputInvalidError: TERMS_INVALID, expected against got.
    """
    if terms.aggregation.server_momentum > 0 and not strategy.allows_momentum:
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"aggregation.server_momentum: expected 0 with {strategy.name}, whose moves cannot be added to each other, "
            f"got {terms.aggregation.server_momentum:g}",
        )
    if terms.lora.least_lora_rank and Need.EQUAL_RANKS in strategy.needs:
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"lora.least_lora_rank: expected 0 with {strategy.name}, for which all sites train at one rank, "
            f"got {terms.lora.least_lora_rank}",
        )
    plans = (strategy.plan(number, SiteName("any")) for number in range(1, terms.rounds.count + 1))
    if Need.UPDATE_SCORES in strategy.needs and any(plan.uploaded is not FactorSet.A_AND_B for plan in plans):
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"aggregation.strategy: {strategy.name} has updates scored, which takes both factors, and plans fewer",
        )
    if terms.rounds.quorum < strategy.least_updates:
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"rounds.quorum: expected at least {strategy.least_updates}, which {strategy.name} needs with these "
            f"parameters, got {terms.rounds.quorum}",
        )
