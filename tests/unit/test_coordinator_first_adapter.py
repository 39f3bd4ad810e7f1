"""The first adapter of a run, as an evaluator sends it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import (
    InputInvalidError,
    NotNowError,
    Reason,
    TransferBrokenError,
    UpdateRefusedError,
)
from common.ids import SiteName
from common.tls import Role
from coordinator.app.create_run import create
from coordinator.app.poll import live_assignment
from coordinator.app.update_intake import ReceivedChunk, UploadClaim
from coordinator.domain import assignments
from coordinator.domain.admission import ClaimedUpdate
from coordinator.domain.values import RunState, SiteOutcome
from tests.fakes.coordinator_malformed import Malformed, malformed_updates
from tests.fakes.coordinator_updates import chunks_of, digest_bytes, update_bytes
from tests.fakes.coordinator_values import EVALUATOR, digest, make_spec, make_terms
from tests.fakes.coordinator_world import (
    World,
    coordinator,
    evaluator,
    no_chunks,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


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
async def test_a_malformed_first_adapter_is_refused_and_the_run_waits_for_another_evaluator(
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
    (out,) = initialising.run.evaluator_outcomes
    assert (out.evaluator, out.outcome, out.reason) == (EVALUATOR, SiteOutcome.REFUSED, malformed.reason)
    assert live_assignment(initialising.driver.runs, evaluator()) is None
    assert live_assignment(initialising.driver.runs, evaluator(SiteName("other"))) is not None


async def test_a_refused_first_adapter_gets_the_same_answer_again(initialising: World) -> None:
    wrong = replace(first_claim(initialising, EVALUATOR, b"x"), first_spec=replace(make_spec(), lora_alpha=9))
    for _ in range(2):
        with pytest.raises(UpdateRefusedError) as refused:
            await initialising.intake.receive(evaluator(), wrong, no_chunks())
        assert refused.value.reason is Reason.SPEC_INVALID


async def test_a_run_whose_only_known_evaluator_was_refused_fails_at_once(initialising: World) -> None:
    await initialising.store.remember_site(EVALUATOR, Role.EVALUATOR, initialising.clock.now())
    wrong = replace(first_claim(initialising, EVALUATOR, b"x"), first_spec=replace(make_spec(), lora_alpha=9))
    with pytest.raises(UpdateRefusedError):
        await initialising.intake.receive(evaluator(), wrong, no_chunks())
    await initialising.driver.observe_presence()
    assert (initialising.run.state, initialising.run.reason) == (RunState.FAILED, Reason.NO_EVALUATOR_LEFT)


@pytest.mark.parametrize("is_aborted", [False, True], ids=["started", "aborted"])
async def test_the_beginning_of_a_first_adapter_goes_when_none_is_awaited_any_more(
    initialising: World, tmp_path: Path, is_aborted: bool
) -> None:
    first, second = (update_bytes(tmp_path, make_spec(), seed) for seed in (1, 2))
    rival = SiteName("rival")
    for name in (EVALUATOR, rival):
        await initialising.store.remember_site(name, Role.EVALUATOR, initialising.clock.now())
    early = first_claim(initialising, rival, first)
    with pytest.raises(TransferBrokenError):
        await initialising.intake.receive(
            evaluator(), first_claim(initialising, EVALUATOR, second), chunks_of(second[:100])
        )
    assert len(initialising.update_files()) == 1
    if is_aborted:
        await initialising.abort()
    else:
        await initialising.intake.receive(evaluator(rival), early, chunks_of(first))
    await initialising.perform_pending()
    assert initialising.update_files() == []


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
    assert initialising.adapter_files() == [initialising.blobs.adapter_path(early.digest).name]
    assert initialising.update_files() == []


async def test_a_trained_update_is_no_first_adapter(initialising: World) -> None:
    claim = first_claim(initialising, EVALUATOR, b"x")
    update = ClaimedUpdate(size_bytes=1, base_digest=digest("base"), num_examples=1, num_label_tokens=1)
    with pytest.raises(InputInvalidError) as refused:
        await initialising.intake.receive(evaluator(), replace(claim, first_spec=None, update=update), no_chunks())
    assert refused.value.reason is Reason.FIELD_INVALID
