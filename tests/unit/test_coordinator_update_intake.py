"""An upload over the real folder and the real store: taken, sent again, sent by another, sent too late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import (
    FedMedError,
    NotAllowedError,
    NotFoundError,
    NotNowError,
    Reason,
    UpdateRefusedError,
)
from coordinator.app.update_intake import ReceivedChunk
from coordinator.domain import events as ev
from coordinator.domain.values import AdapterFile, DeadlineName, SiteOutcome, Update
from tests.fakes.coordinator_updates import chunks_of, digest_bytes
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, SITES, digest
from tests.fakes.coordinator_world import (
    World,
    candidate_without_clara,
    coordinator,
    evaluator,
    foreign_id,
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


# Taken


async def test_an_honest_update_is_accepted_with_its_file_and_counts(training: World) -> None:
    content = training.honest_bytes(1)
    assert await training.send(ANNA, content, num_label_tokens=77) == digest_bytes(content)
    accepted = training.entry(ANNA)
    assert accepted.outcome is SiteOutcome.ACCEPTED
    assert accepted.update is not None
    assert (accepted.update.num_examples, accepted.update.num_label_tokens) == (10, 77)
    assert accepted.update.file.digest == digest_bytes(content)
    assert training.blobs.update_path(accepted.assignment_id).read_bytes() == content


async def test_an_update_arrives_in_chunks_of_any_size(training: World) -> None:
    content = training.honest_bytes(1)
    chunks = chunks_of(content, chunk_bytes=7)
    await training.intake.receive(site_caller(ANNA), training.claim(ANNA, content), chunks)
    assert training.blobs.update_path(training.entry(ANNA).assignment_id).read_bytes() == content


async def test_an_accepted_update_leaves_one_file(training: World) -> None:
    await training.send(ANNA, training.honest_bytes(1))
    assert training.update_files() == [f"{training.entry(ANNA).assignment_id}.safetensors"]


async def test_before_anything_arrived_the_offset_is_zero(training: World) -> None:
    wanted = training.assignment(ANNA).assignment_id
    state = await training.intake.state(site_caller(ANNA), wanted, digest("anything"))
    assert (state.offset, state.is_accepted) == (0, False)


async def test_the_state_of_an_accepted_update_says_so(training: World) -> None:
    content, wanted = training.honest_bytes(1), training.assignment(ANNA).assignment_id
    await training.send(ANNA, content)
    assert (await training.intake.state(site_caller(ANNA), wanted, digest_bytes(content))).is_accepted


# Sent again


async def test_the_same_update_again_gets_the_same_answer_and_no_byte_is_read(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    await training.send(ANNA, content)
    before = training.run
    assert await training.intake.receive(site_caller(ANNA), claim, no_chunks()) == claim.digest
    assert training.run == before


async def test_the_same_update_again_gets_the_same_answer_after_the_run_ended(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    await training.send(ANNA, content)
    await training.abort()
    await training.perform_pending()
    assert await training.intake.receive(site_caller(ANNA), claim, no_chunks()) == claim.digest


async def test_the_same_update_again_gets_the_same_answer_from_the_next_life(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.training()
        content = world.honest_bytes(1)
        claim = world.claim(ANNA, content)
        await world.send(ANNA, content)
    async with coordinator(tmp_path) as world:
        assert await world.intake.receive(site_caller(ANNA), claim, no_chunks()) == claim.digest


async def test_another_update_after_an_accepted_one_is_already_answered(training: World) -> None:
    claim = training.claim(ANNA, training.honest_bytes(2))
    await training.send(ANNA, training.honest_bytes(1))
    error = await refusal(training, ANNA, claim, no_chunks())
    assert (type(error), error.reason) == (NotNowError, Reason.ALREADY_ANSWERED)


async def test_of_two_attempts_at_the_same_update_the_slower_gets_the_answer_of_the_quicker_and_takes_no_file_away(
    training: World,
) -> None:
    content = training.honest_bytes(1)

    async def chunks() -> AsyncIterator[ReceivedChunk]:
        async for chunk in chunks_of(content):
            yield chunk
        # The first attempt hung up, and what it had begun is accepted only now.
        accepted = Update(
            file=AdapterFile(digest=digest_bytes(content), size_bytes=len(content)), num_examples=9, num_label_tokens=7
        )
        event = ev.UpdateAccepted(
            at=training.clock.now(), assignment_id=training.entry(ANNA).assignment_id, update=accepted
        )
        await training.driver.post(training.run.run_id, event)

    given = await training.intake.receive(site_caller(ANNA), training.claim(ANNA, content), chunks())
    assert given == digest_bytes(content)
    assert training.blobs.update_path(training.entry(ANNA).assignment_id).read_bytes() == content


async def test_after_a_refusal_the_same_refusal_is_given_again_and_no_byte_is_read(training: World) -> None:
    claim = training.claim(ANNA, training.honest_bytes(1))
    with pytest.raises(UpdateRefusedError):
        await training.send(ANNA, b"not safetensors at all")
    again = await refusal(training, ANNA, claim, no_chunks())
    assert (type(again), again.reason) == (UpdateRefusedError, Reason.UPDATE_NOT_SAFETENSORS)
    with pytest.raises(UpdateRefusedError):
        await training.intake.state(site_caller(ANNA), claim.assignment_id, claim.digest)


# Whose


async def test_an_update_for_someone_elses_assignment_is_not_allowed(training: World) -> None:
    claim = training.claim(ANNA, training.honest_bytes(1))
    error = await refusal(training, BERTA, claim, no_chunks())
    assert (type(error), error.reason) == (NotAllowedError, Reason.ASSIGNMENT_NOT_YOURS)
    assert {training.entry(site).outcome for site in SITES} == {SiteOutcome.INVITED}


async def test_someone_elses_accepted_update_is_not_admitted_to(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    await training.send(ANNA, content)
    assert (await refusal(training, BERTA, claim, no_chunks())).reason is Reason.ASSIGNMENT_NOT_YOURS
    with pytest.raises(NotAllowedError):
        await training.intake.state(site_caller(BERTA), claim.assignment_id, claim.digest)


async def test_an_update_for_no_assignment_is_unknown(training: World) -> None:
    claim = replace(training.claim(ANNA, b"x"), assignment_id=foreign_id())
    error = await refusal(training, ANNA, claim, no_chunks())
    assert (type(error), error.reason) == (NotFoundError, Reason.ASSIGNMENT_UNKNOWN)


async def test_an_evaluator_cannot_send_a_sites_update(training: World) -> None:
    claim = training.claim(ANNA, training.honest_bytes(1))
    with pytest.raises(NotAllowedError):
        await training.intake.receive(evaluator(), claim, no_chunks())
    with pytest.raises(FedMedError):
        await training.intake.receive(evaluator(ANNA), claim, no_chunks())
    assert training.entry(ANNA).outcome is SiteOutcome.INVITED


# Too late


async def test_an_update_that_arrives_as_its_run_is_aborted_is_told_so_and_leaves_no_file(training: World) -> None:
    content = training.honest_bytes(1)

    async def aborted_half_way() -> AsyncIterator[ReceivedChunk]:
        async for chunk in chunks_of(content, chunk_bytes=50):
            if chunk.offset == 100:
                await training.abort()
                await training.perform_pending()
            yield chunk

    error = await refusal(training, ANNA, training.claim(ANNA, content), aborted_half_way())
    assert (type(error), error.reason) == (NotNowError, Reason.ROUND_CLOSED)
    assert training.update_files() == []


async def test_an_update_that_arrives_as_the_deadline_passes_is_too_late_and_not_in_the_aggregate(
    training: World, tmp_path: Path
) -> None:
    await training.answer(ANNA, BERTA)
    content = training.honest_bytes(SITES.index(CLARA))

    async def deadline_half_way() -> AsyncIterator[ReceivedChunk]:
        async for chunk in chunks_of(content, chunk_bytes=50):
            if chunk.offset == 100:
                training.clock.advance(1000)
                await training.driver.fire_deadlines()
            yield chunk

    error = await refusal(training, CLARA, training.claim(CLARA, content), deadline_half_way())
    assert (type(error), error.reason) == (NotNowError, Reason.ROUND_CLOSED)
    assert len(training.update_files()) == 2
    assert training.entry(CLARA).outcome is SiteOutcome.STRAGGLER
    await training.perform_pending()
    assert training.candidate_bytes() == await candidate_without_clara(tmp_path / "reference")


async def test_a_stragglers_update_is_told_that_the_round_is_closed(training: World) -> None:
    claim = training.claim(CLARA, training.honest_bytes(2))
    await training.answer(ANNA, BERTA)
    training.clock.advance(100)
    await training.post(ev.DeadlinePassed(at=training.clock.now(), name=DeadlineName.GRACE))
    error = await refusal(training, CLARA, claim, no_chunks())
    assert (type(error), error.reason) == (NotNowError, Reason.ROUND_CLOSED)
