"""The real coordinator's process and real agents, with tiny trainers: a whole run, and the adapter at its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.adapter import A_SUFFIX, B_SUFFIX, MAX_LORA_RANK
from common.ids import RunId
from common.strategy_terms import FedExLoraTerms, FedMedLoraPlusTerms, FedSaLoraTerms
from common.terms import AggregationTerms, GateMetric, GateTerms, RoundTerms, Terms
from common.tls import Role
from common.weights_io import WeightsReader
from coordinator.adapters.rpc.operator_client import connect
from fedmedlora.v1 import admin_pb2
from tests.fakes.site import FakeSite
from tests.fakes.site_values import EVERY_KIND, make_terms
from tests.fakes.tiny_trainer import NUM_EXAMPLES, STEP
from tests.running import make_consortium, running_coordinator

ROUNDS = 2


def run_terms() -> Terms:
    return replace(
        make_terms("whole"),
        rounds=RoundTerms(count=ROUNDS, quorum=2, sites=("anna", "berta"), grace=5.0),
        gate=GateTerms(metric=GateMetric.STRICT_F1),
    )


PLUS = AggregationTerms(strategy="fed_medlora_plus", fed_medlora_plus=FedMedLoraPlusTerms())


async def play(folder: Path, terms: Terms, max_lora_ranks: Mapping[str, int]) -> tuple[admin_pb2.RunReport, Path]:
    """A whole run of two sites and an evaluator; returns what is said of it, and the coordinator's folder."""
    consortium = make_consortium(folder / "consortium")
    members = [("anna", Role.SITE), ("berta", Role.SITE), ("eva", Role.EVALUATOR)]
    operator = consortium.identity("ops", Role.OPERATOR)
    with running_coordinator(consortium) as coordinator:
        async with contextlib.AsyncExitStack() as stack:
            for name, role in members:
                site = FakeSite(state_folder=folder / name, consortium=consortium, name=name, role=role)
                policy = replace(EVERY_KIND, max_lora_rank=max_lora_ranks.get(name, MAX_LORA_RANK))
                await stack.enter_async_context(site.agent(coordinator.port, policy=policy))
            client = await stack.enter_async_context(connect(coordinator.address, operator))
            run_id = (await client.create_run(terms)).run_id
            async with asyncio.timeout(90):
                report = [each async for each in client.watch_run(RunId(run_id))][-1]
    assert report.summary.state == admin_pb2.RUN_STATE_COMPLETED
    return report, coordinator.state


def tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    with WeightsReader(path) as reader:
        return {slot.name: reader.tensor(slot.name) for slot in reader.layout.tensors}


async def test_sites_of_two_ranks_train_beside_what_they_do_not_train(tmp_path: Path) -> None:
    published = 9
    terms = replace(
        run_terms(),
        aggregation=AggregationTerms(strategy="fedex_lora", fedex_lora=FedExLoraTerms(published_rank=published)),
        lora=replace(run_terms().lora, least_lora_rank=1),
    )
    report, state = await play(tmp_path, terms, {"anna": 1})
    served = tensors(state / report.served_folder / "adapter_model.safetensors")
    assert {one.shape[0] for name, one in served.items() if name.endswith(A_SUFFIX)} == {published}
    ranks, sides = [], []
    for name in ("anna", "berta"):
        entries = [json.loads(path.read_bytes()) for path in (tmp_path / name).glob("assignments/*/assignment.json")]
        work = [entry["assignment"]["work"] for entry in entries]
        ranks.append({one["adapter_spec"]["lora_rank"] for one in work})
        sides.append(sorted(one["side"][1]["lora_rank"] for one in work if one["side"]))
    lora_rank = terms.lora.lora_rank
    assert ranks == [{1}, {lora_rank}]
    # In the first round the global adapter has the run's rank alone, so that a site of that rank has nothing beside it.
    assert sides == [[lora_rank - 1, published - 1], [published - lora_rank]]


async def test_sites_keep_a_factor_of_their_own_until_the_last_round(tmp_path: Path) -> None:
    terms = replace(run_terms(), aggregation=AggregationTerms(strategy="fedsa_lora", fedsa_lora=FedSaLoraTerms()))
    report, state = await play(tmp_path, terms, {})
    assert [past.HasField("scores") for past in report.rounds] == [False, True]
    assert report.served_version == ROUNDS
    served = tensors(state / report.served_folder / "adapter_model.safetensors")
    before = tensors(state / "registry" / terms.name / "v0001" / "adapter_model.safetensors")
    for name, values in served.items():
        is_own = name.endswith(B_SUFFIX)
        # B was trained in both rounds, although the first one's stayed at its site.
        assert np.unique(values).tolist() == [ROUNDS * STEP + (0 if is_own else 0.25)]
        assert np.unique(before[name]).tolist() == [0 if is_own else 0.25 + STEP]
    for site in ("anna", "berta"):
        kept = sorted((tmp_path / site / "personal").glob("*/*.safetensors"))
        assert [path.stem for path in kept] == ["00001", "00002"]
        assert all(name.endswith(B_SUFFIX) for path in kept for name in tensors(path))


@pytest.mark.parametrize(("aggregation", "scorings"), [(AggregationTerms(), 0), (PLUS, 2)])
async def test_two_sites_and_an_evaluator_carry_a_run_to_its_end(
    tmp_path: Path, aggregation: AggregationTerms, scorings: int
) -> None:
    consortium = make_consortium(tmp_path / "consortium")
    members = [("anna", Role.SITE), ("berta", Role.SITE), ("eva", Role.EVALUATOR)]
    sites = [
        FakeSite(state_folder=tmp_path / name, consortium=consortium, name=name, role=role) for name, role in members
    ]
    operator = consortium.identity("ops", Role.OPERATOR)
    with running_coordinator(consortium) as coordinator:
        async with contextlib.AsyncExitStack() as stack:
            for site in sites:
                await stack.enter_async_context(site.agent(coordinator.port))
            client = await stack.enter_async_context(connect(coordinator.address, operator))
            run_id = (await client.create_run(replace(run_terms(), aggregation=aggregation))).run_id
            async with asyncio.timeout(90):
                report = [each async for each in client.watch_run(RunId(run_id))][-1]
    assert report.summary.state == admin_pb2.RUN_STATE_COMPLETED
    assert [site.trainer_starts for site in sites] == [ROUNDS, ROUNDS, ROUNDS * (1 + scorings) + 1]
    for past in report.rounds:
        assert [(entry.outcome, entry.num_examples, entry.weight) for entry in past.roster] == [
            (admin_pb2.SITE_OUTCOME_ACCEPTED, NUM_EXAMPLES, 0.5)
        ] * 2
        assert sum(entry.HasField("validation_loss") for entry in past.roster) == scorings
        assert (past.scores.strict.true_positives, past.is_subset) == (3, False)
    served = coordinator.state / report.served_folder / "adapter_model.safetensors"
    with WeightsReader(served) as reader:
        values = {slot.name: np.unique(reader.tensor(slot.name)).tolist() for slot in reader.layout.tensors}
    # The tiny trainer begins with A = 0.25, B = 0, and raises both by STEP a round.
    assert {name: value for name, value in values.items() if "lora_A" in name}.popitem()[1] == [0.25 + ROUNDS * STEP]
    assert {name: value for name, value in values.items() if "lora_B" in name}.popitem()[1] == [ROUNDS * STEP]
