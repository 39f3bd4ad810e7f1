"""Every strategy with parameters that suit three sites, and updates to try them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.adapter import FactorSet
from common.strategy_terms import FedExLoraTerms, FedMedLoraPlusTerms, FloraTerms, KrumTerms, NormBoundTerms
from common.terms import STRATEGIES_WITH_PARAMETERS, AggregationTerms, WeightBy
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.geometry import geometry_of_module
from coordinator.domain.aggregation.strategy import Contribution, Factors, Strategy
from tests.fakes.coordinator_values import ANNA, make_terms

OUT, RANK, IN = 7, 2, 5
# Label tokens of five sites, and their shares.
COUNTS = (100, 300, 50, 200, 250)
SHARES = [count / sum(COUNTS) for count in COUNTS]
# Strategies whose updates come on top of the global adapter.
ADDING = {"flora"}
# Enough for everything that five sites of that rank add to a global adapter.
WIDE = 12


def aggregation_of(
    name: str,
    parameters: object | None = None,
    weight_by: WeightBy = WeightBy.LABEL_TOKENS,
) -> AggregationTerms:
    """Terms that name it, with its ``parameters`` if it has any."""
    suited = {
        "fed_medlora_plus": FedMedLoraPlusTerms(size_exponent=1.0),
        "fedex_lora": FedExLoraTerms(published_rank=WIDE),
        "flora": FloraTerms(published_rank=WIDE),
        "krum": KrumTerms(byzantine_count=0, selected_count=1),
        "norm_bound": NormBoundTerms(max_norm=0.5),
    }
    chosen: dict[str, Any] = {}
    if name in STRATEGIES_WITH_PARAMETERS:
        chosen[name] = parameters or suited.get(name) or STRATEGIES_WITH_PARAMETERS[name]()
    return AggregationTerms(strategy=name, weight_by=weight_by, **chosen)


def strategy_named(name: str, parameters: object | None = None) -> Strategy:
    """The strategy, made of such terms."""
    return strategy_of(make_terms(aggregation=aggregation_of(name, parameters)))


def random_pair(seed: int, scale: float = 1.0) -> Factors:
    """A pair in the dtype that files are read in."""
    generator = np.random.default_rng(seed)
    return Factors(
        a=(scale * generator.standard_normal((RANK, IN))).astype(np.float32),
        b=(scale * generator.standard_normal((OUT, RANK))).astype(np.float32),
    )


def near(pair: Factors, seed: int, step: float = 0.1) -> Factors:
    """A pair that training moved a little."""
    move = random_pair(seed, step)
    return Factors(a=pair.a + move.a, b=pair.b + move.b)


def contributions_of(counts: Sequence[int]) -> list[Contribution]:
    """Contributions of so many label tokens, each scored in its own way."""
    return [
        Contribution(num_examples=1, num_label_tokens=count, validation_loss=0.1 * (number + 1))
        for number, count in enumerate(counts)
    ]


def combined(
    strategy: Strategy, updates: Sequence[Factors], current: Factors, contributions: Sequence[Contribution]
) -> tuple[Factors, tuple[float, ...]]:
    """What it makes of one module, and by which weights."""
    weights = strategy.weigh(contributions, geometry_of_module(updates, current))
    return strategy.combine(updates, weights, current), weights


def product(pair: Factors) -> NDArray[np.float64]:
    """B A, dense."""
    dense: NDArray[np.float64] = pair.b.astype(np.float64) @ pair.a.astype(np.float64)
    return dense


def scene(seed: int, count: int = len(COUNTS)) -> tuple[Factors, list[Factors]]:
    """A global adapter's pair, and those of sites that trained it."""
    current = random_pair(seed)
    return current, [near(current, seed + 1 + number) for number in range(count)]


def planned(name: str, updates: Sequence[Factors], current: Factors, round_number: int = 1) -> list[Factors]:
    """``updates`` as they reach ``combine``: what does not travel up is the global adapter's."""
    uploaded = strategy_named(name).plan(round_number, ANNA).uploaded
    return [
        Factors(
            a=current.a if uploaded is FactorSet.B_ONLY else update.a,
            b=current.b if uploaded is FactorSet.A_ONLY else update.b,
        )
        for update in updates
    ]


def mean_product(updates: Sequence[Factors]) -> NDArray[np.float64]:
    """The mean of their products by SHARES, dense."""
    mean: NDArray[np.float64] = np.sum([s * product(each) for s, each in zip(SHARES, updates, strict=True)], axis=0)
    return mean
