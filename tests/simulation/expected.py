"""What a version's weights must be, by the roster of every round up to it.

Computed here, by none of the services' code but that which reads and writes a file of weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from common.adapter import A_SUFFIX, WireDtype
from common.ids import SiteName
from common.strategy_terms import FedAdamTerms, FedSaLoraTerms, FloraTerms, HetLoraTerms
from common.terms import AggregationTerms, LoraTerms, Terms
from common.weights_io import WeightsReader, write_weights
from tests.fakes.coordinator_rounds import PLUS_AGGREGATION
from tests.fakes.coordinator_values import ANNA, BERTA, RANK, make_round_terms, make_terms
from tests.simulation.agents import Notes

NOTES = {
    ANNA: Notes(step=0.5, num_label_tokens=100),
    BERTA: Notes(step=-1.75, num_label_tokens=300, max_lora_rank=1),
}
# Who is in the aggregate of each round, and at which rank, from the first round on.
Rosters: TypeAlias = tuple[tuple[tuple[SiteName, int], ...], ...]
Weights: TypeAlias = Mapping[str, NDArray[np.float32]]
_WIDTH = 6
_ADAM = FedAdamTerms(learning_rate=0.5, beta1=0.5, beta2=0.75, tau=0.5)
_PUBLISHED_RANK = 4


class Rule(StrEnum):
    """How a run's updates are combined: each makes the services do something of its own."""

    MEAN = "fed_medlora"
    SCORED = "fed_medlora_plus"  # every update is scored, and to the evaluator one is as good as the other
    STATE = "fedadam"  # moments are kept from round to round
    RANKS = "hetlora"  # parts are cut out of the global adapter, for sites of a lower rank
    OWN = "fedsa_lora"  # a partial round, then a consolidation, to which each site brings what it kept
    BESIDE = "flora"  # fresh pairs of several ranks are trained beside the global adapter


_AGGREGATION = {
    Rule.MEAN: AggregationTerms(),
    Rule.SCORED: PLUS_AGGREGATION,
    Rule.STATE: AggregationTerms(strategy=Rule.STATE, fedadam=_ADAM),
    Rule.RANKS: AggregationTerms(strategy=Rule.RANKS, hetlora=HetLoraTerms(size_exponent=1.0, norm_exponent=0.0)),
    Rule.OWN: AggregationTerms(strategy=Rule.OWN, fedsa_lora=FedSaLoraTerms(consolidation_rounds=1)),
    Rule.BESIDE: AggregationTerms(strategy=Rule.BESIDE, flora=FloraTerms(published_rank=_PUBLISHED_RANK)),
}


def terms_of(quorum: int, rule: Rule = Rule.MEAN) -> Terms:
    """Two rounds of two sites; no deadline but grace comes within the longest night."""
    rounds = make_round_terms(count=2, quorum=quorum, sites=tuple(NOTES))
    month = 30 * 86_400.0
    has_ranks = rule in (Rule.RANKS, Rule.BESIDE)
    return make_terms(
        rounds=type(rounds)(
            count=2, quorum=quorum, sites=rounds.sites, train_deadline=month, grace=100.0, evaluate_deadline=month
        ),
        aggregation=_AGGREGATION[rule],
        lora=LoraTerms(
            lora_rank=RANK, lora_alpha=8, target_modules=("q_proj", "v_proj"), least_lora_rank=int(has_ranks)
        ),
    )


def is_as_expected(content: bytes | None, rosters: Rosters, rule: Rule) -> bool:
    """Whether ``content`` is the file of the version that the last one of ``rosters`` made.

    To the byte, but for sums of products, which go through an SVD: those are compared as products.
    """
    if content is None:
        return False
    if rule is Rule.BESIDE:
        return _is_near(_read(content), _sum_of_products(rosters))
    return content == _file(rosters, rule)


@cache
def _file(rosters: Rosters, rule: Rule) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        write_weights(path, _COMBINED[rule](rosters), WireDtype.BF16)
        return path.read_bytes()


def _read(content: bytes) -> Weights:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        path.write_bytes(content)
        with WeightsReader(path) as reader:
            return {slot.name: reader.tensor(slot.name) for slot in reader.layout.tensors}


@cache
def _by_size(rosters: Rosters) -> Weights:
    return _mean(rosters, _by_size, lambda site: NOTES[site].num_label_tokens)


@cache
def _all_alike(rosters: Rosters) -> Weights:
    return _mean(rosters, _all_alike, lambda _: 1)


def _mean(rosters: Rosters, before_of: Callable[[Rosters], Weights], size: Callable[[SiteName], int]) -> Weights:
    """The mean of what each site made of the version before."""
    if not rosters:
        return _first()
    sites = [site for site, _ in rosters[-1]]
    return {
        name: _rounded(_weighed([_trained(site, value) for site in sites], [size(site) for site in sites]))
        for name, value in before_of(rosters[:-1]).items()
    }


def _stepped(rosters: Rosters) -> Weights:
    return _with_moments(rosters)[0]


