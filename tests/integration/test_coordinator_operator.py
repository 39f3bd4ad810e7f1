"""What an operator does to a run's time, over real sockets: hold it, let it go on, give it more time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import grpc.aio
import pytest

from common.errors import FedMedError, Reason
from common.rpc_errors import from_rpc_error, reason_to_proto
from common.tls import Role
from coordinator.adapters.rpc.operator_client import OperatorClient, connect
from coordinator.app.poll import live_assignment
from fedmedlora.v1 import admin_pb2, admin_pb2_grpc, rounds_pb2, rounds_pb2_grpc
from tests.fakes.coordinator_served import Served, serving
from tests.fakes.coordinator_values import ANNA
from tests.fakes.coordinator_world import World, coordinator, site_caller
from tests.running import Consortium, make_consortium


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        await world.training()
        yield world


@pytest.fixture
async def served(world: World, consortium: Consortium) -> AsyncIterator[Served]:
    async with serving(world, consortium) as served:
        yield served


@pytest.fixture
async def operator(served: Served) -> AsyncIterator[OperatorClient]:
    async with connect(served.address, served.consortium.identity("ops", Role.OPERATOR)) as client:
        yield client


def instants(deadlines: list[admin_pb2.Deadline]) -> dict[str, datetime]:
    return {deadline.name: deadline.at.ToDatetime() for deadline in deadlines}


async def test_a_report_says_what_the_run_waits_for(world: World, operator: OperatorClient) -> None:
    report = await operator.get_run("trial")
    ends_at = world.clock.now() + timedelta(seconds=1000)
    assert instants(list(report.deadlines)) == {"train_deadline": ends_at.replace(tzinfo=None)}


async def test_a_paused_run_says_so_waits_for_nothing_and_hands_nothing_out(
    world: World, served: Served, operator: OperatorClient
) -> None:
    await operator.pause_run("trial")
    await operator.pause_run("trial")
    report = await operator.get_run("trial")
    assert (report.summary.is_paused, list(report.deadlines)) == (True, [])
    assert live_assignment(world.driver.runs, site_caller(ANNA)) is None
    async with served.channel(ANNA, Role.SITE) as channel:
        stub = rounds_pb2_grpc.RoundServiceStub(channel)
        poll = stub.AwaitAssignment(rounds_pb2.AwaitAssignmentRequest())
        await operator.resume_run("trial")
        answer = await poll
    assert answer.assignment.assignment_id == world.assignment(ANNA).assignment_id
    assert not (await operator.get_run("trial")).summary.is_paused


async def test_who_works_on_an_assignment_of_a_paused_run_is_not_told_to_stop(
    world: World, served: Served, operator: OperatorClient
) -> None:
    wanted = world.assignment(ANNA).assignment_id
    await operator.pause_run("trial")
    async with served.channel(ANNA, Role.SITE) as channel:
        stub = rounds_pb2_grpc.RoundServiceStub(channel)
        poll = stub.AwaitAssignment(rounds_pb2.AwaitAssignmentRequest(current_assignment_id=wanted))
        await world.answer(ANNA)
        assert (await poll).cancel.reason == reason_to_proto(Reason.ALREADY_ANSWERED)
    assert world.entry(ANNA).update is not None


async def test_an_extension_gives_time_and_says_how_much_there_is(world: World, operator: OperatorClient) -> None:
    given = await operator.extend_deadline("trial", 7200)
    again = await operator.extend_deadline("trial", 7200)
    ends_at = (world.clock.now() + timedelta(hours=2)).replace(tzinfo=None)
    assert instants(given) == instants(again) == {"train_deadline": ends_at}
    world.clock.advance(1001)
    await world.driver.fire_deadlines()
    assert world.run.state.is_open


@pytest.mark.parametrize("seconds", [0, 30 * 86_400 + 1, 2**62], ids=["none", "more than a month", "for ever"])
async def test_an_extension_by_too_little_or_too_much_is_refused(served: Served, seconds: int) -> None:
    request = admin_pb2.ExtendDeadlineRequest(run="trial")
    request.time_left.seconds = seconds
    assert await refusal_of(served, request) is Reason.FIELD_INVALID


async def test_an_extension_by_nothing_is_refused(served: Served) -> None:
    assert await refusal_of(served, admin_pb2.ExtendDeadlineRequest(run="trial")) is Reason.FIELD_MISSING


async def refusal_of(served: Served, request: admin_pb2.ExtendDeadlineRequest) -> Reason:
    async with served.channel("ops", Role.OPERATOR) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await admin_pb2_grpc.AdminServiceStub(channel).ExtendDeadline(request)
    return from_rpc_error(refused.value).reason


async def test_a_run_that_has_ended_is_neither_held_nor_extended(world: World, served: Served) -> None:
    await world.abort()
    identity = served.consortium.identity("ops", Role.OPERATOR)
    asks: list[Callable[[OperatorClient], Awaitable[object]]] = [
        lambda client: client.pause_run("trial"),
        lambda client: client.resume_run("trial"),
        lambda client: client.extend_deadline("trial", 60),
    ]
    for ask in asks:
        with pytest.raises(FedMedError) as refused:
            async with connect(served.address, identity) as client:
                await ask(client)
        assert refused.value.reason is Reason.RUN_ENDED
