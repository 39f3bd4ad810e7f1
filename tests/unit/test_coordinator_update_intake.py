"""What happens to an upload, over the real folder and the real store: taken, refused, broken off, or too late."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.adapter import FactorSet
from common.errors import (
    FedMedError,
    InputInvalidError,
    NotAllowedError,
    NotFoundError,
    NotNowError,
    OverloadedError,
    Reason,
    TransferBrokenError,
    UpdateRefusedError,
)
from common.ids import SiteName
from coordinator.app.create_run import create
from coordinator.app.update_intake import ReceivedChunk, UploadClaim
from coordinator.domain import assignments
from coordinator.domain import events as ev
from coordinator.domain.admission import ClaimedUpdate
from coordinator.domain.values import DeadlineName, Phase, RosterEntry, RunState, SiteOutcome
from tests.fakes.coordinator_malformed import Malformed, malformed_updates
from tests.fakes.coordinator_updates import chunks_of, digest_bytes, update_bytes
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, EVALUATOR, SITES, digest, make_spec, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator, foreign_id, site_caller


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


@pytest.fixture
async def training(world: World) -> World:
    await world.training()
    return world


def entry(world: World, site: SiteName) -> RosterEntry:
    """The site in the newest round."""
    return next(entry for entry in world.run.rounds[-1].roster if entry.site == site)


async def refusal(
    world: World, site: SiteName, claim: UploadClaim, chunks: AsyncIterator[ReceivedChunk]
) -> FedMedError:
    with pytest.raises(FedMedError) as refused:
        await world.intake.receive(site_caller(site), claim, chunks)
    return refused.value


async def no_chunks() -> AsyncIterator[ReceivedChunk]:
    raise AssertionError("a byte was read")
    yield  # a generator


# Taken


async def test_an_honest_update_is_accepted_with_its_file_and_counts(training: World) -> None:
    content = training.honest_bytes(1)
    assert await training.send(ANNA, content, num_label_tokens=77) == digest_bytes(content)
    accepted = entry(training, ANNA)
    assert accepted.outcome is SiteOutcome.ACCEPTED
    assert accepted.update is not None
    assert (accepted.update.num_examples, accepted.update.num_label_tokens) == (10, 77)
    assert accepted.update.file.digest == digest_bytes(content)
    assert training.blobs.update_path(accepted.assignment_id).read_bytes() == content


async def test_an_update_arrives_in_chunks_of_any_size(training: World) -> None:
    content = training.honest_bytes(1)
    chunks = chunks_of(content, chunk_bytes=7)
    await training.intake.receive(site_caller(ANNA), training.claim(ANNA, content), chunks)
    assert training.blobs.update_path(entry(training, ANNA).assignment_id).read_bytes() == content


async def test_an_accepted_update_leaves_one_file(training: World) -> None:
    await training.send(ANNA, training.honest_bytes(1))
    assert training.update_files() == [f"{entry(training, ANNA).assignment_id}.safetensors"]


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


async def test_another_update_after_a_refused_one_is_already_answered(training: World) -> None:
    claim = training.claim(ANNA, training.honest_bytes(1))
    with pytest.raises(UpdateRefusedError):
        await training.send(ANNA, b"not safetensors at all")
    assert (await refusal(training, ANNA, claim, no_chunks())).reason is Reason.ALREADY_ANSWERED


# Whose


async def test_an_update_for_someone_elses_assignment_is_not_allowed(training: World) -> None:
    claim = training.claim(ANNA, training.honest_bytes(1))
    error = await refusal(training, BERTA, claim, no_chunks())
    assert (type(error), error.reason) == (NotAllowedError, Reason.ASSIGNMENT_NOT_YOURS)
    assert {entry(training, site).outcome for site in SITES} == {SiteOutcome.INVITED}


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
    assert entry(training, ANNA).outcome is SiteOutcome.INVITED


# Refused for what it holds


@pytest.fixture(scope="module")
def others_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The candidate of a round in which clara declined: what a round with a refused clara must equal."""

    async def play() -> bytes:
        async with coordinator(tmp_path_factory.mktemp("reference")) as world:
            await world.training()
            wanted = world.assignment(CLARA).assignment_id
            await world.answer(ANNA, BERTA)
            await world.answers.decline(site_caller(CLARA), wanted, Reason.NOTES_TOO_FEW)
            await world.perform_pending()
            return world.candidate_bytes()

    return asyncio.run(play())


