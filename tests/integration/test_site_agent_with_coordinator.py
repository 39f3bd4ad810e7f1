"""The real coordinator's process and real agents, with tiny trainers: a whole run, and the adapter at its end."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.ids import RunId
from common.strategy_terms import FedMedLoraPlusTerms
from common.terms import AggregationTerms, GateMetric, GateTerms, RoundTerms, Terms
from common.tls import Role
from common.weights_io import WeightsReader
from coordinator.adapters.rpc.operator_client import connect
from fedmedlora.v1 import admin_pb2
from tests.fakes.site import FakeSite
from tests.fakes.site_values import make_terms
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
