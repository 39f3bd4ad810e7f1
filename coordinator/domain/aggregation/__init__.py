"""Rules for combining LoRA updates: one file a strategy, chosen by name in the terms. Pure numpy, no files."""

from __future__ import annotations

from common.errors import InputInvalidError, Reason
from common.terms import Terms
from coordinator.domain.aggregation.fed_medlora import FedMedLora
from coordinator.domain.aggregation.fed_medlora_plus import FedMedLoraPlus
from coordinator.domain.aggregation.strategy import OFFERED, Strategy

STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in (FedMedLora(), FedMedLoraPlus())}


def strategy_of(terms: Terms) -> Strategy:
    """The strategy that ``terms`` name.

    Raises:
        InputInvalidError: TERMS_INVALID, with the names that exist.
    """
    name = terms.aggregation.strategy
    if name not in STRATEGIES:
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"aggregation.strategy: expected one of {', '.join(sorted(STRATEGIES))}, got {name[:80]!r}",
        )
    return STRATEGIES[name]


def check_needs(strategy: Strategy) -> None:
    """Check that a round gives all that ``strategy`` needs.

    Raises:
        InputInvalidError: TERMS_INVALID, with what is missing.
    """
    if missing := sorted(strategy.needs - OFFERED):
        raise InputInvalidError(
            Reason.TERMS_INVALID,
            f"aggregation.strategy: {strategy.name} needs {', '.join(missing)}, which this coordinator does not offer",
        )