@pytest.mark.parametrize("malformed", malformed_updates(), ids=str)
async def test_a_malformed_update_is_refused_with_its_reason_and_leaves_no_trace(
    training: World, malformed: Malformed, others_bytes: bytes
) -> None:
    await training.answer(ANNA)
    with pytest.raises(UpdateRefusedError) as refused:
        await training.send(CLARA, malformed.make(training.spec()))
    assert refused.value.reason is malformed.reason
    assert training.update_files() == [f"{entry(training, ANNA).assignment_id}.safetensors"]
    assert (entry(training, CLARA).outcome, entry(training, CLARA).reason) == (SiteOutcome.REFUSED, malformed.reason)
    assert (training.round.phase, entry(training, CLARA).update) == (Phase.TRAINING, None)

    await training.answer(BERTA)
    await training.perform_pending()
    assert training.round.phase is Phase.EVALUATING
    assert [e.weight for e in training.round.roster] == [100 / 300, 200 / 300, 0.0]
    assert training.candidate_bytes() == others_bytes


Change = Callable[[UploadClaim, ClaimedUpdate], UploadClaim]
ABSURD_CLAIMS: list[tuple[str, Reason, Change]] = [
    *(
        (
            f"num_examples {n}",
            Reason.UPDATE_COUNT_ABSURD,
            lambda c, u, n=n: replace(c, update=replace(u, num_examples=n)),
        )
        for n in (-(10**9), 0, 2**62)
    ),
    *(
        (
            f"num_label_tokens {n}",
            Reason.UPDATE_COUNT_ABSURD,
            lambda c, u, n=n: replace(c, update=replace(u, num_label_tokens=n)),
        )
        for n in (-(10**9), 0, 2**62)
    ),
    (
        "another base",
        Reason.UPDATE_BASE_DIFFERS,
        lambda c, u: replace(c, update=replace(u, base_digest=digest("an older adapter"))),
    ),
    (
        "a terabyte",
        Reason.UPDATE_TOO_LARGE,
        lambda c, u: replace(c, size_bytes=2**40, update=replace(u, size_bytes=2**40)),
    ),
    ("nothing", Reason.UPDATE_TOO_LARGE, lambda c, u: replace(c, size_bytes=0, update=replace(u, size_bytes=0))),
]


@pytest.mark.parametrize(("reason", "change"), [case[1:] for case in ABSURD_CLAIMS], ids=[c[0] for c in ABSURD_CLAIMS])
async def test_an_absurd_claim_is_refused_before_a_byte_is_read(
    training: World, reason: Reason, change: Change
) -> None:
    honest = training.claim(ANNA, training.honest_bytes(1))
    assert honest.update is not None
    error = await refusal(training, ANNA, change(honest, honest.update), no_chunks())
    assert (type(error), error.reason) == (UpdateRefusedError, reason)
    assert (entry(training, ANNA).outcome, entry(training, ANNA).reason) == (SiteOutcome.REFUSED, reason)
    assert training.update_files() == []


