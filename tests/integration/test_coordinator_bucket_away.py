"""A coordinator with its files in a bucket: what its use cases make of a server that is away, and what a start says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from common.errors import NotFoundError, Reason, TransferBrokenError, UnavailableError
from common.ids import digest_of
from common.rpc_errors import from_rpc_error
from common.tls import Role
from coordinator.app import round_driver
from coordinator.domain.values import Phase
from fedmedlora.v1 import rounds_pb2, rounds_pb2_grpc
from tests.fakes.coordinator_bucket import opened_bucket, place
from tests.fakes.coordinator_served import serving
from tests.fakes.coordinator_values import ANNA, SITES
from tests.fakes.coordinator_world import World, coordinator, no_chunks, running, site_caller, until
from tests.running import Consortium, make_consortium
from tests.seaweed import SeaweedServer

START_SECONDS = 60.0


@pytest.fixture
async def world(seaweed: SeaweedServer, tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path, bucket=opened_bucket(seaweed, tmp_path)) as world:
        await world.training()
        yield world


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


async def test_an_update_that_could_not_be_kept_is_taken_later_without_a_byte_sent_again(
    world: World, seaweed: SeaweedServer
) -> None:
    content = world.honest_bytes(0)
    claim = world.claim(ANNA, content)
    seaweed.stop()
    try:
        with pytest.raises(UnavailableError) as away:
            await world.send(ANNA, content)
    finally:
        seaweed.start()
    assert (away.value.reason, away.value.retryable) == (Reason.STORE_AWAY, True)
    state = await world.intake.state(site_caller(ANNA), claim.assignment_id, claim.digest)
    assert (state.offset, state.is_accepted) == (len(content), False)

    async def nothing_more() -> AsyncIterator[Any]:
        return
        yield

    assert await world.intake.receive(site_caller(ANNA), claim, nothing_more()) == claim.digest
    assert await world.intake.receive(site_caller(ANNA), claim, no_chunks()) == claim.digest
    assert world.entry(ANNA).update is not None


async def test_a_round_whose_candidate_cannot_be_kept_waits_and_loses_nothing(
    world: World, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_driver, "RETRY_BASE_SECONDS", 0.0)
    await world.answer(*SITES)
    seaweed.stop()
    try:
        async with running(world.driver.perform_commands(world.performer.perform)):
            while len(world.observer.failures) < 2:
                await world.store.counted_until()  # the question itself lets others go on
            assert [past.phase for past in world.run.rounds] == [Phase.AGGREGATING]
            seaweed.start()
            await until(world, lambda run: run.rounds[0].phase is not Phase.AGGREGATING)
    finally:
        if seaweed.process is None:
            seaweed.start()
    assert [past.phase for past in world.run.rounds] == [Phase.EVALUATING]
    reasons = {getattr(error, "reason", None) for _, error in world.observer.failures}
    assert reasons == {Reason.STORE_AWAY}


@pytest.mark.parametrize("is_gone", [False, True], ids=["damaged", "gone"])
async def test_a_round_whose_update_is_damaged_or_gone_in_the_bucket_waits_until_it_is_put_back(
    world: World, seaweed: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    monkeypatch.setattr(round_driver, "RETRY_BASE_SECONDS", 0.0)
    await world.answer(*SITES)
    where, client = place(seaweed, tmp_path), seaweed.client()
    key = seaweed.keys(where.bucket, f"{where.prefix}updates/")[0]
    content = client.get_object(Bucket=where.bucket, Key=key)["Body"].read()
    for path in (tmp_path / "updates").iterdir():
        path.unlink()
    if is_gone:
        client.delete_object(Bucket=where.bucket, Key=key)
    else:
        client.put_object(Bucket=where.bucket, Key=key, Body=b"damaged")
    async with running(world.driver.perform_commands(world.performer.perform)):
        while len(world.observer.failures) < 2:
            await world.store.counted_until()
        assert [past.phase for past in world.run.rounds] == [Phase.AGGREGATING]
        client.put_object(Bucket=where.bucket, Key=key, Body=content)
        await until(world, lambda run: run.rounds[0].phase is not Phase.AGGREGATING)
    assert [past.phase for past in world.run.rounds] == [Phase.EVALUATING]
    assert {type(error) for _, error in world.observer.failures} == {
        FileNotFoundError if is_gone else TransferBrokenError
    }


async def test_a_reader_of_an_adapter_that_is_not_here_is_told_why(
    world: World, seaweed: SeaweedServer, consortium: Consortium
) -> None:
    world.blobs.adapter_path(world.base()).unlink()

    async def asked_for(digest: str) -> Any:
        async with served.channel(ANNA, Role.SITE) as channel:
            stub: Any = rounds_pb2_grpc.RoundServiceStub(channel)
            try:
                return [each async for each in stub.DownloadAdapter(rounds_pb2.DownloadAdapterRequest(digest=digest))]
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error)

    async with serving(world, consortium) as served:
        unknown = await asked_for(digest_of(b"no run's"))
        seaweed.stop()
        try:
            away = await asked_for(world.base())
        finally:
            seaweed.start()
        header, *chunks = await asked_for(world.base())
    assert (type(unknown), unknown.reason) == (NotFoundError, Reason.ADAPTER_UNKNOWN)
    assert (type(away), away.reason) == (UnavailableError, Reason.STORE_AWAY)
    content = b"".join(each.chunk.content for each in chunks)
    assert header.header.adapter.digest == digest_of(content) == world.base()


# A start


def started(folder: Path, consortium: Consortium, blobs: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """Start a coordinator, after ``program`` in its process, and wait for its end."""
    config = folder / "coordinator.toml"
    config.write_text(
        f'[coordinator]\nlisten = "127.0.0.1:0"\nstate_folder = "state"\n[metrics]\nlisten = ""\n[blobs]\n{blobs}\n'
        f'[identity]\nfolder = "{consortium.identity("coordinator", Role.COORDINATOR)}"\n'
    )
    program += (
        "\nimport sys; sys.argv[1:] = ['serve', '--config', sys.argv[1]]\nfrom coordinator.cli import main; main()"
    )
    command = [sys.executable, "-c", program, str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)


def test_a_coordinator_without_the_library_says_what_to_install(tmp_path: Path, consortium: Consortium) -> None:
    missing = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "botocore":
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Missing())
"""
    ended = started(tmp_path, consortium, 'bucket = "blobs"', missing)
    assert ended.returncode == 2
    assert ended.stderr == (
        "CONFIG_INVALID: blobs: a bucket needs the library botocore: pip install '.[coordinator,s3]'\n"
    )


def test_a_coordinator_whose_bucket_is_not_there_says_so_in_one_sentence(
    tmp_path: Path, consortium: Consortium, seaweed: SeaweedServer
) -> None:
    ended = started(tmp_path, consortium, f'bucket = "nowhere"\nendpoint = "{seaweed.endpoint}"')
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"CONFIG_INVALID: blobs: s3://nowhere/ at {seaweed.endpoint}: expected a bucket")
    assert ended.stderr.count("\n") == 1


def test_a_coordinator_with_another_database_does_not_take_a_bucket_over(
    tmp_path: Path, consortium: Consortium, seaweed: SeaweedServer
) -> None:
    opened_bucket(seaweed, tmp_path).claim("0" * 32)
    where = place(seaweed, tmp_path)
    blobs = f'bucket = "{where.bucket}"\nprefix = "{where.prefix}"\nendpoint = "{where.endpoint}"'
    ended = started(tmp_path, consortium, blobs)
    assert (ended.returncode, "belongs to another database" in ended.stderr) == (2, True)
