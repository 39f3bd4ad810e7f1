"""Uploads that break off, go on, collide, or meet a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import (
    OverloadedError,
    Reason,
    TransferBrokenError,
    UpdateRefusedError,
)
from coordinator.app.update_intake import ReceivedChunk
from coordinator.domain.values import Phase, SiteOutcome
from tests.fakes.coordinator_updates import chunks_of
from tests.fakes.coordinator_values import ANNA, SITES
from tests.fakes.coordinator_world import (
    World,
    coordinator,
    no_chunks,
    refusal,
    site_caller,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


@pytest.fixture
async def training(world: World) -> World:
    await world.training()
    return world


async def test_a_stream_that_ends_early_keeps_what_arrived_and_goes_on_from_there(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    error = await refusal(training, ANNA, claim, chunks_of(content[:100], chunk_bytes=30))
    assert (type(error), error.reason) == (TransferBrokenError, Reason.STREAM_ENDED_EARLY)
    state = await training.intake.state(site_caller(ANNA), claim.assignment_id, claim.digest)
    assert (state.offset, state.is_accepted) == (100, False)
    await training.intake.receive(site_caller(ANNA), claim, chunks_of(content, offset=state.offset))
    assert training.blobs.update_path(claim.assignment_id).read_bytes() == content


async def test_a_half_upload_resumes_in_the_next_life(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        content = world.honest_bytes(1)
        claim = world.claim(ANNA, content)
        await refusal(world, ANNA, claim, chunks_of(content[:100]))
    async with coordinator(tmp_path) as world:
        state = await world.intake.state(site_caller(ANNA), claim.assignment_id, claim.digest)
        assert state.offset == 100
        await world.intake.receive(site_caller(ANNA), claim, chunks_of(content, offset=100))
        assert world.entry(ANNA).outcome is SiteOutcome.ACCEPTED


async def test_everything_having_arrived_only_the_check_is_left_to_do(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)

    async def whole_and_then_cut() -> AsyncIterator[ReceivedChunk]:
        async for chunk in chunks_of(content):
            yield chunk
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await training.intake.receive(site_caller(ANNA), claim, whole_and_then_cut())
    await training.intake.receive(site_caller(ANNA), claim, chunks_of(b""))
    assert training.entry(ANNA).outcome is SiteOutcome.ACCEPTED


async def test_a_whole_file_under_a_smaller_size_is_refused(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    assert claim.update is not None
    larger = replace(claim, size_bytes=len(content) + 1)
    await refusal(training, ANNA, larger, chunks_of(content))
    smaller = replace(claim, size_bytes=99, update=replace(claim.update, size_bytes=99))
    error = await refusal(training, ANNA, smaller, chunks_of(b""))
    assert (type(error), error.reason) == (UpdateRefusedError, Reason.UPDATE_TOO_LARGE)
    assert (training.update_files(), training.entry(ANNA).update) == ([], None)


async def test_a_cancelled_stream_keeps_what_arrived(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    hung = asyncio.Event()

    async def then_hang() -> AsyncIterator[ReceivedChunk]:
        async for chunk in chunks_of(content[:100]):
            yield chunk
        hung.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(training.intake.receive(site_caller(ANNA), claim, then_hang()))
    await hung.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert (await training.intake.state(site_caller(ANNA), claim.assignment_id, claim.digest)).offset == 100
    await training.intake.receive(site_caller(ANNA), claim, chunks_of(content, offset=100))


@pytest.mark.parametrize("offset", [0, 99, 101])
async def test_a_chunk_at_another_offset_is_a_broken_transfer_and_keeps_what_arrived(
    training: World, offset: int
) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    await refusal(training, ANNA, claim, chunks_of(content[:100]))
    error = await refusal(training, ANNA, claim, chunks_of(content, offset=offset))
    assert (type(error), error.reason, error.retryable) == (TransferBrokenError, Reason.OFFSET_DIFFERS, True)
    assert (await training.intake.state(site_caller(ANNA), claim.assignment_id, claim.digest)).offset == 100
    assert training.entry(ANNA).outcome is SiteOutcome.INVITED


async def test_bytes_that_differ_from_their_digest_are_forgotten_and_may_be_sent_again(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    error = await refusal(training, ANNA, claim, chunks_of(damaged))
    assert (type(error), error.reason) == (TransferBrokenError, Reason.DIGEST_DIFFERS)
    assert training.update_files() == []
    await training.intake.receive(site_caller(ANNA), claim, chunks_of(content))
    assert training.entry(ANNA).outcome is SiteOutcome.ACCEPTED


async def test_beginning_another_file_forgets_the_one_begun_before(training: World) -> None:
    for seed in range(3):
        content = training.honest_bytes(seed)
        await refusal(training, ANNA, training.claim(ANNA, content), chunks_of(content[:100]))
    claim = training.claim(ANNA, training.honest_bytes(2))
    wanted = claim.digest.removeprefix("sha256:")
    assert training.update_files() == [f"{claim.assignment_id}.{wanted}.part"]


async def test_two_streams_of_one_assignment_at_once_are_one_too_many(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)

    async def with_a_second_stream_inside() -> AsyncIterator[ReceivedChunk]:
        error = await refusal(training, ANNA, claim, no_chunks())
        assert (type(error), error.reason) == (OverloadedError, Reason.TOO_MANY_STREAMS)
        async for chunk in chunks_of(content):
            yield chunk

    await training.intake.receive(site_caller(ANNA), claim, with_a_second_stream_inside())
    assert training.entry(ANNA).outcome is SiteOutcome.ACCEPTED


async def test_updates_of_several_sites_arrive_at_once(training: World) -> None:
    async with asyncio.TaskGroup() as group:
        for number, site in enumerate(SITES):
            group.create_task(training.send(site, training.honest_bytes(number)))
    assert training.round.phase is Phase.AGGREGATING


# The disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_full_disk_is_an_overload_and_what_was_kept_stays(
    training: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    write = os.pwrite

    def full_after_120_bytes(handle: int, part: bytes, offset: int) -> int:
        room = 120 - offset
        if room <= 0:
            raise OSError(number, os.strerror(number))
        return write(handle, part[:room], offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full_after_120_bytes)
        error = await refusal(training, ANNA, claim, chunks_of(content, chunk_bytes=50))
    assert (type(error), error.reason, error.retryable) == (OverloadedError, Reason.DISK_FULL, True)
    assert training.entry(ANNA).outcome is SiteOutcome.INVITED
    state = await training.intake.state(site_caller(ANNA), claim.assignment_id, claim.digest)
    assert state.offset == 100
    await training.intake.receive(site_caller(ANNA), claim, chunks_of(content, offset=100))
    assert training.blobs.update_path(claim.assignment_id).read_bytes() == content