async def test_more_bytes_than_announced_are_refused_and_leave_no_file(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    error = await refusal(training, ANNA, claim, chunks_of(content + b"\0"))
    assert error.reason is Reason.UPDATE_TOO_LARGE
    assert training.update_files() == []


async def test_a_refusal_takes_what_an_earlier_stream_left_with_it(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    await refusal(training, ANNA, claim, chunks_of(content[:100]))
    assert len(training.update_files()) == 1
    other = training.claim(ANNA, training.honest_bytes(2))
    assert other.update is not None
    absurd = replace(other, update=replace(other.update, num_examples=0))
    assert (await refusal(training, ANNA, absurd, no_chunks())).reason is Reason.UPDATE_COUNT_ABSURD
    assert training.update_files() == []


async def test_a_refusal_says_nothing_of_the_values(training: World) -> None:
    nan = next(malformed for malformed in malformed_updates() if malformed.name == "nan")
    with pytest.raises(UpdateRefusedError) as refused:
        await training.send(ANNA, nan.make(training.spec()))
    message = refused.value.message.removeprefix(f"tensor {training.spec().names[-1]!r}: ")
    assert message.startswith("expected finite numbers")
    assert "nan" not in message


async def test_an_update_of_one_factor_is_refused_where_both_are_asked_for(training: World, tmp_path: Path) -> None:
    spec = training.spec()
    half = replace(spec, tensors=spec.tensors_of(FactorSet.B_ONLY))
    with pytest.raises(UpdateRefusedError) as refused:
        await training.send(ANNA, update_bytes(tmp_path, half, 1))
    assert refused.value.reason is Reason.UPDATE_TENSORS_DIFFER


async def test_a_first_adapter_is_no_answer_to_training(training: World) -> None:
    claim = replace(training.claim(ANNA, b"x"), update=None, first_spec=make_spec())
    error = await refusal(training, ANNA, claim, no_chunks())
    assert (type(error), error.reason) == (InputInvalidError, Reason.FIELD_INVALID)
    assert entry(training, ANNA).outcome is SiteOutcome.INVITED


# Broken off


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
        assert entry(world, ANNA).outcome is SiteOutcome.ACCEPTED


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
    assert entry(training, ANNA).outcome is SiteOutcome.ACCEPTED


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
    assert entry(training, ANNA).outcome is SiteOutcome.INVITED


async def test_bytes_that_differ_from_their_digest_are_forgotten_and_may_be_sent_again(training: World) -> None:
    content = training.honest_bytes(1)
    claim = training.claim(ANNA, content)
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    error = await refusal(training, ANNA, claim, chunks_of(damaged))
    assert (type(error), error.reason) == (TransferBrokenError, Reason.DIGEST_DIFFERS)
    assert training.update_files() == []
    await training.intake.receive(site_caller(ANNA), claim, chunks_of(content))
    assert entry(training, ANNA).outcome is SiteOutcome.ACCEPTED


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
    assert entry(training, ANNA).outcome is SiteOutcome.ACCEPTED


async def test_updates_of_several_sites_arrive_at_once(training: World) -> None:
    async with asyncio.TaskGroup() as group:
        for number, site in enumerate(SITES):
            group.create_task(training.send(site, training.honest_bytes(number)))
    assert training.round.phase is Phase.AGGREGATING


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
    training: World, others_bytes: bytes
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
    assert entry(training, CLARA).outcome is SiteOutcome.STRAGGLER
    await training.perform_pending()
    assert training.candidate_bytes() == others_bytes


async def test_a_stragglers_update_is_told_that_the_round_is_closed(training: World) -> None:
    claim = training.claim(CLARA, training.honest_bytes(2))
    await training.answer(ANNA, BERTA)
    await training.post(ev.DeadlinePassed(at=training.clock.now(), name=DeadlineName.GRACE))
    error = await refusal(training, CLARA, claim, no_chunks())
    assert (type(error), error.reason) == (NotNowError, Reason.ROUND_CLOSED)


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
    assert entry(training, ANNA).outcome is SiteOutcome.INVITED
    state = await training.intake.state(site_caller(ANNA), claim.assignment_id, claim.digest)
    assert state.offset == 100
    await training.intake.receive(site_caller(ANNA), claim, chunks_of(content, offset=100))
    assert training.blobs.update_path(claim.assignment_id).read_bytes() == content


# The first adapter


def first_claim(world: World, name: SiteName, content: bytes) -> UploadClaim:
    given = assignments.for_evaluator(world.run, name)
    assert given is not None
    return UploadClaim(
        assignment_id=given.assignment_id,
        digest=digest_bytes(content),
        size_bytes=len(content),
        first_spec=make_spec(),
    )


@pytest.fixture
async def initialising(world: World) -> World:
    """A world whose run waits for its first adapter."""
    await create(world.driver, world.clock, make_terms())
    return world


async def test_a_first_adapter_starts_the_run(initialising: World, tmp_path: Path) -> None:
    content = update_bytes(tmp_path, make_spec(), 1)
    claim = first_claim(initialising, EVALUATOR, content)
    await initialising.intake.receive(evaluator(), claim, chunks_of(content))
    assert (initialising.run.state, initialising.spec()) == (RunState.RUNNING, make_spec())
    assert initialising.blobs.adapter_path(claim.digest).read_bytes() == content
    assert initialising.update_files() == []


async def test_the_same_first_adapter_again_gets_the_same_answer(initialising: World, tmp_path: Path) -> None:
    content = update_bytes(tmp_path, make_spec(), 1)
    claim = first_claim(initialising, EVALUATOR, content)
    await initialising.intake.receive(evaluator(), claim, chunks_of(content))
    assert await initialising.intake.receive(evaluator(), claim, no_chunks()) == claim.digest


@pytest.mark.parametrize("malformed", malformed_updates(), ids=str)
async def test_a_malformed_first_adapter_is_refused_and_the_run_waits_on(
    initialising: World, malformed: Malformed, tmp_path: Path
) -> None:
    content = malformed.make(make_spec())
    with pytest.raises(UpdateRefusedError) as refused:
        await initialising.intake.receive(
            evaluator(), first_claim(initialising, EVALUATOR, content), chunks_of(content)
        )
    assert refused.value.reason is malformed.reason
    assert (initialising.update_files(), initialising.adapter_files()) == ([], [])
    assert initialising.run.state is RunState.INITIALISING


async def test_a_first_adapter_of_another_shape_than_the_terms_is_refused_before_a_byte_is_read(
    initialising: World,
) -> None:
    claim = replace(first_claim(initialising, EVALUATOR, b"x"), first_spec=replace(make_spec(), lora_alpha=9))
    with pytest.raises(UpdateRefusedError) as refused:
        await initialising.intake.receive(evaluator(), claim, no_chunks())
    assert refused.value.reason is Reason.SPEC_INVALID


async def test_of_two_first_adapters_at_once_the_later_is_told_that_it_is_too_late(
    initialising: World, tmp_path: Path
) -> None:
    first, second = (update_bytes(tmp_path, make_spec(), seed) for seed in (1, 2))
    rival = SiteName("rival")
    early = first_claim(initialising, rival, first)

    async def while_the_rival_finishes() -> AsyncIterator[ReceivedChunk]:
        await initialising.intake.receive(evaluator(rival), early, chunks_of(first))
        async for chunk in chunks_of(second):
            yield chunk

    claim = first_claim(initialising, EVALUATOR, second)
    with pytest.raises(NotNowError) as late:
        await initialising.intake.receive(evaluator(), claim, while_the_rival_finishes())
    assert late.value.reason is Reason.ROUND_CLOSED
    assert initialising.run.first_adapter is not None
    assert initialising.run.first_adapter.digest == early.digest


async def test_a_trained_update_is_no_first_adapter(initialising: World) -> None:
    claim = first_claim(initialising, EVALUATOR, b"x")
    update = ClaimedUpdate(size_bytes=1, base_digest=digest("base"), num_examples=1, num_label_tokens=1)
    with pytest.raises(InputInvalidError) as refused:
        await initialising.intake.receive(evaluator(), replace(claim, first_spec=None, update=update), no_chunks())
    assert refused.value.reason is Reason.FIELD_INVALID
