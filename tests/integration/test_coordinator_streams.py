"""Streams of the real server over real sockets: what bounds them, how they end, and what is counted of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.chunks import chunk_ranges
from common.errors import FedMedError, OverloadedError, Reason, TransferBrokenError, UnavailableError
from common.ids import digest_of
from common.rpc_errors import from_rpc_error
from common.tls import Role
from coordinator.adapters.rpc.interceptor import MAX_OPEN_CALLS
from coordinator.adapters.rpc.operator_client import connect
from coordinator.domain.values import RunState
from fedmedlora.v1 import admin_pb2, admin_pb2_grpc, rounds_pb2, rounds_pb2_grpc, types_pb2
from tests.fakes.coordinator_served import Served, serving
from tests.fakes.coordinator_values import ANNA
from tests.fakes.coordinator_world import HANG_SECONDS, World, coordinator
from tests.running import Consortium, make_consortium

BIG_FILE = bytes(30_000_000)  # more than gRPC and the kernel take before a reader must read
PROGRESS_SECONDS = 0.2


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
    async with serving(world, consortium, stream_progress_seconds=PROGRESS_SECONDS) as served:
        yield served


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            if happened():
                return
            await asyncio.sleep(0)


async def error_of(call: Any) -> FedMedError:
    """What the rest of a stream ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    return from_rpc_error(caught.value)


# What bounds a stream


async def test_a_reader_that_stops_reading_is_let_go_and_told_so(world: World, served: Served) -> None:
    digest = digest_of(BIG_FILE)
    world.blobs.adapter_path(digest).write_bytes(BIG_FILE)
    async with served.channel(ANNA, Role.SITE) as channel:
        stub: Any = rounds_pb2_grpc.RoundServiceStub(channel)
        call = stub.DownloadAdapter(rounds_pb2.DownloadAdapterRequest(digest=digest))
        assert (await call.read()).header.adapter.size_bytes == len(BIG_FILE)
        await until(lambda: served.counted("fedmed_rpcs_total", rpc="DownloadAdapter", code="ABORTED"))
        assert world.blobs.adapter_path(digest) not in open_files()
        error = await error_of(call)
    assert (type(error), error.reason) == (TransferBrokenError, Reason.STREAM_TOO_SLOW)


def open_files() -> set[Path]:
    links = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return {link.readlink() for link in links}


@pytest.mark.parametrize("rpc", ["WatchRun", "AwaitAssignment"])
async def test_one_open_call_too_many_is_refused_and_let_in_when_another_has_ended(
    world: World, served: Served, rpc: str
) -> None:
    run, wanted = world.run.run_id, world.assignment(ANNA).assignment_id
    async with (
        served.channel("ops", Role.OPERATOR) as operators,
        served.channel(ANNA, Role.SITE) as sites,
    ):
        admin: Any = admin_pb2_grpc.AdminServiceStub(operators)
        rounds: Any = rounds_pb2_grpc.RoundServiceStub(sites)

        def call() -> Any:
            if rpc == "WatchRun":
                return admin.WatchRun(admin_pb2.WatchRunRequest(run=run))
            return rounds.AwaitAssignment(rounds_pb2.AwaitAssignmentRequest(current_assignment_id=wanted))

        def is_refused() -> bool:
            return served.counted("fedmed_refusals_total", reason="TOO_MANY_STREAMS") == 1

        calls = [call() for _ in range(MAX_OPEN_CALLS + 1)]
        await until(is_refused)
        await until(lambda: any(each.done() for each in calls))
        (refused,) = [each for each in calls if each.done()]
        trailers = await refused.trailing_metadata()
        meant = from_rpc_error(grpc.aio.AioRpcError(await refused.code(), grpc.aio.Metadata(), trailers))
        assert (type(meant), meant.reason) == (OverloadedError, Reason.TOO_MANY_STREAMS)
        next(each for each in calls if not each.done()).cancel()
        await until(lambda: served.counted("fedmed_rpcs_total", rpc=rpc, code="CANCELLED"))
        again = call()
        await world.abort()
        if rpc == "WatchRun":
            assert (await again.read()).run.summary.run_id == run
        else:
            assert (await again).cancel.assignment_id == wanted


# How a stream ends


async def test_a_watcher_is_told_that_the_coordinator_stops(world: World, served: Served) -> None:
    seen: list[int] = []
    with pytest.raises(UnavailableError) as caught:
        async with connect(served.address, served.consortium.identity("ops", Role.OPERATOR)) as client:
            async for report in client.watch_run(world.run.run_id):
                seen.append(report.summary.state)
                world.driver.stop()
    assert caught.value.reason is Reason.PEER_AWAY and "stopping" in caught.value.message
    assert set(seen) == {admin_pb2.RUN_STATE_RUNNING}


