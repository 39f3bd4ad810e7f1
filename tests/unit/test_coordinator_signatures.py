"""What the coordinator makes of an update's signature: kept with a good one, refused for a bad one, before any byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from common.errors import Reason
from common.ids import SiteName
from common.terms import AdmissionTerms
from common.tls import Caller, Role
from coordinator.adapters.pki.signing_keys import KnownSigningKeys
from coordinator.app.update_intake import UploadClaim
from coordinator.domain.values import SignedBy, SiteOutcome
from tests.fakes.coordinator_updates import chunks_of
from tests.fakes.coordinator_values import ANNA, BERTA, make_terms
from tests.fakes.coordinator_world import World, coordinator, no_chunks, refusal, site_caller
from tests.fakes.signing import Signers

DEMANDING = replace(make_terms(), admission=AdmissionTerms(requires_signatures=True))


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("signers"))


@pytest_asyncio.fixture
async def demanding(tmp_path: Path, signers: Signers) -> AsyncIterator[World]:
    """A round of terms that ask for signatures."""
    async with coordinator(tmp_path, keys=signers.known) as world:
        await world.training(DEMANDING)
        yield world


@pytest_asyncio.fixture
async def lenient(tmp_path: Path, signers: Signers) -> AsyncIterator[World]:
    """A round of terms that do not."""
    async with coordinator(tmp_path, keys=signers.known) as world:
        await world.training()
        yield world


def claim_of(world: World, signers: Signers, signed_by: SiteName = ANNA) -> UploadClaim:
    """Anna's claim, signed by the key of ``signed_by``."""
    return signers.signed(signed_by, world.run, world.round.number, world.claim(ANNA, world.honest_bytes(1)))


async def test_a_signature_is_kept_with_the_update(demanding: World, signers: Signers) -> None:
    claim = claim_of(demanding, signers)
    await demanding.intake.receive(site_caller(ANNA), claim, chunks_of(demanding.honest_bytes(1)))
    update, given = demanding.entry(ANNA).update, claim.signature
    assert update is not None
    assert given is not None
    assert update.signed == SignedBy(
        signature=given.signature, public_key=given.public_key, certificate_pem=given.certificate_pem
    )


async def test_the_same_signed_update_again_gets_the_same_answer(demanding: World, signers: Signers) -> None:
    claim = claim_of(demanding, signers)
    for _ in range(2):
        accepted = await demanding.intake.receive(site_caller(ANNA), claim, chunks_of(demanding.honest_bytes(1)))
        assert accepted == claim.digest


async def refused(world: World, claim: UploadClaim) -> Reason:
    """Why anna's claim is refused, before a byte of the update is read."""
    error = await refusal(world, ANNA, claim, no_chunks())
    assert (world.entry(ANNA).outcome, world.entry(ANNA).reason) == (SiteOutcome.REFUSED, error.reason)
    assert world.update_files() == []
    return error.reason


async def test_an_unsigned_update_is_refused_where_the_terms_ask_for_signatures(demanding: World) -> None:
    claim = demanding.claim(ANNA, demanding.honest_bytes(1))
    assert await refused(demanding, claim) is Reason.SIGNATURE_MISSING


async def test_an_unsigned_update_is_taken_where_the_terms_do_not(lenient: World) -> None:
    await lenient.send(ANNA, lenient.honest_bytes(1))
    update = lenient.entry(ANNA).update
    assert update is not None
    assert update.signed is None


@pytest.mark.parametrize("counts", [{"num_examples": 11}, {"num_label_tokens": 99}])
async def test_a_signature_over_other_counts_is_refused(
    lenient: World, signers: Signers, counts: dict[str, int]
) -> None:
    claim = claim_of(lenient, signers)
    assert claim.update is not None
    changed = replace(claim, update=replace(claim.update, **counts))  # type: ignore[arg-type]
    assert await refused(lenient, changed) is Reason.SIGNATURE_INVALID


async def test_a_signature_for_another_round_is_refused(lenient: World, signers: Signers) -> None:
    claim = signers.signed(ANNA, lenient.run, 2, lenient.claim(ANNA, lenient.honest_bytes(1)))
    assert await refused(lenient, claim) is Reason.SIGNATURE_INVALID


async def test_a_signature_by_the_key_of_another_site_is_refused(lenient: World, signers: Signers) -> None:
    assert await refused(lenient, claim_of(lenient, signers, BERTA)) is Reason.SIGNING_KEY_UNKNOWN


async def test_a_signature_by_a_key_that_nobody_knows_is_refused(lenient: World, signers: Signers) -> None:
    claim = claim_of(lenient, signers)
    assert claim.signature is not None
    bare = replace(claim, signature=replace(claim.signature, certificate_pem=""))
    assert await refused(lenient, bare) is Reason.SIGNING_KEY_UNKNOWN


# Whose key it is


def caller(role: Role = Role.SITE) -> Caller:
    return Caller(name=ANNA, role=role, consortium="demo")


async def test_the_key_that_a_site_enrolled_with_is_its_own_and_no_other(lenient: World, signers: Signers) -> None:
    given = replace(signers.signature(ANNA, lenient.run, 1, claim_of(lenient, signers)), certificate_pem="")
    enrolled = {ANNA: given.public_key}
    keys = KnownSigningKeys(trust_bundle_pem=lambda: signers.root_pem, enrolled_key=lambda site: enrolled.get(site, ""))
    assert keys.objection(caller(), given) is None
    other = replace(given, public_key=signers.key_of(BERTA).public_key)
    assert "with which anna enrolled" in (keys.objection(caller(), other) or "")
    assert "nobody knows" in (keys.objection(replace(caller(), name=BERTA), given) or "")


async def test_a_certificate_counts_for_its_own_key_and_holder_and_under_any_root_that_is_trusted(
    lenient: World, signers: Signers, tmp_path: Path
) -> None:
    given = signers.signature(ANNA, lenient.run, 1, claim_of(lenient, signers))
    other_root = Signers(tmp_path)
    both = KnownSigningKeys(trust_bundle_pem=lambda: other_root.root_pem + signers.root_pem)
    assert both.objection(caller(), given) is None
    other = replace(given, public_key=signers.key_of(BERTA).public_key)
    assert "which the certificate names" in (both.objection(caller(), other) or "")
    assert "spiffe://demo/evaluator/anna" in (both.objection(caller(Role.EVALUATOR), given) or "")
    alone = KnownSigningKeys(trust_bundle_pem=lambda: other_root.root_pem)
    assert "root signed itself" in (alone.objection(caller(), given) or "")
