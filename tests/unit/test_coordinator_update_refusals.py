"""Updates that are refused: each with its reason, no file left, no trace in the aggregate, the round going on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.adapter import FactorSet
from common.errors import (
    InputInvalidError,
    Reason,
    UpdateRefusedError,
)
from coordinator.app.update_intake import UploadClaim
from coordinator.domain.admission import ClaimedUpdate
from coordinator.domain.values import Phase, SiteOutcome
from tests.fakes.coordinator_malformed import Malformed, malformed_updates
from tests.fakes.coordinator_updates import chunks_of, update_bytes
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, digest, make_spec
from tests.fakes.coordinator_world import (
    World,
    candidate_without_clara,
    coordinator,
    no_chunks,
    refusal,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


@pytest.fixture
async def training(world: World) -> World:
    await world.training()
    return world


@pytest.fixture(scope="module")
def others_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return asyncio.run(candidate_without_clara(tmp_path_factory.mktemp("reference")))


@pytest.mark.parametrize("malformed", malformed_updates(), ids=str)
async def test_a_malformed_update_is_refused_with_its_reason_and_leaves_no_trace(
    training: World, malformed: Malformed, others_bytes: bytes
) -> None:
    await training.answer(ANNA)
    with pytest.raises(UpdateRefusedError) as refused:
        await training.send(CLARA, malformed.make(training.spec()))
    assert refused.value.reason is malformed.reason
    assert training.update_files() == [f"{training.entry(ANNA).assignment_id}.safetensors"]
    assert (training.entry(CLARA).outcome, training.entry(CLARA).reason) == (SiteOutcome.REFUSED, malformed.reason)
    assert (training.round.phase, training.entry(CLARA).update) == (Phase.TRAINING, None)

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
    assert (training.entry(ANNA).outcome, training.entry(ANNA).reason) == (SiteOutcome.REFUSED, reason)
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
    assert training.entry(ANNA).outcome is SiteOutcome.INVITED