async def test_a_watcher_sees_the_end_of_a_run(world: World, served: Served) -> None:
    states: list[int] = []
    async with connect(served.address, served.consortium.identity("ops", Role.OPERATOR)) as client:
        async for report in client.watch_run(world.run.run_id):
            states.append(report.summary.state)
            if len(states) == 1:
                await world.abort()
    assert states == [admin_pb2.RUN_STATE_RUNNING, admin_pb2.RUN_STATE_ABORTED]


async def test_health_can_be_watched(served: Served) -> None:
    async with served.channel(ANNA, Role.SITE) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        call.cancel()
        await until(lambda: served.counted("fedmed_rpcs_total", rpc="Watch", code="CANCELLED") == 1)


async def test_a_call_that_ends_with_a_status_of_grpcs_own_is_counted(served: Served) -> None:
    async with served.channel(ANNA, Role.SITE) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Check(health_pb2.HealthCheckRequest(service="no such service"))
    assert served.counted("fedmed_rpcs_total", rpc="Check", code="NOT_FOUND") == 1


async def test_a_run_is_aborted_once_and_said_to_be_aborted_again(world: World, served: Served) -> None:
    async with connect(served.address, served.consortium.identity("ops", Role.OPERATOR)) as client:
        await client.abort_run(world.run.run_id)
        await client.abort_run(world.run.run_id)
    assert world.run.state is RunState.ABORTED


# What is counted


class Tally:
    """Payload of the messages that a client sent and received, by rpc."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}
        self.received: dict[str, int] = {}

    def out(self, rpc: str, message: Message) -> Any:
        self.sent[rpc] = self.sent.get(rpc, 0) + message.ByteSize()
        return message

    def back(self, rpc: str, message: Message) -> Any:
        self.received[rpc] = self.received.get(rpc, 0) + message.ByteSize()
        return message


async def take_part(served: Served, world: World, tally: Tally) -> None:
    """Be anna in one round: poll, download, report progress, upload."""
    content = world.honest_bytes(1)
    async with served.channel(ANNA, Role.SITE) as channel:
        stub: Any = rounds_pb2_grpc.RoundServiceStub(channel)
        poll = tally.out("AwaitAssignment", rounds_pb2.AwaitAssignmentRequest())
        assignment = tally.back("AwaitAssignment", await stub.AwaitAssignment(poll)).assignment
        wanted, adapter = assignment.assignment_id, assignment.train.global_adapter
        async for part in stub.DownloadAdapter(
            tally.out("DownloadAdapter", rounds_pb2.DownloadAdapterRequest(digest=adapter.digest))
        ):
            tally.back("DownloadAdapter", part)
        progress = rounds_pb2.ReportProgressRequest(assignment_id=wanted, stage=rounds_pb2.TRAINER_STAGE_TRAINING)
        tally.back("ReportProgress", await stub.ReportProgress(tally.out("ReportProgress", progress)))
        update = rounds_pb2.TrainedUpdate(base_digest=adapter.digest, num_examples=10, num_label_tokens=100)
        header = rounds_pb2.UploadHeader(
            assignment_id=wanted, digest=digest_of(content), size_bytes=len(content), trained=update
        )
        messages = [rounds_pb2.UploadUpdateRequest(header=header)]
        for start, length in chunk_ranges(len(content), 0):
            chunk = types_pb2.Chunk(offset=start, content=content[start : start + length])
            messages.append(rounds_pb2.UploadUpdateRequest(chunk=chunk))
        sent = [tally.out("UploadUpdate", message) for message in messages]
        tally.back("UploadUpdate", await stub.UploadUpdate(iter(sent)))


async def test_every_message_of_every_rpc_is_counted(world: World, served: Served) -> None:
    tally = Tally()
    await take_part(served, world, tally)
    for rpc in ("AwaitAssignment", "DownloadAdapter", "ReportProgress", "UploadUpdate"):
        assert served.counted("fedmed_received_bytes_total", rpc=rpc) == tally.sent.get(rpc, 0)
        assert served.counted("fedmed_sent_bytes_total", rpc=rpc) == tally.received.get(rpc, 0)
        assert served.counted("fedmed_rpcs_total", rpc=rpc, code="OK") == 1


async def test_the_roster_counts_what_a_site_and_the_coordinator_sent_each_other(world: World, served: Served) -> None:
    tally = Tally()
    await take_part(served, world, tally)
    async with connect(served.address, served.consortium.identity("ops", Role.OPERATOR)) as client:
        report = await client.get_run(world.run.run_id)
    (anna,) = [entry for entry in report.rounds[-1].roster if entry.site == ANNA]
    assert anna.upload_bytes == tally.sent["UploadUpdate"] + tally.sent["ReportProgress"]
    assert anna.download_bytes == tally.received["AwaitAssignment"] + tally.received["DownloadAdapter"]
