"""An evaluator's work on the updates of a round over real sockets: what it may fetch, and who else may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from common.errors import Reason
from common.ids import Digest, SiteName
from common.rpc_errors import from_rpc_error
from common.terms import GateMetric, GateTerms
from common.tls import Role
from coordinator.adapters.rpc.operator_client import connect
from coordinator.domain import events as ev
from fedmedlora.v1 import admin_pb2, rounds_pb2, rounds_pb2_grpc
from tests.fakes.coordinator_rounds import PLUS_AGGREGATION
from tests.fakes.coordinator_served import Served, serving
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, EVALUATOR, SITES, make_terms
from tests.fakes.coordinator_world import World, coordinator
from tests.running import make_consortium


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path / "state") as world:
        gate = GateTerms(metric=GateMetric.NONE)
        await world.training(make_terms(aggregation=PLUS_AGGREGATION, gate=gate))
        yield world


@pytest.fixture
async def served(world: World, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(world, make_consortium(tmp_path / "consortium")) as served:
        yield served


def update_of(world: World, site: SiteName) -> Digest:
    update = world.entry(site).update
    assert update is not None
    return update.file.digest


async def fetched(stub: Any, digest: Digest) -> bytes:
    call = stub.DownloadAdapter(rounds_pb2.DownloadAdapterRequest(digest=digest))
    return b"".join([part.chunk.content async for part in call if part.WhichOneof("part") == "chunk"])


async def refusal(stub: Any, digest: Digest) -> Reason:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fetched(stub, digest)
    return from_rpc_error(caught.value).reason


async def test_an_evaluator_fetches_and_scores_one_update_after_the_other(world: World, served: Served) -> None:
    await world.answer(*SITES)
    updates = {update_of(world, site): world.honest_bytes(number) for number, site in enumerate(SITES)}
    async with served.channel(EVALUATOR, Role.EVALUATOR) as channel:
        stub: Any = rounds_pb2_grpc.RoundServiceStub(channel)
        scored = []
        for number in range(len(SITES)):
            assignment = (await stub.AwaitAssignment(rounds_pb2.AwaitAssignmentRequest())).assignment
            wanted = Digest(assignment.score.update.digest)
            others = set(updates) - {wanted}
            assert await fetched(stub, wanted) == updates[wanted]
            assert {await refusal(stub, other) for other in others} == {Reason.ADAPTER_UNKNOWN}
            scores = rounds_pb2.EvaluationScores(mean_loss=0.5 + number, num_examples=3, num_label_tokens=30)
            await stub.ReportEvaluation(
                rounds_pb2.ReportEvaluationRequest(assignment_id=assignment.assignment_id, scores=scores)
            )
            scored.append(wanted)
    assert sorted(scored) == sorted(updates)
    async with connect(served.address, served.consortium.identity("ops", Role.OPERATOR)) as client:
        report = (await client.get_run(world.run.run_id)).rounds[0]
    assert report.phase == admin_pb2.PHASE_AGGREGATING
    assert sorted(entry.validation_loss for entry in report.roster) == [0.5, 1.5, 2.5]


async def test_an_update_that_is_being_scored_can_be_fetched_while_an_operator_holds_the_run(
    world: World, served: Served
) -> None:
    await world.answer(*SITES)
    async with served.channel(EVALUATOR, Role.EVALUATOR) as channel:
        stub: Any = rounds_pb2_grpc.RoundServiceStub(channel)
        assignment = (await stub.AwaitAssignment(rounds_pb2.AwaitAssignmentRequest())).assignment
        await world.post(ev.PauseRequested(at=world.clock.now()))
        assert await fetched(stub, Digest(assignment.score.update.digest))


@pytest.mark.parametrize(
    ("name", "role"),
    [(BERTA, Role.SITE), (ANNA, Role.SITE), (SiteName("ops"), Role.OPERATOR)],
)
async def test_nobody_but_the_evaluator_at_work_on_it_may_fetch_an_update(
    world: World, served: Served, name: SiteName, role: Role
) -> None:
    await world.answer(*SITES)
    async with served.channel(name, role) as channel:
        stub: Any = rounds_pb2_grpc.RoundServiceStub(channel)
        assert {await refusal(stub, update_of(world, site)) for site in SITES} == {Reason.ADAPTER_UNKNOWN}


async def test_an_update_cannot_be_fetched_before_and_after_it_is_to_be_scored(world: World, served: Served) -> None:
    await world.answer(ANNA, BERTA)
    async with served.channel(EVALUATOR, Role.EVALUATOR) as channel:
        stub: Any = rounds_pb2_grpc.RoundServiceStub(channel)
        assert await refusal(stub, update_of(world, ANNA)) is Reason.ADAPTER_UNKNOWN
        await world.answer(CLARA)
        assignment = (await stub.AwaitAssignment(rounds_pb2.AwaitAssignmentRequest())).assignment
        scores = rounds_pb2.EvaluationScores(mean_loss=0.5, num_examples=3, num_label_tokens=30)
        await stub.ReportEvaluation(
            rounds_pb2.ReportEvaluationRequest(assignment_id=assignment.assignment_id, scores=scores)
        )
        assert await refusal(stub, Digest(assignment.score.update.digest)) is Reason.ADAPTER_UNKNOWN