@cache
def _with_moments(rosters: Rosters) -> tuple[Weights, Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Adam's steps along the mean moves; the moments are kept as float32."""
    if not rosters:
        return _first(), {
            name: (np.zeros(value.shape), np.full(value.shape, _ADAM.tau**2)) for name, value in _first().items()
        }
    before, moments = _with_moments(rosters[:-1])
    sites = [site for site, _ in rosters[-1]]
    weights, kept = {}, {}
    for name, value in before.items():
        mean = _weighed([_trained(site, value) for site in sites], [NOTES[site].num_label_tokens for site in sites])
        move, (first, second) = mean - value, moments[name]
        first = _ADAM.beta1 * first + (1 - _ADAM.beta1) * move
        second = _ADAM.beta2 * second + (1 - _ADAM.beta2) * move**2
        weights[name] = _rounded(value + _ADAM.learning_rate * first / (np.sqrt(second) + _ADAM.tau))
        kept[name] = first.astype(np.float32).astype(np.float64), second.astype(np.float32).astype(np.float64)
    return weights, kept


@cache
def _filled_up(rosters: Rosters) -> Weights:
    """The mean of pairs filled up with zeros; at rank r, B stands for r / RANK of itself at the run's rank."""
    if not rosters:
        return _first()
    weights = {}
    for name, value in _filled_up(rosters[:-1]).items():
        trained = []
        for site, rank in rosters[-1]:
            ranks = (slice(0, rank), slice(None)) if name.endswith(A_SUFFIX) else (slice(None), slice(0, rank))
            scale = np.float32(1 if name.endswith(A_SUFFIX) else rank / RANK)
            full = np.zeros(value.shape)
            full[ranks] = _trained(site, _rounded(value[ranks] * scale)).astype(np.float64) / scale
            trained.append(full)
        weights[name] = _rounded(_weighed(trained, [NOTES[site].num_label_tokens for site, _ in rosters[-1]]))
    return weights


@cache
def _consolidated(rosters: Rosters) -> Weights:
    """A is the mean in every round; B is the first adapter's until the last one, and then the mean of all moves so far.

    Every site is in every round, as the quorum says.
    """
    weights = dict(_by_size(rosters))
    for name, value in _first().items():
        if not name.endswith(A_SUFFIX) and len(rosters) < 2:
            weights[name] = value
        elif not name.endswith(A_SUFFIX):
            sites = [site for site, _ in rosters[-1]]
            moved = [value + np.float32(len(rosters) * NOTES[site].step) for site in sites]
            weights[name] = _rounded(_weighed(moved, [NOTES[site].num_label_tokens for site in sites]))
    return weights


def _sum_of_products(rosters: Rosters) -> float:
    """B A, all of whose numbers are alike: of every update (A + step)(0 + step), a term for each of its ranks.

    At the scale of the run's rank, at which a rank of a site of lower rank counts more.
    """
    start, total = float(next(value for name, value in _first().items() if name.endswith(A_SUFFIX))[0, 0]), 0.0
    for roster in rosters:
        all_tokens = sum(NOTES[site].num_label_tokens for site, _ in roster)
        for site, rank in roster:
            notes = NOTES[site]
            product = rank * notes.step * (start + notes.step) * (RANK / rank)
            total += notes.num_label_tokens / all_tokens * product
    return total


def _is_near(weights: Weights, expected: float) -> bool:
    """Whether every module's product is that, written for the published rank, but for bfloat16."""
    modules = [name.removesuffix(A_SUFFIX) for name in weights if name.endswith(A_SUFFIX)]
    products = [weights[f"{module}.lora_B.weight"] @ weights[f"{module}{A_SUFFIX}"] for module in modules]
    return all(
        product.shape == (_WIDTH, _WIDTH) and np.allclose(product * RANK / _PUBLISHED_RANK, expected, rtol=0.02)
        for product in products
    )


_COMBINED: Mapping[Rule, Callable[[Rosters], Weights]] = {
    Rule.MEAN: _by_size,
    Rule.SCORED: _all_alike,
    Rule.STATE: _stepped,
    Rule.RANKS: _filled_up,
    Rule.OWN: _consolidated,
}


def _trained(site: SiteName, value: NDArray[np.float32]) -> NDArray[np.float32]:
    return _rounded(value + np.float32(NOTES[site].step))


def _weighed(values: Sequence[NDArray[np.floating]], sizes: list[int]) -> NDArray[np.float64]:
    total = np.zeros(values[0].shape)
    for value, size in zip(values, sizes, strict=True):
        total += size / sum(sizes) * value.astype(np.float64)
    return total


def _first() -> Weights:
    lora = make_terms().lora
    shapes = {A_SUFFIX: (lora.lora_rank, _WIDTH), ".lora_B.weight": (_WIDTH, lora.lora_rank)}
    return {
        f"base_model.model.{module}{suffix}": np.full(shape, 0.25 if suffix == A_SUFFIX else 0.0, np.float32)
        for module in lora.target_modules
        for suffix, shape in shapes.items()
    }


def _rounded(values: NDArray[np.floating] | float) -> NDArray[np.float32]:
    """As a file of bfloat16 keeps it."""
    return np.asarray(values).astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
