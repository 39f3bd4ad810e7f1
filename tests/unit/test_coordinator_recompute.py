"""Each strategy's aggregates can be computed again from a release; a coordinator that aggregated otherwise is found.

The strategies come from the registry, so that a new one is tested without being named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.adapter import WireDtype
from common.terms import GateMetric, GateTerms, OnRejection, Terms
from common.weights_io import WeightsReader, WeightsWriter
from coordinator.app import perform_commands
from coordinator.app.aggregate_round import Aggregate, RoundFiles, aggregate
from coordinator.domain.aggregation import STRATEGIES
from coordinator.domain.aggregation.strategy import Need, StatefulStrategy
from coordinator.domain.values import AdapterFile, RosterEntry, Run
from coordinator.domain.verify import Problem
from tests.fakes.coordinator_strategies import aggregation_of, strategy_named
from tests.fakes.coordinator_values import ANNA, BERTA
from tests.fakes.releases import checked, forge, release_terms, released
from tests.fakes.signing import Signers

LYING_ROUND = 2
WITH_LINEAR_ALGEBRA = sorted(name for name in STRATEGIES if not strategy_named(name).is_elementwise)
BY_GEOMETRY = sorted(name for name in STRATEGIES if Need.GEOMETRY in strategy_named(name).needs)
OF_MIXED_RANKS = sorted(name for name in STRATEGIES if Need.EQUAL_RANKS not in strategy_named(name).needs)
WITH_STATE = sorted(name for name in STRATEGIES if isinstance(strategy_named(name), StatefulStrategy))


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("signers"))


def terms_of(name: str, dtype: WireDtype = WireDtype.BF16, count: int = 3, **aggregation: Any) -> Terms:
    made = release_terms(replace(aggregation_of(name), wire_dtype=dtype, **aggregation), count=count)
    return replace(made, rounds=replace(made.rounds, quorum=max(2, strategy_named(name).least_updates)))


def lying(run: Run, accepted: Sequence[RosterEntry], files: RoundFiles, out: Path, state_out: Path) -> Aggregate:
    """An aggregate of which, in one round, a single number is the next one that the dtype has, or 0.1 % larger."""
    honest = aggregate(run, accepted, files, out, state_out)
    if len(run.rounds) != LYING_ROUND:
        return honest
    spec = run.spec_of(honest.candidate)
    with WeightsReader(out) as reader:
        tensors = {tensor.name: reader.tensor(tensor.name) for tensor in spec.tensors}
    # B of the first module; while B is zero because it stays at the sites, A, which no product would show.
    changed = spec.names[0] if not any(tensors[name].any() for name in spec.names[1::2]) else spec.names[1]
    place = np.unravel_index(np.argmax(np.abs(tensors[changed])), tensors[changed].shape)
    tensors[changed][place] *= 1 + (2**-7 if spec.dtype is WireDtype.BF16 else 2**-10)
    with WeightsWriter(out, spec.tensors, spec.dtype) as writer:
        for name, values in tensors.items():
            writer.write(name, values)
    assert writer.digest != honest.candidate.digest, "the lie is one"
    return replace(honest, candidate=AdapterFile(digest=writer.digest, size_bytes=writer.size_bytes))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
async def test_each_honest_round_is_computed_again_and_the_one_that_was_not_is_found(
    tmp_path: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(perform_commands, "aggregate", lying)
    dtype = WireDtype.F32 if name in WITH_LINEAR_ALGEBRA else WireDtype.BF16
    folder = await released(tmp_path, signers, terms_of(name, dtype, count=4))
    found = checked(folder, signers)
    assert found.recomputed == (1, 3, 4), found.findings
    assert [(each.problem, each.about) for each in found.findings] == [(Problem.AGGREGATE_DIFFERS, "round 2")]
    assert found.findings[0].file.startswith("adapters/")


@pytest.mark.parametrize("name", WITH_LINEAR_ALGEBRA)
async def test_what_travels_in_bfloat16_is_computed_again_as_nearly_as_that_allows(
    tmp_path: Path, signers: Signers, name: str
) -> None:
    found = checked(await released(tmp_path, signers, terms_of(name)), signers)
    assert (found.findings, found.recomputed) == ((), (1, 2, 3))


@pytest.mark.parametrize("name", OF_MIXED_RANKS)
async def test_a_run_of_sites_of_several_ranks_is_computed_again(tmp_path: Path, signers: Signers, name: str) -> None:
    terms = terms_of(name, WireDtype.F32, count=2)
    terms = replace(terms, lora=replace(terms.lora, lora_rank=4, least_lora_rank=1))
    folder = await released(tmp_path, signers, terms, max_lora_ranks={ANNA: 1, BERTA: 3})
    found = checked(folder, signers)
    assert (found.findings, found.recomputed) == ((), (1, 2))

    def another_part(document: dict[str, Any]) -> None:
        document["run"]["rounds"][1]["parts"][0]["file"]["digest"] = "sha256:" + "0" * 64

    forge(folder, signers, another_part)
    assert any("round 2" in each.about for each in checked(folder, signers).findings)


@pytest.mark.parametrize("name", ["fed_medlora", "lora_fair"])  # beside whatever the strategy, by the same code
async def test_momentum_is_computed_again(tmp_path: Path, signers: Signers, name: str) -> None:
    found = checked(await released(tmp_path, signers, terms_of(name, server_momentum=0.5)), signers)
    assert (found.findings, found.recomputed) == ((), (1, 2, 3))


@pytest.mark.parametrize("name", WITH_STATE)
async def test_what_a_strategy_keeps_is_computed_again_along_the_rounds_that_it_went_on_from(
    tmp_path: Path, signers: Signers, name: str
) -> None:
    gate = GateTerms(metric=GateMetric.STRICT_F1, on_rejection=OnRejection.REVERT)
    terms = replace(terms_of(name), gate=gate)
    folder = await released(tmp_path, signers, terms, f1_tenths=(5, 2, 8))
    found = checked(folder, signers)
    assert (found.findings, found.recomputed) == ((), (1, 2, 3))

    def another_state(document: dict[str, Any]) -> None:
        document["run"]["rounds"][0]["state"]["digest"] = "sha256:" + "0" * 64

    forge(folder, signers, another_state)
    findings = checked(folder, signers).findings
    assert (Problem.AGGREGATE_DIFFERS, "round 1") in {(each.problem, each.about) for each in findings}


@pytest.mark.parametrize("name", BY_GEOMETRY)
async def test_weights_by_geometry_that_are_not_the_strategys_are_found(
    tmp_path: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The coordinator favours a site, says so in the roster, and combines by it."""

    def favouring(run: Run, accepted: Sequence[RosterEntry], files: RoundFiles, out: Path, state: Path) -> Aggregate:
        return aggregate(run, accepted, files, out, state, weights=[0.5, 0.3, 0.2])

    monkeypatch.setattr(perform_commands, "aggregate", favouring)
    found = checked(await released(tmp_path, signers, terms_of(name, count=1)), signers)
    (finding,) = found.findings
    assert (finding.problem, "expected a weight of" in finding.detail) == (Problem.AGGREGATE_DIFFERS, True)


async def test_last_digits_of_weights_that_differ_by_machine_change_no_bit(
    tmp_path: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exponential of another library is off by a digit; the adapter follows from the weights in the record."""

    def elsewhere(run: Run, accepted: Sequence[RosterEntry], files: RoundFiles, out: Path, state: Path) -> Aggregate:
        here = aggregate(run, accepted, files, out, state).weights
        return aggregate(run, accepted, files, out, state, weights=[weight * (1 + 1e-14) for _, weight in here])

    monkeypatch.setattr(perform_commands, "aggregate", elsewhere)
    found = checked(await released(tmp_path, signers, terms_of("fed_medlora_plus", WireDtype.F32)), signers)
    assert (found.findings, found.recomputed) == ((), (1, 2, 3))
