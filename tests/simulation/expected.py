"""What a version's weights must be, by the roster of every round up to it.

Computed here, by none of the services' code but that which writes a file of weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from common.adapter import A_SUFFIX, WireDtype
from common.ids import SiteName
from common.terms import AggregationTerms, Terms
from common.weights_io import write_weights
from tests.fakes.coordinator_rounds import PLUS_AGGREGATION
from tests.fakes.coordinator_values import ANNA, BERTA, make_round_terms, make_terms
from tests.simulation.agents import Notes

NOTES = {ANNA: Notes(step=0.5, num_label_tokens=100), BERTA: Notes(step=-1.75, num_label_tokens=300)}
# Who is in the aggregate of each round, from the first on.
Rosters = tuple[tuple[SiteName, ...], ...]
_WIDTH = 6


def terms_of(quorum: int, *, is_scored: bool = False) -> Terms:
    """Two rounds of two sites; no deadline but grace comes within the longest night.

    Every update is scored, if ``is_scored``, and to the evaluator one is as good as the other.
    """
    rounds = make_round_terms(count=2, quorum=quorum, sites=tuple(NOTES))
    month = 30 * 86_400.0
    return make_terms(
        rounds=type(rounds)(
            count=2, quorum=quorum, sites=rounds.sites, train_deadline=month, grace=100.0, evaluate_deadline=month
        ),
        aggregation=PLUS_AGGREGATION if is_scored else AggregationTerms(),
    )


@cache
def weights_file(rosters: Rosters, *, is_scored: bool) -> bytes:
    """The file of the version that the last one of ``rosters`` made."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        write_weights(path, _weights(rosters, is_scored), WireDtype.BF16)
        return path.read_bytes()


def _weights(rosters: Rosters, is_scored: bool) -> Mapping[str, NDArray[np.float32]]:
    if not rosters:
        return _first()
    before = _weights(rosters[:-1], is_scored)
    sites = [NOTES[site] for site in rosters[-1]]
    shares = [1 if is_scored else site.num_label_tokens for site in sites]
    return {
        name: _rounded(
            sum(
                share / sum(shares) * _rounded(value + np.float32(site.step)).astype(np.float64)
                for site, share in zip(sites, shares, strict=True)
            )
        )
        for name, value in before.items()
    }


def _first() -> Mapping[str, NDArray[np.float32]]:
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
